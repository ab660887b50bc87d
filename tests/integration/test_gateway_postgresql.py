"""The gateway with PostgreSQL: killed and restarted, the database away, retention in one of two."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, insert, text

from caseyos_otel.gateway.retention import HELD_FOR, WORK, DailyRetention
from caseyos_otel.settings import load
from caseyos_otel.storage import engine, lease, schema
from caseyos_otel.storage.tables import outcome_events
from tests.e2e.gateway import reply, request_of, serving
from tests.e2e.service import wait_for


@pytest.fixture
def opened(database_url: str) -> Iterator[Engine]:
    made = engine.create(engine.parse_url(database_url))
    schema.upgrade(made)
    yield made
    made.dispose()


def _stored(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        return sorted(row[0] for row in connection.execute("SELECT recommendation_id FROM outcome_events"))


def test_two_gateways_killed_by_turns_store_everything_once(tmp_path: Path, postgresql_url: str) -> None:
    schema.upgrade(engine.create(engine.parse_url(postgresql_url)))
    variables = {"CASEYOS_OTEL_DATABASE_URL": postgresql_url}
    expected = []
    with serving(tmp_path / "a", **variables) as a, serving(tmp_path / "b", **variables) as b:
        for turn in range(6):
            for n in range(20):
                names = [f"{turn}-{n}-{i}" for i in range(5)]
                body = request_of(*(reply(name) for name in names)).SerializeToString()
                for gateway in (a, b):  # a sender that got no answer sends the same to another one
                    assert gateway.post("/v1/logs", body).status == 200
                expected += [f"r{name}" for name in names]
            victim = (a, b)[turn % 2]
            victim.kill()
            victim.start()
        wait_for(lambda: len(_stored(postgresql_url)) >= len(expected), "not stored:", a.log.read_text)
        wait_for(lambda: not _waiting(a) and not _waiting(b), "something still waits")
    assert _stored(postgresql_url) == sorted(expected)


def _waiting(gateway: Any) -> bool:
    return any(n > 0 for name, n in gateway.metrics().items() if name.startswith("caseyos_otel_spool_oldest_age"))


def test_what_comes_while_the_database_is_away_is_stored_when_it_is_back(
    tmp_path: Path, postgresql_server: Any
) -> None:
    url = postgresql_server.url(postgresql_server.create_database())
    schema.upgrade(engine.create(engine.parse_url(url)))
    with serving(tmp_path / "state", CASEYOS_OTEL_DATABASE_URL=url) as gateway:
        assert gateway.post("/v1/logs", request_of(reply("before")).SerializeToString()).status == 200
        wait_for(lambda: _stored(url) == ["rbefore"], "not stored:", gateway.log.read_text)
        postgresql_server.stop()
        try:
            assert gateway.post("/v1/logs", request_of(reply("away")).SerializeToString()).status == 200
            wait_for(lambda: "is away" in gateway.log.read_text(), "it does not say that the database is away")
        finally:
            postgresql_server.start()
        wait_for(lambda: _stored(url) == ["raway", "rbefore"], "not stored:", gateway.log.read_text, timeout_s=45)


class TestLease:
    def test_one_of_two_gets_it(self, opened: Engine) -> None:
        assert lease.take(opened, WORK, "a", HELD_FOR)
        assert not lease.take(opened, WORK, "b", HELD_FOR)
        assert lease.take(opened, WORK, "a", HELD_FOR)
        assert lease.take(opened, "other work", "b", HELD_FOR)

    def test_it_ends_by_itself_or_is_given_back(self, opened: Engine) -> None:
        assert lease.take(opened, WORK, "a", timedelta(seconds=-1))
        assert lease.take(opened, WORK, "b", HELD_FOR)
        lease.give_back(opened, WORK, "a")  # not its own any more
        assert not lease.take(opened, WORK, "c", HELD_FOR)
        lease.give_back(opened, WORK, "b")
        assert lease.take(opened, WORK, "c", HELD_FOR)


class TestDailyRetention:
    def _settings(self, url: str, tmp_path: Path) -> Any:
        return load({"CASEYOS_OTEL_DATABASE_URL": url, "CASEYOS_OTEL_STATE_DIR": str(tmp_path)})

    def _old_outcome(self, opened: Engine) -> None:
        moment = datetime.now(UTC) - timedelta(days=400)
        row = {
            "event_id": "00000000-0000-8000-8000-000000000001", "event": "outcome_reply_received",
            "occurred_at": moment, "received_at": moment, "properties": {},
        }  # fmt: skip
        with opened.begin() as connection:
            connection.execute(insert(outcome_events).values(row))

    def _count(self, opened: Engine) -> int:
        with opened.connect() as connection:
            return int(connection.execute(text("SELECT count(*) FROM outcome_events")).scalar_one())

    def test_it_runs_once_a_day_in_one_of_two(self, opened: Engine, database_url: str, tmp_path: Path) -> None:
        self._old_outcome(opened)
        settings = self._settings(database_url, tmp_path)
        first, second = (DailyRetention(settings, str, holder) for holder in ("first", "second"))
        assert [first(), second(), first()] == [True, False, False]
        assert self._count(opened) == 0

    def test_it_runs_whatever_the_database_is_set_to(self, postgresql_url: str, tmp_path: Path) -> None:
        opened = engine.create(engine.parse_url(postgresql_url))
        schema.upgrade(opened)
        self._old_outcome(opened)
        with opened.begin() as connection:
            connection.execute(text(f"ALTER DATABASE {opened.url.database} SET DateStyle = 'SQL, DMY'"))
        once = DailyRetention(self._settings(postgresql_url, tmp_path), str)
        assert [once(), once()] == [True, False]
        assert self._count(opened) == 0
        opened.dispose()

    def test_it_leaves_the_work_to_whoever_does_it(self, opened: Engine, database_url: str, tmp_path: Path) -> None:
        self._old_outcome(opened)
        assert lease.take(opened, WORK, "another", HELD_FOR)
        assert not DailyRetention(self._settings(database_url, tmp_path), str, "this")()
        assert self._count(opened) == 1

    def test_every_gateway_forgets_what_it_set_aside_too_long_ago_once_a_day(self, tmp_path: Path) -> None:
        settings = self._settings("postgresql://nobody@127.0.0.1:1/nothing", tmp_path)
        at = settings.spool_path / "set-aside.jsonl"
        at.parent.mkdir(parents=True)
        daily = DailyRetention(settings, str)
        for left in (False, True):
            at.write_text('{"set_aside_at": 1.0, "reason": "undeclared", "event": "a"}\n')
            assert not daily()
            assert at.exists() is left

    def test_a_database_that_is_away_is_no_fault(self, tmp_path: Path) -> None:
        settings = self._settings("postgresql://nobody@127.0.0.1:1/nothing", tmp_path)
        assert not DailyRetention(settings, str)()
