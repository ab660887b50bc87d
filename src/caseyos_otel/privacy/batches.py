"""Rows in small steps, each a transaction of its own, that make no writer wait for long."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, Engine, Table, delete, func, select, text

BATCH: Final = 500
"""Rows a transaction: some milliseconds on either database."""
_LOCK: Final = 0x0CA5E790
"""Key of the advisory lock that one batch at a time holds: two runs at once never wait for each other's rows."""


@contextmanager
def batch(engine: Engine) -> Iterator[Connection]:
    """The transaction of one step. Afterwards writers get as much time as it took."""
    began = time.monotonic()
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        yield connection
    # SQLite has one writer at a time, and one that waits looks again after a tenth of a second
    time.sleep(min(time.monotonic() - began, 0.1))


def delete_old(engine: Engine, table: Table, before: datetime | None) -> Iterator[int]:
    """Delete what happened before a moment (None: nothing); the number of rows after each step."""
    if before is None:
        return
    with engine.connect() as connection:
        found = list(names(connection, table))
    for name in found:
        old = select(table.c.event_id).where(table.c.event == name, table.c.occurred_at < before).limit(BATCH)
        deleted = 1
        while deleted:
            with batch(engine) as connection:
                ids = list(connection.scalars(old))
                deleted = connection.execute(delete(table).where(table.c.event_id.in_(ids))).rowcount if ids else 0
            yield deleted


def names(connection: Connection, table: Table) -> Iterator[str]:
    """The names of the events in a table, by steps through its index rather than by reading all of it."""
    name = connection.scalar(select(func.min(table.c.event)))
    while name is not None:
        yield name
        name = connection.scalar(select(func.min(table.c.event)).where(table.c.event > name))
