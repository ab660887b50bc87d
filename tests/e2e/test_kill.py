"""A process that is killed at any moment, over and over: what `track()` took is in PostgreSQL once (DESIGN 8.2)."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Literal

import psycopg
import pytest

from caseyos_otel.events.registry import registry
from caseyos_otel.otlp.decode import decode
from caseyos_otel.spool import quarantine
from caseyos_otel.spool.segment import HEADER_SIZE, Damage, Record, scan
from tests.e2e.nursery import PER_CHILD, Nursery
from tests.e2e.service import cli, environment, run, wait_for
from tests.integration.conftest import PostgresServer
from tests.ports import free_port

KILLS = 200
DAMAGED = 40


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def env(state: Path, server: PostgresServer) -> dict[str, str]:
    """Of a service whose database is the server's, with our tables."""
    made = environment(
        state, CASEYOS_OTEL_DATABASE_URL=server.url(server.create_database()), CASEYOS_OTEL_FLUSH_INTERVAL_MS="5"
    )
    cli(made, "db", "upgrade")
    return made


def stored(env: dict[str, str]) -> Counter[int]:
    """How often each number is in the database."""
    with psycopg.connect(env["CASEYOS_OTEL_DATABASE_URL"]) as connection:
        outcomes = connection.execute("select deal_id from outcome_events").fetchall()
        failures = connection.execute("select action_id from events").fetchall()
    return Counter(int(number) for (number,) in (*outcomes, *failures))


def drained(env: dict[str, str]) -> None:
    cli(env, "spool", "drain", "--timeout", "60", "--json")


