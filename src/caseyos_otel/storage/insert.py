"""How a batch is stored, the fastest way of each database; events that are there already stay as they are.

SQLite: `executemany` whose rows are made one by one as it asks for them. It names only the columns that an event of this
kind can fill, which saves more than making the rows costs.

PostgreSQL: COPY, which the server works on while the next rows are made; half the price of a statement that it has to
parse. COPY knows no ON CONFLICT, so a batch with an event that is there already is refused whole, and then is stored by
one statement that skips it. That happens after a crash. Where it is to be expected (`once_per`) COPY is not tried, nor
where the server refused it as such (row-level security).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from sqlalchemy.dialects import postgresql

from caseyos_otel.events.model import Declaration
from caseyos_otel.events.record import EventRecord
from caseyos_otel.storage.columns import EVENT_COLUMNS, OUTCOME_COLUMNS, moment
from caseyos_otel.storage.failure import unavailable
from caseyos_otel.storage.forms import COPY, SQLITE, Form
from caseyos_otel.storage.partitions import is_once_per
from caseyos_otel.storage.rows import Row, projection, row
from caseyos_otel.storage.tables import events, outcome_events

if TYPE_CHECKING:
    from sqlalchemy import Engine, Table

POSTGRESQL: Final = postgresql.dialect()  # type: ignore[no-untyped-call]
UNIQUE_VIOLATION: Final = "23505"
NOT_SUPPORTED: Final = "0A000"
SKIP: Final = "ON CONFLICT (event_id) DO NOTHING"
"""Our key is named: what violates a unique index of somebody else is refused, and is not lost without a word."""
_without_copy: Final[WeakSet[Engine]] = WeakSet()
"""Engines whose server copies nothing into our tables: they have row-level security."""
_PARAMETERS: Final = 128
"""Rows of SQLite that are made at once; then the threads of the service go on, as storing a row needs no GIL."""
_LINES: Final = 32
"""Rows of PostgreSQL that are made at once: it stores the first ones while the next are made."""
_BREATHE_AFTER: Final = 256
_BREATH_S: Final = 0.000001
"""Sending to PostgreSQL waits for nothing, so it does not hand the GIL on: after some 0.7 ms of work the shortest sleep
there is does."""


@dataclass(frozen=True, slots=True)
class Maker:
    """Makes rows of records. `disclose` says what of a record the database may see, `pseudonym` hashes an address."""

    disclose: Callable[[EventRecord], Mapping[str, Any]]
    pseudonym: Callable[[str], str]
    received_at: datetime

    def tuples(self, declaration: Declaration, records: Iterable[EventRecord], form: Form) -> Iterator[tuple[Any, ...]]:
        """As the driver takes them; all records are of this declaration."""
        make = projection(declaration, form).make
        return make(records, self.disclose, moment(self.received_at), self.pseudonym)

    def rows(self, records: Iterable[EventRecord]) -> Iterator[Row]:
        """By name of the column."""
        return (row(record, self.disclose(record), self.received_at, self.pseudonym) for record in records)


def store(engine: Engine, records: Sequence[EventRecord], maker: Maker) -> None:
    """Store all of them or none, in one transaction.

    Raises:
        RowsRejected: a record cannot be made a row. Else, errors of SQLAlchemy and of the driver.
    """
    if engine.dialect.name == "sqlite":
        with transaction(engine) as driver:
            executemany(driver, records, maker)
        return
    once_per = is_once_per(min(record.event_id for record in records))
    if once_per or engine in _without_copy or not _copied(engine, records, maker):
        with transaction(engine) as driver:
            skip_stored(driver, records, maker)


def _copied(engine: Engine, records: Sequence[EventRecord], maker: Maker) -> bool:
    """Whether COPY has stored them; not if one is there already, or the server copies nothing into such a table."""
    try:
        with transaction(engine) as driver:
            copy(driver, records, maker)
    except Exception as error:
        state = getattr(error, "sqlstate", None)
        if state == NOT_SUPPORTED:
            _without_copy.add(engine)
        elif state != UNIQUE_VIOLATION:
            raise
        return False
    return True


@contextmanager
def transaction(engine: Engine) -> Iterator[Any]:
    """A connection of the driver, committed at the end of the block. SQLAlchemy's own would cost a batch 0.2 ms."""
    try:
        pooled = engine.raw_connection()
    except Exception as error:  # a TypeError, too: it is about no row
        raise unavailable(error) from None
    try:
        yield pooled.driver_connection
        pooled.commit()
    except BaseException:
        try:
            pooled.rollback()
        except Exception:  # it is gone, and with it the transaction
            pooled.invalidate()
        raise
    finally:
        pooled.close()


