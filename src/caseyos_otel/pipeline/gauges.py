"""What an operator watches of the database, as OpenTelemetry gauges."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from opentelemetry.metrics import CallbackOptions, Meter, Observation

if TYPE_CHECKING:
    from caseyos_otel.storage.health import Health

DEFAULT_ROWS: Final = "caseyos.otel.storage.default_rows"
RETENTION_AGE: Final = "caseyos.otel.retention.age"
SPOOL_BYTES: Final = "caseyos.otel.spool.bytes"
SPOOL_BOUND: Final = "caseyos.otel.spool.bound"
SPOOL_UNSYNCED: Final = "caseyos.otel.spool.unsynced_age"
SPOOL_OLDEST: Final = "caseyos.otel.spool.oldest_age"


@dataclass(frozen=True, slots=True)
class SpoolHealth:
    """Bytes that wait and may wait; seconds that a power cut would cost; age of the oldest record by destination."""

    used: int
    max_bytes: int
    unsynced_age: float
    oldest_age: Mapping[str, float]


def observe_spool(meter: Meter, health: Callable[[], SpoolHealth]) -> None:
    """Gauges of what `health` says: the spool's bytes beside their bound, and what has waited how long."""

    def oldest(options: CallbackOptions) -> Iterable[Observation]:
        for destination, age in health().oldest_age.items():
            yield Observation(age, {"destination": destination})

    gauges: tuple[tuple[str, str, str, Callable[[CallbackOptions], Iterable[Observation]]], ...] = (
        (SPOOL_BYTES, "By", "Bytes in the spool of this service.", lambda _: [Observation(health().used)]),
        (SPOOL_BOUND, "By", "Bytes that the spool may hold.", lambda _: [Observation(health().max_bytes)]),
        (SPOOL_UNSYNCED, "s", "What a power cut would cost.", lambda _: [Observation(health().unsynced_age)]),
        (SPOOL_OLDEST, "s", "Time that the oldest record has waited for a destination.", oldest),
    )
    for name, unit, description, observe in gauges:
        meter.create_observable_gauge(name, [observe], unit, description)


def observe_database(meter: Meter, health: Callable[[], Health | None]) -> None:
    """Gauges of what `health` says. Nothing is asked of the database here: a collection never waits for it."""

    def default_rows(options: CallbackOptions) -> Iterable[Observation]:
        if (said := health()) is not None:
            yield Observation(said.default_rows)

    def retention_age(options: CallbackOptions) -> Iterable[Observation]:
        if (said := health()) is not None and said.last_retention is not None:
            yield Observation((datetime.now(UTC) - said.last_retention).total_seconds())

    meter.create_observable_gauge(
        DEFAULT_ROWS, [default_rows], "{row}", "Rows of events in the default partition; there should be none."
    )
    meter.create_observable_gauge(RETENTION_AGE, [retention_age], "s", "Time since retention last ran.")