def test_nothing_is_lost_and_nothing_doubled_by_killing_with_the_database_up_down_and_restarting(
    tmp_path: Path, env: dict[str, str], server: PostgresServer, state: Path
) -> None:
    seed = random.randrange(10**6)
    chance = random.Random(seed)
    nursery = Nursery(tmp_path / "nursery.py", env)
    returned: list[list[int]] = []
    try:
        for child in range(KILLS):
            if child % 10 == 4 and server.process is not None:
                server.stop()
            elif child % 10 == 7 and server.process is None:
                server.start()
            returned.append(nursery.bear_and_kill(child, chance.uniform(0.0, 0.25)))
    finally:
        nursery.close()
    if server.process is None:
        server.start()
    drained(env)
    found = stored(env)
    assert max(found.values()) == 1, seed
    assert {n for numbers in returned for n in numbers} - found.keys() == set(), seed
    for child, numbers in enumerate(returned):
        own = sorted(n for n in found if n // PER_CHILD == child)
        assert own == list(range(child * PER_CHILD, own[-1] + 1)), (seed, "a gap")
        assert own[-1] - numbers[-1] in (0, 1), (seed, "one may have been written whose call had not returned")
    assert not list(state.rglob("*.seg"))


def test_of_a_damaged_spool_only_the_damaged_record_is_missing_and_it_is_in_quarantine(
    tmp_path: Path, env: dict[str, str], server: PostgresServer, state: Path
) -> None:
    seed = random.randrange(10**6)
    chance = random.Random(seed)
    away = {**env, "CASEYOS_OTEL_DATABASE_URL": f"postgresql://nobody@127.0.0.1:{free_port()}/nothing"}
    nursery = Nursery(tmp_path / "nursery.py", away)
    expected: set[int] = set()
    pieces = 0
    root = state / "spool" / "under-test"
    try:
        for child in range(DAMAGED):
            written = nursery.bear_and_kill(child, chance.uniform(0.0, 0.1), at_least=2)  # the second is an outcome
            segment, records = outcomes_of(root, child)
            at = chance.randrange(len(records))
            expected |= set(written) | {number for number, _ in records}
            expected -= {number for number, _ in (records[at:] if child % 2 else records[at : at + 1])}
            damage(segment, records[at][1], chance, ("flip", "cut", "flip", "zero")[child % 4])
            pieces += sum(damaged_stretches(path) for path in segment.parent.glob("*.seg"))
    finally:
        nursery.close()
    drained(env)
    found = stored(env)
    assert max(found.values()) == 1, seed
    assert expected - found.keys() == set(), seed
    unsaid = found.keys() - expected
    assert {n % 3 for n in unsaid} <= {0}, (seed, "a failure may have been written whose call had not returned")
    assert len({n // PER_CHILD for n in unsaid}) == len(unsaid), seed
    assert len(quarantine.files(root)) == pieces >= DAMAGED, seed


def outcomes_of(root: Path, child: int) -> tuple[Path, list[tuple[int, Record]]]:
    """The segment of a child's outcomes, and its numbers with their records."""
    for segment in root.glob("*/outcomes-00000001.seg"):
        records = [item for item in scan(segment.read_bytes(), HEADER_SIZE) if isinstance(item, Record)]
        numbered = [(int(decode(r.payload, registry)[0].values["deal_id"]), r) for r in records[:1]]
        if numbered and numbered[0][0] // PER_CHILD == child:
            return segment, [(int(decode(r.payload, registry)[0].values["deal_id"]), r) for r in records]
    raise AssertionError(f"child {child} left no outcomes")


def damaged_stretches(segment: Path) -> int:
    """What we did to it, and what a kill in the middle of a write did (the kernel copies page by page)."""
    return sum(isinstance(item, Damage) for item in scan(segment.read_bytes(), HEADER_SIZE))


def damage(segment: Path, record: Record, chance: random.Random, how: Literal["flip", "cut", "zero"]) -> None:
    """End a segment in the middle of a record, as a file or by the zeros that it was filled with, or flip one bit."""
    content = bytearray(segment.read_bytes())
    place = chance.randrange(record.offset + 1, record.end)
    if how == "cut":
        del content[place:]
    elif how == "zero":
        content[place:] = bytes(len(content) - place)
    else:
        content[place] ^= 1 << chance.randrange(8)
    segment.write_bytes(content)


DISK_FULL = """
import os, resource, signal, sys, time
from caseyos_otel import track, flush
for number in range(2000):
    if number == 50:
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, resource.RLIM_INFINITY))
    track("outcome_deal_advanced", deal_id=str(number))
print("flushed", flush(20))
"""


def test_a_full_disk_is_reported_and_costs_nothing_while_the_process_lives(
    tmp_path: Path, env: dict[str, str], state: Path
) -> None:
    """The kernel refuses what goes beyond the file size limit, as a full disk does."""
    program = tmp_path / "program.py"
    program.write_text(DISK_FULL)
    done = run(program, {**env, "CASEYOS_OTEL_LOG": "/dev/null", "CASEYOS_OTEL_FLUSH_INTERVAL_MS": "100"})
    assert (done.returncode, done.stdout) == (0, "flushed True\n"), done.stderr
    assert sorted(stored(env)) == list(range(2000))
    assert done.stderr.count("durable events stay in memory until then") == 1, done.stderr
    [status] = [json.loads(path.read_text()) for path in (state / "status").glob("*.json")]
    assert any(drop["reason"] == "spool_unavailable" for drop in status["dropped"])


def test_a_database_that_goes_and_comes_back_under_load_costs_nothing(
    tmp_path: Path, env: dict[str, str], server: PostgresServer
) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\nfrom caseyos_otel import track, flush\n"
        "for line in sys.stdin:\n"
        "    for number in range(int(line), int(line) + 500):\n"
        "        track('outcome_deal_advanced', deal_id=str(number))\n"
        "    print('ok', flush=True)\n"
    )
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name("opentelemetry-instrument")), sys.executable, str(program)],
        env={**env, "CASEYOS_OTEL_LOG": "/dev/null"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    for round_ in range(6):
        if round_ == 1:
            server.stop()
        if round_ == 4:
            server.start()
        process.stdin.write(f"{round_ * 500}\n")
        process.stdin.flush()
        assert process.stdout.readline() == "ok\n"
        time.sleep(0.3)
    wait_for(lambda: len(stored(env)) == 3000, "not all stored:", timeout_s=40)
    process.stdin.close()
    assert process.wait(20) == 0
    assert max(stored(env).values()) == 1
