"""Databases that somebody else has set up as well: indexes, encodings, rights and settings that are not ours."""

from __future__ import annotations

import os
import signal
import socket
import sys
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, Engine, Table, event, exc, func, select, text

from caseyos_otel.errors import Unavailable
from caseyos_otel.events.outcome import OutcomeReplyReceived
from caseyos_otel.events.recommendation import RecommendationDismissed
from caseyos_otel.events.record import EventRecord
from caseyos_otel.exporters.outcomes import OutcomesDestination
from caseyos_otel.insights.stored import stored
from caseyos_otel.privacy import retention
from caseyos_otel.storage import health, lease, schema
from caseyos_otel.storage.engine import create, parse_url
from caseyos_otel.storage.failure import RowsRejected, StorageUnavailable
from caseyos_otel.storage.tables import events, outcome_events
from caseyos_otel.storage.writer import Writer

Make = Callable[..., EventRecord]
REPLY = OutcomeReplyReceived.declaration
DISMISSED = RecommendationDismissed.declaration


def writer_for(engine: Engine) -> Writer:
    return Writer(
        engine, event_store="all", disclose=lambda r: r.values, pseudonym=lambda a: f"h of {a}", prepare=schema.upgrade
    )


def as_role(url: str, role: str) -> str:
    return url.replace("postgres@", f"{role}@")


def run(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def count(engine: Engine, table: Table = outcome_events) -> int:
    with engine.connect() as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()


@pytest.fixture
def service(postgresql_url: str) -> str:
    """A role that may read and write what others make."""
    name = f"service_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgresql_url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN")
        connection.execute(f"ALTER DEFAULT PRIVILEGES GRANT SELECT, INSERT ON TABLES TO {name}")
    return name


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


# -- encodings -------------------------------------------------------------------------------------------------------

ANY_SCRIPT = "Grüße, 你好, привет \U0001f642"


@pytest.fixture
def ascii_url(postgresql_server: Any) -> str:
    """A database that says nothing of what its bytes mean."""
    name = f"ascii_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgresql_server.url("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    return str(postgresql_server.url(name))


def written_twice_and_read(url: str, record: EventRecord) -> tuple[str, str]:
    """Once by each way of PostgreSQL's: the client and the sentiment of the row, and no more than one row."""
    engine = create(parse_url(url))
    for _ in range(2):
        writer_for(engine).write([record])
    with engine.connect() as connection:
        found = connection.execute(select(outcome_events.c.contact_email, outcome_events.c.draft_id)).one()
    engine.dispose()
    return found.contact_email, found.draft_id


def test_any_script_is_stored_in_a_database_without_an_encoding(ascii_url: str, record_of: Make) -> None:
    record = record_of(REPLY, recipient=ANY_SCRIPT, draft_id="d")
    assert written_twice_and_read(ascii_url, record) == (ANY_SCRIPT, "d")


