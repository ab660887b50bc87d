"""How the one pipeline of a process begins: once, whatever asks for it, and never at the cost of the service."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.e2e.service import environment


def run(program: str, tmp_path: Path, **environ: str) -> dict[str, Any]:
    """What a program printed last, as JSON; its log lines under `lines`, its standard error under `said`."""
    path = tmp_path / "program.py"
    path.write_text(program)
    done = subprocess.run(
        [sys.executable, str(path)],
        env={**environment(tmp_path / "state", **environ), "PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    told: dict[str, Any] = json.loads(next(line for line in reversed(lines) if line.startswith('{"told"')))["told"]
    return {**told, "lines": [json.loads(x) for x in lines if x.startswith('{"event"')], "said": done.stderr}


def test_the_second_start_and_configure_change_nothing(tmp_path: Path) -> None:
    told = run(
        """
import json, caseyos_otel
from caseyos_otel.pipeline import lifecycle
from opentelemetry import trace
from opentelemetry._logs import get_logger_provider
from caseyos_otel import _otel
caseyos_otel.configure(exporters=("log",))
first = lifecycle.current
chains = len(_otel.log_processors(get_logger_provider()))
caseyos_otel.configure(exporters=("log", "outcomes"), log="stderr")
lifecycle.start_beside_another_distro()
caseyos_otel.track("signal_received", signal_id="s1")
print(json.dumps({"told": {
    "same": lifecycle.start() is first is lifecycle.current,
    "chains": [chains, len(_otel.log_processors(get_logger_provider()))],
    "flushed": caseyos_otel.flush(),
}}))
""",
        tmp_path,
    )
    assert (told["same"], told["chains"], told["flushed"]) == (True, [1, 1], True)
    assert [line["signal_id"] for line in told["lines"]] == ["s1"]
    assert told["said"].count(" on: log") == 1
    assert "another distro" not in told["said"]


def test_providers_that_are_there_are_used(tmp_path: Path) -> None:
    told = run(
        """
import json, caseyos_otel
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.resources import Resource
mine = TracerProvider(resource=Resource({"service.name": "mine"}))
trace.set_tracer_provider(mine)
caseyos_otel.configure(exporters=("log",))
with trace.get_tracer("service").start_as_current_span("request") as span:
    caseyos_otel.track("signal_received")
print(json.dumps({"told": {"same": trace.get_tracer_provider() is mine, "trace": span.get_span_context().trace_id}}))
""",
        tmp_path,
    )
    assert told["same"]
    [line] = told["lines"]
    assert (line["service"], int(line["trace_id"], 16)) == ("mine", told["trace"])


def test_a_start_of_ours_that_fails_is_said_and_stops_nothing(tmp_path: Path) -> None:
    told = run(
        """
import json, caseyos_otel
from caseyos_otel.pipeline import process
class Broken(process.Pipeline):
    def __init__(self, *_):
        raise ZeroDivisionError
process.Pipeline = Broken
caseyos_otel.configure()
caseyos_otel.track("signal_received")
caseyos_otel.configure()
print(json.dumps({"told": {"flushed": caseyos_otel.flush()}}))
""",
        tmp_path,
    )
    assert told["said"].count("failed while starting: ZeroDivisionError") == 1


def test_an_event_class_whose_module_configures_us_while_we_start_does_not_wait_for_itself(tmp_path: Path) -> None:
    info = tmp_path / "acme-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[caseyos_otel_events]\nacme = acme_events\n")
    (tmp_path / "acme_events.py").write_text(
        """
import caseyos_otel
caseyos_otel.configure()
class Signed(caseyos_otel.Event, name="contract_signed", otel="acme.contract.signed"):
    '''A contract was signed.'''
    contract_id: str = caseyos_otel.required(doc="The contract.")
"""
    )
    told = run(
        """
import json, caseyos_otel
caseyos_otel.configure(exporters=("log",))
caseyos_otel.track("contract_signed", contract_id="c1")
print(json.dumps({"told": {"flushed": caseyos_otel.flush()}}))
""",
        tmp_path,
    )
    assert [line["contract_id"] for line in told["lines"]] == ["c1"]


def test_a_wrong_override_is_a_type_error_that_names_what_there_is(tmp_path: Path) -> None:
    told = run(
        """
import json, caseyos_otel
from caseyos_otel.pipeline import lifecycle
try:
    caseyos_otel.configure(databse_url="sqlite://")
except TypeError as error:
    print(json.dumps({"told": {"error": str(error), "started": lifecycle.current is not None}}))
""",
        tmp_path,
    )
    assert "'databse_url'" in told["error"]
    assert "database_url" in told["error"]
    assert not told["started"]
