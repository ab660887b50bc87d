"""From a database URL, however it is written, to an engine with one connection."""

from __future__ import annotations

import math
import os
import re
import sqlite3
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from sqlalchemy import URL, Connection, Engine, QueuePool, StaticPool, create_engine, event, exc, make_url

from caseyos_otel.errors import StorageError
from caseyos_otel.storage.failure import StorageUnavailable

ACCEPTED: Final = "sqlite:///path/to/file.db or postgresql://user:password@host:5432/database"
BUSY_TIMEOUT_S: Final = 5.0
_UNLESS_GIVEN: Final = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,
}
"""What a URL may say otherwise. A peer that has gone silent (a dropped route, a firewall) is an outage after 30 s; by
itself the system would wait for fifteen minutes, and for an answer two hours."""

_SSL_MODES: Final = {"true": "require", "1": "require", "false": "disable", "0": "disable"}
_OTHER_DRIVERS: Final = frozenset(
    {
        # asyncpg
        "command_timeout", "max_cacheable_statement_size", "max_cached_statement_lifetime",
        "prepared_statement_cache_size", "prepared_statement_name_func", "statement_cache_size", "timeout",
        # SQLAlchemy's own for psycopg2, and PgBouncer's mark that ORMs of other languages read
        "async_fallback", "client_encoding", "executemany_mode", "pgbouncer", "pool_timeout", "connection_limit",
        # Supabase's mark of where a URL was copied
        "supa",
    }
)  # fmt: skip
"""Options that mean something to another driver and nothing here."""


def parse_url(text: str) -> URL:
    """The URL for the driver we use: psycopg 3 for PostgreSQL, the standard library's for SQLite.

    Accepted are the spellings that hosting platforms and other drivers use: `postgres://`, `postgresql+asyncpg://`,
    `+psycopg2`, `sqlite+aiosqlite://`, `?sslmode=require`, asyncpg's `?ssl=require`.

    Raises:
        StorageError: not a URL, or another database; the message says what is accepted and never repeats a password.

    Example:
        >>> parse_url("postgres://casey:secret@db.example:5432/app?ssl=require").render_as_string()
        'postgresql+psycopg://casey:***@db.example:5432/app?sslmode=require'
    """
    try:
        url = make_url(text.strip().strip("\"'"))
    except (exc.ArgumentError, ValueError):
        raise StorageError(
            f"the database URL cannot be read; accepted are {ACCEPTED}, with an @ in the password written as %40"
        ) from None
    match url.drivername.partition("+")[0].lower():
        case "sqlite":
            return url.set(drivername="sqlite")
        case "postgres" | "postgresql":
            _refuse_part_of_password(url, text)
            return _postgresql(url)
        case other:
            raise StorageError(f"{other!r} databases are not supported; accepted are {ACCEPTED}")


def create(url: URL, *, busy_timeout_s: float = BUSY_TIMEOUT_S, answer_within_s: float = math.inf) -> Engine:
    """An engine that connects when first used, holds at most one connection, and leaves a parent process's alone.

    `busy_timeout_s`: how long SQLite waits for another one's transaction. `answer_within_s`: how long PostgreSQL is
    waited for, whatever it does; then the connection is given up.

    Raises:
        StorageError: the PostgreSQL driver is not installed.
    """
    on_sqlite = url.get_backend_name() == "sqlite"
    engine = _create_sqlite(url, busy_timeout_s) if on_sqlite else _create_postgresql(url, answer_within_s)
    event.listen(engine, "connect", _remember_process)
    event.listen(engine, "checkout", _leave_to_parent)
    return engine


def file_of(url: URL) -> Path | None:
    """SQLite's file; None where there is none, and where a URI of the user's own says how SQLite is to open it."""
    database = url.database or ":memory:"
    if url.get_backend_name() != "sqlite" or database.startswith(":memory:"):
        return None
    if not database.startswith("file:"):
        return Path(database)
    ours = database.startswith("file:/") and url.query.keys() == {"uri"}  # as the settings write it
    return Path(unquote(database.removeprefix("file:"), errors="surrogateescape")) if ours else None


