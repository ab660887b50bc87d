"""`session=`: the row shares the fate of the caller's own transaction, in sync and async sessions on both databases."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Engine, UpdateBase, create_engine, event, func, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker

from caseyos_otel.errors import StorageError
from caseyos_otel.events.outcome import OutcomeReplyReceived
from caseyos_otel.events.record import EventRecord
from caseyos_otel.storage import schema
from caseyos_otel.storage.engine import create, parse_url
from caseyos_otel.storage.rows import row
from caseyos_otel.storage.session import insert_through
from caseyos_otel.storage.tables import outcome_events

Make = Callable[..., EventRecord]
REPLY = OutcomeReplyReceived.declaration


class Base(DeclarativeBase):
    """The host's own tables."""


class Deal(Base):
    """A row of the host."""

    __tablename__ = "deals"
    id: Mapped[int] = mapped_column(primary_key=True)


class Tracked:
    """What `track(session=…)` does, and what came of it."""

    def __init__(self, record_of: Make) -> None:
        self._record_of = record_of
        self.committed: list[str] = []
        self.discarded: list[str] = []

    def __call__(self, session: Any, draft_id: str, **fields: Any) -> EventRecord:
        record = self._record_of(REPLY, draft_id=draft_id, **fields)
        self.again(session, record)
        return record

    def again(self, session: Any, record: EventRecord) -> None:
        """The same record once more."""
        insert_through(
            session,
            record,
            row_of,
            on_commit=lambda r: self.committed.append(r.values["draft_id"]),
            on_discard=lambda r: self.discarded.append(r.values["draft_id"]),
        )


def row_of(record: EventRecord) -> Mapping[str, Any]:
    return row(record, record.values, datetime.now(UTC), lambda address: f"hash of {address}")


@pytest.fixture
def tracked(record_of: Make) -> Tracked:
    return Tracked(record_of)


@pytest.fixture
def host(database_url: str) -> Iterator[Engine]:
    """The host's own engine; our tables and its own are there."""
    ours = create(parse_url(database_url))
    schema.upgrade(ours)
    Base.metadata.create_all(ours)
    ours.dispose()
    engine = create_engine(ours.url)
    _let_sqlite_have_savepoints(engine)
    yield engine
    engine.dispose()


@pytest.fixture
async def async_host(host: Engine) -> AsyncIterator[AsyncEngine]:
    """The same with an async driver."""
    sqlite = host.dialect.name == "sqlite"
    engine = create_async_engine(host.url.set(drivername="sqlite+aiosqlite") if sqlite else host.url)
    _let_sqlite_have_savepoints(engine.sync_engine)
    yield engine
    await engine.dispose()


def _let_sqlite_have_savepoints(engine: Engine) -> None:
    """SQLAlchemy's documented recipe: pysqlite begins no transaction before a SAVEPOINT by itself."""
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", lambda connection, _: setattr(connection, "isolation_level", None))
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))


def stored(engine: Engine) -> list[str]:
    """The draft ids of the outcomes that another connection sees."""
    with engine.connect() as connection:
        return sorted(connection.scalars(select(outcome_events.c.draft_id)))


def deals(engine: Engine) -> int:
    with engine.connect() as connection:
        return connection.execute(select(func.count()).select_from(Deal)).scalar_one()


# -- sync ------------------------------------------------------------------------------------------------------------


def test_a_commit_stores_the_outcome_with_the_hosts_row(host: Engine, tracked: Tracked) -> None:
    with Session(host) as session:
        session.add(Deal(id=1))
        record = tracked(session, "a")
        assert tracked.committed == []
        assert session.scalars(select(outcome_events.c.draft_id)).all() == ["a"]
        session.commit()
        assert tracked.committed == ["a"]
    assert (stored(host), deals(host), tracked.committed, tracked.discarded) == (["a"], 1, ["a"], [])
    with host.connect() as connection:
        row = connection.execute(select(outcome_events)).one()
    assert (row.event_id, row.contact_email, row.contact_hash) == (
        record.event_id,
        "a recipient",
        "hash of a recipient",
    )
    assert row.occurred_at == datetime(2026, 1, 23, 14, 30, 0, 123456, tzinfo=UTC)
    assert row.time_to_reply_hours == 87.5


