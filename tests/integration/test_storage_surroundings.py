"""Databases that somebody else has set up as well: indexes, encodings, rights and settings that are not ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, Table, func, select, text

from caseyos_otel.events.outcome import OutcomeReplyReceived
from caseyos_otel.events.recommendation import RecommendationDismissed
from caseyos_otel.events.record import EventRecord
from caseyos_otel.storage import schema
from caseyos_otel.storage.engine import create, parse_url
from caseyos_otel.storage.failure import RowsRejected
from caseyos_otel.storage.tables import events, outcome_events
from caseyos_otel.storage.writer import Writer

Make = Callable[..., EventRecord]
REPLY = OutcomeReplyReceived.declaration
DISMISSED = RecommendationDismissed.declaration


def writer_for(engine: Engine) -> Writer:
    return Writer(
        engine, event_store="all", disclose=lambda r: r.values, pseudonym=lambda a: f"h of {a}", prepare=schema.upgrade
    )


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = create(parse_url(database_url))
    schema.upgrade(engine)
    yield engine
    engine.dispose()


def run(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def count(engine: Engine, table: Table = outcome_events) -> int:
    with engine.connect() as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()


# -- indexes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("declaration", "table", "column"),
    [(REPLY, outcome_events, "contact_hash"), (DISMISSED, events, "user_id, event_id")],
)
def test_an_event_that_is_there_already_is_skipped_beside_an_index_of_the_hosts(
    engine: Engine, record_of: Make, declaration: Any, table: Table, column: str
) -> None:
    run(engine, f"CREATE UNIQUE INDEX hosts ON {table.name} ({column})")
    record = record_of(declaration)
    writer_for(engine).write([record])
    writer_for(engine).write([record])
    assert count(engine, table) == 1


def test_a_unique_index_of_the_hosts_refuses_the_row_instead_of_losing_it(engine: Engine, record_of: Make) -> None:
    run(engine, "CREATE UNIQUE INDEX hosts_one_a_contact ON outcome_events (contact_email)")
    first = record_of(REPLY, recipient="john@acme.example")
    writer_for(engine).write([first])
    with pytest.raises(RowsRejected, match=r"hosts_one_a_contact|outcome_events\.contact_email") as raised:
        writer_for(engine).write([first, record_of(REPLY, recipient="john@acme.example")])
    assert "john" not in str(raised.value)
    writer_for(engine).write([first, record_of(REPLY, recipient="jane@acme.example")])
    assert count(engine) == 2
