"""The destinations behind the acknowledgement: those of a service, fed from the spool alone, and what reads a request first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from opentelemetry.metrics import Meter

from caseyos_otel.diagnostics import drops
from caseyos_otel.errors import CaseyosOtelError
from caseyos_otel.events.model import Declaration, Problem
from caseyos_otel.events.record import EventRecord
from caseyos_otel.events.registry import registry
from caseyos_otel.exporters.delivery import Delivery
from caseyos_otel.gateway.forwarding import SIGNALS, Forwarding
from caseyos_otel.gateway.reading import spans_in
from caseyos_otel.gateway.seen import Seen
from caseyos_otel.pipeline import set_aside
from caseyos_otel.pipeline.destinations import Destinations
from caseyos_otel.pipeline.replay import INTAKE
from caseyos_otel.pipeline.spooling import records_of
from caseyos_otel.processors.measure import Measure
from caseyos_otel.settings import Settings

ROLE: Final = "gateway"
"""Tells its directories in the spool and its status file from those of a service in the same process or place."""
SET_ASIDE_FILL: Final = 0.75
"""Where no more undeclared events are accepted: the rest is for those that are accepted and not yet set aside."""


class GatewayDestinations(Destinations):
    """Every destination reads the spool. Nothing is evicted at its bound: the sender keeps what is refused."""

    role = ROLE

    def __init__(self, settings: Settings, resource: Callable[[], Mapping[str, Any]], meter: Meter) -> None:
        self._measure = Measure(meter)
        self.forwarding = {signal: Forwarding(signal, settings) for signal in SIGNALS}
        super().__init__(settings, resource)
        self.spooling.spool.writer.make_room = lambda wanted: None
        self._fed = self.sinks()
        self._seen = Seen()
        self._set_aside_full = self._is_set_aside_full()

    def _is_to_be_stored(self, record: EventRecord) -> bool:
        """Whatever its sender did with it: in a database of its own, as far as anybody knows here."""
        return True

    def append(self, series: str, frame: bytes) -> None:
        """Put a frame into the spool. Raises SpoolUnavailable."""
        self.spooling.spool.writer.append(series, frame)

    def fullness(self) -> float:
        """How much of the spool's bound is in use, 0 to 1."""
        space = self.spooling.spool.space
        return space.used / space.max_bytes

    def has_place(self, name: str) -> bool:
        """Whether an event of this name can be kept: it is declared, or what nobody declared has room."""
        return not self._set_aside_full or registry.get(name) is not None

    def sync(self) -> None:
        """Sync the spool against power loss, and see what others have put into it and beside it."""
        self._set_aside_full = self._is_set_aside_full()
        self.spooling.sync_alone()
        self.spooling.spool.space.look()

    def _is_set_aside_full(self) -> bool:
        return set_aside.size(self._settings.spool_path) > SET_ASIDE_FILL * set_aside.MOST_BYTES

    def _deliveries(self) -> list[Delivery]:
        intake = self._delivery(INTAKE, self._take, decode=self._read_first, local=True)
        return [*super()._deliveries(), intake, *(self._forward(way) for way in self.forwarding.values() if way.on)]

    def _forward(self, way: Any) -> Delivery:
        # It passes on bytes, not records: a delivery looks at no more than an id and a name.
        return self._delivery(way.name, way.export, decode=way.read, set_aside=lambda passing, reason: None)

    def close(self) -> None:
        """End the delivery threads and let the spool go."""
        for way in self.forwarding.values():
            way.close()
        super().close()

    def _read(self, frame: bytes) -> list[EventRecord]:
        """For the other destinations: what cannot be used is the intake's concern."""
        return _events(frame) if spans_in(frame) is None else []

    def _read_first(self, frame: bytes) -> list[EventRecord]:
        if spans_in(frame) is not None:
            return []
        return self.spooling.read_or(frame, self._undeclared, _count_invalid)

    def _undeclared(self, name: str, request: bytes) -> None:
        if name:
            self.spooling.set_aside.undeclared_frame(name, request)

    def _take(self, records: Sequence[EventRecord]) -> None:
        for record in records:
            if record.failure:  # before any success of its trace is asked about
                self.table.keep(record.trace_id)
        for record in records:
            if record.event_id in self._seen:  # sent again: tables and issues know it by its id, nothing else does
                drops.count("duplicate", destination=INTAKE, event=record.declaration.name)
                continue
            record.spooled = True
            self._measure(record)
            for _, sink in self._fed:
                sink(record)
            self._seen.add(record.event_id)
        self.after_batch()


def _events(frame: bytes) -> list[EventRecord]:
    try:
        return records_of(frame)
    except CaseyosOtelError:
        return []


def _count_invalid(declaration: Declaration, problem: Problem) -> None:
    drops.count("invalid_field", event=declaration.name)
