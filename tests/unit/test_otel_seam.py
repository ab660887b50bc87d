"""Every private name of OpenTelemetry that `_otel.py` uses, against the SDK that is installed."""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from opentelemetry import context as otel_context
from opentelemetry import metrics, trace
from opentelemetry._logs import NoOpLoggerProvider
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcLogExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpanExporter
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import (
    BatchLogRecordProcessor,
    InMemoryLogRecordExporter,
    SimpleLogRecordProcessor,
)
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON
from opentelemetry.trace import Link, SpanContext, Status, StatusCode

from caseyos_otel import _otel
from caseyos_otel.otlp.encode import RequestEncoder
from caseyos_otel.sampling.held import HeldSpan
from tests.integration.otlp_receiver import GrpcReceiver, OtlpReceiver
from tests.ports import free_port
from tests.records import event


@pytest.fixture
def tracer_provider() -> Iterator[TracerProvider]:
    provider = TracerProvider(shutdown_on_exit=False)
    yield provider
    provider.shutdown()


@pytest.fixture
def logger_provider() -> Iterator[LoggerProvider]:
    provider = LoggerProvider(shutdown_on_exit=False)
    yield provider
    provider.shutdown()


def test_the_sdk_s_providers_are_told_from_the_api_s(
    tracer_provider: TracerProvider, logger_provider: LoggerProvider
) -> None:
    assert _otel.is_sdk(tracer_provider)
    assert _otel.is_sdk(logger_provider)
    assert not _otel.is_sdk(trace.ProxyTracerProvider())
    assert not _otel.is_sdk(NoOpLoggerProvider())
    assert not _otel.is_sdk(metrics.NoOpMeterProvider())


def test_log_processors_can_be_read_and_replaced_in_loggers_given_out_before(logger_provider: LoggerProvider) -> None:
    first, second = InMemoryLogRecordExporter(), InMemoryLogRecordExporter()
    logger_provider.add_log_record_processor(SimpleLogRecordProcessor(first))
    logger = logger_provider.get_logger("service")
    assert [_otel.exporter_of(p) for p in _otel.log_processors(logger_provider)] == [first]
    _otel.set_log_processors(logger_provider, [SimpleLogRecordProcessor(second)])
    logger.emit(body="hello")
    assert [len(exporter.get_finished_logs()) for exporter in (first, second)] == [0, 1]


def test_span_processors_can_be_read_and_replaced_in_tracers_given_out_before(tracer_provider: TracerProvider) -> None:
    first, second = InMemorySpanExporter(), InMemorySpanExporter()
    tracer_provider.add_span_processor(SimpleSpanProcessor(first))
    tracer = tracer_provider.get_tracer("service")
    assert [_otel.exporter_of(p) for p in _otel.span_processors(tracer_provider)] == [first]
    _otel.set_span_processors(tracer_provider, [SimpleSpanProcessor(second)])
    tracer.start_span("request").end()
    assert [len(exporter.get_finished_spans()) for exporter in (first, second)] == [0, 1]


def test_a_sampler_is_replaced_in_tracers_given_out_before_and_after() -> None:
    provider = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    before = provider.get_tracer("before")
    _otel.set_sampler(provider, ALWAYS_ON)
    assert before.start_span("request").is_recording()
    assert provider.get_tracer("after").start_span("request").is_recording()


def test_the_exporter_behind_each_kind_of_processor_is_found() -> None:
    logs, spans = InMemoryLogRecordExporter(), InMemorySpanExporter()
    processors = [
        (BatchLogRecordProcessor(logs), logs),
        (SimpleLogRecordProcessor(logs), logs),
        (BatchSpanProcessor(spans), spans),
        (SimpleSpanProcessor(spans), spans),
    ]
    for processor, exporter in processors:
        assert _otel.exporter_of(processor) is exporter
        processor.shutdown()
    assert _otel.exporter_of(SpanProcessor()) is None


SHOWN = ("name", "kind", "attributes", "events", "links", "status", "start_time", "end_time", "resource", "parent",
         "dropped_attributes", "dropped_events", "dropped_links", "instrumentation_scope")  # fmt: skip


