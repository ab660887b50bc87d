"""`python -m benchmarks.spool`: what it costs to make one event survive its process, beside SQLite and queues on disk.

`append` is beside one SQLite commit an event (WAL, synchronous NORMAL: neither waits for the disk). Synced in groups of 64
it is beside SQLite with synchronous FULL at the same group: once as a service does it, where another thread syncs and is
never more than two groups behind, and once in the thread that appends. `track()` of an outcome is beside `put()` of two queues.
"""

from __future__ import annotations

import argparse
import atexit
import json
import shutil
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final

from caseyos_otel.spool.writer import SpoolWriter

FRAME: Final = bytes(range(256)) + bytes(144)
"""400 bytes: an outcome as it lies in the spool."""
GROUP: Final = 64
BEHIND: Final = 2
FIELDS: Final = {"deal_id": "deal-17", "old_stage": "proposal", "new_stage": "won", "pipeline_value": 50_000.0}
Write = Callable[[int], None]
"""Writes so many events."""


@contextmanager
def _spool(root: Path, *, sync: bool) -> Iterator[Write]:
    writer = SpoolWriter(root, on_problem=print)
    writer.wait_for(["outcomes"])

    def write(count: int) -> None:
        for _ in range(count):
            writer.append("outcomes", FRAME)

    def write_and_sync(count: int) -> None:
        for number in range(1, count + 1):
            writer.append("outcomes", FRAME)
            if number % GROUP == 0:
                writer.sync()

    try:
        yield write_and_sync if sync else write
    finally:
        writer.close()


