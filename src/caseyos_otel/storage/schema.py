"""Our tables in somebody's database: made and changed by the packaged migrations, nothing else touched.

Alembic is imported where there is something to migrate: a service that only writes never has it in memory.
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, exc, inspect, text

from caseyos_otel.errors import StorageError
from caseyos_otel.storage import partitions
from caseyos_otel.storage.failure import first_line, translate
from caseyos_otel.storage.tables import VERSION_TABLE, metadata

MIGRATIONS: Final = Path(__file__).with_name("migrations")
REVISIONS: Final = tuple(sorted(path.name.partition("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py")))
"""The revisions that this release brings, oldest first: the file of each begins with its name."""

LOCK_TIMEOUT_S: Final = 30
"""How long a process waits for another one that migrates, on PostgreSQL."""

_OURS: Final = re.compile(rf"(?:{'|'.join(metadata.tables)}|{VERSION_TABLE}|events_(?:default|once_per|\d{{4}}_\d\d))")

_ELSEWHERE: Final = (
    "set CASEYOS_OTEL_DATABASE_URL to another database, or on PostgreSQL to a schema of its own "
    "(?options=-csearch_path%3Dcaseyos)"
)

WRITABLE_FROM: Final = "0001"
"""The oldest revision that this release can write to: migrations expand first, and what they add is written a release
later (docs/storage.md). Only a migration that takes something away moves it."""


def upgrade(engine: Engine, to: str = "head") -> None:
    """Bring the tables to this release, and on PostgreSQL make the partitions of this month and the next.

    Safe in several processes at once; needs no right to make tables where nothing is to do.

    `to` is an older revision to stop at. A schema of a newer release stays as it is: releases are made to work on the
    next one's schema.

    Raises:
        StorageUnavailable: the database cannot be reached, or another process holds the lock for too long.
        StorageError: a table of our name belongs to somebody else, or this role may not create tables.
    """
    try:
        if not is_current(engine):
            with engine.connect() as connection, _exclusive(connection):
                _migrate(connection, to)
        if engine.dialect.name == "postgresql":
            partitions.ensure(engine, partitions.wanted(_astray(engine), datetime.now(UTC).date()))
    except exc.DBAPIError as error:
        raise _explained(error) from None


def current(engine: Engine) -> str | None:
    """The revision of this database; None where our tables are not.

    Raises:
        StorageUnavailable: the database cannot be reached.
    """
    try:
        with engine.connect() as connection:
            return _current(connection)
    except exc.DBAPIError as error:
        raise translate(error) from None


def is_current(engine: Engine) -> bool:
    """Whether this database has all that this release needs: its own revision, or that of a newer release."""
    revision = current(engine)
    return revision is not None and (revision == head() or revision not in REVISIONS)


def is_writable(engine: Engine) -> bool:
    """Whether this release can store events in this database: true of a schema that is a release behind or ahead, too.

    Raises:
        StorageUnavailable: the database cannot be reached.
    """
    revision = current(engine)
    return revision is not None and (revision not in REVISIONS or revision >= WRITABLE_FROM)


def head() -> str:
    """The revision this release brings."""
    return REVISIONS[-1]


def include_object(
    object: Any,  # noqa: A002  # Alembic's name for it
    name: str | None,
    type_: str,
    reflected: bool,
    compare_to: Any,
) -> bool:
    """A filter for the host's own `alembic revision --autogenerate`: leaves our tables alone.

    A table of one of our names that the host declares itself stays the host's.

    Example, in the host's env.py:
        >>> context.configure(..., include_object=caseyos_otel.storage.schema.include_object)  # doctest: +SKIP
    """
    only_in_database = type_ == "table" and reflected and compare_to is None
    return not (only_in_database and _OURS.fullmatch(name or ""))


def _migrate(connection: Connection, to: str) -> None:
    """Under the lock: what another process has done in the meantime is seen here."""
    if _current(connection) is None:
        _refuse_foreign(connection)
    from caseyos_otel.storage.migrate import migrate

    migrate(connection, MIGRATIONS, to)


def _astray(engine: Engine) -> list[str]:
    """How the ids in the default partition begin, whose months may be made now; nothing where this role may not look."""
    with suppress(exc.ProgrammingError), engine.connect() as connection:
        return list(connection.scalars(text(f"SELECT DISTINCT left(event_id::text, 8) FROM {partitions.DEFAULT}")))  # noqa: S608  # ours
    return []


def _exclusive(connection: Connection) -> AbstractContextManager[object]:
    """A transaction that only one process at a time is in; what it does is there whole or not at all."""
    transaction = connection.begin()
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": partitions.LOCK})
    else:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    return transaction


def _current(connection: Connection) -> str | None:
    """Read without Alembic, whose context writes two lines into the host's log each time it is made."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    revision: str | None = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608  # ours
    return revision


def _refuse_foreign(connection: Connection) -> None:
    inspector = inspect(connection)
    for name in metadata.tables:
        if inspector.has_table(name):
            raise StorageError(
                f"the database already has a table {name!r} that is not ours, and it stays untouched; {_ELSEWHERE}"
            )


def _explained(error: exc.DBAPIError) -> StorageError:
    if getattr(error.orig, "sqlstate", None) == "42501":
        return StorageError(
            f"this role may not create tables ({first_line(error)}); run caseyos-otel db upgrade once with one that may"
        )
    if getattr(error.orig, "sqlstate", None) == "42P07":  # a partition's name, a sequence, a type: no table of ours
        return StorageError(f"a name that we need is taken and stays untouched ({first_line(error)}); {_ELSEWHERE}")
    return translate(error)
