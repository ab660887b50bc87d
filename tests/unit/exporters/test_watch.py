"""What an exporter of OpenTelemetry's loses is counted: given up by it, or by the end of the process."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import pytest
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter, SpanExportResult

from caseyos_otel import _otel
from caseyos_otel.diagnostics import drops
from caseyos_otel.exporters.watch import ExportWatch


class Receiver(SpanExporter):
    """Takes spans once it is let, and answers as it is told."""

    def __init__(self) -> None:
        self.answer: SpanExportResult | Exception = SpanExportResult.SUCCESS
        self.began, self.let = threading.Event(), threading.Event()
        self.ended = False
        self.arrived = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.began.set()
        assert self.let.wait(10)
        if isinstance(self.answer, Exception):
            raise self.answer
        self.arrived += len(spans) if self.answer is SpanExportResult.SUCCESS else 0
        return self.answer

    def shutdown(self) -> None:
        self.ended = True
        self.let.set()


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


@pytest.fixture
def provider() -> Iterator[TracerProvider]:
    provider = TracerProvider(shutdown_on_exit=False)
    yield provider
    provider.shutdown()


def emit(provider: TracerProvider, spans: int) -> None:
    for _ in range(spans):
        provider.get_tracer("service").start_span("request").end()


def counted(destination: str) -> dict[str, int]:
    return {reason: n for (reason, to, _), n in drops.snapshot().items() if to == destination}


@pytest.mark.parametrize("answer", [SpanExportResult.FAILURE, RuntimeError("a bug in it")])
def test_a_batch_that_an_exporter_gives_up_is_counted(
    answer: SpanExportResult | Exception, receiver: Receiver, provider: TracerProvider, request: pytest.FixtureRequest
) -> None:
    destination = request.node.name
    processor = BatchSpanProcessor(receiver)
    provider.add_span_processor(processor)
    watch = ExportWatch(processor, destination)
    receiver.let.set()
    emit(provider, 2)
    assert provider.force_flush()
    assert (receiver.arrived, counted(destination)) == (2, {})
    receiver.answer = answer
    emit(provider, 3)
    provider.force_flush()
    assert counted(destination) == {"undelivered": 3}
    assert watch.silent_for() == 0


def test_what_is_under_way_and_queued_when_nobody_waits_any_more_is_counted_once(
    receiver: Receiver, provider: TracerProvider
) -> None:
    processor = BatchSpanProcessor(receiver, max_export_batch_size=2, schedule_delay_millis=10)
    provider.add_span_processor(processor)
    watch = ExportWatch(processor, "test-given-up")
    emit(provider, 2)
    assert receiver.began.wait(10)
    emit(provider, 1)
    assert watch.silent_for() > 0
    receiver.answer = SpanExportResult.FAILURE
    watch.give_up()
    watch.give_up()
    assert receiver.ended
    provider.shutdown()
    assert counted("test-given-up") == {"shutdown": 3}


def test_an_exporter_that_speaks_otlp_is_known_and_another_is_not() -> None:
    spans = BatchSpanProcessor(OTLPSpanExporter())
    console = BatchSpanProcessor(ConsoleSpanExporter())
    reader = PeriodicExportingMetricReader(OTLPMetricExporter(), export_interval_millis=float("inf"))
    metrics = MeterProvider([reader], shutdown_on_exit=False)
    assert _otel.metric_readers(metrics) == (reader,)
    assert [ExportWatch.concerns(each) for each in (spans, console, reader, object())] == [True, False, True, False]
    for each in (spans, console):
        each.shutdown()


def test_the_queue_of_a_batch_processor_is_counted(receiver: Receiver, provider: TracerProvider) -> None:
    processor = BatchSpanProcessor(receiver, schedule_delay_millis=60_000)
    provider.add_span_processor(processor)
    emit(provider, 5)
    assert _otel.queued(processor) == 5
    receiver.let.set()
    assert provider.force_flush()
    assert (_otel.queued(processor), _otel.queued(object())) == (0, 0)
