"""Very many processes that died while the database was away (one task each): only what is for the database waits for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psycopg

from tests.descriptors import descriptors
from tests.e2e.door import Door
from tests.e2e.receiver import Sentry
from tests.e2e.service import INSTRUMENT, cli, environment, wait_for
from tests.integration.conftest import PostgresServer
from tests.ports import port_of

DEAD = 200
DIE = f"""
import os
from caseyos_otel import track

for number in range({DEAD}):
    if os.fork() == 0:
        track("outcome_deal_advanced", deal_id=str(number))
        track("action_failed", action_id=str(number), action_type="send_email", error_type="api_error")
        os._exit(9)
    os.wait()
"""
LIVE = """
import sys
from caseyos_otel import track

track("recommendation_dismissed", recommendation_id="1", action_type="send_email", user_id="casey")
sys.stdin.readline()
"""


def test_a_database_that_is_away_delays_no_failure_of_two_hundred_dead_processes(
    tmp_path: Path, server: PostgresServer
) -> None:
    url = server.url(server.create_database())
    with Sentry() as sentry, Door(port_of(url)) as door:
        env = environment(
            tmp_path / "state", SENTRY_DSN=sentry.dsn, CASEYOS_OTEL_LOG=os.devnull,
            CASEYOS_OTEL_DATABASE_URL=url.replace(f":{port_of(url)}", f":{door.port}"),
        )  # fmt: skip
        cli(env, "db", "upgrade")
        door.become("refuses")
        subprocess.run([INSTRUMENT, sys.executable, "-c", DIE], env=env, check=True, capture_output=True, timeout=120)
        [spool] = (tmp_path / "state" / "spool").iterdir()
        assert len(list(spool.iterdir())) == DEAD
        with subprocess.Popen([INSTRUMENT, sys.executable, "-c", LIVE], env=env, stdin=subprocess.PIPE) as living:
            try:
                wait_for(lambda: len(issues(sentry)) == DEAD, "failures are held up:", lambda: len(issues(sentry)), 60)
                assert len(list(spool.iterdir())) == DEAD, "outcomes wait in all of them"
                assert len(descriptors(spool, living.pid)) <= 2 * 64
                door.become("open")
                wait_for(lambda: outcomes(url) == [*range(DEAD)], "not stored once each:", lambda: outcomes(url), 60)
                wait_for(lambda: not list(spool.iterdir()), "left behind:", lambda: list(spool.iterdir()), 60)
            finally:
                living.communicate(b"\n", timeout=30)
        assert len(issues(sentry)) == DEAD


def issues(sentry: Sentry) -> list[str]:
    return [event["event_id"] for event in sentry.events]


def outcomes(url: str) -> list[int]:
    with psycopg.connect(url) as connection:
        return [
            int(number) for (number,) in connection.execute("select deal_id from outcome_events order by deal_id::int")
        ]