def test_a_rollback_stores_nothing(host: Engine, tracked: Tracked) -> None:
    with Session(host) as session:
        session.add(Deal(id=1))
        tracked(session, "a")
        session.rollback()
        assert tracked.discarded == ["a"]
        tracked(session, "b")
        session.commit()
    assert (stored(host), deals(host), tracked.committed, tracked.discarded) == (["b"], 0, ["b"], ["a"])


def test_a_session_that_is_closed_without_commit_discards(host: Engine, tracked: Tracked) -> None:
    with Session(host) as session:
        tracked(session, "a")
    assert (stored(host), tracked.committed, tracked.discarded) == ([], [], ["a"])


def test_an_exception_in_the_hosts_block_discards(host: Engine, tracked: Tracked) -> None:
    with pytest.raises(RuntimeError, match="the host's"), Session(host) as session, session.begin():
        tracked(session, "a")
        raise RuntimeError("the host's")
    assert (stored(host), tracked.committed, tracked.discarded) == ([], [], ["a"])


def test_a_failed_commit_discards(host: Engine, tracked: Tracked) -> None:
    with Session(host) as session, session.begin():
        session.add(Deal(id=1))
    with Session(host) as session:
        tracked(session, "a")
        session.add(Deal(id=1))
        with pytest.raises(IntegrityError):
            session.commit()
    assert (stored(host), tracked.committed, tracked.discarded) == ([], [], ["a"])


def test_a_savepoint_discards_only_what_was_tracked_inside_it(host: Engine, tracked: Tracked) -> None:
    with Session(host) as session, session.begin():
        tracked(session, "outside")
        with session.begin_nested():
            tracked(session, "released")
            with session.begin_nested() as inner:
                tracked(session, "undone")
                inner.rollback()
        assert (tracked.committed, tracked.discarded) == ([], ["undone"])
        tracked(session, "after")
    assert stored(host) == ["after", "outside", "released"]
    assert tracked.committed == ["outside", "released", "after"]
    assert tracked.discarded == ["undone"]


def test_a_released_savepoint_goes_with_the_one_around_it(host: Engine, tracked: Tracked) -> None:
    with Session(host) as session, session.begin():
        with session.begin_nested() as outer:
            with session.begin_nested():
                tracked(session, "inner")
            tracked(session, "outer")
            outer.rollback()
        tracked(session, "root")
    assert (stored(host), tracked.committed) == (["root"], ["root"])
    assert sorted(tracked.discarded) == ["inner", "outer"]


def test_a_rollback_takes_open_and_released_savepoints_with_it(host: Engine, tracked: Tracked) -> None:
    with Session(host) as session:
        tracked(session, "root")
        with session.begin_nested():
            tracked(session, "released")
        session.begin_nested()
        tracked(session, "open")
        session.rollback()
    assert (stored(host), tracked.committed) == ([], [])
    assert sorted(tracked.discarded) == ["open", "released", "root"]


def test_an_event_that_is_there_already_is_stored_once(host: Engine, tracked: Tracked) -> None:
    with Session(host) as session:
        record = tracked(session, "a")
        tracked.again(session, record)
        session.commit()
        tracked.again(session, record)
        session.commit()
    assert stored(host) == ["a"]


def test_a_unique_index_of_the_hosts_refuses_instead_of_losing_the_outcome(host: Engine, tracked: Tracked) -> None:
    with host.begin() as connection:
        connection.execute(text("CREATE UNIQUE INDEX hosts ON outcome_events (draft_id)"))
    with Session(host) as session:
        tracked(session, "a")
        session.commit()
        with pytest.raises(IntegrityError):
            tracked(session, "a")
        session.rollback()
    assert (stored(host), tracked.committed) == (["a"], ["a"])


