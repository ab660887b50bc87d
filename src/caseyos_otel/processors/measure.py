"""Exact counts and durations of every event, whatever is sampled: OpenTelemetry metrics declared beside the events."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from opentelemetry.metrics import CallbackOptions, Histogram, Meter, Observation

from caseyos_otel.diagnostics import drops
from caseyos_otel.events.field import Field
from caseyos_otel.events.model import Declaration
from caseyos_otel.events.record import EventRecord

EVENTS: Final = "caseyos.events"
DROPPED: Final = "caseyos.otel.dropped"
_BOUNDED_TEXT: Final = 64
_VALUES_A_DIMENSION: Final = 100
"""A value beyond these becomes `other`: a metric's attributes stay bounded whatever a service sends."""


class _Cell:
    """One combination of attributes: how many events had it."""

    __slots__ = ("attributes", "n")

    def __init__(self, attributes: dict[str, Any]) -> None:
        self.attributes = attributes
        self.n = 0


class Measure:
    """Counts each event by name and its declared dimensions; records each declared duration in its own unit.

    The counter is observed, not added to: counting is a dictionary look-up then, and the SDK asks when it collects.
    """

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._plans: dict[Declaration, _Plan] = {}
        self._histograms: dict[str, Histogram] = {}
        self._cells: dict[tuple[Any, ...], _Cell] = {}
        self._seen: dict[str, set[object]] = {}
        self._counting = threading.Lock()
        meter.create_observable_counter(EVENTS, [self._observe], "{event}", "Product events, before any sampling.")
        meter.create_observable_counter(DROPPED, [_observe_drops], "{record}", "What was not delivered, by reason.")

    def __call__(self, record: EventRecord) -> EventRecord:
        """Measure one event and hand it on."""
        values = record.values
        plan = self._plans.get(record.declaration) or self._plan(record.declaration)
        key = (plan.name, *[values[name] for name, _ in plan.dimensions])
        cell = self._cells.get(key) or self._cell(plan, key)
        with self._counting:  # records of other loggers come in other threads
            cell.n += 1
        for name, histogram in plan.durations:
            if (value := values[name]) is not None and value >= 0:  # the SDK warns of each negative one
                histogram.record(value, cell.attributes)
        return record

    def _observe(self, options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(cell.n, cell.attributes) for cell in list(self._cells.values())]

    def _plan(self, declaration: Declaration) -> _Plan:
        fields = declaration.fields
        plan = self._plans[declaration] = _Plan(
            declaration.otel_name,
            tuple((field.name, field.attribute) for field in fields if field.dimension),
            tuple((field.name, self._histogram(field)) for field in fields if field.is_duration),
        )
        return plan

    def _cell(self, plan: _Plan, key: tuple[Any, ...]) -> _Cell:
        """The cell of a combination that is new, or has a value which is not told apart from other ones."""
        attributes: dict[str, Any] = {"event.name": plan.name}
        for (_, attribute), value in zip(plan.dimensions, key[1:], strict=True):
            if value is not None:
                attributes[attribute] = self._bounded(attribute, value)
        bounded = (plan.name, *[attributes.get(attribute) for _, attribute in plan.dimensions])
        return self._cells.setdefault(bounded, _Cell(attributes))

    def _bounded(self, attribute: str, value: Any) -> Any:
        seen = self._seen.setdefault(attribute, set())
        if value not in seen:
            if len(seen) >= _VALUES_A_DIMENSION or (isinstance(value, str) and len(value) > _BOUNDED_TEXT):
                return "other"
            seen.add(value)
        return value

    def _histogram(self, field: Field) -> Histogram:
        # one an attribute: an event and its failure twin describe it in other words, which would make two metrics of it
        known = self._histograms.get(field.attribute)
        return known or self._histograms.setdefault(
            field.attribute, self._meter.create_histogram(field.attribute, field.unit, field.doc)
        )


class _Plan(NamedTuple):
    """What is measured of one event class: (field, attribute) of its dimensions, (field, histogram) of its durations."""

    name: str
    dimensions: tuple[tuple[str, str], ...]
    durations: tuple[tuple[str, Histogram], ...]


def _observe_drops(options: CallbackOptions) -> Iterable[Observation]:
    for (reason, destination, event), n in drops.snapshot().items():
        yield Observation(n, {"reason": reason, "destination": destination, "event.name": event})
