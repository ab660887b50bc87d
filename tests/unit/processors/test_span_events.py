"""CASEYOS_OTEL_EVENT_MODE=both: the copy that leaves with the span, seen at a span exporter."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from caseyos_otel import track
from caseyos_otel.emit.queue import EventQueue
from caseyos_otel.instrumentation import track as tracking
from caseyos_otel.processors.redact import Redact
from caseyos_otel.processors.span_events import SpanEvents
from caseyos_otel.redaction.disclosure import Disclosure
from caseyos_otel.redaction.pseudonyms import Pseudonyms


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    monkeypatch.setattr(tracking.emitter, "queue", EventQueue())
    monkeypatch.setattr(tracking.emitter, "woken", lambda: None)
    disclosure = Disclosure(Pseudonyms(b"key"), frozenset({"database"}))
    monkeypatch.setattr(tracking.emitter, "bridge", SpanEvents(Redact(disclosure)))
    yield InMemorySpanExporter()


def spans(exporter: InMemorySpanExporter, *, ended: bool = False) -> list[ReadableSpan]:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with provider.get_tracer("service").start_as_current_span("request", end_on_exit=not ended) as span:
        if ended:
            span.end()
        track("outcome_reply_received", recipient="john@acmecorp.com", reply_sentiment="positive")
    return list(exporter.get_finished_spans())


def test_the_current_span_gets_a_copy_with_disclosed_attributes(exporter: InMemorySpanExporter) -> None:
    ((event,),) = [span.events for span in spans(exporter)]
    assert event.name == "caseyos.outcome.reply_received"
    assert event.attributes is not None
    assert event.attributes["caseyos.outcome.reply_sentiment"] == "positive"
    assert str(event.attributes["caseyos.outcome.recipient"]).startswith("h_")
    (queued,) = tracking.emitter.queue.items
    assert queued[1].timestamp == event.timestamp


def test_a_span_that_has_ended_gets_none_and_the_event_is_emitted_all_the_same(exporter: InMemorySpanExporter) -> None:
    assert [span.events for span in spans(exporter, ended=True)] == [()]
    assert len(tracking.emitter.queue) == 1


def test_without_a_span_the_event_is_emitted_alone(exporter: InMemorySpanExporter) -> None:
    track("outcome_reply_received", recipient="john@acmecorp.com")
    assert len(tracking.emitter.queue) == 1
