"""CASEYOS_OTEL_EVENT_MODE=both: a copy of each event on the current span, for backends that still want span events."""

from __future__ import annotations

from collections.abc import Callable

from caseyos_otel import _otel
from caseyos_otel.events.record import EventRecord


class SpanEvents:
    """Adds the copy in the caller: later the span may have ended.

    The conditions are those of the OpenTelemetry specification's `event_to_span_event_bridge`: the record has an event
    name, a trace id and a span id; the context's span is recording; and its ids are the record's.
    """

    def __init__(self, redact: Callable[[EventRecord], object]) -> None:
        self._redact = redact

    def __call__(self, record: EventRecord) -> None:
        """Add a copy of `record` to the span that is current in its context."""
        span = None if record.context is None else _otel.span_of(record.context)
        if span is None or not record.event_name or not record.trace_id or not record.span_id:
            return
        context = span.get_span_context()
        if span.is_recording() and (context.trace_id, context.span_id) == (record.trace_id, record.span_id):
            self._redact(record)
            span.add_event(record.event_name, dict(record.attributes), record.timestamp)
