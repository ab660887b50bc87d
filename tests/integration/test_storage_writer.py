"""What the writer stores, on both databases: each event once, read back field by field."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import uuid_utils
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, Row, Table, bindparam, func, inspect, select, text

from caseyos_otel.events.field import FieldType, Privacy
from caseyos_otel.events.model import Declaration
from caseyos_otel.events.outcome import OutcomeDealAdvanced, OutcomeReplyReceived
from caseyos_otel.events.recommendation import RecommendationDismissed
from caseyos_otel.events.record import EventRecord
from caseyos_otel.events.registry import SPECIFIED
from caseyos_otel.storage import partitions, schema
from caseyos_otel.storage.engine import create, parse_url
from caseyos_otel.storage.failure import RowsRejected, StorageUnavailable
from caseyos_otel.storage.rows import row
from caseyos_otel.storage.tables import events, outcome_events
from caseyos_otel.storage.writer import Writer

Make = Callable[..., EventRecord]
REPLY = OutcomeReplyReceived.declaration
DISMISSED = RecommendationDismissed.declaration


def pseudonym(address: str) -> str:
    """As short as a real one whatever the address: it is in an index."""
    return f"hash of {address[:100]}"


def writer_for(engine: Engine, event_store: str = "all") -> Writer:
    return Writer(
        engine,
        event_store=event_store,
        disclose=lambda record: record.values,
        pseudonym=pseudonym,
        prepare=schema.upgrade,
    )


def prepared_writer(engine: Engine) -> Writer:
    """For a database that has the tables."""
    return Writer(engine, event_store="all", disclose=lambda record: record.values, pseudonym=pseudonym)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = create(parse_url(database_url))
    yield engine
    engine.dispose()


def rows_of(engine: Engine, table: Table) -> dict[str, Row[Any]]:
    with engine.connect() as connection:
        return {row.event_id: row for row in connection.execute(select(table))}


def count(engine: Engine, table: Table) -> int:
    with engine.connect() as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()


def stored(engine: Engine) -> list[int]:
    return [count(engine, table) for table in (outcome_events, events)]


def read_back(declaration: Declaration, row: Row[Any]) -> dict[str, Any]:
    """The fields of an event as its row has them, wherever they are."""
    return {field.name: _stored(field.name, field.type, field.privacy, row) for field in declaration.fields}


def _stored(name: str, type_: FieldType, privacy: Privacy, row: Row[Any]) -> Any:
    columns = row._mapping
    if privacy is Privacy.EMAIL and "contact_email" in columns:
        return columns["contact_email"]
    if name in columns:
        return columns[name]
    value: Any = row.properties
    for part in name.split("."):
        value = value[part]
    return datetime.fromisoformat(value) if type_ is FieldType.TIMESTAMP else value


def test_all_sixteen_are_read_back_field_by_field(engine: Engine, record_of: Make) -> None:
    records = [record_of(cls.declaration) for cls in SPECIFIED]
    before = datetime.now(UTC)
    writer_for(engine).write(records)
    outcomes, others = rows_of(engine, outcome_events), rows_of(engine, events)
    assert (len(outcomes), len(others)) == (4, 12)
    for record in records:
        row = (outcomes if record.outcome else others)[record.event_id]
        assert read_back(record.declaration, row) == record.values
        assert row.event == record.declaration.name
        assert row.occurred_at == datetime(2026, 1, 23, 14, 30, 0, 123456, tzinfo=UTC)
        assert row.occurred_at.tzinfo is UTC
        assert before <= row.received_at <= datetime.now(UTC)
        assert (row.trace_id, row.span_id) == (f"{0xABC:032x}", f"{0xDEF:016x}")
        assert (row.service_name, row.service_version, row.environment) == ("api", "1.2", "production")
        addresses = [record.values[f.name] for f in record.declaration.fields if f.privacy is Privacy.EMAIL]
        assert row.contact_hash == (pseudonym(addresses[0]) if addresses else None)
        assert record.outcome or row.failure is record.failure


def test_nothing_more_is_stored_than_was_declared(engine: Engine, record_of: Make) -> None:
    record = record_of(REPLY)
    writer_for(engine).write([record])
    row = rows_of(engine, outcome_events)[record.event_id]
    assert row.properties == {}
    assert {name for name, value in row._mapping.items() if value is not None} == {
        "event_id", "event", "occurred_at", "received_at", "recommendation_id", "action_id", "draft_id",
        "contact_email", "contact_hash", "time_to_reply_hours", "reply_sentiment",
        "trace_id", "span_id", "service_name", "service_version", "environment", "properties",
    }  # fmt: skip


def test_what_is_written_twice_is_stored_once(engine: Engine, record_of: Make) -> None:
    records = [record_of(declaration) for declaration in (REPLY, DISMISSED) for _ in range(3)]
    writer = writer_for(engine)
    writer.write(records)
    first = rows_of(engine, outcome_events)
    writer.write([*records, *records, record_of(REPLY), record_of(DISMISSED)])
    assert (count(engine, outcome_events), count(engine, events)) == (4, 4)
    assert {event_id: rows_of(engine, outcome_events)[event_id] for event_id in first} == first


REVISIONS = [revision for revision in schema.REVISIONS if revision >= schema.WRITABLE_FROM]


@pytest.mark.parametrize("revision", REVISIONS)
def test_this_release_writes_to_every_schema_that_it_calls_writable(
    engine: Engine, record_of: Make, revision: str
) -> None:
    """Migrations expand first: rolled out before its migration, a release stores its events all the same."""
    schema.upgrade(engine, revision)
    assert schema.is_writable(engine)
    writer = Writer(engine, event_store="all", disclose=lambda r: r.values, pseudonym=pseudonym)
    writer.write([record_of(REPLY), record_of(DISMISSED)])
    schema.upgrade(engine)
    writer.write([record_of(REPLY), record_of(DISMISSED)])
    assert stored(engine) == [2, 2]


@pytest.mark.parametrize("revision", REVISIONS[:-1])
def test_what_a_writer_of_an_older_schema_names_can_be_written_to_this_one(
    engine: Engine, record_of: Make, revision: str
) -> None:
    """The other way round, a writer of the release before on this schema: nothing it names is gone, and nothing that it
    does not know of has to be given."""
    schema.upgrade(engine, revision)
    named = {table: {c["name"] for c in inspect(engine).get_columns(table.name)} for table in (outcome_events, events)}
    schema.upgrade(engine)
    for table, declaration in ((outcome_events, REPLY), (events, DISMISSED)):
        record = record_of(declaration)
        values = {**dict.fromkeys(named[table]), **row(record, record.values, datetime.now(UTC), pseudonym)}
        columns = ", ".join(named[table])
        marks = ", ".join(f":{name}" for name in named[table])
        statement = text(f"INSERT INTO {table.name} ({columns}) VALUES ({marks}) ON CONFLICT (event_id) DO NOTHING")
        known = [bindparam(name, type_=table.c[name].type) for name in named[table]]
        with engine.begin() as connection:
            connection.execute(statement.bindparams(*known), {name: values[name] for name in named[table]})
    assert stored(engine) == [1, 1]


def test_a_schema_of_the_next_release_takes_what_this_one_writes(engine: Engine, record_of: Make) -> None:
    schema.upgrade(engine)
    with engine.begin() as connection:
        for table in ("outcome_events", "events"):
            connection.execute(text(f"ALTER TABLE {table} ADD COLUMN campaign_id text"))
        connection.execute(text(f"UPDATE {schema.VERSION_TABLE} SET version_num = '9999'"))
    assert schema.is_writable(engine)
    records = [record_of(REPLY), record_of(DISMISSED)]
    writer_for(engine).write(records)
    writer_for(engine).write([*records, record_of(REPLY), record_of(DISMISSED)])
    assert stored(engine) == [2, 2]


def test_a_column_that_is_gone_is_named_and_a_reason_to_wait(engine: Engine, record_of: Make) -> None:
    """Events wait in the spool; none is set aside for what is no fault of its own."""
    schema.upgrade(engine)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE outcome_events DROP COLUMN reply_sentiment"))
    record = record_of(REPLY)
    with pytest.raises(StorageUnavailable, match=r"reply_sentiment.*`caseyos-otel db check` tells what differs"):
        writer_for(engine).write([record])
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE outcome_events ADD COLUMN reply_sentiment text"))
    writer_for(engine).write([record])
    assert rows_of(engine, outcome_events)[record.event_id].reply_sentiment == record.values["reply_sentiment"]


def test_a_database_without_our_tables_is_not_writable(engine: Engine) -> None:
    assert not schema.is_writable(engine)


def test_a_released_writer_holds_no_connection_and_opens_one_to_write(postgresql_url: str, record_of: Make) -> None:
    engine, onlooker = create(parse_url(postgresql_url)), create(parse_url(postgresql_url))
    writer = writer_for(engine)
    writer.write([record_of(REPLY)])
    # autocommit: a transaction sees the activity of its first look throughout
    with onlooker.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        others = text(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert connection.scalar(others) == 1
        writer.release()
        for _ in range(100):  # the server takes a moment to see it go
            if connection.scalar(others) == 0:
                break
            time.sleep(0.02)
        assert connection.scalar(others) == 0
    writer.write([record_of(REPLY)])
    assert count(engine, outcome_events) == 2
    engine.dispose()
    onlooker.dispose()


ONCE = "00000000-0000-8123-8123-0123456789ab"


def test_of_many_events_with_one_id_the_first_is_stored_with_what_came_beside_them(
    engine: Engine, record_of: Make
) -> None:
    """`once_per`: on PostgreSQL such a batch is not copied."""
    writer = writer_for(engine)
    first = record_of(DISMISSED, event_id=ONCE, dismiss_reason="first")
    writer.write([first, record_of(REPLY), record_of(DISMISSED, event_id=ONCE, dismiss_reason="second")])
    writer.write([record_of(DISMISSED, event_id=ONCE, dismiss_reason="third"), record_of(REPLY)])
    assert stored(engine) == [2, 1]
    assert read_back(DISMISSED, rows_of(engine, events)[ONCE]) == first.values


def test_a_repeated_batch_stores_what_it_has_that_is_new_in_either_table(engine: Engine, record_of: Make) -> None:
    writer = writer_for(engine)
    before = [record_of(DISMISSED) for _ in range(600)]
    writer.write(before)
    new = [record_of(declaration) for declaration in (REPLY, DISMISSED) for _ in range(600)]
    writer.write([*new, before[-1]])
    assert stored(engine) == [600, 1200]
    for table, records in ((outcome_events, new[:600]), (events, new[600:])):
        rows = rows_of(engine, table)
        assert all(read_back(r.declaration, rows[r.event_id]) == r.values for r in records)


def test_two_writers_with_the_same_events_store_each_once(engine: Engine, record_of: Make) -> None:
    records = [record_of(declaration) for declaration in (REPLY, DISMISSED) for _ in range(200)]
    engines = [create(engine.url) for _ in range(4)]
    writers = [writer_for(other) for other in engines]
    failures: list[Exception] = []

    def write_all(writer: Writer) -> None:
        try:
            for start in range(0, len(records), 50):
                writer.write(records[start : start + 50])
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=write_all, args=(writer,)) for writer in writers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert (count(engine, outcome_events), count(engine, events)) == (200, 200)
    for writer in writers:
        writer.release()


def test_outcomes_alone_where_that_is_asked_for(engine: Engine, record_of: Make) -> None:
    writer_for(engine, event_store="outcomes").write([record_of(cls.declaration) for cls in SPECIFIED])
    assert (count(engine, outcome_events), count(engine, events)) == (4, 0)


def test_nothing_to_store_connects_to_nothing(record_of: Make) -> None:
    away = create(parse_url("postgres://casey@127.0.0.1:1/app"))
    writer = writer_for(away, event_store="outcomes")
    writer.write([])
    writer.write([record_of(DISMISSED)])
    with pytest.raises(StorageUnavailable, match="refused"):
        writer.write([record_of(REPLY)])


def test_one_bad_row_stores_none_of_its_batch_and_is_no_reason_to_wait(postgresql_url: str, record_of: Make) -> None:
    engine = create(parse_url(postgresql_url))
    writer = writer_for(engine)
    poison = record_of(REPLY, event_id="not an id", recipient="john@acme.example")
    with pytest.raises(RowsRejected, match="invalid input syntax for type uuid") as raised:
        writer.write([record_of(REPLY), poison, record_of(DISMISSED)])
    assert "john@acme.example" not in str(raised.value)
    assert (count(engine, outcome_events), count(engine, events)) == (0, 0)
    writer.write([record_of(REPLY), record_of(DISMISSED)])
    assert (count(engine, outcome_events), count(engine, events)) == (1, 1)
    engine.dispose()


def test_a_value_beyond_sqlite_is_rejected(sqlite_url: str, record_of: Make) -> None:
    engine = create(parse_url(sqlite_url))
    writer = writer_for(engine)
    with pytest.raises(RowsRejected):
        writer.write([record_of(REPLY), record_of(REPLY, event_id=2**70)])
    assert count(engine, outcome_events) == 0


def test_a_record_that_cannot_be_made_a_row_is_rejected(sqlite_url: str, record_of: Make) -> None:
    def disclose(record: EventRecord) -> dict[str, Any]:
        raise KeyError("john@acme.example")

    engine = create(parse_url(sqlite_url))
    schema.upgrade(engine)
    writer = Writer(engine, event_store="all", disclose=disclose, pseudonym=pseudonym)
    with pytest.raises(RowsRejected, match=r"outcome_reply_received .* cannot be made a row: KeyError") as raised:
        writer.write([record_of(REPLY)])
    assert "john" not in str(raised.value)


def test_missing_tables_are_a_reason_to_wait(engine: Engine, record_of: Make) -> None:
    writer = Writer(engine, event_store="all", disclose=lambda r: r.values, pseudonym=pseudonym)
    with pytest.raises(StorageUnavailable, match=r"outcome_events"):
        writer.write([record_of(REPLY)])
    schema.upgrade(engine)
    writer.write([record_of(REPLY)])
    assert count(engine, outcome_events) == 1


def test_a_foreign_table_is_a_reason_to_wait(engine: Engine, record_of: Make) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE events (id integer)"))
    with pytest.raises(StorageUnavailable, match="'events' that is not ours"):
        writer_for(engine).write([record_of(REPLY)])


def test_a_locked_file_is_a_reason_to_wait(sqlite_url: str, record_of: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("caseyos_otel.storage.engine.BUSY_TIMEOUT_S", 0.05)
    engine = create(parse_url(sqlite_url))
    schema.upgrade(engine)
    writer = writer_for(engine)
    with sqlite3.connect(engine.url.database or "", isolation_level=None) as host:
        host.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageUnavailable, match="locked"):
            writer.write([record_of(REPLY)])
        host.execute("COMMIT")
    writer.write([record_of(REPLY)])
    assert count(engine, outcome_events) == 1


def test_writing_goes_on_after_the_server_was_restarted(
    postgresql_server: Any, postgresql_url: str, record_of: Make
) -> None:
    engine = create(parse_url(postgresql_url))
    writer = writer_for(engine)
    writer.write([record_of(REPLY)])
    postgresql_server.stop()
    try:
        with pytest.raises(StorageUnavailable):
            writer.write([record_of(REPLY)])
    finally:
        postgresql_server.start()
    writer.write([record_of(REPLY)])
    assert count(engine, outcome_events) == 2
    engine.dispose()


def test_a_server_that_is_away_is_no_missing_partition(record_of: Make, caplog: pytest.LogCaptureFixture) -> None:
    away = create(parse_url("postgres://casey@127.0.0.1:1/app"))
    writer = Writer(away, event_store="all", disclose=lambda r: r.values, pseudonym=pseudonym)
    with pytest.raises(StorageUnavailable, match="refused"):
        writer.write([record_of(DISMISSED)])
    assert "partition" not in caplog.text


def test_no_prepared_statement_is_left_behind(postgresql_url: str, record_of: Make) -> None:
    engine = create(parse_url(postgresql_url))
    writer = writer_for(engine)
    for _ in range(12):
        writer.write([record_of(REPLY), record_of(DISMISSED)])
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM pg_prepared_statements")).scalar() == 0
        assert connection.execute(text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")).scalar() == 0
        ours = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
        assert connection.execute(ours).scalar() == 1
    engine.dispose()


def test_rows_go_to_the_partition_of_their_id(postgresql_url: str, record_of: Make) -> None:
    engine = create(parse_url(postgresql_url))
    this_month = datetime.now(UTC).date().replace(day=1)
    last_month = (this_month.replace(day=1) - (partitions.following(this_month) - this_month)).replace(day=1)
    ids = {
        partitions.name_of(this_month): record_of(DISMISSED).event_id,
        partitions.name_of(last_month): partitions.first_id(last_month),
        "events_once_per": "00000000-0000-8123-8123-0123456789ab",
        "events_default": "00bcdefa-0000-7000-8000-000000000000",
    }
    writer_for(engine).write([record_of(DISMISSED, event_id=event_id) for event_id in ids.values()])
    with engine.connect() as connection:
        placed = connection.execute(text("SELECT tableoid::regclass::text, event_id::text FROM events")).all()
    assert {tuple(row) for row in placed} == set(ids.items())
    engine.dispose()


def test_a_role_that_may_only_insert_stores_into_the_default_partition(
    postgresql_url: str, record_of: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = create(parse_url(postgresql_url))
    schema.upgrade(owner)
    name = f"service_{owner.url.database}"
    with owner.begin() as connection:
        connection.execute(text(f"CREATE ROLE {name} LOGIN"))
        connection.execute(text(f"GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA public TO {name}"))
        for month in partitions.wanted([], datetime.now(UTC).date()):
            connection.execute(text(f"DROP TABLE {partitions.name_of(month)}"))
    service = create(owner.url.set(username=name))
    monkeypatch.setattr("caseyos_otel.diagnostics._said", {})
    writer_for(service).write([record_of(DISMISSED)])
    with owner.connect() as connection:
        assert connection.execute(text("SELECT tableoid::regclass::text FROM events")).scalar() == "events_default"
    assert "events_default; run caseyos-otel db upgrade" in caplog.text
    service.dispose()
    owner.dispose()


ANY_VALUE: dict[FieldType, st.SearchStrategy[Any]] = {
    FieldType.ID: st.text(st.characters(exclude_categories=())) | st.text(min_size=2000, max_size=6000),
    FieldType.STRING: st.text(st.characters(exclude_categories=())),
    FieldType.INT: st.integers(-(2**63), 2**63 - 1),
    FieldType.DOUBLE: st.floats() | st.integers(-(2**63), 2**63 - 1),
    FieldType.BOOLEAN: st.booleans(),
    FieldType.TIMESTAMP: st.datetimes(timezones=st.just(UTC)),
}


@st.composite
def any_values(draw: st.DrawFn) -> tuple[Declaration, dict[str, Any]]:
    declaration = draw(st.sampled_from([cls.declaration for cls in SPECIFIED]))
    values = {f.name: draw(st.none() | ANY_VALUE[f.type]) for f in declaration.fields}
    return declaration, values


@pytest.fixture(scope="module")
def both_engines(postgresql_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Engine]]:
    urls = [
        postgresql_server.url(postgresql_server.create_database()),
        f"sqlite:///{tmp_path_factory.mktemp('any')}/caseyos.db",
    ]
    engines = [create(parse_url(url)) for url in urls]
    for engine in engines:
        schema.upgrade(engine)
    yield engines
    for engine in engines:
        engine.dispose()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(any_values())
def test_whatever_the_values_are_both_databases_store_the_same_row(
    both_engines: list[Engine], record_of: Make, drawn: tuple[Declaration, dict[str, Any]]
) -> None:
    declaration, values = drawn
    record = record_of(declaration, **values)
    table = outcome_events if record.outcome else events
    rows = []
    for engine in both_engines:
        prepared_writer(engine).write([record])
        rows.append(_row_of(engine, table, record.event_id))
    # written again it takes the way of what is stored already, to another row
    postgresql, again = both_engines[0], str(uuid_utils.uuid7())
    repeated = record_of(declaration, event_id=again, **values)
    prepared_writer(postgresql).write([record, repeated])
    rows.append({**_row_of(postgresql, table, again), "event_id": record.event_id})
    assert rows[0] == rows[1] == rows[2]
    for name, value in values.items():
        if isinstance(value, bool) or (isinstance(value, str) and value.isascii() and "\0" not in value):
            properties = rows[0]["properties"] if name.partition(".")[0] in rows[0]["properties"] else {}
            assert value in (rows[0].get(name), rows[0].get("contact_email"), *_leaves(properties))


def _row_of(engine: Engine, table: Table, event_id: str) -> dict[str, Any]:
    """All of it, but for when it came."""
    with engine.connect() as connection:
        row = connection.execute(select(table).where(table.c.event_id == event_id)).one()
    # PostgreSQL keeps a number's digits: 1e16 comes back as a whole number
    properties = json.loads(json.dumps(row.properties, allow_nan=False), parse_int=float)
    return {**row._mapping, "received_at": None, "properties": properties}


def _leaves(properties: dict[str, Any]) -> Iterator[Any]:
    for value in properties.values():
        if isinstance(value, dict):
            yield from _leaves(value)
        else:
            yield value


def test_an_integer_too_precise_for_its_column_is_kept_whole(engine: Engine, record_of: Make) -> None:
    record = record_of(OutcomeDealAdvanced.declaration, pipeline_value=2**63 - 1)
    writer_for(engine).write([record])
    row = rows_of(engine, outcome_events)[record.event_id]
    assert row.pipeline_value is None
    assert row.properties == {"pipeline_value": 2**63 - 1}
