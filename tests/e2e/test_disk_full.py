"""A disk that is really full, with the spool, the log file and the whole state directory on it (DESIGN 8.2)."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.disk import SmallDisk
from tests.e2e.door import Door
from tests.e2e.service import INSTRUMENT, cli, environment, wait_for
from tests.integration.conftest import PostgresServer
from tests.ports import port_of

PROGRAM = """
import sys
from caseyos_otel import flush, track
from caseyos_otel.diagnostics import drops

def not_spooled():
    return drops.by_reason().get("spool_unavailable", 0)

number = 0
for line in sys.stdin:
    if line.startswith("flush"):
        print(flush(float(line.split()[1])), flush=True)
        continue
    for number in range(number, number + int(line)):
        before = not_spooled()
        if number % 2:
            track("action_failed", action_id=str(number), action_type="send_email", error_message="x" * 300)
        else:
            track("outcome_deal_advanced", deal_id=str(number), client="x" * 300)
        print(number, "memory" if not_spooled() > before else "spooled")
    number += 1
    print("done", flush=True)
"""
FILLER = 2**19


class Service:
    """The program on a disk of 2 MiB, a quarter of which somebody else's file takes; its database is away at first."""

    def __init__(self, disk: SmallDisk, env: dict[str, str], program: Path, said: Path) -> None:
        self._said = said
        with said.open("w") as stderr:
            self.process = subprocess.Popen(
                disk.enter([INSTRUMENT, sys.executable, str(program)]),
                env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True,
            )  # fmt: skip
        self.fates: dict[int, str] = {}

    def track(self, events: int) -> list[str]:
        """Let it track so many; what became of each."""
        self._tell(str(events))
        fates = []
        while (line := self._answer()) != "done":
            number, fate = line.split()
            self.fates[int(number)] = fate
            fates.append(fate)
        return fates

    def flush(self, timeout_s: float) -> bool:
        self._tell(f"flush {timeout_s}")
        return self._answer() == "True"

    def spooled(self) -> list[int]:
        return sorted(number for number, fate in self.fates.items() if fate == "spooled")

    def end(self) -> str:
        """Let it end by itself; what it said on standard error."""
        self.process.communicate(timeout=30)
        assert self.process.returncode == 0, self._said.read_text()
        return self._said.read_text()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def _tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def _answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self._said.read_text()
        return line.strip()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with SmallDisk(tmp_path / "disk", mebibytes=2) as disk:
        yield disk


@pytest.fixture
def url(server: PostgresServer) -> str:
    """A database with our tables."""
    url = server.url(server.create_database())
    cli(environment(Path("/nowhere"), CASEYOS_OTEL_DATABASE_URL=url), "db", "upgrade")
    return url


@pytest.fixture
def door(url: str) -> Iterator[Door]:
    with Door(port_of(url), "refuses") as door:
        yield door


@pytest.fixture
def env(disk: SmallDisk, url: str, door: Door) -> dict[str, str]:
    return environment(
        disk.inside / "state",
        CASEYOS_OTEL_LOG=str(disk.inside / "log.jsonl"),
        CASEYOS_OTEL_DATABASE_URL=url.replace(f":{port_of(url)}", f":{door.port}"),
        CASEYOS_OTEL_PII_KEY="a key of the test",
    )


@pytest.fixture
def service(disk: SmallDisk, env: dict[str, str], tmp_path: Path) -> Iterator[Service]:
    """It has tracked until its disk was full, and some more."""
    (tmp_path / "program.py").write_text(PROGRAM)
    (disk.path / "filler").write_bytes(bytes(FILLER))
    service = Service(disk, env, tmp_path / "program.py", tmp_path / "said")
    try:
        while "memory" not in service.track(200):
            assert len(service.fates) < 20_000
        service.track(200)
        assert not service.flush(1), "the database is away"
        assert is_full(disk)
        yield service
    finally:
        service.kill()


def is_full(disk: SmallDisk) -> bool:
    try:
        (disk.path / "one more").write_bytes(bytes(2**16))
    except OSError as error:
        return error.errno == errno.ENOSPC
    finally:
        (disk.path / "one more").unlink()
    return False


def stored(url: str) -> list[int]:
    """Numbers in the database, as often as they are there."""
    with psycopg.connect(url) as connection:
        found = connection.execute("select deal_id from outcome_events union all select action_id from events")
        return sorted(int(number) for (number,) in found)


def logged(disk: SmallDisk) -> tuple[list[int], int]:
    """Numbers of the lines in the log file, and how many lines are no JSON."""
    numbers, torn = [], 0
    for line in (disk.path / "log.jsonl").read_text().splitlines():
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            torn += 1
            continue
        numbers.append(int(event.get("deal_id") or event["action_id"]))
    return numbers, torn


def dropped(disk: SmallDisk, reason: str) -> int:
    [status] = [json.loads(path.read_text()) for path in (disk.path / "state" / "status").glob("*.json")]
    found: list[dict[str, Any]] = status["dropped"]
    return sum(drop["n"] for drop in found if drop["reason"] == reason)


def test_a_full_disk_is_said_once_and_costs_no_event_of_a_process_that_lives(
    disk: SmallDisk, service: Service, url: str, door: Door
) -> None:
    (disk.path / "filler").unlink()
    later = service.track(50)
    assert later == ["spooled"] * 50, "there is room again"
    door.become("open")
    assert service.flush(30)
    said = service.end()
    assert stored(url) == sorted(service.fates)
    assert said.count("No space left on device") >= 1, said
    assert said.count("durable events stay in memory until then") == 1, said
    assert said.count("the structured log cannot be written") == 1, said
    assert "Traceback" not in said, said
    assert dropped(disk, "spool_unavailable") == len(service.fates) - len(service.spooled())
    numbers, torn = logged(disk)
    assert len(numbers) == len(set(numbers)) == len(service.fates) - dropped(disk, "rejected")
    assert numbers[-50:] == sorted(service.fates)[-50:], "what was torn took no later line with it"
    assert torn <= 1


def test_of_a_process_that_is_killed_on_a_full_disk_everything_that_was_spooled_arrives_once(
    disk: SmallDisk, service: Service, env: dict[str, str], url: str, door: Door
) -> None:
    service.kill()
    (disk.path / "filler").unlink()
    door.become("open")
    drain = disk.enter([str(Path(sys.executable).with_name("caseyos-otel")), "spool", "drain", "--timeout", "30"])
    wait_for(lambda: subprocess.run(drain, env=env, check=False).returncode == 0, "not drained")
    assert stored(url) == service.spooled()
