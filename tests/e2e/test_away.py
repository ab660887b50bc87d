"""A process that ends while every destination is away: it ends by itself, and each event is stored or counted as lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.e2e.door import AWAY, Door, Way
from tests.e2e.receiver import GrpcReceiver, OtlpReceiver, Received, Sentry
from tests.e2e.service import INSTRUMENT, cli, environment
from tests.integration.conftest import PostgresServer
from tests.ports import port_of

ENDS_WITHIN_S = 25
"""No promise: OpenTelemetry's providers wait thirty seconds each for a receiver that does not answer."""
PROGRAM = """
import sys
from opentelemetry import trace
from caseyos_otel import flush, track

def work(first):
    for number in range(first, first + 10):
        with trace.get_tracer("service").start_as_current_span("request"):
            track("recommendation_dismissed", recommendation_id=str(number), action_type="send_email", user_id="casey")
            track("outcome_deal_advanced", deal_id=str(number))
            track("action_failed", action_id=str(number), action_type="send_email", error_type="api_error")

if sys.argv[1] != "cold":
    work(0)
    assert flush(30)
    print("warm", flush=True)
    sys.stdin.readline()
if sys.argv[1] == "known":
    work(20)
    flush(1)
work(10)
sys.exit(3)
"""


class World:
    """PostgreSQL, Sentry and a Collector behind doors, and the environment of a service that has them as destinations."""

    def __init__(self, stack: ExitStack, server: PostgresServer, here: Path, protocol: str) -> None:
        self._here = here
        self.url = server.url(server.create_database())
        self.sentry = stack.enter_context(Sentry())
        grpc = protocol == "grpc"
        self.collector: Received = stack.enter_context(GrpcReceiver() if grpc else OtlpReceiver())
        addresses = {
            "CASEYOS_OTEL_DATABASE_URL": self.url,
            "SENTRY_DSN": self.sentry.dsn,
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.collector.endpoint,  # type: ignore[attr-defined]  # both kinds have it
        }
        ports = {name: port_of(each) for name, each in addresses.items()}
        self._doors = {name: stack.enter_context(Door(port)) for name, port in ports.items()}
        behind = {n: addresses[n].replace(f":{ports[n]}", f":{door.port}") for n, door in self._doors.items()}
        self.env = environment(
            here / "state", CASEYOS_OTEL_LOG=os.devnull, CASEYOS_OTEL_SUCCESS_RATIO="1",
            OTEL_EXPORTER_OTLP_PROTOCOL=protocol, **behind,
        )  # fmt: skip
        cli(self.env, "db", "upgrade")

    def become(self, way: Way) -> None:
        for door in self._doors.values():
            door.become(way)

    def end(self, way: Way, begin: str) -> str:
        """Run the program, whose destinations are away when it ends; what it said on standard error."""
        (self._here / "program.py").write_text(PROGRAM)
        self.become(way if begin == "cold" else "open")
        process = subprocess.Popen(
            [INSTRUMENT, sys.executable, str(self._here / "program.py"), begin],
            env=self.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        if begin != "cold":
            assert process.stdout.readline() == "warm\n"
            self.become(way)
        _, said = process.communicate("\n", timeout=ENDS_WITHIN_S)
        assert process.returncode == 3, said
        return said

    def stored(self) -> list[str]:
        """Numbers of what is in the database: outcomes, failures, dismissals, each with its first letter."""
        with psycopg.connect(self.url) as connection:
            found = connection.execute(
                "select 'o' || deal_id from outcome_events union all select case event when 'action_failed'"
                " then 'f' || action_id else 'd' || recommendation_id end from events"
            ).fetchall()
        return sorted(each for (each,) in found)

    def lost(self, destination: str, reasons: tuple[str, ...] = ("shutdown", "undelivered")) -> int:
        [status] = [json.loads(path.read_text()) for path in (self._here / "state" / "status").glob("*.json")]
        return sum(
            drop["n"] for drop in status["dropped"] if drop["destination"] == destination and drop["reason"] in reasons
        )


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def ids(events: list[dict[str, Any]]) -> list[str]:
    return [event["event_id"] for event in events]


@pytest.mark.parametrize(
    ("way", "begin", "protocol"),
    [
        *((way, "warm", "http/protobuf") for way in AWAY),
        ("is silent", "cold", "http/protobuf"),
        ("does not answer", "known", "http/protobuf"),
        ("is silent", "warm", "grpc"),
        ("refuses", "warm", "grpc"),
    ],
)
def test_a_process_ends_though_every_destination_is_away_and_nothing_durable_is_lost(
    way: Way, begin: str, protocol: str, tmp_path: Path, stack: ExitStack, server: PostgresServer
) -> None:
    world = World(stack, server, tmp_path, protocol)
    said = world.end(way, begin)
    assert "Traceback" not in said, said
    numbers = {"cold": range(10, 20), "warm": range(20), "known": range(30)}[begin]
    spans_seen = len(world.collector.spans)
    assert spans_seen + world.lost("spans") == len(numbers)
    lost = {name: world.lost(name) for name in ("outcomes", "otlp")}
    logs_lost = world.lost("sentry", ("shutdown", "destination_full"))
    world.become("open")
    cli(world.env, "spool", "drain", "--timeout", "60")
    stored = world.stored()
    assert [each for each in stored if each[0] != "d"] == sorted(f"{kind}{n}" for kind in "of" for n in numbers)
    assert len(stored) + lost["outcomes"] == 3 * len(numbers), "a dismissal is stored or counted"
    arrived = {record.attributes["caseyos.event.id"] for record in world.collector.records if record.event_name}
    assert len(arrived) + lost["otlp"] >= 3 * len(numbers), "what was given up may have arrived all the same"
    assert len(set(ids(world.sentry.events))) == len(numbers)
    assert len(world.sentry.logs) + logs_lost >= 2 * len(numbers), "dismissals and outcomes"
    assert logs_lost <= 2 * len(numbers)
