"""What the end-to-end tests start: programs under `opentelemetry-instrument`, their log lines, their database."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.ports import listens

INSTRUMENT = str(Path(sys.executable).with_name("opentelemetry-instrument"))
STOCK_DISTRO = Path(sys.prefix) / "stock-distro"
"""A folder that holds nothing but the stock `opentelemetry-distro`; on PYTHONPATH it is found before ours."""
SAYS_WHEN_WORKERS_HEAR = "def post_worker_init(worker): worker.log.info('hears signals')\n"
"""A gunicorn.conf.py: a worker that is told to stop before it listens to signals goes on, so a test waits for the line."""


def environment(state: Path, **more: str) -> dict[str, str]:
    """The surroundings of a process under test: its own state directory, none of this shell's telemetry variables."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OTEL_", "CASEYOS_", "SENTRY_", "PYTEST_", "PYTHON"))
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{inherited.get('PATH', '')}"
    return {**inherited, "PATH": path, "CASEYOS_OTEL_STATE_DIR": str(state), "OTEL_SERVICE_NAME": "under-test", **more}


@dataclass
class Finished:
    """A process that has ended."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The structured log: every line of stdout that is an event."""
        return [json.loads(line) for line in self.stdout.splitlines() if line.startswith('{"event"')]


def run(program: Path | str, env: Mapping[str, str], *arguments: str, instrument: bool = True) -> Finished:
    """Run a Python program to its end."""
    command = [sys.executable, str(program), *arguments]
    done = subprocess.run(
        [INSTRUMENT, *command] if instrument else command,
        env=dict(env), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return Finished(done.returncode, done.stdout, done.stderr)


def cli(env: Mapping[str, str], *arguments: str) -> str:
    """Run `caseyos-otel` as an operator of that service would; what it printed. AssertionError unless it exits with 0."""
    command = [str(Path(sys.executable).with_name("caseyos-otel")), *arguments]
    done = subprocess.run(command, env=dict(env), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Server:
    """A server process under `opentelemetry-instrument`; `with` waits until it answers and kills it at the end."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], cwd: Path, port: int, log: Path) -> None:
        self._command = [INSTRUMENT, *command]
        self._env = dict(env)
        self._cwd = cwd
        self.port = port
        self._log = log

    def __enter__(self) -> Self:
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                self._command, env=self._env, cwd=self._cwd, stdout=log, stderr=subprocess.STDOUT
            )
        wait_for(lambda: self._answers(), f"{self._command} does not answer:", self.output)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as response:
            return str(response.read().decode())

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        self._process.send_signal(how)
        try:
            return self._process.wait(timeout=20)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"{self._command} did not stop: {self.output()}") from error

    def output(self) -> str:
        return self._log.read_text()

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.output().splitlines() if line.startswith('{"event"')]

    def _answers(self) -> bool:
        return listens(self.port)


def wait_for(condition: Any, message: str, detail: Any = lambda: "", timeout_s: float = 20.0) -> Any:
    """Wait until a condition holds and give back its value; AssertionError with the message otherwise."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"{message} {detail()}")


def rows(state: Path, query: str) -> list[tuple[Any, ...]]:
    """Rows of the default database."""
    path = state / "caseyos.db"
    if not path.exists():
        return []
    with sqlite3.connect(path) as connection:
        try:
            return connection.execute(query).fetchall()
        except sqlite3.OperationalError:  # not migrated yet
            return []
