"""The pipeline of a process: attached to what is there, flushed in time, and going on without what is not there."""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, SpanContext, StatusCode, TraceFlags

from caseyos_otel import _otel, diagnostics, track
from caseyos_otel.events.record import EventRecord
from caseyos_otel.pipeline import status
from caseyos_otel.processors.chain import EventChain
from tests.integration.otlp_receiver import OtlpReceiver
from tests.unit.pipeline.conftest import MakePipeline

ACCEPTED = {"recommendation_id": "r1", "action_type": "send_email", "user_id": "casey"}


def logged(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def stored(state: Path, table: str = "outcome_events") -> list[tuple[Any, ...]]:
    with sqlite3.connect(state / "caseyos.db") as connection:
        return connection.execute(f"select event from {table} order by event_id").fetchall()


def test_without_any_sdk_events_are_logged_and_stored(make_pipeline: MakePipeline, log: Path, state: Path) -> None:
    pipeline = make_pipeline()
    track("recommendation_accepted", **ACCEPTED)
    track("outcome_deal_advanced", deal_id="d1")
    assert pipeline.flush(10)
    assert [line["event"] for line in logged(log)] == ["recommendation_accepted", "outcome_deal_advanced"]
    assert stored(state) == [("outcome_deal_advanced",)]
    assert stored(state, "events") == [("recommendation_accepted",)]
    assert not pipeline.attached


def test_our_chain_stands_first_and_processors_of_others_see_disclosed_events(
    make_pipeline: MakePipeline, log: Path
) -> None:
    exporter, provider = InMemoryLogRecordExporter(), LoggerProvider(resource=Resource({"service.name": "api"}))
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    pipeline = make_pipeline(logs=provider)
    assert isinstance(_otel.log_processors(provider)[0], EventChain)
    track("outcome_reply_received", recipient="john@acmecorp.com")
    assert pipeline.flush(10)
    [exported] = exporter.get_finished_logs()
    assert isinstance(exported.log_record, EventRecord)
    assert dict(exported.log_record.attributes)["caseyos.outcome.recipient"].startswith("h_")
    assert exported.instrumentation_scope is not None
    assert exported.instrumentation_scope.name == "caseyos_otel"
    [line] = logged(log)
    assert line["service"] == "api"
    assert line["recipient"] == dict(exported.log_record.attributes)["caseyos.outcome.recipient"]


def test_an_event_of_another_logger_is_logged_within_the_interval_though_none_of_ours_comes(
    make_pipeline: MakePipeline, log: Path, state: Path
) -> None:
    provider = LoggerProvider()
    pipeline = make_pipeline(logs=provider, CASEYOS_OTEL_FLUSH_INTERVAL_MS="5")
    ticked = threading.Event()
    tick = pipeline.worker._tick
    pipeline.worker._tick = lambda: (tick(), ticked.set() if log.exists() else None)
    logger = provider.get_logger("another")
    logger.emit(event_name="caseyos.outcome.deal_advanced", attributes={"deal_id": "d1"})
    assert ticked.wait(20)
    assert [line["event"] for line in logged(log)] == ["outcome_deal_advanced"]
    assert pipeline.flush(10)
    assert stored(state) == [("outcome_deal_advanced",)]


def test_inline_an_event_of_another_logger_is_logged_when_emit_returns(make_pipeline: MakePipeline, log: Path) -> None:
    provider = LoggerProvider()
    make_pipeline(logs=provider, CASEYOS_OTEL_EMIT="inline")
    provider.get_logger("another").emit(event_name="signal_received")
    assert len(logged(log)) == 1
    track("recommendation_accepted", **ACCEPTED)
    assert len(logged(log)) == 2


def test_a_durable_event_of_another_logger_is_spooled_before_emit_returns(
    make_pipeline: MakePipeline, state: Path
) -> None:
    provider = LoggerProvider()
    pipeline = make_pipeline(logs=provider)
    pipeline._running = True  # no thread of ours may deliver it meanwhile
    provider.get_logger("another").emit(event_name="outcome_deal_advanced", attributes={"deal_id": "d-17"})
    provider.get_logger("another").emit(event_name="signal_received", attributes={"signal_id": "s-17"})
    spooled = b"".join(path.read_bytes() for path in (state / "spool").rglob("*.seg"))
    assert b"d-17" in spooled
    assert b"s-17" not in spooled


class Enriching(SpanProcessor):
    """One that exports nothing: it sees every span."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        span.set_attribute("enriched", True)

    def on_end(self, span: ReadableSpan) -> None:
        self.ended.append(span.name)


@pytest.mark.parametrize("late", [False, True], ids=["before us", "added later by the service"])
def test_spans_that_export_go_behind_sampling_and_the_rest_stays_in_front(
    make_pipeline: MakePipeline, late: bool
) -> None:
    exporter, enriching, provider = InMemorySpanExporter(), Enriching(), TracerProvider(shutdown_on_exit=False)
    if late:
        pipeline = make_pipeline(traces=provider, CASEYOS_OTEL_SUCCESS_RATIO="0")
    provider.add_span_processor(BatchSpanProcessor(exporter))
    provider.add_span_processor(enriching)
    if not late:
        pipeline = make_pipeline(traces=provider, CASEYOS_OTEL_SUCCESS_RATIO="0")
    tracer = provider.get_tracer("service")
    tracer.start_span("fine").end()
    with tracer.start_as_current_span("failing"):
        track("action_failed", action_id="a1", action_type="send_email", error_type="api_error")
    assert pipeline.flush(10)
    assert [span.name for span in exporter.get_finished_spans()] == ["failing"]
    assert enriching.ended == ["fine", "failing"]
    [left] = exporter.get_finished_spans()
    assert left.attributes is not None
    assert left.attributes["enriched"] is True


def test_an_otlp_log_exporter_that_the_service_adds_later_gets_no_event_twice(make_pipeline: MakePipeline) -> None:
    with OtlpReceiver() as receiver:
        provider = LoggerProvider(shutdown_on_exit=False)
        pipeline = make_pipeline(logs=provider)
        provider.add_log_record_processor(SimpleLogRecordProcessor(OTLPLogExporter(f"{receiver.endpoint}/v1/logs")))
        track("recommendation_accepted", **ACCEPTED)
        provider.get_logger("another").emit(body="theirs")
        assert pipeline.flush(10)
        provider.shutdown()
    assert [received.record.body.string_value for received in receiver.records] == ["theirs"]


@pytest.mark.parametrize(
    ("chosen", "noted", "tracestate"),
    [
        (ALWAYS_ON, False, "ot=th:0"),
        (ParentBased(ALWAYS_ON), True, "ot=th:0"),  # it drops no trace that begins here
        (ParentBased(TraceIdRatioBased(1.0)), True, ""),  # how many it drops, it does not say; nor of failures
    ],
)
def test_a_sampler_that_was_chosen_is_respected_and_named_where_it_may_drop_a_failure(
    make_pipeline: MakePipeline, chosen: Any, noted: bool, tracestate: str
) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider(sampler=chosen, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    pipeline = make_pipeline(traces=provider, OTEL_TRACES_SAMPLER="chosen", CASEYOS_OTEL_SUCCESS_RATIO="1")
    assert provider.sampler is chosen
    assert any(chosen.get_description() in note for note in pipeline.notes) is noted
    unsampled = trace.set_span_in_context(NonRecordingSpan(SpanContext(1, 1, True, TraceFlags(0))))
    failing = provider.get_tracer("service").start_span("failing", unsampled)
    failing.set_status(StatusCode.ERROR)
    failing.end()
    provider.get_tracer("service").start_span("fine").end()
    with provider.get_tracer("service").start_as_current_span("failing here") as here:
        here.set_status(StatusCode.ERROR)
    assert pipeline.flush(10)
    left = {span.name: span.context.trace_state.to_header() for span in exporter.get_finished_spans()}
    assert left == {"fine": tracestate, "failing here": tracestate} | ({} if noted else {"failing": "ot=th:0"})


def test_inline_kept_traces_leave_though_nobody_flushes(make_pipeline: MakePipeline) -> None:
    left = threading.Event()

    class Exporter(InMemorySpanExporter):
        def export(self, spans: Any) -> Any:
            left.set()
            return super().export(spans)

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(Exporter()))
    make_pipeline(traces=provider, CASEYOS_OTEL_EMIT="inline", CASEYOS_OTEL_SUCCESS_RATIO="1")
    provider.get_tracer("service").start_span("fine").end()
    assert left.wait(20)


# -- an SDK that we do not know --------------------------------------------------------------------------------------


class Unknown:
    """A provider of an SDK that keeps its private things elsewhere."""

    def __init__(self) -> None:
        self.resource = Resource({"service.name": "api"})
        self.flushed = 0

    def get_logger(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("not with our chain outside")

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        self.flushed += 1
        return True


class UnknownLogs(Unknown):
    """For logs."""


class UnknownTraces(Unknown):
    """For traces."""


UnknownLogs.__module__ = "opentelemetry.sdk._logs"
UnknownTraces.__module__ = "opentelemetry.sdk.trace"


def test_an_sdk_without_the_names_we_know_costs_what_hangs_on_them_and_is_said(
    make_pipeline: MakePipeline, log: Path, state: Path, caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    monkeypatch.setattr(diagnostics.logger, "propagate", True)
    caplog.set_level(logging.WARNING)
    logs, traces = UnknownLogs(), UnknownTraces()
    pipeline = make_pipeline(logs=logs, traces=traces)
    track("recommendation_accepted", **ACCEPTED)
    track("outcome_deal_advanced", deal_id="d1")
    assert pipeline.flush(10)
    assert [(line["event"], line["service"]) for line in logged(log)] == [
        ("recommendation_accepted", "api"),
        ("outcome_deal_advanced", "api"),
    ]
    assert stored(state) == [("outcome_deal_advanced",)]
    assert [
        what for what in ("events", "traces") if any(f"{what} are handled without" in n for n in pipeline.notes)
    ] == [
        "events",
        "traces",
    ]
    assert [note for note in pipeline.notes if note not in caplog.text] == []
    assert (logs.flushed, traces.flushed) == (1, 1)


def test_there_another_logger_s_events_come_by_our_exporters(make_pipeline: MakePipeline, log: Path) -> None:
    from opentelemetry._logs import LogRecord

    pipeline = make_pipeline(logs=UnknownLogs())
    pipeline.accept(LogRecord(event_name="caseyos.signal.received", attributes={"signal_id": "s1"}))
    pipeline.accept(LogRecord(body="no event"))
    assert pipeline.flush(10)
    assert [line["event"] for line in logged(log)] == ["signal_received"]


# -- flushing, ending, forking ---------------------------------------------------------------------------------------


def test_flush_is_over_at_its_deadline_whatever_a_foreign_processor_does(make_pipeline: MakePipeline) -> None:
    released = threading.Event()

    class Slow(InMemoryLogRecordExporter):
        def force_flush(self, timeout_millis: int = 30000) -> bool:
            return released.wait(30)

    class SlowProcessor(SimpleLogRecordProcessor):
        def force_flush(self, timeout_millis: int = 30000) -> bool:
            return self._exporter.force_flush(timeout_millis)

    provider = LoggerProvider()
    provider.add_log_record_processor(SlowProcessor(Slow()))
    pipeline = make_pipeline(logs=provider)
    track("recommendation_accepted", **ACCEPTED)
    assert not pipeline.flush(0.3)
    released.set()
    assert pipeline.flush(10)


def test_what_is_emitted_after_the_end_is_still_spooled(make_pipeline: MakePipeline, state: Path) -> None:
    pipeline = make_pipeline()
    track("outcome_deal_advanced", deal_id="d1")
    pipeline.shutdown(5)
    track("outcome_deal_advanced", deal_id="d-late")
    assert b"d-late" in b"".join(path.read_bytes() for path in (state / "spool").rglob("*.seg"))
    assert pipeline.flush_ours(1)


def test_a_child_is_a_process_of_its_own(make_pipeline: MakePipeline, log: Path) -> None:
    pipeline = make_pipeline()
    pipeline._running = True  # no thread of the parent's takes its event meanwhile
    track("recommendation_accepted", **{**ACCEPTED, "user_id": "of the parent"})
    pipeline.before_fork()
    pipeline.after_fork_in_child()
    track("recommendation_accepted", **{**ACCEPTED, "user_id": "of the child"})
    assert pipeline.flush(10)
    assert [line["user_id"] for line in logged(log)] == ["of the child"]
    assert pipeline.worker._thread is not None  # a thread of its own


def test_the_status_file_tells_what_was_delivered_and_dropped(make_pipeline: MakePipeline, state: Path) -> None:
    pipeline = make_pipeline(CASEYOS_OTEL_EVENT_STORE="outcomes")
    track("outcome_deal_advanced", deal_id="d1")
    track("recommendation_accepted", **ACCEPTED)
    pipeline.flush_at_exit(10)
    [seen] = status.read_all(state)
    assert seen["destinations"]["outcomes"]["delivered"] == 1
    assert {"reason": "not_applicable", "destination": "outcomes", "event": "recommendation_accepted"}.items() <= max(
        (d for d in seen["dropped"] if d["reason"] == "not_applicable"), key=lambda d: d["event"]
    ).items()


def test_a_state_directory_that_cannot_be_written_costs_the_status_file_alone_and_is_said_once(
    make_pipeline: MakePipeline, state: Path, log: Path, caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    monkeypatch.setattr(diagnostics.logger, "propagate", True)
    state.write_text("a file in its place")
    pipeline = make_pipeline(CASEYOS_OTEL_EXPORTERS="log", CASEYOS_OTEL_PII_KEY="k")
    track("recommendation_accepted", **ACCEPTED)
    assert pipeline.flush(10)
    assert len(logged(log)) == 1
    for _ in range(3):
        pipeline.write_status()
    assert [r.levelname for r in caplog.records if "status file" in r.getMessage()] == ["WARNING"]


def test_an_event_too_large_for_the_spool_stays_in_memory_and_arrives(
    make_pipeline: MakePipeline, monkeypatch: pytest.MonkeyPatch, state: Path
) -> None:
    from caseyos_otel.diagnostics import drops
    from caseyos_otel.spool import writer

    monkeypatch.setattr(writer, "MAX_PAYLOAD", 10)
    before = drops.by_reason().get("spool_unavailable", 0)
    pipeline = make_pipeline()
    track("outcome_deal_advanced", deal_id="d1")
    assert drops.by_reason()["spool_unavailable"] == before + 1
    assert pipeline.flush(10)
    assert stored(state) == [("outcome_deal_advanced",)]
