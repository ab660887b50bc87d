"""Log records of any logger behind the verdict of their trace; asserted on what reached the exporter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, InMemoryLogRecordExporter

from caseyos_otel.sampling.log_records import TailSamplingLogRecordProcessor

TENTH = "e6666666666666"


class Logs:
    """A logger whose records ask the table of a service with tail sampling."""

    def __init__(self, service: Any) -> None:
        self.exporter = InMemoryLogRecordExporter()
        self.provider = LoggerProvider(shutdown_on_exit=False)
        self.batch = BatchLogRecordProcessor(self.exporter)
        self.provider.add_log_record_processor(TailSamplingLogRecordProcessor(service.table, [self.batch]))
        self.logger = self.provider.get_logger("tests")

    def emit(self, body: str, span: trace.Span | None = None, **more: Any) -> LogRecord:
        context = trace.set_span_in_context(span) if span is not None else None
        record = LogRecord(body=body, context=context, **more)
        self.logger.emit(record)
        return record

    def left(self) -> dict[str, dict[str, Any]]:
        self.batch.force_flush()
        return {each.log_record.body: dict(each.log_record.attributes) for each in self.exporter.get_finished_logs()}


@pytest.fixture
def logs(request: pytest.FixtureRequest) -> Callable[[Any], Logs]:
    def make(service: Any) -> Logs:
        made = Logs(service)
        request.addfinalizer(made.provider.shutdown)
        return made

    return make


@pytest.mark.parametrize("kept", [True, False])
def test_records_obey_the_verdict_of_their_trace_and_tell_it(sampling: Any, logs: Any, kept: bool) -> None:
    service = sampling()
    records = logs(service)
    service.will_be_kept(kept)
    root = service.tracer.start_span("root")
    records.emit("held", root, attributes={"n": 1})
    assert records.left() == {}
    root.end()
    service.pass_time(1)
    records.emit("after", root)
    service.table.tick()
    told = {"caseyos.sampling.kept": True, "sampling.threshold": TENTH}
    assert records.left() == ({"held": {"n": 1, **told}, "after": told} if kept else {})
    assert service.dropped[("sampled", "otlp", "")] == (0 if kept else 2)


def test_an_error_keeps_its_trace_and_what_came_before_it(sampling: Any, logs: Any) -> None:
    service = sampling()
    records = logs(service)
    root = service.tracer.start_span("root")
    records.emit("before", root)
    records.emit("broken", root, severity_number=SeverityNumber.ERROR)
    root.end()
    service.pass_time(1)
    told = {"caseyos.sampling.kept": True, "sampling.threshold": "0"}
    assert records.left() == {"before": told, "broken": told}
    assert list(records.left()) == ["before", "broken"]
    assert service.names() == ["root"]


def test_an_unknown_probability_is_not_told(sampling: Any, logs: Any, incoming: Any) -> None:
    service = sampling()
    records = logs(service)
    root = service.tracer.start_span("root", incoming("01"))
    records.emit("held", root)
    root.end()
    service.pass_time(1)
    assert records.left() == {"held": {"caseyos.sampling.kept": True}}


def test_without_a_trace_an_event_is_decided_by_its_id_and_others_by_chance(sampling: Any, logs: Any) -> None:
    service = sampling()
    records = logs(service)
    for number in range(2_000):
        records.emit(f"event {number}", attributes={"caseyos.event.id": str(number)})
        records.emit(f"event {number} again", attributes={"caseyos.event.id": str(number)})
        records.emit(f"line {number}")
    left = set(records.left())
    events = {body for body in left if body.startswith("event") and not body.endswith("again")}
    assert {f"{body} again" for body in events} == {body for body in left if body.endswith("again")}
    assert 120 <= len(events) <= 280
    assert 120 <= len([body for body in left if body.startswith("line")]) <= 280


def test_what_leaves_is_a_copy_and_flush_decides(sampling: Any, logs: Any) -> None:
    service = sampling()
    service.will_be_kept(True)
    records = logs(service)
    root = service.tracer.start_span("root")
    emitted = records.emit("held", root, attributes={"n": 1})
    emitted.attributes = {"n": 2}
    assert records.provider.force_flush()
    assert records.left()["held"]["n"] == 1
    assert emitted.attributes == {"n": 2}
    root.end()
