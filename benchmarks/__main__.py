"""`python -m benchmarks`: what `track()` costs its caller, as ratios to its peers. It asserts nothing."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.process import Measured
from benchmarks.report import as_json, as_text
from benchmarks.subjects import ENTRIES, OURS, Entry


def main() -> int:
    """Measure every subject that is installed, in turn, round after round."""
    asked = _arguments()
    wanted = [entry for entry in ENTRIES if entry.name == OURS or asked.only is None or entry.name in asked.only]
    present = [entry for entry in wanted if not entry.package or find_spec(entry.package)]
    missing = [entry.package for entry in wanted if entry not in present]
    for package in missing:
        _say(f"NOT MEASURED: {package} is not installed. To compare with it: {sys.executable} -m pip install {package}")
    with _running(present) as processes:
        rounds = [_round(processes, number, asked) for number in range(asked.rounds)]
    print(json.dumps(as_json(rounds, missing, asked.rate)) if asked.json else as_text(rounds, missing, asked.rate))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="how often every subject has its turn (default: 15)")
    parser.add_argument("--batches", type=int, default=10, help="batches of 50 events a turn for the CPU (default: 10)")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a turn's paced part (default: 1)")
    parser.add_argument("--rate", type=float, default=2000.0, help="events a second of the paced part (default: 2000)")
    parser.add_argument("--only", action="append", metavar="PEER", help="compare with this peer alone (repeatable)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    return parser.parse_args()


@contextmanager
def _running(entries: list[Entry]) -> Iterator[list[Measured]]:
    with ExitStack() as stack:
        state = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmarks-", ignore_cleanup_errors=True)))
        yield [stack.enter_context(Measured(e.name, state / str(n))) for n, e in enumerate(entries)]


def _round(processes: list[Measured], number: int, asked: argparse.Namespace) -> dict[str, Any]:
    _say(f"round {number + 1} of {asked.rounds}")
    spent = [process.measure(batches=asked.batches) for process in processes]
    waited = [process.measure(seconds=asked.seconds, rate=asked.rate) for process in processes]
    return {process.name: cpu | wall for process, cpu, wall in zip(processes, spent, waited, strict=True)}


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
