"""One subject in a process of its own: it measures when it is told to, and answers in JSON lines."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TextIO

from benchmarks.subjects import ENTRIES, Subject

BATCH: Final = 50
"""Events of one request: few enough that no queue fills, enough that reading the thread's clock does not count."""


def cpu(subject: Subject, batches: int) -> dict[str, float]:
    """Median CPU of the calling thread an event, and the CPU that everything behind it costs, both in µs."""
    caller: list[float] = []
    behind = 0
    for _ in range(batches):
        with subject.request():
            everything = time.process_time_ns()
            before = time.thread_time_ns()
            for _ in range(BATCH):
                subject.emit()
            spent = time.thread_time_ns() - before
        subject.flush()
        behind += time.process_time_ns() - everything - spent
        caller.append(spent / BATCH / 1000)
    return {"caller_us": statistics.median(caller), "behind_us": behind / batches / BATCH / 1000}


def paced(subject: Subject, seconds: float, rate: float) -> dict[str, float]:
    """Wall time of single calls at an even pace, and how late each ends after it was due, in µs."""
    took: list[float] = []
    late: list[float] = []
    due = time.perf_counter()
    for _ in range(int(seconds * rate) // BATCH):
        with subject.request():
            for _ in range(BATCH):
                due += 1 / rate
                if (wait := due - time.perf_counter()) > 0:
                    time.sleep(wait)
                before = time.perf_counter_ns()
                subject.emit()
                after = time.perf_counter_ns()
                took.append((after - before) / 1000)
                late.append(after / 1000 - due * 1e6)
    subject.flush()
    return {"p50_us": percentile(took, 50), "p99_us": percentile(took, 99), "late_p99_us": percentile(late, 99)}


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which `percent` of the values are (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def serve(name: str, state: Path, answers: TextIO) -> None:
    """Set a subject up, then answer each line of stdin: `{"batches"}` or `{"seconds", "rate"}`."""
    subject = next(entry for entry in ENTRIES if entry.name == name).make(state)
    cpu(subject, 4)
    print(json.dumps({"ready": name}), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        measured = cpu(subject, **asked) if "batches" in asked else paced(subject, **asked)
        print(json.dumps(measured), file=answers, flush=True)


if __name__ == "__main__":
    # answers leave by a descriptor of their own: a subject may print
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(sys.argv[1], Path(sys.argv[2]), out)