def ended(tracer_provider: TracerProvider, **more: Any) -> ReadableSpan:
    ends: list[ReadableSpan] = []

    class Noting(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            ends.append(span)

    tracer_provider.add_span_processor(Noting())
    with tracer_provider.get_tracer("service").start_as_current_span("request", links=more.get("links")) as span:
        span.set_attribute("tenant", "acme")
        for name in more.get("events", ()):
            span.add_event(name)
        if "status" in more:
            span.set_status(more["status"])
    return ends[-1]


def test_the_fields_of_a_span_are_what_it_shows(tracer_provider: TracerProvider) -> None:
    linked = ended(tracer_provider)
    links = [Link(linked.get_span_context())]
    span = ended(tracer_provider, events=["exception"], status=Status(StatusCode.ERROR, "refused"), links=links)
    held = HeldSpan(*_otel.fields_of(span))
    for name in SHOWN:
        if not name.startswith("dropped"):
            assert getattr(held, name) == getattr(span, name), name
    assert held.dropped is None
    assert _otel.fields_of(span) == (*_otel._public_fields_of(span)[:-1], None)


def test_what_was_dropped_at_a_limit_is_known() -> None:
    provider = TracerProvider(
        shutdown_on_exit=False, span_limits=SpanLimits(max_span_attributes=1, max_events=1, max_links=1)
    )
    held = HeldSpan(*_otel.fields_of(ended(provider, events=["exception", "retry"])))
    assert [event.name for event in held.events] == ["retry"]
    assert held.dropped == (0, 1, 0)


def test_a_span_that_somebody_else_made_has_the_same_fields() -> None:
    made = ReadableSpan("made by hand", SpanContext(1, 2, is_remote=False), attributes={"tenant": "acme"})
    held = HeldSpan(*_otel.fields_of(made))
    assert (held.name, held.context, held.attributes) == ("made by hand", made.context, {"tenant": "acme"})


def test_the_current_span_and_context_are_those_of_the_api(tracer_provider: TracerProvider) -> None:
    assert _otel._CONTEXT is not None  # the quick way, without `get_current`
    assert _otel.current_span() is None
    with tracer_provider.get_tracer("service").start_as_current_span("request") as span:
        assert _otel.current_span() is span
        assert _otel.current_context() is otel_context.get_current()
        assert _otel.span_of(otel_context.get_current()) is span
        within = contextvars.copy_context()
    assert _otel.current_span() is None
    assert _otel.span_of(_otel.context_within(within)) is span
    assert _otel.context_within(contextvars.Context()) == {}
    assert _otel.span_of(Context({"current-span": "no span"})) is None


def test_the_parent_of_a_new_span_is_that_of_the_given_or_else_the_current_context(
    tracer_provider: TracerProvider,
) -> None:
    tracer = tracer_provider.get_tracer("service")
    assert _otel.parent_span(None) is None
    assert _otel.parent_span(Context()) is None
    other = tracer.start_span("another request")
    with tracer.start_as_current_span("request") as current:
        assert _otel.parent_span(None) is current
        assert _otel.parent_span(trace.set_span_in_context(other, Context())) is other


def test_instrumentation_is_suppressed_inside_the_block_alone() -> None:
    with pytest.raises(ZeroDivisionError), _otel.suppressed_instrumentation():
        assert not is_instrumentation_enabled()
        raise ZeroDivisionError
    assert is_instrumentation_enabled()


def test_the_sdk_is_set_up_with_the_name_of_the_stock_http_exporter() -> None:
    from opentelemetry.sdk._configuration import _import_exporters  # what a wrong name would fail in

    _, _, logs = _import_exporters([], [], [_otel.OTLP_EXPORTER])
    assert list(logs.values()) == [OTLPLogExporter]


@pytest.mark.parametrize("status", [200, 400, 503])
def test_request_bytes_go_through_the_stock_exporter_and_its_answer_comes_back(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    request = RequestEncoder({"service.name": "api"}, "scope", "1", "").encode([event("signal_received")])
    with OtlpReceiver() as receiver:
        exporter = OTLPLogExporter(f"{receiver.endpoint}/v1/logs", timeout=0.5, headers={"x-key": "k"})
        if status != 200:
            receiver.answers.append(status)
        assert _otel.post_otlp(exporter, request) == (status == 200, status)
    received = receiver.requests[0]
    assert (received.path, received.body) == ("/v1/logs", request)
    assert received.headers["x-key"] == "k"
    assert received.headers["content-type"] == "application/x-protobuf"


def test_what_failed_is_tried_again_unless_that_is_forbidden(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    with OtlpReceiver() as receiver:
        exporter = OTLPLogExporter(f"{receiver.endpoint}/v1/logs", timeout=9)
        receiver.answers += [503, 503]
        _otel.let_retry(exporter, False)
        assert _otel.post_otlp(exporter, b"") == (False, 503)
        assert len(receiver.requests) == 1
        _otel.let_retry(exporter, True)
        assert _otel.post_otlp(exporter, b"") == (True, 200)
        assert len(receiver.requests) == 3


def test_nor_does_the_exporter_over_grpc(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    exporter = GrpcSpanExporter(f"http://127.0.0.1:{free_port()}", insecure=True, timeout=9)
    _otel.let_retry(exporter, False)
    assert exporter.export([]) is SpanExportResult.FAILURE
    assert [r.getMessage() for r in caplog.records if "aborting retry" in r.getMessage()]
    exporter.shutdown()


def test_an_exporter_that_is_not_known_does_as_it_does() -> None:
    _otel.let_retry(object(), False)
    _otel.let_retry(None, False)


def test_the_exporter_of_spans_sends_bytes_just_so() -> None:
    with OtlpReceiver() as receiver:
        exporter = OTLPSpanExporter(f"{receiver.endpoint}/v1/traces", timeout=0.5)
        assert _otel.post_otlp(exporter, b"") == (True, 200)
    assert receiver.requests[0].path == "/v1/traces"


def test_nobody_there_is_no_status(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    with OtlpReceiver() as receiver:
        endpoint = receiver.endpoint
    assert _otel.post_otlp(OTLPLogExporter(f"{endpoint}/v1/logs", timeout=0.5), b"") == (False, None)


def test_request_bytes_go_through_the_stock_grpc_exporter_and_its_answer_comes_back() -> None:
    request = RequestEncoder({"service.name": "api"}, "scope", "1", "").encode([event("signal_received")])
    with GrpcReceiver() as receiver:
        exporter = GrpcLogExporter(receiver.endpoint, headers={"x-key": "k"})
        assert _otel.call_otlp(exporter, "logs", request) == (True, "OK", b"")
        delivered, code, details = _otel.call_otlp(GrpcSpanExporter(receiver.endpoint), "traces", b"")
        assert (delivered, code, details) == (False, "UNIMPLEMENTED", b"")
        receiver.answers.append((grpc.StatusCode.RESOURCE_EXHAUSTED, 1.0))
        delivered, code, details = _otel.call_otlp(exporter, "logs", b"")
        assert (delivered, code) == (False, "RESOURCE_EXHAUSTED")
        assert b"RetryInfo" in details
    assert receiver.metadata[0]["x-key"] == "k"
    assert [received.event_name for received in receiver.records] == ["caseyos.signal.received"]
    exporter.shutdown()
    assert _otel.call_otlp(exporter, "logs", b"") == (False, "CANCELLED", b"")
