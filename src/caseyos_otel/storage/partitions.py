"""Partitions of `events` on PostgreSQL: one a month by the time in `event_id`, one for `once_per`, a default."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime
from typing import Final

from sqlalchemy import Connection, text

LOCK: Final = 0x0CA5E705
"""Key of the advisory lock under which our DDL runs, migrations included."""

MONTHS_BACK: Final = 3
"""How far back a late event still gets a month of its own: what is older is past its retention."""

_CHILDREN: Final = text(
    "SELECT child.relname FROM pg_inherits JOIN pg_class child ON child.oid = inhrelid "
    "WHERE inhparent = to_regclass('events')"
)


def month_of(event_id: str) -> date | None:
    """The month in the first 48 bits of a UUIDv7 or UUIDv8; None where they are no time near ours."""
    try:
        return datetime.fromtimestamp(int(event_id[:8] + event_id[9:13], 16) / 1000, UTC).date().replace(day=1)
    except (ValueError, OverflowError, OSError):
        return None


def following(month: date) -> date:
    """The month after."""
    return date(month.year + month.month // 12, month.month % 12 + 1, 1)


def wanted(event_ids: Iterable[str], today: date) -> set[date]:
    """The months that these ids need and that may have a partition, with this month and the next, made ahead.

    Anything else belongs in the default partition: a wrong clock must not make a thousand partitions.
    """
    now = today.replace(day=1)
    ahead = following(now)
    months = {month for event_id in event_ids if (month := month_of(event_id)) is not None}
    return {now, ahead} | {month for month in months if _age(month, now) in range(MONTHS_BACK + 1)}


def name_of(month: date) -> str:
    """Like `events_2026_11`."""
    return f"events_{month:%Y_%m}"


def ensure(connection: Connection, months: Iterable[date]) -> None:
    """Make the partitions that are missing, in the transaction of `connection`; at most two seconds of waiting.

    Raises:
        sqlalchemy.exc.DBAPIError: no right to make tables, a lock not got, or the default partition already holds rows
            of the month.
    """
    missing = sorted(set(months) - _present(connection))
    if not missing:
        return
    connection.execute(text("SET LOCAL lock_timeout = '2s'"))
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
    for month in missing:
        low, high = _first_id(month), _first_id(following(month))
        connection.exec_driver_sql(
            f"CREATE TABLE IF NOT EXISTS {name_of(month)} PARTITION OF events FOR VALUES FROM ('{low}') TO ('{high}')"
        )


def _present(connection: Connection) -> set[date]:
    names = [name.removeprefix("events_") for name in connection.scalars(_CHILDREN)]
    return {date(int(name[:4]), int(name[5:]), 1) for name in names if name[:4].isdigit() and name[5:].isdigit()}


def _age(month: date, now: date) -> int:
    return (now.year - month.year) * 12 + now.month - month.month


def _first_id(month: date) -> str:
    milliseconds = int(datetime(month.year, month.month, 1, tzinfo=UTC).timestamp() * 1000)
    digits = f"{milliseconds:012x}"
    return f"{digits[:8]}-{digits[8:]}-0000-0000-000000000000"
