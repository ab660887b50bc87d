from __future__ import annotations

import sqlite3

import pytest
from sqlalchemy import exc

from caseyos_otel.errors import Rejected, StorageError, Unavailable
from caseyos_otel.storage.failure import RowsRejected, StorageUnavailable, translate


def wrapped(error: sqlite3.Error, as_: type[exc.DBAPIError]) -> exc.DBAPIError:
    return as_("INSERT INTO outcome_events VALUES (?)", ("john@acme.example",), error)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (wrapped(sqlite3.OperationalError("database is locked"), exc.OperationalError), StorageUnavailable),
        (wrapped(sqlite3.OperationalError("database or disk is full"), exc.OperationalError), StorageUnavailable),
        (wrapped(sqlite3.DatabaseError("file is not a database"), exc.DatabaseError), StorageUnavailable),
        (wrapped(sqlite3.DataError("string or blob too big"), exc.DataError), RowsRejected),
        (wrapped(sqlite3.IntegrityError("NOT NULL constraint failed"), exc.IntegrityError), RowsRejected),
        (exc.TimeoutError("QueuePool limit"), StorageUnavailable),
        (OverflowError("Python int too large to convert to SQLite INTEGER"), RowsRejected),
        (OSError("no route to host"), StorageUnavailable),
        (StorageError("the database already has a table"), StorageUnavailable),
    ],
)
def test_an_error_is_either_a_reason_to_wait_or_to_set_aside(error: Exception, expected: type[StorageError]) -> None:
    answer = translate(error)
    assert type(answer) is expected
    assert isinstance(answer, Unavailable if expected is StorageUnavailable else Rejected)
    assert "john" not in str(answer)
    assert "INSERT" not in str(answer)


@pytest.mark.parametrize(
    "said",
    ["no such table: outcome_events", "table outcome_events has no column named client", "no such column: client"],
)
def test_a_missing_table_or_column_is_a_reason_to_wait_and_told_how_to_mend(said: str) -> None:
    for error in (sqlite3.OperationalError(said), wrapped(sqlite3.OperationalError(said), exc.OperationalError)):
        answer = translate(error)
        assert type(answer) is StorageUnavailable
        assert str(answer).startswith(
            f"the database cannot be written now: OperationalError: {said}; `caseyos-otel db check`"
        )


def test_the_drivers_own_error_is_answered_as_sqlalchemys_around_it() -> None:
    assert type(translate(sqlite3.IntegrityError("NOT NULL constraint failed"))) is RowsRejected
    locked = translate(sqlite3.OperationalError("database is locked"))
    assert type(locked) is StorageUnavailable
    assert "db check" not in str(locked)


def test_an_answer_stays_the_answer() -> None:
    answer = RowsRejected("because")
    assert translate(answer) is answer
