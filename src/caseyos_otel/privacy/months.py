"""Whole months of `events` that are over, which go as one: on PostgreSQL, where each is a partition."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime
from typing import Final

from sqlalchemy import Connection, Engine, exc, text

from caseyos_otel.storage import partitions
from caseyos_otel.storage.failure import first_line

_TRIES_TO_DROP: Final = 10
_IN_USE: Final = "55P03"
"""SQLSTATE lock_not_available."""


def past(connection: Connection, before: datetime | None) -> list[str]:
    """Partitions whose month was over at that moment."""
    if before is None or connection.dialect.name != "postgresql":
        return []
    months = {name: partitions.month_named(name) for name in partitions.names(connection)}
    return sorted(n for n, month in months.items() if month is not None and _end(month) <= before)


def drop(engine: Engine, name: str) -> str:
    """Drop a partition; why not, where it cannot be. Writers wait for the lock as we do: a fifth of a second at most."""
    for attempt in range(_TRIES_TO_DROP):
        try:
            with engine.begin() as connection:
                connection.execute(text("SET LOCAL lock_timeout = '200ms'"))
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": partitions.LOCK})
                connection.execute(text(f"DROP TABLE IF EXISTS {name}"))
            return ""
        except (exc.InternalError, exc.ProgrammingError) as error:  # something depends on it; it is not this role's
            return first_line(error)
        except exc.OperationalError as error:
            if getattr(error.orig, "sqlstate", None) != _IN_USE:
                raise
            time.sleep(0.2 * (attempt + 1))
    return "it is in use"


def _end(month: date) -> datetime:
    after = partitions.following(month)
    return datetime(after.year, after.month, 1, tzinfo=UTC)