@contextmanager
def _synced_behind(root: Path) -> Iterator[Write]:
    """A thread syncs each group, and is at most `BEHIND` of them behind; a round ends when it has synced the last one."""
    writer = SpoolWriter(root, on_problem=print)
    writer.wait_for(["outcomes"])
    wanted: SimpleQueue[bool] = SimpleQueue()
    synced: SimpleQueue[None] = SimpleQueue()

    def sync() -> None:
        while wanted.get():
            writer.sync()
            synced.put(None)

    def write(count: int) -> None:
        for number in range(1, count + 1):
            writer.append("outcomes", FRAME)
            if number % GROUP == 0:
                if number > GROUP * BEHIND:
                    synced.get()
                wanted.put(True)
        for _ in range(min(BEHIND, count // GROUP)):
            synced.get()

    thread = threading.Thread(target=sync)
    thread.start()
    try:
        yield write
    finally:
        wanted.put(False)
        thread.join()
        writer.close()


@contextmanager
def _sqlite(root: Path, *, synchronous: str, group: int) -> Iterator[Write]:
    root.mkdir(parents=True)
    connection = sqlite3.connect(root / "queue.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute(f"PRAGMA synchronous={synchronous}")
    connection.execute("CREATE TABLE queue (id INTEGER PRIMARY KEY, frame BLOB NOT NULL)")

    def write(count: int) -> None:
        if group == 1:  # its own transaction around each statement: quicker than BEGIN and COMMIT
            for _ in range(count):
                connection.execute("INSERT INTO queue (frame) VALUES (?)", (FRAME,))
            return
        for number in range(count):
            if number % group == 0:
                connection.execute("BEGIN")
            connection.execute("INSERT INTO queue (frame) VALUES (?)", (FRAME,))
            if number % group == group - 1:
                connection.execute("COMMIT")

    try:
        yield write
    finally:
        connection.close()


@contextmanager
def _track(root: Path) -> Iterator[Write]:
    """The whole call; nothing is delivered meanwhile: the flush interval is longer than a round."""
    import caseyos_otel
    from caseyos_otel import track

    caseyos_otel.configure(
        state_dir=root, log=str(root / "events.jsonl"), flush_interval_ms=3_600_000, exporters=("outcomes",)
    )

    def write(count: int) -> None:
        for _ in range(count):
            track("outcome_deal_advanced", **FIELDS)  # type: ignore[arg-type]  # its fields are plain values

    yield write


@contextmanager
def _persist_queue(root: Path) -> Iterator[Write]:
    import persistqueue

    queue = persistqueue.SQLiteAckQueue(str(root), auto_commit=True)

    def write(count: int) -> None:
        for _ in range(count):
            queue.put({"event": "outcome_deal_advanced", **FIELDS})

    yield write
    queue.close()


@contextmanager
def _litequeue(root: Path) -> Iterator[Write]:
    from litequeue import LiteQueue

    root.mkdir(parents=True)
    queue = LiteQueue(str(root / "queue.db"))

    def write(count: int) -> None:
        for _ in range(count):
            queue.put(json.dumps({"event": "outcome_deal_advanced", **FIELDS}))

    yield write
    queue.close()


SYNCED: Final = f"one event, synced in groups of {GROUP}"
COMPARED: Final[dict[str, dict[str, Callable[[Path], Any]]]] = {
    "one event, no wait for the disk": {
        "spool append": lambda root: _spool(root, sync=False),
        "SQLite WAL, one commit each": lambda root: _sqlite(root, synchronous="NORMAL", group=1),
    },
    SYNCED: {
        "spool append, a thread syncs": _synced_behind,
        "SQLite FULL, one commit a group": lambda root: _sqlite(root, synchronous="FULL", group=GROUP),
        "spool append and fdatasync in turn": lambda root: _spool(root, sync=True),
    },
    "the whole call": {
        "track() of an outcome": _track,
        "persist-queue put()": _persist_queue,
        "litequeue put()": _litequeue,
    },
}
EVENTS: Final = 1024
EVENTS_OF: Final = {SYNCED: 16 * EVENTS}
"""A round has what each way does now and then in it: the spool fills zeros each 640 events, SQLite moves its log of 1,000
pages into the table each 1,000 commits of one event, but each 9,000 events or so where 64 share a commit."""
_NEEDS: Final = {"persist-queue put()": "persistqueue", "litequeue put()": "litequeue"}


def main() -> int:
    """Measure, print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.spool", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="benchmarks-spool-"))
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)  # behind the end of what `track()` started
    report = {
        title: _compare(ways, scratch, asked.rounds, EVENTS_OF.get(title, EVENTS)) for title, ways in COMPARED.items()
    }
    print(json.dumps(report) if asked.json else "\n\n".join(_text(title, each) for title, each in report.items()))
    return 0


def _compare(ways: dict[str, Callable[[Path], Any]], scratch: Path, rounds: int, events: int) -> dict[str, Any]:
    """Microseconds an event of each way, the ways taking turns, and ours divided by each within one round."""
    with ExitStack() as open_:
        writes: dict[str, Write] = {}
        for name, way in ways.items():
            if name in _NEEDS and find_spec(_NEEDS[name]) is None:
                print(f"{name}: {_NEEDS[name]} is not installed", file=sys.stderr)
                continue
            writes[name] = open_.enter_context(way(scratch / name.replace(" ", "-")))
        measured: dict[str, list[float]] = {name: [] for name in writes}
        for number in range(rounds + 1):
            for name, write in writes.items():
                before = time.perf_counter_ns()
                write(events)
                if number:  # the first one warms up
                    measured[name].append((time.perf_counter_ns() - before) / 1000 / events)
    ours = next(iter(measured.values()))
    return {
        name: {
            "us": statistics.median(each),
            "ours_of_it": statistics.median(a / b for a, b in zip(ours, each, strict=True)),
            "lowest": min(a / b for a, b in zip(ours, each, strict=True)),
            "highest": max(a / b for a, b in zip(ours, each, strict=True)),
        }
        for name, each in measured.items()
    }


def _text(title: str, report: dict[str, Any]) -> str:
    lines = [f"{title:<44}{'µs':>9}   ours / it (lowest to highest)"]
    for name, of in report.items():
        ratio = f"{of['ours_of_it']:.2f} ({of['lowest']:.2f} to {of['highest']:.2f})"
        lines.append(f"  {name:<42}{of['us']:>9.2f}   {ratio}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
