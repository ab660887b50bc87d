"""Timed work that one process of many shall do: whoever holds its row in the database does it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, Engine, delete, exc, func, insert, or_, select, update

from caseyos_otel.storage.failure import translate
from caseyos_otel.storage.tables import leases


def take(engine: Engine, work: str, holder: str, duration: timedelta) -> bool:
    """Whether `holder` may do `work` for the next `duration`: nobody else has it, or its time is over.

    Who holds it already holds it longer. Time is the database's where it has one, so that clocks need not agree.

    Raises:
        StorageUnavailable: the database cannot be reached, or lacks our tables.
    """
    try:
        with engine.begin() as connection:
            now = _now(connection)
            free = or_(leases.c.until <= now, leases.c.holder == holder)
            renewed = update(leases).where(leases.c.work == work, free).values(holder=holder, until=now + duration)
            if connection.execute(renewed).rowcount:
                return True
            if connection.scalar(select(leases.c.holder).where(leases.c.work == work)) is not None:
                return False
            connection.execute(insert(leases).values(work=work, holder=holder, until=now + duration))
        return True
    except exc.IntegrityError:  # another process was the first
        return False
    except exc.SQLAlchemyError as error:
        raise translate(error) from None


def give_back(engine: Engine, work: str, holder: str) -> None:
    """Let others have it at once.

    Raises:
        StorageUnavailable: the database cannot be reached; others get it when its time is over.
    """
    try:
        with engine.begin() as connection:
            connection.execute(delete(leases).where(leases.c.work == work, leases.c.holder == holder))
    except exc.SQLAlchemyError as error:
        raise translate(error) from None


def _now(connection: Connection) -> datetime:
    if connection.dialect.name != "postgresql":  # a file of one machine, whose clock all share
        return datetime.now(UTC)
    return connection.execute(select(func.clock_timestamp())).scalar_one()  # type: ignore[no-any-return]  # a function's type is unknown