def test_a_scoped_session_serves_as_well(host: Engine, tracked: Tracked) -> None:
    session = scoped_session(sessionmaker(host))
    tracked(session, "a")
    session.commit()
    session.remove()
    assert (stored(host), tracked.committed) == (["a"], ["a"])


def test_what_follows_a_commit_never_fails_the_host(
    host: Engine, record_of: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("caseyos_otel.diagnostics.reraise", False)
    monkeypatch.setattr("caseyos_otel.diagnostics._said", {})

    def fail(record: EventRecord) -> None:
        raise ValueError("ours")

    with Session(host) as session:
        insert_through(session, record_of(REPLY, draft_id="a"), row_of, on_commit=fail, on_discard=fail)
        session.commit()
    assert stored(host) == ["a"]
    assert "following a session's transaction: ValueError" in caplog.text


def test_a_database_without_our_tables_is_named_and_the_transaction_goes_on(
    database_url: str, tracked: Tracked
) -> None:
    bare = create(parse_url(database_url))
    Base.metadata.create_all(bare)
    with Session(bare) as session:
        session.add(Deal(id=1))
        with pytest.raises(StorageError, match=r"lacks our table .*caseyos-otel db upgrade"):
            tracked(session, "a")
        session.commit()
    assert (deals(bare), tracked.committed, tracked.discarded) == (1, [], [])
    schema.upgrade(bare)
    with Session(bare) as session:
        tracked(session, "a")
        session.commit()
    assert stored(bare) == ["a"]
    bare.dispose()


def test_a_session_without_a_database_says_so(tracked: Tracked) -> None:
    with Session() as session, pytest.raises(StorageError, match="no database for the table outcome_events"):
        tracked(session, "a")


def test_a_session_bound_by_table_is_one_bind_away(host: Engine, tracked: Tracked) -> None:
    with Session(binds={Deal: host}) as session, pytest.raises(StorageError, match="give it a bind"):
        tracked(session, "a")
    with Session(binds={Deal: host, outcome_events: host}) as session:
        tracked(session, "a")
        session.commit()
    assert stored(host) == ["a"]


def test_a_session_of_a_tenant_finds_our_tables_where_the_search_path_has_them(host: Engine, tracked: Tracked) -> None:
    """Its schema is for the host's own tables."""
    tenant = host.execution_options(schema_translate_map={None: "tenant_a"})
    with Session(tenant) as session:
        tracked(session, "a")
        session.commit()
    assert (stored(host), tracked.committed) == (["a"], ["a"])


async def test_an_async_session_of_a_tenant_finds_them_too(
    async_host: AsyncEngine, host: Engine, tracked: Tracked
) -> None:
    async with AsyncSession(async_host.execution_options(schema_translate_map={None: "tenant_a"})) as session:
        tracked(session, "a")
        await session.commit()
    assert stored(host) == ["a"]


def test_a_session_that_writes_to_one_database_and_reads_from_another_writes_to_the_first(
    host: Engine, tracked: Tracked
) -> None:
    class Routing(Session):
        def get_bind(self, mapper: Any = None, *, clause: Any = None, **_: Any) -> Engine:
            return host if self._flushing or isinstance(clause, UpdateBase) else create_engine("sqlite://")

    with Routing() as session:
        tracked(session, "a")
        session.commit()
    assert stored(host) == ["a"]


@pytest.mark.parametrize("session", [None, "a session", object()])
def test_what_is_no_session_is_refused(session: object, tracked: Tracked) -> None:
    with pytest.raises(StorageError, match=r"session= has \w+; accepted are SQLAlchemy's Session"):
        tracked(session, "a")


# -- async -----------------------------------------------------------------------------------------------------------


async def test_an_async_commit_stores_the_outcome(async_host: AsyncEngine, host: Engine, tracked: Tracked) -> None:
    async with AsyncSession(async_host) as session:
        session.add(Deal(id=1))
        record = tracked(session, "a")
        assert tracked.committed == []
        await session.commit()
        assert tracked.committed == ["a"]
    assert (stored(host), deals(host), tracked.discarded) == (["a"], 1, [])
    with host.connect() as connection:
        row = connection.execute(select(outcome_events)).one()
    assert (row.event_id, row.contact_email) == (record.event_id, "a recipient")


async def test_an_async_flush_makes_it_visible_inside(async_host: AsyncEngine, host: Engine, tracked: Tracked) -> None:
    async with AsyncSession(async_host) as session:
        tracked(session, "a")
        session.add(Deal(id=1))
        await session.flush()
        assert (await session.scalars(select(outcome_events.c.draft_id))).all() == ["a"]
        await session.rollback()
    assert (stored(host), tracked.committed, tracked.discarded) == ([], [], ["a"])


async def test_an_async_rollback_before_any_statement_discards(
    async_host: AsyncEngine, host: Engine, tracked: Tracked
) -> None:
    async with AsyncSession(async_host) as session:
        tracked(session, "a")
        await session.rollback()
        assert tracked.discarded == ["a"]
        session.add(Deal(id=1))
        await session.commit()
    assert (stored(host), deals(host), tracked.committed) == ([], 1, [])


async def test_an_async_session_that_is_closed_discards(
    async_host: AsyncEngine, host: Engine, tracked: Tracked
) -> None:
    async with AsyncSession(async_host) as session:
        tracked(session, "a")
    assert (stored(host), tracked.committed, tracked.discarded) == ([], [], ["a"])


async def test_async_savepoints_discard_only_what_was_tracked_inside(
    async_host: AsyncEngine, host: Engine, tracked: Tracked
) -> None:
    async with AsyncSession(async_host) as session, session.begin():
        tracked(session, "outside")
        async with session.begin_nested() as undone:
            tracked(session, "undone")
            await undone.rollback()
        async with session.begin_nested():
            tracked(session, "released")
        assert (tracked.committed, tracked.discarded) == ([], ["undone"])
    assert stored(host) == ["outside", "released"]
    assert (sorted(tracked.committed), tracked.discarded) == (["outside", "released"], ["undone"])


async def test_what_was_inserted_in_a_savepoint_for_its_transaction_is_inserted_again(
    async_host: AsyncEngine, host: Engine, tracked: Tracked
) -> None:
    async with AsyncSession(async_host) as session, session.begin():
        tracked(session, "outside")
        async with session.begin_nested() as undone:
            session.add(Deal(id=1))
            tracked(session, "undone")
            await session.flush()
            assert len((await session.scalars(select(outcome_events.c.draft_id))).all()) == 2
            await undone.rollback()
    assert (stored(host), deals(host)) == (["outside"], 0)
    assert (tracked.committed, tracked.discarded) == (["outside"], ["undone"])


async def test_an_async_released_savepoint_goes_with_the_rollback(
    async_host: AsyncEngine, host: Engine, tracked: Tracked
) -> None:
    async with AsyncSession(async_host) as session:
        async with session.begin_nested():
            tracked(session, "released")
        await session.rollback()
    assert (stored(host), tracked.committed, tracked.discarded) == ([], [], ["released"])


async def test_an_async_scoped_session_serves_as_well(async_host: AsyncEngine, host: Engine, tracked: Tracked) -> None:
    session = async_scoped_session(async_sessionmaker(async_host), scopefunc=lambda: 1)
    tracked(session, "a")
    await session.commit()
    await session.remove()
    assert (stored(host), tracked.committed) == (["a"], ["a"])


async def test_an_async_session_without_our_tables_is_told_at_its_commit(
    async_host: AsyncEngine, host: Engine, tracked: Tracked
) -> None:
    with host.begin() as connection:
        connection.execute(text(f"DROP TABLE {schema.VERSION_TABLE}"))
    async with AsyncSession(async_host) as session:
        tracked(session, "a")
        with pytest.raises(StorageError, match=r"lacks our table .*caseyos-otel db upgrade"):
            await session.commit()
    assert (stored(host), tracked.committed, tracked.discarded) == ([], [], ["a"])
