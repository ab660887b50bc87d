"""Everything between a service and PostgreSQL is killed or stopped while events flow: each outcome is stored once."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

import httpx
import psycopg

from tests.collector import Collector
from tests.e2e.gateway import SERVE, Gateway
from tests.e2e.service import environment, wait_for
from tests.e2e.tiers import BEHIND, FRONT, TOKEN, services, tiers
from tests.integration.conftest import PostgresServer, postgresql_server  # noqa: F401  # a fixture
from tests.kafka import Broker, wanted

OUTCOMES = ("outcome_reply_received", "outcome_meeting_booked")
PAUSE_S = 2.0
DATABASE_AWAY_S = 60.0 if os.environ.get("CASEYOS_OTEL_REQUIRE_ALL") == "1" else PAUSE_S


class Part(Protocol):
    """What can be away: a Collector, the broker, `serve`, the database."""

    def kill(self) -> None: ...
    def start(self) -> None: ...


class Database(NamedTuple):
    """PostgreSQL, ended as its operator ends it."""

    server: PostgresServer

    def kill(self) -> None:
        self.server.stop()

    def start(self) -> None:
        self.server.start()


class Outage(NamedTuple):
    """While `away` is, `holding` has what it cannot pass on, and is killed too."""

    holding: tuple[Part, ...]
    away: tuple[Part, ...]
    seconds: float = PAUSE_S

    def happen(self) -> None:
        for part in self.away:
            part.kill()
        time.sleep(self.seconds)
        for part in self.holding:
            part.kill()
        time.sleep(PAUSE_S)
        for part in (*self.holding, *self.away):
            part.start()
        time.sleep(PAUSE_S)


def test_outcomes_are_stored_once_whatever_is_killed(
    tmp_path: Path,
    postgresql_server: PostgresServer,  # noqa: F811  # the fixture
) -> None:
    url = postgresql_server.url(postgresql_server.create_database())
    with serving(tmp_path, url) as gateway, tiers(tmp_path, gateway.http) as collectors:
        outages = [
            Outage((collectors.agent,), (collectors.load_balancer,)),
            Outage((collectors.load_balancer,), collectors.gateways),
            Outage(collectors.gateways, (gateway,)),
            Outage((gateway,), (Database(postgresql_server),), DATABASE_AWAY_S),
        ]
        wait_until_stored(url, ask_through(outages, tmp_path, collectors.agent))


def test_outcomes_are_stored_once_with_kafka_between_the_tiers(
    tmp_path: Path,
    postgresql_server: PostgresServer,  # noqa: F811  # the fixture
) -> None:
    wanted()
    url = postgresql_server.url(postgresql_server.create_database())
    with (
        Broker(tmp_path / "broker") as broker,
        serving(tmp_path, url) as gateway,
        tiers(tmp_path, gateway.http, broker.addresses) as collectors,
    ):
        assert collectors.kafka is not None
        outages = [
            Outage((), (broker,)),
            Outage((collectors.agent,), (collectors.kafka,)),
            Outage((collectors.kafka,), (collectors.load_balancer,)),
        ]
        wait_until_stored(url, ask_through(outages, tmp_path, collectors.agent))


@contextmanager
def serving(here: Path, url: str) -> Iterator[Gateway]:
    """`caseyos-otel serve` that writes to the database of this URL, with our tables in it."""
    settings = {"CASEYOS_OTEL_DATABASE_URL": url, "CASEYOS_OTEL_INGEST_TOKEN": TOKEN}
    upgrade = [SERVE, "db", "upgrade"]
    subprocess.run(upgrade, env=environment(here / "upgrade", **settings), check=True, capture_output=True)
    gateway = Gateway(here / "serve", CASEYOS_OTEL_EXPORTERS="outcomes", **settings)
    try:
        gateway.start()
        yield gateway
    finally:
        gateway.kill()


def ask_through(outages: list[Outage], here: Path, agent: Collector) -> int:
    """Ask the services all the time while one outage follows another; how many requests that were."""
    with services(here, agent, {FRONT: "process", BEHIND: "process"}) as client, asking(client) as asked:
        for outage in outages:
            outage.happen()
    return len(asked)


def wait_until_stored(url: str, asked: int) -> None:
    """Each request's outcomes are in the table, once."""
    expected = sorted((event, str(number)) for number in range(asked) for event in OUTCOMES)
    wait_for(lambda: len(stored(url)) >= len(expected), f"not {len(expected)}:", lambda: len(stored(url)), timeout_s=90)
    assert stored(url) == expected


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
