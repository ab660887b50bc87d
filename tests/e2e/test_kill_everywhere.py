"""A process that is killed over and over: what `track()` took reaches a Collector and Sentry too, each event once."""

from __future__ import annotations

import os
import random
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from caseyos_otel.exporters.sentry.payloads import CONTEXT
from tests.e2e.door import Door, Way
from tests.e2e.nursery import PER_CHILD, Nursery
from tests.e2e.receiver import GrpcReceiver, OtlpReceiver
from tests.e2e.service import cli, environment
from tests.integration.bugsink import Bugsink
from tests.integration.conftest import PostgresServer
from tests.ports import port_of

KILLS = 20
PAUSE_S = 0.01
WAYS: tuple[Way, ...] = ("open", "open", "refuses", "open", "is silent")


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_after_every_kill_each_event_is_in_the_database_at_the_collector_and_in_sentry_once(
    protocol: str, tmp_path: Path, server: PostgresServer
) -> None:
    seed = random.randrange(10**6)
    chance = random.Random(seed)
    url = server.url(server.create_database())
    (tmp_path / "bugsink").mkdir()
    with ExitStack() as stack:
        bugsink = stack.enter_context(Bugsink(tmp_path / "bugsink"))
        collector = stack.enter_context(GrpcReceiver() if protocol == "grpc" else OtlpReceiver())
        doors = {name: stack.enter_context(Door(port_of(name))) for name in (bugsink.dsn, collector.endpoint)}
        behind = {name: name.replace(f":{port_of(name)}", f":{door.port}") for name, door in doors.items()}
        env = environment(
            tmp_path / "state", CASEYOS_OTEL_DATABASE_URL=url, SENTRY_DSN=behind[bugsink.dsn], SENTRY_RELEASE="1",
            OTEL_EXPORTER_OTLP_ENDPOINT=behind[collector.endpoint], OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
            CASEYOS_OTEL_FLUSH_INTERVAL_MS="5", CASEYOS_OTEL_LOG=os.devnull,
        )  # fmt: skip
        cli(env, "db", "upgrade")
        nursery = Nursery(tmp_path / "nursery.py", env, PAUSE_S)
        stack.callback(nursery.close)
        returned: list[int] = []
        for child in range(KILLS):
            for door in doors.values():
                door.become(chance.choice(WAYS))
            returned += nursery.bear_and_kill(child, chance.uniform(0.0, 0.4))
        for door in doors.values():
            door.become("open")
        cli(env, "spool", "drain", "--timeout", "90")
        stored = in_database(url)
        assert max(stored.values()) == 1, seed
        assert set(returned) <= stored.keys(), seed
        assert whole(stored), (seed, "a gap")
        assert at_collector(collector) == stored.keys(), seed
        issues = Counter(event.data["contexts"][CONTEXT]["action_id"] for event in bugsink.stored())
    assert {int(number) for number in issues} == {n for n in stored if n % 3 == 0}, seed
    assert max(issues.values()) == 1, seed


def in_database(url: str) -> Counter[int]:
    with psycopg.connect(url) as connection:
        found = connection.execute("select deal_id from outcome_events union all select action_id from events")
        return Counter(int(number) for (number,) in found.fetchall())


def whole(numbers: Counter[int]) -> bool:
    """Whether no number is missing between a child's first and last."""
    first = {number // PER_CHILD: number for number in sorted(numbers, reverse=True)}
    last = {number // PER_CHILD: number for number in sorted(numbers)}
    return len(numbers) == sum(last[child] - first[child] + 1 for child in first)


def at_collector(collector: OtlpReceiver | GrpcReceiver) -> set[int]:
    """Numbers that arrived. What a crash had repeated has the same event id."""
    records = [record.attributes for record in collector.records if record.event_name]
    by_id = {a["caseyos.event.id"]: int(a.get("caseyos.deal.id") or a["caseyos.action.id"]) for a in records}
    assert len(set(by_id.values())) == len(by_id)
    return set(by_id.values())
