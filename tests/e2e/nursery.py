"""Processes to be killed: children of one that has imported everything, so that each begins in milliseconds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

PER_CHILD = 100_000
"""Each child counts from a multiple of this, so that a gap within one's numbers is a loss."""

NURSERY = """
import os, sys, time
import psycopg, sqlalchemy, alembic  # once, in the parent: a child begins in milliseconds
from opentelemetry.sdk import trace, _logs, metrics
from caseyos_otel.exporters import otlp, outcomes
from caseyos_otel.exporters.sentry import client
from opentelemetry.exporter.otlp.proto.grpc import _log_exporter as _grpc
from opentelemetry.exporter.otlp.proto.http import _log_exporter, metric_exporter, trace_exporter
from caseyos_otel.storage import engine, writer
import caseyos_otel
from caseyos_otel import track

def live(child):
    caseyos_otel.configure(log=os.devnull)
    for number in range(child * PER_CHILD, (child + 1) * PER_CHILD):
        if number % 3:
            track("outcome_deal_advanced", deal_id=str(number), pipeline_value=number)
        else:
            track("action_failed", action_id=str(number), action_type="send_email", error_type="api_error")
        os.write(1, b"%d\\n" % number)
        time.sleep(float(sys.argv[1]))

for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        live(int(line))
        os._exit(0)
    os.write(1, b"pid %d\\n" % pid)
    os.waitpid(pid, 0)
    os.write(1, b"dead\\n")
""".replace("PER_CHILD", str(PER_CHILD))


class Nursery:
    """A process that bears children, one at a time, each of which tracks events and says each number after its call."""

    def __init__(self, program: Path, env: dict[str, str], pause_s: float = 0.0) -> None:
        """`pause_s` seconds are between two events of a child."""
        program.write_text(NURSERY)
        self._process = subprocess.Popen(
            [sys.executable, str(program), str(pause_s)],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def bear_and_kill(self, child: int, after_s: float, at_least: int = 1) -> list[int]:
        """The numbers whose `track()` had returned when the child was killed `after_s` after these first ones."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{child}\n")
        self._process.stdin.flush()
        pid = int(self._line().split()[1])
        numbers = [int(self._line()) for _ in range(at_least)]
        # enough for its delivery to be anywhere: connecting, writing, committing, unlinking
        time.sleep(after_s)
        os.kill(pid, signal.SIGKILL)
        while (line := self._line()) != "dead":
            numbers.append(int(line))
        return numbers

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        assert line, "the nursery died"
        return line

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