def executemany(driver: Any, records: Sequence[EventRecord], maker: Maker) -> None:
    """SQLite's way."""
    for declaration, of_it in _by_declaration(records).items():
        rows = maker.tuples(declaration, of_it, SQLITE)
        while some := list(islice(rows, _PARAMETERS)):
            driver.executemany(sqlite_insert(declaration), some)


def copy(driver: Any, records: Sequence[EventRecord], maker: Maker) -> None:
    """PostgreSQL's way, if nothing of it is stored already."""
    for table, of_table in _by_table(records):
        made = (maker.tuples(declaration, of_it, COPY) for declaration, of_it in _by_declaration(of_table).items())
        lines = map("\t".join, chain.from_iterable(made))
        with driver.cursor() as cursor, cursor.copy(copy_statement(table)) as into:
            for start in range(0, len(of_table), _LINES):
                into.write("\n".join([*islice(lines, _LINES), ""]))
                if start % _BREATHE_AFTER == _BREATHE_AFTER - _LINES:
                    time.sleep(_BREATH_S)


def skip_stored(driver: Any, records: Sequence[EventRecord], maker: Maker) -> None:
    """PostgreSQL's slower way, if something of it may be stored already."""
    for table, of_table in _by_table(records):
        text = json.dumps(list(maker.rows(of_table)), ensure_ascii=False, allow_nan=False, default=str)
        driver.execute(skip_stored_statement(table), (text,))


@cache
def sqlite_insert(declaration: Declaration) -> str:
    """The statement for the rows of one declaration."""
    names = projection(declaration, SQLITE).columns
    into = f"{outcome_events.name if declaration.outcome else events.name} (event, {', '.join(names)})"
    marks = ", ".join("?" * len(names))
    name = declaration.name.replace("'", "''")
    return f"INSERT INTO {into} VALUES ('{name}', {marks}) {SKIP}"  # noqa: S608  # our own names


@cache
def copy_statement(table: Table) -> str:
    """Fails whole where an event of it is stored already."""
    return f"COPY {table.name} ({', '.join(written(table))}) FROM STDIN"


@cache
def skip_stored_statement(table: Table) -> str:
    """Skips what is stored already; its one parameter is the batch as a JSON array."""
    names = ", ".join(written(table))
    types = ", ".join(f"{name} {table.c[name].type.compile(POSTGRESQL)}" for name in written(table))
    rows = f"SELECT {names} FROM json_to_recordset(%s::json) AS r({types})"  # noqa: S608  # names of our own tables
    return f"INSERT INTO {table.name} ({names}) {rows} {SKIP}"


def written(table: Table) -> tuple[str, ...]:
    """The columns that this release writes, in their order."""
    return OUTCOME_COLUMNS if table is outcome_events else EVENT_COLUMNS


def _by_table(records: Sequence[EventRecord]) -> Iterator[tuple[Table, list[EventRecord]]]:
    for table, outcome in ((outcome_events, True), (events, False)):
        if of_table := [record for record in records if record.outcome is outcome]:
            yield table, of_table


def _by_declaration(records: Iterable[EventRecord]) -> dict[Declaration, list[EventRecord]]:
    by: dict[Declaration, list[EventRecord]] = {}
    for record in records:
        by.setdefault(record.declaration, []).append(record)
    return by
