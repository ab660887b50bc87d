"""What an operator should know of the database: rows in the default partition, and when retention last ran."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Engine, exc, func, literal_column, select, table

from caseyos_otel.storage import partitions
from caseyos_otel.storage.failure import translate
from caseyos_otel.storage.tables import retention_runs

MOST_COUNTED: Final = 10_000
"""Rows of the default partition are counted up to here: it should have none, and nobody waits for a long count."""


@dataclass(frozen=True, slots=True)
class Health:
    """`default_rows`: rows in the default partition (0 on SQLite, which has none); `last_retention`: end of its last run."""

    default_rows: int
    last_retention: datetime | None


def read(engine: Engine) -> Health:
    """Look, without waiting for a lock.

    Raises:
        StorageUnavailable: the database cannot be reached, lacks our tables, or this role may not read them.
    """
    try:
        with engine.connect() as connection:
            last = connection.scalar(select(func.max(retention_runs.c.finished_at)))
            astray = 0
            if engine.dialect.name == "postgresql":
                some = select(literal_column("1")).select_from(table(partitions.DEFAULT)).limit(MOST_COUNTED).subquery()
                astray = connection.scalar(select(func.count()).select_from(some)) or 0
        return Health(astray, last)
    except exc.SQLAlchemyError as error:
        raise translate(error) from None
