"""Behind a real PgBouncer in transaction mode, where the next transaction may run on another connection of the server."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, func, select

from caseyos_otel.events.outcome import OutcomeReplyReceived
from caseyos_otel.events.recommendation import RecommendationDismissed
from caseyos_otel.events.record import EventRecord
from caseyos_otel.privacy import retention
from caseyos_otel.privacy.retention import Policy
from caseyos_otel.storage import drift, schema
from caseyos_otel.storage.engine import create, parse_url
from caseyos_otel.storage.tables import events, outcome_events
from caseyos_otel.storage.writer import Writer
from tests.integration.conftest import _as_user
from tests.missing import missing
from tests.ports import free_port

Make = Callable[..., EventRecord]
PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
SERVER_CONNECTIONS = 2


@pytest.fixture
def bouncer(postgresql_server: Any, tmp_path: Path) -> Iterator[str]:
    """URL of an empty database behind it. Its two connections to the server are shared by everybody."""
    if PROGRAM is None:
        missing(
            "pgbouncer is not installed (Debian: apt-get install pgbouncer): nothing is known of transaction pooling"
        )
    port, name = free_port(), postgresql_server.create_database()
    users = tmp_path / "users.txt"
    users.write_text('"postgres" ""\n')
    configuration = tmp_path / "pgbouncer.ini"
    configuration.write_text(
        f"[databases]\n* = host=127.0.0.1 port={postgresql_server.port}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = trust\nauth_file = {users}\npool_mode = transaction\ndefault_pool_size = {SERVER_CONNECTIONS}\n"
    )
    for path in (users, configuration):
        path.chmod(0o644)
    for directory in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        directory.chmod(0o755)  # it gives up root as the server does, and then reads these
    process = subprocess.Popen([PROGRAM, str(configuration)], stderr=subprocess.PIPE, **_as_user())
    try:
        url = f"postgresql://postgres@127.0.0.1:{port}/{name}"
        _wait_for(process, url)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


def _wait_for(process: subprocess.Popen[bytes], url: str) -> None:
    for _ in range(200):
        try:
            psycopg.connect(url, connect_timeout=2).close()
        except psycopg.OperationalError:
            if process.poll() is not None:
                raise RuntimeError(process.communicate()[1].decode()) from None
            time.sleep(0.05)
        else:
            return
    raise RuntimeError("PgBouncer does not answer")


def writer_for(engine: Engine) -> Writer:
    return Writer(
        engine, event_store="all", disclose=lambda r: r.values, pseudonym=lambda a: f"h of {a}", prepare=schema.upgrade
    )


def test_migrating_writing_and_retention_work_behind_it(bouncer: str, record_of: Make) -> None:
    records = [record_of(c.declaration) for c in (OutcomeReplyReceived, RecommendationDismissed) for _ in range(120)]
    engines = [create(parse_url(bouncer)) for _ in range(5)]
    failures: list[Exception] = []

    def write(engine: Engine) -> None:
        try:
            writer = writer_for(engine)
            for start in range(0, len(records), 10):
                writer.write(records[start : start + 10])
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(engine,)) for engine in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with engines[0].connect() as connection:
        stored = [connection.scalar(select(func.count()).select_from(table)) for table in (outcome_events, events)]
    assert stored == [120, 120]
    assert drift.differences(engines[0]) == []
    report = retention.run(engines[0], Policy.of(1, 1, datetime.now(UTC)), lambda address: f"h of {address}")
    assert (report.events_deleted, report.outcomes_deleted) == (120, 120)
    for engine in engines:
        engine.dispose()


def test_the_settings_of_a_database_are_no_obstacle_behind_it(
    bouncer: str, postgresql_server: Any, record_of: Make
) -> None:
    name = bouncer.rpartition("/")[2]
    with psycopg.connect(postgresql_server.url("postgres"), autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} SET DateStyle = 'SQL, DMY'")
        connection.execute(f"ALTER DATABASE {name} SET client_encoding = 'LATIN1'")
    # others of the same pool, who leave its connections to the server as they like them
    others = [psycopg.connect(bouncer, autocommit=True) for _ in range(SERVER_CONNECTIONS)]
    engine = create(parse_url(bouncer))
    record = record_of(OutcomeReplyReceived.declaration, draft_id="你好")
    for _ in range(4):
        for other in others:
            other.execute("SELECT 1")
        writer_for(engine).write([record])
        with engine.connect() as connection:
            row = connection.execute(select(outcome_events.c.draft_id, outcome_events.c.occurred_at)).one()
        assert tuple(row) == ("你好", datetime(2026, 1, 23, 14, 30, 0, 123456, tzinfo=UTC))
    for other in others:
        other.close()
    engine.dispose()
