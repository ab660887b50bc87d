"""What an operator watches of the database, as OpenTelemetry gauges."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from opentelemetry.metrics import CallbackOptions, Meter, Observation

if TYPE_CHECKING:
    from caseyos_otel.storage.health import Health

DEFAULT_ROWS: Final = "caseyos.otel.storage.default_rows"
RETENTION_AGE: Final = "caseyos.otel.retention.age"


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
