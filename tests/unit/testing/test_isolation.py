"""A recording in a process that is configured: nothing leaves while it lasts, and everything goes on afterwards."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.unit.testing.conftest import Suite

PROGRAM = """
    import caseyos_otel
    from caseyos_otel import track
    from caseyos_otel.testing import recording
    from opentelemetry import trace
    from opentelemetry._logs import LogRecord, get_logger

    def emit(who):
        with trace.get_tracer("service").start_as_current_span("request"):
            track("outcome_reply_received", recipient=f"{who}@acmecorp.com")
            attributes = {"recipient": f"{who}@example.com"}
            get_logger("service").emit(LogRecord(event_name="caseyos.outcome.reply_received", attributes=attributes))

    caseyos_otel.configure(log="events.jsonl", pii_plain=("log", "database"))
    emit("before")
    with recording() as events:
        emit("during")
        caseyos_otel.configure(log="elsewhere.jsonl")
        assert caseyos_otel.flush()
    emit("after")
    assert caseyos_otel.flush()
    assert [event["recipient"] for event in events] == ["during@acmecorp.com", "during@example.com"]
"""


def test_what_was_configured_goes_on_after_a_recording(suite: Suite) -> None:
    suite.write(program=PROGRAM)
    ran = suite.run(program=("program.py",))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    lines = (suite.directory / "events.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["recipient"] for line in lines) == [
        "after@acmecorp.com",
        "after@example.com",
        "before@acmecorp.com",
        "before@example.com",
    ]
    assert "elsewhere.jsonl" not in suite.left()
