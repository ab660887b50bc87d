"""Everything between a service and PostgreSQL is killed or stopped while events flow: each outcome is stored once."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg

from tests.e2e.gateway import SERVE, Gateway
from tests.e2e.service import environment, wait_for
from tests.e2e.tiers import BEHIND, FRONT, TOKEN, Tiers, services, tiers
from tests.integration.conftest import PostgresServer, postgresql_server  # noqa: F401  # a fixture

OUTCOMES = ("outcome_reply_received", "outcome_meeting_booked")
PAUSE_S = 2.0
OUTAGE_S = 5.0


def test_outcomes_are_stored_once_whatever_is_killed(
    tmp_path: Path,
    postgresql_server: PostgresServer,  # noqa: F811  # the fixture
) -> None:
    url = postgresql_server.url(postgresql_server.create_database())
    settings = {"CASEYOS_OTEL_DATABASE_URL": url, "CASEYOS_OTEL_INGEST_TOKEN": TOKEN}
    env = environment(tmp_path / "upgrade", **settings)
    subprocess.run([SERVE, "db", "upgrade"], env=env, check=True, capture_output=True)
    gateway = Gateway(tmp_path / "serve", CASEYOS_OTEL_EXPORTERS="outcomes", **settings)
    try:
        gateway.start()
        with (
            tiers(tmp_path, gateway.http) as collectors,
            services(tmp_path, collectors.agent, {FRONT: "process", BEHIND: "process"}) as client,
        ):
            with asking(client) as asked:
                for outage in outages(collectors, gateway, postgresql_server):
                    outage()
                    time.sleep(PAUSE_S)
            expected = sorted((event, str(number)) for number in range(len(asked)) for event in OUTCOMES)
            wait_for(
                lambda: len(stored(url)) >= len(expected),
                "outcomes do not arrive:",
                lambda: (len(stored(url)), len(expected)),
                timeout_s=90,
            )
            assert stored(url) == expected
    finally:
        gateway.kill()


def outages(collectors: Tiers, gateway: Gateway, database: PostgresServer) -> list[Callable[[], None]]:
    """Each ends what it names and brings it back."""

    def killed(what: Any) -> Callable[[], None]:
        return lambda: (what.kill(), time.sleep(PAUSE_S), what.start())  # type: ignore[return-value]

    def stopped() -> None:
        database.stop()
        time.sleep(OUTAGE_S)
        database.start()

    tiers_in_order = (collectors.agent, collectors.load_balancer, *collectors.gateways)
    return [*(killed(collector) for collector in tiers_in_order), killed(gateway), stopped]


@contextmanager
def asking(client: httpx.Client) -> Iterator[list[str]]:
    """Ask the first service all the time; the answers, in their order."""
    answers: list[str] = []
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            answers.append(client.get(f"/fine/{len(answers)}").raise_for_status().json())

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield answers
    finally:
        ended.set()
        thread.join(60)


def stored(url: str) -> list[tuple[str, str]]:
    """Every outcome in the table: its event, and the number of the request that it is of."""
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT event, recommendation_id FROM outcome_events").fetchall()
    return sorted((str(event), str(number)) for event, number in rows)
