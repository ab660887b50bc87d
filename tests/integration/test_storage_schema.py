"""The schema on real databases: what is declared is what the migrations make, and nothing of a host's is touched."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import alembic.command
import pytest
import uuid_utils
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Column, Engine, Integer, MetaData, Table, Text, inspect, text
from typer.testing import CliRunner

from caseyos_otel.cli.app import app
from caseyos_otel.errors import StorageError
from caseyos_otel.storage import drift, partitions, schema, tables
from caseyos_otel.storage.engine import create, parse_url
from caseyos_otel.storage.failure import StorageUnavailable

POSTGRESQL_CATALOG = """
    SELECT c.relname, c.relkind::text, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
           pg_get_indexdef(c.oid), pg_get_expr(c.relpartbound, c.oid), pg_get_partkeydef(c.oid)
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'i', 'I')
    ORDER BY 1, 3
"""
SQLITE_CATALOG = """
    SELECT m.name, m.type, c.name, c.type, c."notnull", c.pk, CASE m.type WHEN 'index' THEN m.sql END
    FROM sqlite_master m, pragma_table_xinfo(m.name) c ORDER BY 1, 3
"""


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = create(parse_url(database_url))
    yield engine
    engine.dispose()


def catalog(engine: Engine) -> list[tuple[object, ...]]:
    """Everything that the database knows of our tables, but for what only migrations make."""
    query = POSTGRESQL_CATALOG if engine.dialect.name == "postgresql" else SQLITE_CATALOG
    with engine.connect() as connection:
        rows = [
            tuple(" ".join(v.split()) if isinstance(v, str) else v for v in r) for r in connection.execute(text(query))
        ]
    made_by_migrations = (schema.VERSION_TABLE, "sqlite_autoindex_caseyos", "events_")
    return [row for row in rows if not any(str(v).startswith(made_by_migrations) for v in row[:3])]


def test_declared_tables_equal_all_migrations(engine: Engine) -> None:
    schema.upgrade(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"include_object": _ours, "compare_type": True})
        assert compare_metadata(context, tables.metadata) == []
    migrated = catalog(engine)
    with engine.begin() as connection:
        tables.metadata.drop_all(connection)
        tables.metadata.create_all(connection)
    assert catalog(engine) == migrated
    assert {row[0] for row in migrated} >= {"events", "outcome_events", "caseyos_otel_retention"}
    assert drift.differences(engine) == [
        f"events: partition {name} is missing" for name in _partitions_of_migrations(engine)
    ]


def _partitions_of_migrations(engine: Engine) -> list[str]:
    if engine.dialect.name == "sqlite":
        return []
    months = partitions.wanted([], datetime.now(UTC).date())
    return sorted({partitions.DEFAULT, partitions.ONCE_PER} | {partitions.name_of(month) for month in months})


def _ours(_object: object, name: str | None, type_: str, reflected: bool, _compare_to: object) -> bool:
    return type_ != "table" or not reflected or name in tables.metadata.tables


def test_upgrading_again_changes_nothing(engine: Engine) -> None:
    assert schema.current(engine) is None
    assert not schema.is_current(engine)
    schema.upgrade(engine)
    before = catalog(engine)
    schema.upgrade(engine)
    assert (schema.current(engine), schema.is_current(engine)) == (schema.head(), True)
    assert catalog(engine) == before


def test_an_empty_database_lacks_every_table_and_a_migrated_one_differs_in_nothing(engine: Engine) -> None:
    assert drift.differences(engine) == [f"{t.name}: the table is missing" for t in tables.metadata.sorted_tables]
    schema.upgrade(engine)
    assert drift.differences(engine) == []


DRIFTS = {
    "DROP INDEX ix_events_deal_id": "events: index ix_events_deal_id is missing",
    "DROP INDEX ix_events_trace_id; CREATE INDEX ix_events_trace_id ON events (span_id)": "events: index ix_events_trace_id "
    "is on (span_id), should be on (trace_id) where trace_id is not null",
    "ALTER TABLE outcome_events DROP COLUMN span_id": "outcome_events: column span_id is missing",
    "ALTER TABLE outcome_events DROP COLUMN on_time; ALTER TABLE outcome_events ADD COLUMN on_time INTEGER": "outcome_events: "
    "column on_time has type INTEGER, should be BOOLEAN",
    "ALTER TABLE outcome_events RENAME COLUMN client TO account": "outcome_events: column client is missing",
}


@pytest.mark.parametrize("change", DRIFTS)
def test_what_somebody_changed_is_told_by_its_name(engine: Engine, change: str) -> None:
    schema.upgrade(engine)
    with engine.begin() as connection:
        for statement in change.split("; "):
            connection.execute(text(statement))
    assert drift.differences(engine) == [DRIFTS[change]]


def test_what_somebody_added_is_no_drift_unless_it_keeps_rows_out(postgresql_url: str) -> None:
    engine = create(parse_url(postgresql_url))
    schema.upgrade(engine)
    with engine.begin() as connection:
        connection.execute(text("CREATE INDEX theirs ON outcome_events (client)"))
        connection.execute(
            text("ALTER TABLE outcome_events ADD COLUMN note text, ADD COLUMN seen boolean NOT NULL DEFAULT true")
        )
    assert drift.differences(engine) == []
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE outcome_events ADD COLUMN owner text NOT NULL"))
        connection.execute(text("DROP TABLE events_once_per"))
    assert drift.differences(engine) == [
        "outcome_events: column owner is not ours, may not be null and has no default: no row can be stored",
        "events: partition events_once_per is missing",
    ]
    engine.dispose()


def test_processes_that_migrate_at_once_all_succeed(database_url: str) -> None:
    program = (
        "import sys; from caseyos_otel.storage import engine, schema; "
        "e = engine.create(engine.parse_url(sys.argv[1])); sys.stdin.read(); "
        "schema.upgrade(e); print(schema.current(e))"
    )
    command = [sys.executable, "-c", program, database_url]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
    answers = [process.stdout.read().strip() for process in processes if process.stdout is not None]
    assert [process.wait(60) for process in processes] == [0, 0, 0, 0]
    assert answers == [schema.head()] * 4


@pytest.mark.parametrize("name", ["events", "outcome_events"])
def test_a_foreign_table_is_refused_and_stays_as_it_was(engine: Engine, name: str) -> None:
    with engine.begin() as connection:
        connection.execute(text(f"CREATE TABLE {name} (id integer PRIMARY KEY, title text)"))
        connection.execute(text(f"INSERT INTO {name} VALUES (1, 'theirs')"))
    with pytest.raises(StorageError, match=f"'{name}' that is not ours.*CASEYOS_OTEL_DATABASE_URL"):
        schema.upgrade(engine)
    assert inspect(engine).get_table_names() == [name]
    with engine.connect() as connection:
        assert connection.execute(text(f"SELECT * FROM {name}")).all() == [(1, "theirs")]


@pytest.mark.parametrize(
    "foreign", ["TABLE events_default (id integer)", "TABLE caseyos_otel_retention (id integer)", "SEQUENCE events"]
    + [f"{kind} events AS SELECT 1 AS theirs" for kind in ("VIEW", "MATERIALIZED VIEW")],
)  # fmt: skip
def test_whatever_else_has_a_name_that_we_need_stays_alone_in_the_database(postgresql_url: str, foreign: str) -> None:
    engine = create(parse_url(postgresql_url))
    relations = text("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace")
    with engine.begin() as connection:
        connection.execute(text(f"CREATE {foreign}"))
        before = connection.scalars(relations).all()
    with pytest.raises(StorageError, match=r"stays untouched.*CASEYOS_OTEL_DATABASE_URL"):
        schema.upgrade(engine)
    with engine.connect() as connection:
        assert connection.scalars(relations).all() == before
    engine.dispose()


def test_a_foreign_table_in_the_place_of_a_month_is_told_and_rows_are_stored_beside_it(postgresql_url: str) -> None:
    engine = create(parse_url(postgresql_url))
    month = partitions.name_of(min(partitions.wanted([], datetime.now(UTC).date())))
    with engine.begin() as connection:
        connection.execute(text(f"CREATE TABLE {month} (title text)"))
        connection.execute(text(f"INSERT INTO {month} VALUES ('theirs')"))
    told = CliRunner().invoke(app, ["db", "upgrade", "--url", postgresql_url])
    assert told.exit_code == 0
    assert f"events: partition {month} is missing" in told.output
    assert CliRunner().invoke(app, ["db", "check", "--url", postgresql_url]).exit_code == 1
    with engine.begin() as connection:
        row = {"event": "e", "occurred_at": datetime.now(UTC), "received_at": datetime.now(UTC), "failure": False}
        connection.execute(tables.events.insert(), [{**row, "event_id": str(uuid_utils.uuid7()), "properties": {}}])
        assert connection.execute(text("SELECT tableoid::regclass::text FROM events")).scalar() == partitions.DEFAULT
        assert connection.execute(text(f"SELECT * FROM {month}")).all() == [("theirs",)]
    engine.dispose()


def test_a_schema_of_a_newer_release_stays_as_it_is(engine: Engine) -> None:
    schema.upgrade(engine)
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE {schema.VERSION_TABLE} SET version_num = '9999'"))
    schema.upgrade(engine)
    assert (schema.current(engine), schema.is_current(engine)) == ("9999", True)


def test_a_database_that_is_away_is_said_to_be_so() -> None:
    engine = create(parse_url("postgres://casey:hunter2@127.0.0.1:1/app"))
    for call in (schema.upgrade, schema.current, schema.is_current):
        with pytest.raises(StorageUnavailable, match="refused") as raised:
            call(engine)
        assert "hunter2" not in str(raised.value)


def test_a_role_that_may_not_make_tables_is_told_so_and_may_use_what_is_there(postgresql_url: str) -> None:
    owner = create(parse_url(postgresql_url))
    name = f"service_{owner.url.database}"
    with owner.begin() as connection:
        connection.execute(text(f"CREATE ROLE {name} LOGIN"))
    service = create(owner.url.set(username=name))
    with pytest.raises(StorageError, match=r"may not create tables.*caseyos-otel db upgrade"):
        schema.upgrade(service)
    schema.upgrade(owner)
    with owner.begin() as connection:
        connection.execute(text(f"GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA public TO {name}"))
    schema.upgrade(service)
    assert schema.is_current(service)
    service.dispose()
    owner.dispose()


def test_on_postgresql_events_has_its_partitions(postgresql_url: str) -> None:
    engine = create(parse_url(postgresql_url))
    schema.upgrade(engine)
    months = partitions.wanted([], datetime.now(UTC).date())
    with engine.connect() as connection:
        names = partitions.names(connection)
    assert names == {"events_default", "events_once_per"} | {partitions.name_of(month) for month in months}
    engine.dispose()


def test_rows_of_a_month_move_from_the_default_partition_to_their_own(postgresql_url: str) -> None:
    engine = create(parse_url(postgresql_url))
    schema.upgrade(engine)
    month, later = sorted(partitions.wanted([], datetime.now(UTC).date()))
    ids = {partitions.first_id(month): "events_default", partitions.first_id(later): partitions.name_of(later)}
    place = text("SELECT event_id::text, tableoid::regclass::text FROM events ORDER BY 1")
    with engine.begin() as connection:
        connection.execute(text(f"DROP TABLE {partitions.name_of(month)}"))
        row = {"event": "e", "occurred_at": datetime.now(UTC), "received_at": datetime.now(UTC), "failure": False}
        rows = [{**row, "event_id": event_id, "properties": {}} for event_id in ids]
        connection.execute(tables.events.insert(), rows)
        assert dict(connection.execute(place).all()) == ids  # type: ignore[arg-type]
    schema.upgrade(engine)
    with engine.connect() as connection:
        expected = {event_id: partitions.name_of(m) for event_id, m in zip(ids, (month, later), strict=True)}
        assert dict(connection.execute(place).all()) == expected  # type: ignore[arg-type]
    engine.dispose()


def test_a_schema_of_its_own_lives_beside_a_foreign_table(postgresql_url: str) -> None:
    host = create(parse_url(postgresql_url))
    with host.begin() as connection:
        connection.execute(text("CREATE TABLE events (id integer PRIMARY KEY)"))
        connection.execute(text("CREATE SCHEMA caseyos"))
    ours = create(parse_url(f"{postgresql_url}?options=-csearch_path%3Dcaseyos"))
    schema.upgrade(ours)
    assert schema.is_current(ours)
    assert inspect(host).get_table_names(schema="public") == ["events"]
    assert {"events", "outcome_events"} <= set(inspect(host).get_table_names(schema="caseyos"))
    host.dispose()
    ours.dispose()


def write_host(directory: Path, upgrade: str) -> Config:
    """A host application with an Alembic environment of its own and one revision."""
    (directory / "versions").mkdir(parents=True)
    (directory / "script.py.mako").write_text(
        "revision = ${repr(up_revision)}\ndown_revision = ${repr(down_revision)}\n"
        "import sqlalchemy as sa\nfrom alembic import op\n"
        "def upgrade():\n    ${upgrades if upgrades else 'pass'}\ndef downgrade():\n    pass\n"
    )
    (directory / "env.py").write_text(
        "from alembic import context\n"
        "from sqlalchemy import create_engine\n"
        "from caseyos_otel.storage.schema import include_object\n"
        "with create_engine(context.config.get_main_option('sqlalchemy.url')).connect() as connection:\n"
        "    context.configure(connection=connection, include_object=include_object,\n"
        "                      target_metadata=context.config.attributes['metadata'])\n"
        "    with context.begin_transaction():\n"
        "        context.run_migrations()\n"
    )
    (directory / "versions" / "a1_the_hosts_own.py").write_text(
        "revision = 'a1'\ndown_revision = None\n"
        "import sqlalchemy as sa\nfrom alembic import op\n"
        f"def upgrade():\n{upgrade}\n"
    )
    config = Config()
    config.set_main_option("script_location", str(directory))
    metadata = MetaData()
    Table("deals", metadata, Column("id", Integer, primary_key=True), Column("title", Text))
    config.attributes["metadata"] = metadata
    return config


DEALS = "    op.create_table('deals', sa.Column('id', sa.Integer, primary_key=True), sa.Column('title', sa.Text))"


def test_a_hosts_autogenerate_does_not_see_our_tables(tmp_path: Path, engine: Engine) -> None:
    config = write_host(tmp_path / "host", DEALS)
    config.set_main_option("sqlalchemy.url", engine.url.render_as_string(hide_password=False))
    schema.upgrade(engine)
    alembic.command.upgrade(config, "head")
    alembic.command.revision(config, autogenerate=True, message="nothing", rev_id="b2")
    (written,) = (tmp_path / "host" / "versions").glob("b2_*.py")
    assert (
        "def upgrade():\n    # ### commands auto generated by Alembic - please adjust! ###\n    pass"
        in written.read_text()
    )


def test_ours_may_run_in_the_middle_of_a_hosts_migration(tmp_path: Path, sqlite_url: str) -> None:
    ours = create(parse_url(f"sqlite:///{tmp_path}/ours.db"))
    upgrade = (
        "    from caseyos_otel.storage import engine, schema\n"
        f"    schema.upgrade(engine.create(engine.parse_url({str(ours.url)!r})))\n{DEALS}"
    )
    config = write_host(tmp_path / "host", upgrade)
    config.set_main_option("sqlalchemy.url", f"sqlite:///{tmp_path}/host.db")
    alembic.command.upgrade(config, "head")
    host = create(parse_url(f"sqlite:///{tmp_path}/host.db"))
    assert inspect(host).get_table_names() == ["alembic_version", "deals"]
    assert set(inspect(ours).get_table_names()) == {*tables.metadata.tables, schema.VERSION_TABLE}


def test_a_hosts_own_table_of_our_name_stays_its_own() -> None:
    theirs = Table("events", MetaData(), Column("id", Integer, primary_key=True))
    assert schema.include_object(theirs, "events", "table", reflected=False, compare_to=None)
    assert schema.include_object(theirs, "events", "table", reflected=True, compare_to=theirs)
    for name in (
        "events",
        "outcome_events",
        "events_default",
        "events_once_per",
        "events_2026_01",
        schema.VERSION_TABLE,
    ):
        assert not schema.include_object(theirs, name, "table", reflected=True, compare_to=None)
    for name in ("deals", "events_archive", "my_events", "events_2026_1"):
        assert schema.include_object(theirs, name, "table", reflected=True, compare_to=None)
