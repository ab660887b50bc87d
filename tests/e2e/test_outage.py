"""A database that is away for a minute under load: nothing durable is lost or doubled, and memory stays bounded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import psycopg

from caseyos_otel.exporters.owed import MEMORY
from tests.e2e.service import INSTRUMENT, cli, environment, wait_for
from tests.integration.conftest import PostgresServer

OUTAGE_S: Final = 60
RECORD_BYTES: Final = 2_000
"""More than one waiting event takes with all that belongs to it."""
ELSEWHERE_BYTES: Final = 32 * 2**20
"""Batches of the spool (1 MiB) as records and rows, SQLAlchemy's and the allocator's own, a log that is being written."""
PROGRAM: Final = """
import sys, threading, time
from caseyos_otel import flush, track

stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
step = 0
while not stop.wait(0.02):
    for number in range(step * 40, step * 40 + 40):
        track("recommendation_dismissed", recommendation_id=str(number), action_type="send_email", user_id="casey")
    for number in range(step * 4, step * 4 + 4):
        track("outcome_deal_advanced", deal_id=str(number), pipeline_value=number)
    track("action_failed", action_id=str(step), action_type="send_email", error_type="api_error")
    step += 1
print(step, flush(60))
"""


def test_a_minute_without_a_database_costs_neither_events_nor_memory(tmp_path: Path, server: PostgresServer) -> None:
    url = server.url(server.create_database())
    env = environment(tmp_path / "state", CASEYOS_OTEL_DATABASE_URL=url, CASEYOS_OTEL_LOG=os.devnull)
    cli(env, "db", "upgrade")
    (tmp_path / "program.py").write_text(PROGRAM)
    process = subprocess.Popen(
        [INSTRUMENT, sys.executable, str(tmp_path / "program.py")], env=env,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        wait_for(lambda: stored(url, "outcome_events")[0] > 400, "nothing was stored")
        before = resident_bytes(process.pid)
        server.stop()
        try:
            highest = highest_resident_bytes(process.pid, OUTAGE_S)
        finally:
            server.start()
        said, errors = process.communicate("\n", timeout=120)
    finally:
        process.kill()
        process.wait()
    steps, flushed = int(said.split()[0]), said.split()[1]
    assert flushed == "True", errors
    assert stored(url, "outcome_events") == (4 * steps, 4 * steps)
    assert stored(url, "events", "action_failed") == (steps, steps)
    dismissed, different = stored(url, "events", "recommendation_dismissed")
    dropped = full(tmp_path / "state")
    assert dismissed == different == 40 * steps - dropped
    assert dropped > MEMORY, "there was more than memory may hold: else this shows nothing"
    assert highest - before < MEMORY * RECORD_BYTES + ELSEWHERE_BYTES


def stored(url: str, table: str, event: str = "outcome_deal_advanced") -> tuple[int, int]:
    """Rows of an event, and how many different ones."""
    number = {"outcome_deal_advanced": "deal_id", "action_failed": "action_id"}.get(event, "recommendation_id")
    with psycopg.connect(url) as connection:
        found = connection.execute(f"select count(*), count(distinct {number}) from {table} where event = %s", [event])
        rows, different = found.fetchone() or (0, 0)
    return rows, different


def highest_resident_bytes(pid: int, seconds: float) -> int:
    end = time.monotonic() + seconds
    highest = 0
    while time.monotonic() < end:
        highest = max(highest, resident_bytes(pid))
        time.sleep(0.5)
    return highest


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def full(state: Path) -> int:
    """Best-effort events that made room for newer ones."""
    [status] = [json.loads(path.read_text()) for path in (state / "status").glob("*.json")]
    return sum(drop["n"] for drop in status["dropped"] if drop["reason"] == "destination_full")
