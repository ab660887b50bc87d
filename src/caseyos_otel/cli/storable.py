"""Whether rows can be stored in a database, and what to do where they cannot. It asks, and writes nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, Inspector, exc, inspect, text

from caseyos_otel.privacy import retention
from caseyos_otel.storage import engine, partitions
from caseyos_otel.storage.columns import EVENT_COLUMNS, OUTCOME_COLUMNS
from caseyos_otel.storage.failure import translate
from caseyos_otel.storage.tables import VERSION_TABLE, events, metadata, outcome_events, retention_runs

Hindrance = tuple[str, str]
"""What keeps rows out, and how to mend it."""

_ANOTHER_FILE: Final = "make it writable, or set CASEYOS_OTEL_DATABASE_URL or CASEYOS_OTEL_STATE_DIR"
_ELSEWHERE: Final = (
    "set CASEYOS_OTEL_DATABASE_URL to another database, or on PostgreSQL to a schema of its own "
    "(?options=-csearch_path%3Dcaseyos)"
)
_MAKE_WRITABLE: Final = (
    "reset default_transaction_read_only of the role, the database or the URL, or set CASEYOS_OTEL_DATABASE_URL to a "
    "database that can be written"
)
_READ: Final = (VERSION_TABLE, retention_runs.name, partitions.DEFAULT)
_CLOSED_SCHEMAS: Final = text(
    "SELECT quote_ident(nspname) FROM pg_namespace WHERE NOT has_schema_privilege(oid, 'USAGE') AND nspname IN "
    "(SELECT replace(btrim(part, ' \"'), '$user', current_user) FROM "
    "unnest(string_to_array(current_setting('search_path'), ',')) part)"
)


def opened(url: URL) -> Engine:
    """The database, a SQLite file only to be read: it is not made, and not switched to another kind of log."""
    path = engine.file_of(url)
    if path is None:
        return retention.in_utc(engine.create(url))
    database = f"file:{quote(str(path.absolute()), errors='surrogateescape')}"
    return engine.create(url.set(database=database, query={**url.query, "mode": "ro", "uri": "true"}))


def hindrance(url: URL, event_store: str) -> Hindrance | None:
    """The first thing that keeps rows out of this database; None where nothing does, or where a file is yet to be made.

    Raises:
        StorageUnavailable: the database cannot be reached.
    """
    path = engine.file_of(url)
    if path is not None:
        if not os.path.exists(path):  # noqa: PTH110  # never raises
            return None
        if (found := _of_file(path)) is not None:
            return found
    asked = opened(url)
    try:
        with asked.connect() as connection:
            return next(_hindrances(connection, _written(event_store)), None)
    except exc.DBAPIError as error:
        raise translate(error) from None
    finally:
        asked.dispose()


def _written(event_store: str) -> dict[str, Sequence[str]]:
    """The columns that the writer fills, by table."""
    outcomes: dict[str, Sequence[str]] = {outcome_events.name: OUTCOME_COLUMNS}
    return outcomes if event_store == "outcomes" else outcomes | {events.name: EVENT_COLUMNS}


def _of_file(path: Path) -> Hindrance | None:
    """The log of SQLite is a file beside: the directory has to be writable as well."""
    if path.is_dir():
        return "it is a directory", _ANOTHER_FILE
    if not os.access(path, os.R_OK | os.W_OK):
        return "the file may not be written", _ANOTHER_FILE
    if not os.access(path.absolute().parent, os.W_OK | os.X_OK):
        return "no file can be made beside it, where SQLite's log has to be", _ANOTHER_FILE
    return None


def _hindrances(connection: Connection, written: Mapping[str, Sequence[str]]) -> Iterator[Hindrance]:
    on_postgresql = connection.dialect.name == "postgresql"
    if on_postgresql:
        yield from _read_only(connection)
        yield from _closed(connection)
    inspector = inspect(connection)
    if not inspector.has_table(VERSION_TABLE):
        yield from _foreign(inspector)
        return
    if on_postgresql:
        yield from _not_granted(connection, written)
    yield from _incomplete(inspector, written)


def _read_only(connection: Connection) -> Iterator[Hindrance]:
    asked = text("SELECT pg_is_in_recovery(), current_setting('transaction_read_only') = 'on'")
    standby, read_only = connection.execute(asked).one()
    if standby:
        yield "the server is a standby and takes no rows", "set CASEYOS_OTEL_DATABASE_URL to the primary"
    if read_only:
        yield "its transactions are read-only", _MAKE_WRITABLE


def _closed(connection: Connection) -> Iterator[Hindrance]:
    """A schema without the right to use it looks as if it had no tables."""
    if connection.scalar(text("SELECT to_regclass(:name) IS NULL"), {"name": outcome_events.name}):
        for name in connection.scalars(_CLOSED_SCHEMAS):
            role = _role(connection)
            yield f"the role {role} may not use the schema {name}", f"GRANT USAGE ON SCHEMA {name} TO {role}"


def _not_granted(connection: Connection, written: Mapping[str, Sequence[str]]) -> Iterator[Hindrance]:
    needed = [(name, right) for name in written for right in ("SELECT", "INSERT")] + [
        (name, "SELECT") for name in _READ
    ]
    asked = text("SELECT has_table_privilege(to_regclass(:name)::oid, :right)")
    # null where there is no such table
    lacking = [(n, r) for n, r in needed if connection.scalar(asked, {"name": n, "right": r}) is False]
    if lacking:
        role = _role(connection)
        said = ", ".join(f"{right} on {name}" for name, right in lacking)
        mend = "; ".join(f"GRANT {right} ON {name} TO {role}" for name, right in lacking)
        yield f"the role {role} lacks the right to {said}", mend


def _role(connection: Connection) -> str:
    return str(connection.scalar(text("SELECT quote_ident(current_user)")))


def _foreign(inspector: Inspector) -> Iterator[Hindrance]:
    for name in metadata.tables:
        if inspector.has_table(name):
            yield f"it has a table {name!r} that is not ours, which stays untouched", _ELSEWHERE


def _incomplete(inspector: Inspector, written: Mapping[str, Sequence[str]]) -> Iterator[Hindrance]:
    mend = "make it as the packaged migrations do; `caseyos-otel db check` tells all that differs"
    for table, columns in written.items():
        if not inspector.has_table(table):
            yield f"the table {table} is missing", mend
            continue
        found = {column["name"]: column for column in inspector.get_columns(table)}
        for name in columns:
            if name not in found:
                yield f"the column {name} of {table} is missing", mend
        for name, column in found.items():
            if name not in metadata.tables[table].columns and not column["nullable"] and column["default"] is None:
                yield f"the column {name} of {table} is not ours and may not be null", "give it a default, or drop it"