def test_any_script_is_stored_whatever_the_encoding_of_the_environment(
    postgresql_url: str, record_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    record = record_of(REPLY, recipient=ANY_SCRIPT, draft_id=ANY_SCRIPT)
    assert written_twice_and_read(postgresql_url, record) == (ANY_SCRIPT, ANY_SCRIPT)


def test_any_script_is_stored_whatever_the_encoding_of_the_role(
    postgresql_url: str, record_of: Make, service: str
) -> None:
    engine = create(parse_url(postgresql_url))
    schema.upgrade(engine)
    run(engine, f"ALTER ROLE {service} SET client_encoding = 'LATIN1'")
    engine.dispose()
    record = record_of(REPLY, recipient=ANY_SCRIPT, draft_id=ANY_SCRIPT)
    url = as_role(postgresql_url, service)
    assert written_twice_and_read(url, record) == (ANY_SCRIPT, ANY_SCRIPT)


# -- what goes wrong before a row is sent ----------------------------------------------------------------------------


@pytest.mark.parametrize("mistake", [TypeError("bytes"), ValueError("a revision"), RowsRejected("no row yet")])
def test_a_mistake_of_preparing_is_a_reason_to_wait_and_made_good_by_the_next_try(
    engine: Engine, record_of: Make, mistake: Exception
) -> None:
    mistakes = [mistake]

    def prepare(_: Engine) -> None:
        if mistakes:
            raise mistakes.pop()

    writer = Writer(engine, event_store="all", disclose=lambda r: r.values, pseudonym=str, prepare=prepare)
    with pytest.raises(StorageUnavailable):
        writer.write([record_of(REPLY)])
    writer.write([record_of(REPLY)])
    assert count(engine) == 1


def test_a_mistake_of_connecting_is_a_reason_to_wait(engine: Engine, record_of: Make) -> None:
    engine.dispose()

    def fail(*_: object) -> None:
        raise TypeError("expected string or bytes-like object")

    event.listen(engine, "connect", fail)
    writer = Writer(engine, event_store="all", disclose=lambda r: r.values, pseudonym=str)
    with pytest.raises(StorageUnavailable, match="TypeError"):
        writer.write([record_of(REPLY)])
    event.remove(engine, "connect", fail)
    writer.write([record_of(REPLY)])
    assert count(engine) == 1


def test_a_mistake_in_the_url_is_a_reason_to_wait(record_of: Make) -> None:
    destination = OutcomesDestination("sqlite:///x.db?plugin=nobodys", "all", lambda r: r.values, str)
    with pytest.raises(Unavailable, match="nobodys"):
        destination.prepare()


# -- what a connection was given at its start ------------------------------------------------------------------------


def test_writing_goes_on_when_a_server_that_was_read_only_is_no_more(
    postgresql_url: str, service: str, record_of: Make
) -> None:
    """As after a failover: a connection to the replica stays one to a replica."""
    owner, engine = (
        create(parse_url(postgresql_url)),
        create(parse_url(as_role(postgresql_url, service))),
    )
    schema.upgrade(owner)
    run(owner, f"ALTER ROLE {service} SET default_transaction_read_only = on")
    writer = writer_for(engine)
    with pytest.raises(StorageUnavailable, match="read-only"):
        writer.write([record_of(REPLY)])
    run(owner, f"ALTER ROLE {service} RESET default_transaction_read_only")
    writer.write([record_of(REPLY)])
    assert count(owner) == 1
    owner.dispose()
    engine.dispose()


def test_writing_goes_on_when_the_role_is_told_where_our_tables_are(
    postgresql_url: str, service: str, record_of: Make
) -> None:
    elsewhere = create(parse_url(f"{postgresql_url}?options=-csearch_path%3Delsewhere"))
    run(elsewhere, "CREATE SCHEMA elsewhere", f"GRANT USAGE ON SCHEMA elsewhere TO {service}")
    schema.upgrade(elsewhere)
    destination = OutcomesDestination(as_role(postgresql_url, service), "all", lambda r: r.values, str)
    with pytest.raises(Unavailable, match="lacks our tables"):
        destination.export([record_of(REPLY)])
    run(elsewhere, f"ALTER ROLE {service} SET search_path = elsewhere")
    destination.export([record_of(REPLY)])
    assert count(elsewhere) == 1
    destination.idle()
    elsewhere.dispose()


def test_a_refused_row_costs_no_connection(postgresql_url: str, record_of: Make) -> None:
    engine = create(parse_url(postgresql_url))
    writer = writer_for(engine)
    writer.write([record_of(REPLY)])
    opened: list[object] = []
    event.listen(engine, "connect", lambda *_: opened.append(1))
    with pytest.raises(RowsRejected):
        writer.write([record_of(REPLY, event_id="not an id")])
    writer.write([record_of(REPLY)])
    assert opened == []
    engine.dispose()


def socket_options(url: str) -> tuple[int, int, int]:
    """Of a connection to `url`: whether it asks a silent peer, after how long, and when it gives up (ms)."""
    engine = create(parse_url(url))
    with engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        with socket.socket(fileno=os.dup(driver.fileno())) as ours:
            asks = ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            idle = ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
            gives_up = ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    engine.dispose()
    return asks, idle, gives_up


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other names for it")
def test_a_peer_that_is_silent_is_given_up_within_half_a_minute_or_when_the_url_says(postgresql_url: str) -> None:
    assert socket_options(postgresql_url) == (1, 10, 30_000)
    assert socket_options(f"{postgresql_url}?keepalives_idle=60&tcp_user_timeout=90000") == (1, 60, 90_000)


def test_a_frozen_server_is_an_outage_though_its_system_acknowledges_packets(
    postgresql_url: str, record_of: Make
) -> None:
    owner, engine = create(parse_url(postgresql_url)), create(parse_url(postgresql_url), answer_within_s=0.5)
    schema.upgrade(owner)
    writer = writer_for(engine)
    frozen: list[int] = []

    def freeze(connection: Connection) -> None:
        if not frozen:
            driver: Any = connection.connection.driver_connection
            frozen.append(driver.info.backend_pid)
            os.kill(frozen[0], signal.SIGSTOP)

    event.listen(engine, "begin", freeze)
    try:
        with pytest.raises(StorageUnavailable, match="no answer for"):
            writer.write([record_of(REPLY)])
        writer.write([record_of(REPLY)])
    finally:
        os.kill(frozen[0], signal.SIGCONT)
    assert count(owner) == 1
    owner.dispose()
    engine.dispose()


def test_what_takes_long_and_is_answered_meanwhile_is_no_silence(postgresql_url: str) -> None:
    """Rows that come one by one: the limit is on what is not heard, not on the whole."""
    engine = create(parse_url(postgresql_url), answer_within_s=0.5)
    with engine.connect() as connection:
        long = "x" * 20_000  # more than the server keeps before it sends
        query = f"select '{long}', pg_sleep(0.2) from generate_series(1, 5)"
        assert len(connection.exec_driver_sql(query).fetchall()) == 5
        with pytest.raises(exc.OperationalError, match="no answer for"):
            connection.exec_driver_sql("select pg_sleep(5)")
    engine.dispose()


# -- row-level security ----------------------------------------------------------------------------------------------


def test_a_table_with_row_level_security_takes_what_its_policy_lets_in(
    postgresql_url: str, service: str, record_of: Make
) -> None:
    """PostgreSQL refuses COPY there whatever it brings."""
    owner, engine = create(parse_url(postgresql_url)), create(parse_url(as_role(postgresql_url, service)))
    schema.upgrade(owner)
    for table in ("outcome_events", "events"):
        run(
            owner,
            f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
            f"CREATE POLICY hosts_read ON {table} FOR SELECT USING (true)",
            f"CREATE POLICY hosts_write ON {table} FOR INSERT WITH CHECK (environment = 'production')",
        )
    writer = writer_for(engine)
    records = [record_of(REPLY), record_of(DISMISSED)]
    for _ in range(3):
        writer.write(records)
    assert (count(owner), count(owner, events)) == (1, 1)
    owner.dispose()
    engine.dispose()


# -- how the role writes a date --------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["SQL, DMY", "German", "Postgres, MDY"])
def test_moments_are_read_however_the_role_writes_a_date(
    postgresql_url: str, service: str, record_of: Make, style: str
) -> None:
    owner, engine = create(parse_url(postgresql_url)), create(parse_url(as_role(postgresql_url, service)))
    schema.upgrade(owner)
    policy = retention.Policy.of(90, 365, datetime.now(UTC))
    retention.run(owner, policy, str)
    run(
        owner,
        f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {service}",
        f"ALTER ROLE {service} SET DateStyle = '{style}'",
        f"ALTER ROLE {service} SET TimeZone = 'Asia/Kathmandu'",
    )
    record = record_of(REPLY)
    for _ in range(2):
        writer_for(engine).write([record])
    found = stored(engine, record.event_id)
    assert found is not None
    assert found.occurred_at == datetime(2026, 1, 23, 14, 30, 0, 123456, tzinfo=UTC)
    last = health.read(engine).last_retention
    assert last is not None
    assert timedelta(0) < datetime.now(UTC) - last < timedelta(minutes=5)
    assert lease.take(engine, "work", "holder", timedelta(minutes=1))
    assert retention.run(engine, policy, str).outcomes_anonymised == 1
    owner.dispose()
    engine.dispose()


def test_a_look_that_fails_is_no_reason_to_write_again(
    postgresql_url: str, record_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Engine) -> None:
        raise NotImplementedError("can't parse timestamptz")

    monkeypatch.setattr("caseyos_otel.storage.health.read", fail)
    owner = create(parse_url(postgresql_url))
    schema.upgrade(owner)
    destination = OutcomesDestination(postgresql_url, "all", lambda r: r.values, str)
    destination.export([record_of(REPLY)])
    assert (count(owner), destination.health) == (1, None)
    destination.idle()
    owner.dispose()
