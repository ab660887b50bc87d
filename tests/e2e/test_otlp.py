"""OTLP, end to end: every event over HTTP and gRPC, exact metrics, and silence where no endpoint is set."""

from __future__ import annotations

import json
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from caseyos_otel.events.field import Field, FieldType, Privacy
from caseyos_otel.events.model import Declaration
from caseyos_otel.events.registry import registry
from tests.e2e.receiver import GrpcReceiver, OtlpReceiver, Received, Sentry
from tests.e2e.service import STOCK_DISTRO, Finished, environment, run, wait_for

ADDRESS = "john@acmecorp.com"
TIMES = 3
TYPED = {FieldType.INT: 3, FieldType.DOUBLE: 87.5, FieldType.BOOLEAN: True, FieldType.TIMESTAMP: "2026-01-24T14:00:00Z"}
SENT = [declaration for declaration in registry if not declaration.derived]
BESIDE_FIELDS = {"caseyos.event.id", "caseyos.sampling.kept"}
PROGRAM = """
import json, sys
from opentelemetry import _logs, trace
from caseyos_otel import track

tracer = trace.get_tracer("service")
events = json.load(open(sys.argv[1]))
for number in range(int(sys.argv[2])):
    with tracer.start_as_current_span("request"):
        for name, fields in events.items():
            track(name, **fields)
_logs.get_logger("another").emit(_logs.LogRecord(body="no event"))
_logs.get_logger("another").emit(_logs.LogRecord(event_name="caseyos.signal.received", attributes={"signal_type": "theirs"}))
"""
SETTINGS = {
    "ours": {},
    "ours, logs exporter named": {"OTEL_LOGS_EXPORTER": "otlp"},
    "stock": {"PYTHONPATH": str(STOCK_DISTRO), "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
}


def values(declaration: Declaration) -> dict[str, Any]:
    """A value for every field; the personal ones have an address in them."""
    found: dict[str, Any] = {}
    for field in declaration.fields:
        group, _, inner = field.name.rpartition(".")
        (found.setdefault(group, {}) if group else found)[inner] = value(field)
    return found


def value(field: Field) -> Any:
    if field.type in TYPED:
        return TYPED[field.type]
    if field.allowed:
        return field.allowed[0]
    if field.privacy is Privacy.NONE:
        return "something"
    return f"refused {ADDRESS}" if field.privacy is Privacy.FREE_TEXT else ADDRESS


def emitted(here: Path, times: int = TIMES, **settings: str) -> Finished:
    """Run a program that tracks every event so many times, each time in a trace of its own."""
    (here / "program.py").write_text(PROGRAM)
    (here / "events.json").write_text(json.dumps({declaration.name: values(declaration) for declaration in SENT}))
    env = environment(here / "state", **settings)
    done = run(here / "program.py", env, str(here / "events.json"), str(times))
    assert done.returncode == 0, done.stderr
    return done


def assert_each_once(receiver: Received, done: Finished) -> None:
    assert len(SENT) == 16
    names = Counter(record.event_name for record in receiver.records)
    expected = {declaration.otel_name: TIMES for declaration in SENT}
    assert names == Counter(expected) + Counter({"caseyos.signal.received": 1, "": 1})
    ids = [record.attributes["caseyos.event.id"] for record in receiver.records if record.event_name]
    assert sorted(ids) == sorted(line["event_id"] for line in done.lines)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_every_event_arrives_once_over_http(settings: dict[str, str], tmp_path: Path) -> None:
    with OtlpReceiver() as receiver:
        done = emitted(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint, **settings)
    assert_each_once(receiver, done)


def test_every_event_arrives_once_over_grpc_and_so_do_spans_and_metrics(tmp_path: Path) -> None:
    settings = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "CASEYOS_OTEL_SUCCESS_RATIO": "0"}
    with GrpcReceiver() as receiver:
        done = emitted(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint, **settings)
    assert_each_once(receiver, done)
    assert_as_declared(receiver)
    assert [span.name for span in receiver.spans] == ["request"] * TIMES  # each has failures in it
    assert receiver.total("caseyos.events") == TIMES * len(SENT) + 1


