"""`track(…, session=)`: the outcome lives and dies with the caller's transaction, and everything else follows it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.receiver import OtlpReceiver
from tests.e2e.service import Finished, cli, environment, rows, run
from tests.ports import free_port

SETUP = """
import asyncio
import caseyos_otel
from caseyos_otel import track, bind, flush, StorageError, InvalidEventError
from caseyos_otel.settings import load
from caseyos_otel.storage import engine, schema
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

url = load().effective_database_url
schema.upgrade(engine.create(engine.parse_url(url)))
database = create_engine(url)
with database.begin() as connection:
    connection.execute(text("create table deals (id text)"))
"""


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def program(tmp_path: Path, state: Path, body: str, **settings: str) -> Finished:
    path = tmp_path / "program.py"
    path.write_text(SETUP + body)
    done = run(path, environment(state, **settings))
    assert done.returncode == 0, done.stderr
    return done


def test_a_commit_stores_the_row_and_then_logs_it(tmp_path: Path, state: Path) -> None:
    done = program(
        tmp_path,
        state,
        """
with Session(database) as session, bind(recommendation_id="r1"):
    session.execute(text("insert into deals values ('d1')"))
    track("outcome_deal_advanced", deal_id="d1", pipeline_value=50000, session=session)
    print("before commit", flush(5))
    session.commit()
print("after commit", flush(5))
""",
    )
    printed = [line if not line.startswith("{") else "event" for line in done.stdout.splitlines()]
    assert printed == ["before commit True", "event", "after commit True"]
    assert done.lines[0]["deal_id"] == "d1"
    assert rows(state, "select deal_id, recommendation_id, pipeline_value from outcome_events") == [
        ("d1", "r1", 50000.0)
    ]
    assert rows(state, "select event_id from outcome_events") == [(done.lines[0]["event_id"],)]


def test_after_a_commit_a_receiver_that_is_away_gets_it_from_the_next_process_and_the_table_has_it_once(
    tmp_path: Path, state: Path
) -> None:
    """Killed as soon as the commit has returned."""
    body = """
with Session(database) as session:
    track("outcome_deal_advanced", deal_id="d1", session=session)
    session.commit()
import os
os._exit(0)
"""
    away = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}", "OTEL_TRACES_EXPORTER": "none"}
    program(tmp_path, state, body, **away)
    with OtlpReceiver() as receiver:
        cli(environment(state, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint), "spool", "drain")
        assert [record.event_name for record in receiver.records] == ["caseyos.outcome.deal_advanced"]
    assert rows(state, "select deal_id from outcome_events") == [("d1",)]
    assert not list((state / "spool").rglob("set-aside*"))


def test_a_rollback_leaves_no_event_and_is_counted(tmp_path: Path, state: Path) -> None:
    done = program(
        tmp_path,
        state,
        """
with Session(database) as session:
    session.execute(text("insert into deals values ('d1')"))
    track("outcome_deal_advanced", deal_id="d1", session=session)
    session.rollback()
from caseyos_otel.diagnostics import drops
print(flush(5), drops.by_reason()["discarded"])
""",
    )
    assert done.stdout == "True 1\n"
    assert rows(state, "select 1 from outcome_events") == []


def test_a_savepoint_that_is_rolled_back_discards_only_what_was_tracked_inside_it(tmp_path: Path, state: Path) -> None:
    done = program(
        tmp_path,
        state,
        """
with Session(database) as session, session.begin():
    track("outcome_deal_advanced", deal_id="outer", session=session)
    try:
        with session.begin_nested():
            track("outcome_deal_advanced", deal_id="inner", session=session)
            raise KeyError
    except KeyError:
        pass
    track("outcome_deal_advanced", deal_id="later", session=session)
""",
    )
    assert [line["deal_id"] for line in done.lines] == ["outer", "later"]
    assert sorted(rows(state, "select deal_id from outcome_events")) == [("later",), ("outer",)]


def test_an_async_session_does_the_same(tmp_path: Path, state: Path) -> None:
    done = program(
        tmp_path,
        state,
        """
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

async def main():
    asynchronous = create_async_engine(url.replace("sqlite://", "sqlite+aiosqlite://"))
    async with AsyncSession(asynchronous) as session:
        await session.execute(text("insert into deals values ('d1')"))
        track("outcome_deal_advanced", deal_id="kept", session=session)
        await session.commit()
        track("outcome_deal_advanced", deal_id="gone", session=session)
        await session.rollback()
    await asynchronous.dispose()

asyncio.run(main())
""",
    )
    assert [line["deal_id"] for line in done.lines] == ["kept"]
    assert rows(state, "select deal_id from outcome_events") == [("kept",)]


def test_once_per_through_a_session_is_stored_once(tmp_path: Path, state: Path) -> None:
    program(
        tmp_path,
        state,
        """
for _ in range(2):
    with Session(database) as session, session.begin():
        track("outcome_deal_advanced", deal_id="d1", once_per="d1", session=session)
track("outcome_deal_advanced", deal_id="d1", once_per="d1")
""",
    )
    assert rows(state, "select deal_id from outcome_events") == [("d1",)]


def test_what_cannot_work_is_a_clear_error_at_the_call(tmp_path: Path, state: Path) -> None:
    done = program(
        tmp_path,
        state,
        """
other = create_engine("sqlite://")
with Session(other) as session:
    try:
        track("outcome_deal_advanced", deal_id="d1", session=session)
    except StorageError as error:
        print("StorageError:", error)
with Session(database) as session:
    try:
        track("recommendation_viewed", user_id="casey", recommendations_shown=1, session=session)
    except InvalidEventError as error:
        print("InvalidEventError:", error)
""",
    )
    first, second = done.stdout.splitlines()
    assert first.startswith("StorageError:")
    assert "lacks our table" in first
    assert "db upgrade" in first
    assert second == "InvalidEventError: track('recommendation_viewed', session=…): only outcomes go into a transaction"
