"""`track(..., session=session)`: the row goes into the caller's own transaction, and shares its fate.

A sync `Session` inserts at once. An `AsyncSession` cannot (`track` does not await), so the row waits in the session and
is inserted before its transaction, or the savepoint it belongs to, commits. What is to follow a commit follows the
outermost one; a savepoint that is rolled back discards only what was tracked inside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakSet

from sqlalchemy import Connection, Engine, Table, event, exc, insert, inspect
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session, SessionTransaction

from caseyos_otel import diagnostics
from caseyos_otel.errors import StorageError
from caseyos_otel.events.record import EventRecord
from caseyos_otel.storage.tables import VERSION_TABLE, events, outcome_events

Then = Callable[[EventRecord], None]

_KEY: Final = "caseyos_otel.tracked"
_INSERT: Final[Mapping[str, Any]] = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}
_ready: Final[WeakSet[Engine]] = WeakSet()
"""Engines whose database has our tables."""


def insert_through(
    session: Any,
    record: EventRecord,
    row_of: Callable[[EventRecord], Mapping[str, Any]],
    *,
    on_commit: Then,
    on_discard: Then,
) -> None:
    """Insert the row of `record` through `session`: a `Session`, an `AsyncSession`, or a scoped one of either.

    `on_commit` is called once its outermost transaction has committed, `on_discard` when what holds the row is rolled
    back or closed. An event that is stored already stays as it is, and counts as inserted.

    Raises:
        StorageError: not a SQLAlchemy session, another database, or one without our tables. An `AsyncSession` raises
            the latter two when it flushes or commits.
        sqlalchemy.exc.IntegrityError: an index or a constraint of the host's own refuses the row.
    """
    sync, is_async = _sync_session(session)
    table = outcome_events if record.outcome else events
    item = _Item(record, table, dict(row_of(record)), on_commit, on_discard)
    if is_async:
        _in_transaction(sync)
    else:
        _insert(sync, item)
    _tracked(sync).add(sync, item, inserted=not is_async)


@dataclass(slots=True, eq=False)
class _Item:
    """A row, what follows, and two places: the transaction it was tracked in, and the one it was inserted in."""

    record: EventRecord
    table: Table
    row: dict[str, Any]
    on_commit: Then
    on_discard: Then
    home: SessionTransaction | None = None
    inserted: SessionTransaction | None = None


class _Tracked:
    """What one session holds, following its transactions and savepoints."""

    def __init__(self, session: Session) -> None:
        self._items: list[_Item] = []
        event.listen(session, "before_flush", self._before_flush)
        event.listen(session, "before_commit", self._insert_waiting)
        event.listen(session, "after_commit", self._after_commit)
        event.listen(session, "after_transaction_end", self._after_end)

    def add(self, session: Session, item: _Item, *, inserted: bool) -> None:
        """Take an item into the transaction or savepoint that its session is in."""
        item.home = _innermost(session)
        item.inserted = item.home if inserted else None
        self._items.append(item)

    def _before_flush(self, session: Session, *_: object) -> None:
        self._insert_waiting(session)

    def _insert_waiting(self, session: Session) -> None:
        for item in self._items:
            if item.inserted is None:
                _insert(session, item)
                item.inserted = _innermost(session)

    def _after_commit(self, session: Session) -> None:
        """A savepoint passes what it holds to what surrounds it; the outermost commit is the one that counts."""
        committed = _innermost(session)
        outer = _surrounding(committed)
        if outer is None:
            items, self._items = self._items, []
            _call([(item.on_commit, item.record) for item in items])
            return
        for item in self._items:
            item.home = outer if item.home is committed else item.home
            item.inserted = outer if item.inserted is committed else item.inserted

    def _after_end(self, _session: Session, ended: SessionTransaction) -> None:
        """What belongs to a transaction at its end was rolled back with it; what others keep is inserted again."""
        lost = [item for item in self._items if item.home is ended]
        self._items = [item for item in self._items if item.home is not ended]
        for item in self._items:
            item.inserted = None if item.inserted is ended else item.inserted
        _call([(item.on_discard, item.record) for item in lost])


def _sync_session(session: Any) -> tuple[Session, bool]:
    if not isinstance(session, Session) and callable(getattr(session, "registry", None)):
        session = session.registry()
    sync = getattr(session, "sync_session", session)
    if not isinstance(sync, Session):
        kind = type(session).__name__
        raise StorageError(f"session= has {kind}; accepted are SQLAlchemy's Session, AsyncSession and scoped sessions")
    return sync, sync is not session


def _in_transaction(session: Session) -> None:
    """Begin, as any statement would: a rollback must find what was tracked before it."""
    if not session.in_transaction():
        session.begin()


def _tracked(session: Session) -> _Tracked:
    tracked: _Tracked | None = session.info.get(_KEY)
    if tracked is None:
        tracked = session.info[_KEY] = _Tracked(session)
    return tracked


def _innermost(session: Session) -> SessionTransaction | None:
    return session.get_nested_transaction() or session.get_transaction()


def _surrounding(transaction: SessionTransaction | None) -> SessionTransaction | None:
    """The savepoint or transaction around a savepoint; None for the outermost. A flush is neither."""
    outer = transaction.parent if transaction is not None else None
    while outer is not None and not outer.nested and outer.parent is not None:
        outer = outer.parent
    return outer


def _insert(session: Session, item: _Item) -> None:
    connection = _connection(session, item.table)
    _require_tables(connection)
    statement = _INSERT[connection.dialect.name](item.table).values(item.row)
    connection.execute(
        # our key is named: an index of the host's may refuse the row, and its transaction, but not lose it without a word
        statement.on_conflict_do_nothing(index_elements=[item.table.c.event_id]),
        # a tenant's schema is for the host's tables; ours are where the search path finds them
        execution_options={"schema_translate_map": None},
    )


def _connection(session: Session, table: Table) -> Connection:
    try:
        # the statement rather than the table: a session may have one database to write to and others to read from
        connection = session.connection(bind_arguments={"clause": insert(table)})
    except exc.UnboundExecutionError:
        raise StorageError(
            f"this session has no database for the table {table.name}; give it a bind, or binds={{...}} with this table"
        ) from None
    if connection.dialect.name not in _INSERT:
        raise StorageError(f"session= has a {connection.dialect.name} database; accepted are sqlite and postgresql")
    return connection


def _require_tables(connection: Connection) -> None:
    """Looked up rather than tried: in PostgreSQL a failed statement would spoil the caller's transaction."""
    if connection.engine in _ready:
        return
    inspector = inspect(connection)
    missing = [name for name in (VERSION_TABLE, outcome_events.name, events.name) if not inspector.has_table(name)]
    if missing:
        where = connection.engine.url.render_as_string(hide_password=True)
        raise StorageError(
            f"the database of this session, {where}, lacks our table {missing[0]}; run caseyos-otel db upgrade there, "
            "or leave session= out"
        )
    _ready.add(connection.engine)


def _call(calls: list[tuple[Then, EventRecord]]) -> None:
    for then, record in calls:
        with diagnostics.guard("following a session's transaction"):
            then(record)
