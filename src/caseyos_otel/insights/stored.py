"""Whether an event is in the database."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Engine, inspect, select

from caseyos_otel.storage.tables import events, outcome_events


@dataclass(frozen=True, slots=True)
class Stored:
    """The row of an event: its table and name, when it happened and when it came."""

    table: str
    event: str
    occurred_at: datetime
    received_at: datetime


def stored(engine: Engine, event_id: str) -> Stored | None:
    """The row with this id, in either table; None where there is none. Raises SQLAlchemyError."""
    present = inspect(engine).get_table_names()
    with engine.connect() as connection:
        for table in (outcome_events, events):
            if table.name not in present:
                continue
            query = select(table.c.event, table.c.occurred_at, table.c.received_at).where(table.c.event_id == event_id)
            if (row := connection.execute(query).one_or_none()) is not None:
                return Stored(table.name, *row)
    return None