def _refuse_part_of_password(url: URL, text: str) -> None:
    """What follows an unquoted `@` of a password would be taken for a host, which errors repeat."""
    if "@" in f"{url.host}{url.database}" or re.search(r"[?&][^=&]*@", text):
        raise StorageError("the database URL has an @ where none belongs: write one in the password as %40")


def _postgresql(url: URL) -> URL:
    query: dict[str, Any] = {key: value for key, value in url.query.items() if key not in _OTHER_DRIVERS}
    ssl = query.pop("ssl", None)
    if ssl is not None:
        query.setdefault("sslmode", _SSL_MODES.get(str(ssl).lower(), ssl))
    if query.get("sslmode") == "no-verify":  # as drivers of JavaScript call it
        query["sslmode"] = "require"
    if query.get("schema") == "public":  # Prisma's, and where tables are anyway; another one is search_path's to name
        del query["schema"]
    return url.set(drivername="postgresql+psycopg", query=query)


def _create_postgresql(url: URL, answer_within_s: float) -> Engine:
    try:
        import_module("psycopg")
    except ImportError as error:
        raise StorageError(f"PostgreSQL needs psycopg 3: pip install 'caseyos-otel[postgresql]' ({error})") from None
    from caseyos_otel.storage.silence import ImpatientConnection

    # prepare_threshold=None: behind PgBouncer in transaction mode a prepared statement is gone in the next transaction
    # client_encoding: of the database, the role or PGCLIENTENCODING it may be one that lacks the characters of a row
    arguments: dict[str, Any] = {"prepare_threshold": None, "client_encoding": "utf8"}
    arguments |= {name: value for name, value in _UNLESS_GIVEN.items() if name not in url.query}
    engine = create_engine(
        url, use_native_hstore=False, hide_parameters=True, connect_args=arguments, **_one_connection()
    )
    event.listen(
        engine, "do_connect", lambda _, __, args, more: ImpatientConnection.within(answer_within_s, *args, **more)
    )
    event.listen(engine, "begin", _have_dates_in_iso)
    return engine


def _have_dates_in_iso(connection: Connection) -> None:
    """psycopg reads no other style. For the transaction alone: behind PgBouncer the next may be on another connection."""
    driver: Any = connection.connection.driver_connection
    if not (driver.info.parameter_status("DateStyle") or "ISO").startswith("ISO"):
        connection.exec_driver_sql("SET LOCAL DateStyle = 'ISO'")


def _create_sqlite(url: URL, busy_timeout_s: float) -> Engine:
    arguments = {"timeout": busy_timeout_s, "check_same_thread": False}
    database = url.database or ":memory:"
    pool = {"poolclass": StaticPool} if ":memory:" in database else _one_connection()
    engine = create_engine(url, hide_parameters=True, connect_args=arguments, **pool)
    event.listen(engine, "connect", _use_wal)
    if (file := file_of(url)) is not None:
        event.listen(engine, "do_connect", lambda *_: _make_private(file))
    return engine


def _one_connection() -> dict[str, Any]:
    return {"poolclass": QueuePool, "pool_size": 1, "max_overflow": 0, "pool_pre_ping": True}


def _make_private(path: Path) -> None:
    """The file holds addresses in plain: only its owner may read a file or directory that we make."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except OSError as error:
        raise StorageUnavailable(
            f"the database file {path} cannot be made: {error.strerror}; "
            "make its directory writable, or set CASEYOS_OTEL_DATABASE_URL or CASEYOS_OTEL_STATE_DIR"
        ) from error


def _use_wal(connection: Any, _record: object) -> None:
    # another process may be switching at this moment; the mode is the file's, so its switch serves us as well
    with suppress(sqlite3.OperationalError):
        connection.execute("PRAGMA journal_mode=WAL")


def _remember_process(_connection: object, record: Any) -> None:
    record.info["pid"] = os.getpid()


def _leave_to_parent(_connection: object, record: Any, proxy: Any) -> None:
    """A connection inherited through a fork is its parent's: forget it without closing, connect anew."""
    if record.info["pid"] != os.getpid():
        record.dbapi_connection = proxy.dbapi_connection = None
        raise exc.DisconnectionError("this connection belongs to the parent process")
