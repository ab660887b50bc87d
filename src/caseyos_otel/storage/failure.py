"""What the database said, as the two answers a delivery thread acts on: try again later, or set these rows aside."""

from __future__ import annotations

import re
import sqlite3
from typing import Any, Final

from sqlalchemy import exc

from caseyos_otel.errors import CaseyosOtelError, Rejected, StorageError, Unavailable


class StorageUnavailable(StorageError, Unavailable):  # a state, like errors.Unavailable
    """Nothing is wrong with the rows: the database is away, locked, full, or its schema is missing. Try again later."""


class RowsRejected(StorageError, Rejected):  # an answer, like errors.Rejected
    """The database, or the step that makes rows, refuses these very records. Bisect, and set aside what is left."""


_REFUSED_VALUES: Final = ("22", "23", "54")
"""PostgreSQL's SQLSTATE classes about values: data exception, integrity violation, program limit exceeded."""

_MISSING: Final = ("42P01", "42703")
"""Undefined table, undefined column."""

_UNSTORABLE: Final = (OverflowError, TypeError, ValueError)
"""What is raised for a value before it reaches the database: an integer beyond 64 bits, a text that is not Unicode."""

_REFUSED_BY_SQLITE: Final = (
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
)
"""What SQLite's driver raises for a value. Its OperationalError is about the file: locked, full, no such table."""


def translate(error: Exception) -> StorageUnavailable | RowsRejected:
    """`error` as the answer to it. The text holds no SQL, no parameters and no row contents."""
    if isinstance(error, RowsRejected):
        return error
    if not isinstance(error, CaseyosOtelError) and _about_values(error):
        return RowsRejected(f"the database refuses a row: {first_line(error)}")
    return unavailable(error)


def unavailable(error: Exception) -> StorageUnavailable:
    """`error` as a reason to wait, whatever it is: it came before any row was sent."""
    if isinstance(error, StorageUnavailable):
        return error
    if isinstance(error, CaseyosOtelError):
        return StorageUnavailable(str(error))
    mend = (
        "; `caseyos-otel db check` tells what differs, `db upgrade` makes what is missing"
        if _about_schema(error)
        else ""
    )
    return StorageUnavailable(f"the database cannot be written now: {first_line(error)}{mend}")


def first_line(error: Exception) -> str:
    """What the driver said, without PostgreSQL's DETAIL line, which repeats the row."""
    original: Any = getattr(error, "orig", None) or error
    diagnostic = getattr(original, "diag", None)
    text = getattr(diagnostic, "message_primary", None) or str(original)
    return f"{type(original).__name__}: {text.strip().partition(chr(10))[0]}"


def _about_schema(error: Exception) -> bool:
    """Whether a table or a column is missing."""
    original = getattr(error, "orig", None) or error
    missing = re.search(r"no such table|no such column|has no column named", str(original))
    return getattr(original, "sqlstate", None) in _MISSING or (isinstance(original, sqlite3.Error) and bool(missing))


def _about_values(error: Exception) -> bool:
    """Of the driver's own error, or of SQLAlchemy's around it."""
    original = getattr(error, "orig", None) or error
    if isinstance(error, exc.DBAPIError) and error.connection_invalidated:
        return False
    state = getattr(original, "sqlstate", None)
    if state is not None:
        return str(state).startswith(_REFUSED_VALUES)
    return isinstance(error, exc.DataError) or isinstance(original, _UNSTORABLE + _REFUSED_BY_SQLITE)