def test_an_event_has_its_declared_attributes_and_says_where_it_comes_from(tmp_path: Path) -> None:
    with OtlpReceiver() as receiver:
        emitted(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint)
    assert_as_declared(receiver)
    for record in receiver.records:
        assert record.resource["service.name"] == "under-test"
        assert record.resource["telemetry.distro.name"] == "caseyos-otel"
        assert record.resource["telemetry.distro.version"]
        assert record.resource["service.instance.id"] == receiver.records[0].resource["service.instance.id"]
        if record.event_name:
            assert record.scope == "caseyos_otel"
            assert record.schema_url.startswith("https://opentelemetry.io/schemas/")


def assert_as_declared(receiver: Received) -> None:
    by_name = {declaration.otel_name: declaration for declaration in SENT}
    for record in receiver.records:
        if record.event_name and record.attributes.get("caseyos.signal.type") != "theirs":
            fields = by_name[record.event_name].fields
            attributes = {name: value for name, value in record.attributes.items() if name not in BESIDE_FIELDS}
            assert set(attributes) == {field.attribute for field in fields}
            hidden = [attributes[field.attribute] for field in fields if value(field) == ADDRESS]
            assert all(text.startswith("h_") for text in hidden)
    assert "acmecorp" not in str(receiver.records)
    assert any("refused h_" in str(record.attributes) for record in receiver.records)


def test_metrics_count_every_event_though_traces_are_sampled(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(COUNTED)
    with OtlpReceiver() as receiver, Sentry() as sentry:
        settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "SENTRY_DSN": sentry.dsn}
        done = run(program, environment(tmp_path / "state", CASEYOS_OTEL_SUCCESS_RATIO="0.2", **settings))
        assert done.returncode == 0, done.stderr
    kept = len(receiver.traces)
    assert 0 < kept < 200  # 200 traces, one in five kept: else nothing was sampled and this shows nothing
    assert receiver.total("caseyos.events") == 401
    assert receiver.total("caseyos.events", event__name="caseyos.signal.received") == 200
    assert (
        receiver.total("caseyos.events", event__name="caseyos.signal.processed", **{"caseyos.signal.type": "odd"})
        == 100
    )
    assert receiver.total("caseyos.events", event__name="caseyos.circuit_breaker.opened") == 1
    durations = [count for (name, _), count in receiver.histograms.items() if name.startswith("caseyos.signal.")]
    assert sum(durations) == 200
    assert receiver.histograms["caseyos.otel.sampling.decision_time", frozenset()] == 200
    assert receiver.total("caseyos.otel.dropped", reason="sampled", destination="spans") == 200 - kept
    assert receiver.total("caseyos.otel.dropped", reason="sampled", destination="sentry") == 400 - len(sentry.logs)
    assert receiver.total("caseyos.otel.dropped", reason="undeclared") == 1


COUNTED = """
from opentelemetry import trace
from caseyos_otel import track

tracer = trace.get_tracer("service")
for number in range(200):
    with tracer.start_as_current_span("request"):
        track("signal_received", signal_id=str(number), source="gmail", signal_type="reply")
        track("signal_processed", signal_id=str(number), source="gmail", signal_type="odd" if number % 2 else "even",
              processing_duration_ms=number)
track("circuit_breaker_opened", service="hubspot", failure_count=5, threshold=5)
track("nobody_declared_this", number=1)
"""


def test_without_an_endpoint_nobody_is_connected_to(tmp_path: Path) -> None:
    with listening() as connections:
        done = emitted(tmp_path)
        assert len(done.lines) == TIMES * len(SENT) + 1
        assert connections == []
        # what the stock distro does by itself is seen here: these ears hear
        emitted(tmp_path, PYTHONPATH=str(STOCK_DISTRO), OTEL_EXPORTER_OTLP_TIMEOUT="1")
        assert connections != []


@contextmanager
def listening() -> Iterator[list[int]]:
    """Listen where OTLP goes by default; ports that were connected to."""
    connections: list[int] = []
    with ExitStack() as stack:
        for port in (4317, 4318):
            ear = wait_for(
                lambda at=port: free(at),
                f"port {port} of loopback is in use by another program, for a minute",
                timeout_s=60,
            )
            stack.enter_context(ear)
            threading.Thread(target=hear, args=(ear, port, connections), daemon=True).start()
        yield connections


def free(port: int) -> socket.socket | None:
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError:
        return None


def hear(ear: socket.socket, port: int, connections: list[int]) -> None:
    with suppress(OSError):  # closed at the end
        while True:
            connection, _ = ear.accept()
            connections.append(port)
            connection.close()
