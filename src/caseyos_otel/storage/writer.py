"""Rows into the database: one transaction a batch, one statement a table, each event once."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sqlalchemy.dialects import postgresql

from caseyos_otel.events.record import EventRecord
from caseyos_otel.storage import partitions
from caseyos_otel.storage.failure import RowsRejected, translate
from caseyos_otel.storage.rows import EVENT_COLUMNS, OUTCOME_COLUMNS, project
from caseyos_otel.storage.tables import events, outcome_events

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, Table

TRY_PARTITIONS_AGAIN_S: Final = 300.0
_BREATHE_AFTER: Final = 128
_BREATH_S: Final = 0.00005
"""As in emit/worker.py: some 0.5 ms of work, then long enough for somebody who waits for the GIL to get it."""
_encode: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
POSTGRESQL: Final = postgresql.dialect()  # type: ignore[no-untyped-call]

Item = TypeVar("Item")
Disclose = Callable[[EventRecord], Mapping[str, Any]]
Pseudonym = Callable[[str], str]


class Writer:
    """Stores records: outcomes in `outcome_events`, the rest in `events` unless `event_store` is `outcomes`.

    `disclose` says what of a record this database may see, `pseudonym` is the keyed hash of an address. `prepare` runs
    before the first write, and again until it succeeds: usually `schema.upgrade`.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        event_store: str,
        disclose: Disclose,
        pseudonym: Pseudonym,
        prepare: Callable[[Engine], object] | None = None,
    ) -> None:
        self._engine = engine
        self._event_store = event_store
        self._disclose = disclose
        self._pseudonym = pseudonym
        self._prepare = prepare
        self._months: set[date] = set()
        self._partitions_not_before = 0.0

    def write(self, records: Sequence[EventRecord]) -> None:
        """Store all of them or none; those that are stored already stay as they are.

        Raises:
            StorageUnavailable: nothing is wrong with the records; try again later.
            RowsRejected: these records cannot be stored as they are; the message says why.
        """
        stored = [r for r in records if r.outcome or self._event_store != "outcomes"]
        if not stored:
            return
        rows = self._rows(stored)
        try:
            self._make_ready(rows[events])
            with self._engine.begin() as connection:
                for table, of_table in rows.items():
                    insert(connection, table, of_table)
        except Exception as error:
            # not chained: the driver's text may repeat the row, and with it an address
            raise translate(error) from None

    def release(self) -> None:
        """Close the connection while there is nothing to write; the next write opens one."""
        self._engine.dispose()

    def _rows(self, records: Sequence[EventRecord]) -> dict[Table, list[list[Any]]]:
        rows: dict[Table, list[list[Any]]] = {outcome_events: [], events: []}
        now = datetime.now(UTC)
        for record in _breathing(records):
            try:
                made = project(record, self._disclose(record), now, self._pseudonym)
                rows[outcome_events if record.outcome else events].append(made)
            except Exception as error:
                raise RowsRejected(f"{record!r} cannot be made a row: {type(error).__name__}") from error
        return rows

    def _make_ready(self, rows: list[list[Any]]) -> None:
        if self._prepare is not None:
            self._prepare(self._engine)
            self._prepare = None
        if rows and self._engine.dialect.name == "postgresql":
            self._make_partitions(made[0] for made in rows)

    def _make_partitions(self, event_ids: Iterable[str]) -> None:
        months = partitions.wanted(event_ids, datetime.now(UTC).date())
        if months <= self._months or time.monotonic() < self._partitions_not_before:
            return
        if partitions.ensure(self._engine, months):
            self._months |= months
        else:
            self._partitions_not_before = time.monotonic() + TRY_PARTITIONS_AGAIN_S


def insert(connection: Connection, table: Table, rows: Sequence[list[Any]]) -> None:
    """Insert projected rows in one statement; those whose `event_id` is there already are left alone."""
    if not rows:
        return
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(postgresql_insert(table), (payload(written(table), rows),))
    else:
        connection.exec_driver_sql(sqlite_insert(table), [as_sqlite(table, made) for made in rows])


def written(table: Table) -> tuple[str, ...]:
    """The columns that this release writes, in their order."""
    return OUTCOME_COLUMNS if table is outcome_events else EVENT_COLUMNS


@cache
def postgresql_insert(table: Table) -> str:
    """The statement for the parameter that `payload` has made."""
    names = ", ".join(written(table))
    types = ", ".join(f"{name} {table.c[name].type.compile(POSTGRESQL)}" for name in written(table))
    rows = f"SELECT {names} FROM json_to_recordset(%s::json) AS r({types})"  # noqa: S608  # names of our own tables
    return f"INSERT INTO {table.name} ({names}) {rows} ON CONFLICT DO NOTHING"


def payload(names: tuple[str, ...], rows: Sequence[list[Any]]) -> str:
    """The batch as one JSON text; what is null is left out, so that the server need not read it."""
    parts = []
    for start in range(0, len(rows), _BREATHE_AFTER):
        some = rows[start : start + _BREATHE_AFTER]
        objects = [
            {n: str(v) if type(v) is datetime else v for n, v in zip(names, made, strict=True) if v is not None}
            for made in some
        ]
        parts.append(_encode(objects)[1:-1])
        time.sleep(_BREATH_S)
    return f"[{','.join(parts)}]"


@cache
def sqlite_insert(table: Table) -> str:
    """The statement for rows that `as_sqlite` has made."""
    names = written(table)
    marks = ", ".join("?" * len(names))
    into = f"{table.name} ({', '.join(names)})"
    return f"INSERT INTO {into} VALUES ({marks}) ON CONFLICT DO NOTHING"  # noqa: S608  # names of our own tables


def as_sqlite(table: Table, made: list[Any]) -> tuple[Any, ...]:
    """A projected row as SQLite's driver takes it; datetimes as `tables.UtcDateTime` writes them. Spoils the row."""
    made[2] = _moment(made[2])
    made[3] = _moment(made[3])
    if table is outcome_events and (meeting := made[_MEETING]) is not None:
        made[_MEETING] = _moment(meeting.astimezone(UTC))
    made[-1] = _encode(made[-1]) if made[-1] else "{}"
    return tuple(made)


_MEETING: Final = OUTCOME_COLUMNS.index("meeting_time")


def _moment(moment: datetime) -> str:
    return moment.isoformat(" ", "microseconds")[:26]


def _breathing(items: Iterable[Item]) -> Iterator[Item]:
    """The same items, with a short sleep after every few: a caller of the service never waits for a whole batch."""
    for number, item in enumerate(items, 1):
        yield item
        if number % _BREATHE_AFTER == 0:
            time.sleep(_BREATH_S)
