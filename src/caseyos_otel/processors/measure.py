"""Exact counts and durations of every event, whatever is sampled: OpenTelemetry metrics declared beside the events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from caseyos_otel.diagnostics import drops
from caseyos_otel.events.model import Declaration
from caseyos_otel.events.record import EventRecord

EVENTS: Final = "caseyos.events"
DROPPED: Final = "caseyos.otel.dropped"
_BOUNDED_TEXT: Final = 64
_VALUES_A_DIMENSION: Final = 100
"""A value beyond these becomes `other`: a metric's attributes stay bounded whatever a service sends."""


class Measure:
    """Counts each event by name and its declared dimensions; records each declared duration in its own unit."""

    def __init__(self, meter: Meter) -> None:
        self._events = meter.create_counter(EVENTS, "{event}", "Product events, before any sampling.")
        self._meter = meter
        self._histograms: dict[str, Any] = {}
        self._seen: dict[str, set[object]] = {}
        meter.create_observable_counter(DROPPED, [_observe_drops], "{record}", "What was not delivered, by reason.")

    def __call__(self, record: EventRecord) -> EventRecord:
        """Measure one event and hand it on."""
        attributes = self._attributes(record.declaration, record.values)
        self._events.add(1, attributes)
        for field in record.declaration.fields:
            if field.is_duration and (value := record.values[field.name]) is not None:
                self._histogram(field.attribute, field.unit, field.doc).record(value, attributes)
        return record

    def _attributes(self, declaration: Declaration, values: Mapping[str, Any]) -> dict[str, Any]:
        attributes: dict[str, Any] = {"event.name": declaration.otel_name}
        for field in declaration.fields:
            if field.dimension and (value := values[field.name]) is not None:
                attributes[field.attribute] = self._bounded(field.attribute, value)
        return attributes

    def _bounded(self, attribute: str, value: Any) -> Any:
        seen = self._seen.setdefault(attribute, set())
        if value not in seen:
            if len(seen) >= _VALUES_A_DIMENSION or (isinstance(value, str) and len(value) > _BOUNDED_TEXT):
                return "other"
            seen.add(value)
        return value

    def _histogram(self, name: str, unit: str, doc: str) -> Any:
        known = self._histograms.get(name)
        if known is None:
            known = self._histograms[name] = self._meter.create_histogram(name, unit, doc)
        return known


def _observe_drops(options: CallbackOptions) -> Iterable[Observation]:
    for (reason, destination, event), n in drops.snapshot().items():
        yield Observation(n, {"reason": reason, "destination": destination, "event.name": event})
