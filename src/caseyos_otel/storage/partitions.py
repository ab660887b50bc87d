"""Partitions of `events` on PostgreSQL: one a month by the time in `event_id`, one for `once_per`, a default."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime
from typing import Final

from sqlalchemy import Connection, Engine, exc, text

from caseyos_otel import diagnostics
from caseyos_otel.storage.failure import first_line

LOCK: Final = 0x0CA5E705
"""Key of the advisory lock under which our DDL runs, migrations included."""

MONTHS_BACK: Final = 3
"""How far back a late event still gets a month of its own: what is older is past its retention."""

DEFAULT: Final = "events_default"
"""Holds what fits no other partition. A month whose rows are in it cannot be dropped whole: it should be empty."""

ONCE_PER: Final = "events_once_per"
"""Holds the events of `track(…, once_per=)`, whose ids begin with time zero."""

_TIME_ZERO: Final = "00000000-0000-"

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


def is_once_per(event_id: str) -> bool:
    """Whether an event of this id is one of many of which the first alone is stored."""
    return event_id.startswith(_TIME_ZERO)


def wanted(event_ids: Iterable[str], today: date) -> set[date]:
    """The months that these ids need and that may have a partition, with this month and the next, made ahead.

    Anything else belongs in the default partition: a wrong clock must not make a thousand partitions.
    """
    now = today.replace(day=1)
    ahead = following(now)
    # ids of one minute begin alike: each beginning is looked at once, at its first and its last moment
    beginnings = {event_id[:8] for event_id in event_ids}
    ends = (f"{beginning}-{end}" for beginning in beginnings for end in ("0000", "ffff"))
    months = {month for end in ends if (month := month_of(end)) is not None}
    return {now, ahead} | {month for month in months if _age(month, now) in range(MONTHS_BACK + 1)}


def name_of(month: date) -> str:
    """Like `events_2026_11`."""
    return f"events_{month:%Y_%m}"


def month_named(name: str) -> date | None:
    """The month of the partition of this name; None for the two that have none."""
    year, _, month = name.removeprefix("events_").partition("_")
    return date(int(year), int(month), 1) if year.isdigit() and month.isdigit() else None


def names(connection: Connection) -> set[str]:
    """Of all partitions there are."""
    return set(connection.scalars(_CHILDREN))


def ensure(engine: Engine, months: Iterable[date]) -> bool:
    """Make the partitions that are missing; whether all are there now. Waits two seconds at most for a lock.

    Rows of such a month that are in the default partition move to their own. Where it does not work (no right to make
    tables, a lock not got) a warning says so, and rows go to the default partition: they are stored all the same.
    """
    months = set(months)
    try:
        with engine.begin() as connection:
            if not months <= _present(connection):
                _make(connection, months)
    except exc.DBAPIError as error:
        if error.connection_invalidated or getattr(error.orig, "sqlstate", None) is None:
            raise  # not the server's answer: it is away
        diagnostics.warn(
            f"a monthly partition of the table events could not be made ({first_line(error)}); rows go to "
            "events_default; run caseyos-otel db upgrade with a role that may create tables",
            key="storage.partitions",
        )
        return False
    return True


def _make(connection: Connection, months: set[date]) -> None:
    connection.execute(text("SET LOCAL lock_timeout = '2s'"))
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
    # nobody may add rows of the month to the default partition between their move and the attaching
    connection.execute(text("LOCK TABLE events_default"))
    for month in sorted(months - _present(connection)):
        _make_one(connection, name_of(month), first_id(month), first_id(following(month)))


def _make_one(connection: Connection, name: str, low: str, high: str) -> None:
    """Attached rather than made in place: that lets others go on writing to the other partitions."""
    connection.execute(text(f"CREATE TABLE {name} (LIKE events)"))
    moved = f"DELETE FROM events_default WHERE event_id >= '{low}' AND event_id < '{high}' RETURNING *"  # noqa: S608  # ours
    connection.execute(text(f"WITH moved AS ({moved}) INSERT INTO {name} SELECT * FROM moved"))  # noqa: S608  # ours
    connection.execute(text(f"ALTER TABLE events ATTACH PARTITION {name} FOR VALUES FROM ('{low}') TO ('{high}')"))


def _present(connection: Connection) -> set[date]:
    return {month for name in names(connection) if (month := month_named(name)) is not None}


def _age(month: date, now: date) -> int:
    return (now.year - month.year) * 12 + now.month - month.month


def first_id(month: date) -> str:
    """The lowest id of a month; also the bound between two partitions."""
    milliseconds = int(datetime(month.year, month.month, 1, tzinfo=UTC).timestamp() * 1000)
    digits = f"{milliseconds:012x}"
    return f"{digits[:8]}-{digits[8:]}-0000-0000-000000000000"
