"""A running Bugsink (a server that speaks Sentry's protocol), in a process and a virtual environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.ports import free_port

ROOT = Path(__file__).parents[2]
START_S = 60
_PROJECT = """
from teams.models import Team
from projects.models import Project
team = Team.objects.create(name="caseyos")
project = Project.objects.create(name="caseyos", team=team)
print("DSN", project.dsn)
"""
_STORED = """
import json
from events.models import Event
for event in Event.objects.order_by("digested_at"):
    print("STORED", json.dumps({"issue": str(event.issue_id), "title": event.title(), "data": event.get_parsed_data()}))
"""


def python() -> Path:
    """The interpreter of Bugsink's own virtual environment: BUGSINK_PYTHON, else `.venv-bugsink` in the repository."""
    named = os.environ.get("BUGSINK_PYTHON")
    found = Path(named) if named else ROOT / ".venv-bugsink" / "bin" / "python"
    if not found.exists():
        raise RuntimeError(
            f"Bugsink is not installed: {found} does not exist. Install it with"
            " `python3 -m venv .venv-bugsink && .venv-bugsink/bin/pip install bugsink==2.6.1`,"
            " or name its interpreter in BUGSINK_PYTHON"
        )
    return found


@dataclass(frozen=True)
class Stored:
    """One event that Bugsink keeps, and the issue that it put it in."""

    issue: str
    title: str
    data: dict[str, Any]


class Bugsink:
    """Use as a context manager: a fresh database in `directory`, one project; `dsn` leads to it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._bin = python().parent
        self._port = free_port()
        self._server: subprocess.Popen[bytes] | None = None
        self.dsn = ""

    def __enter__(self) -> Self:
        self._run("bugsink-create-conf", "--template", "local", "--port", str(self._port), "--host", "127.0.0.1")
        self._run("bugsink-manage", "migrate")
        self._run("bugsink-manage", "migrate", "--database=snappea")
        self.dsn = self._shell(_PROJECT, "DSN")[0]
        arguments = ["--bind", f"127.0.0.1:{self._port}", "--workers", "1", "--threads", "4", "bugsink.wsgi"]
        with (self._directory / "gunicorn.log").open("wb") as log:
            self._server = subprocess.Popen(
                [self._bin / "gunicorn", *arguments],
                cwd=self._directory,
                env=self._environment(),
                stdout=log,
                stderr=log,
            )
        self._wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.terminate()
            try:
                self._server.wait(10)
            except subprocess.TimeoutExpired:
                self._server.kill()
                self._server.wait()

    def stored(self) -> list[Stored]:
        """Every event that is stored, oldest first."""
        return [Stored(**json.loads(line)) for line in self._shell(_STORED, "STORED")]

    def _shell(self, code: str, marker: str) -> list[str]:
        printed = self._run("bugsink-manage", "shell", "--command", code)
        return [line.removeprefix(marker + " ") for line in printed.splitlines() if line.startswith(marker + " ")]

    def _run(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            [self._bin / program, *arguments],
            cwd=self._directory,
            env=self._environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{program} {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SENTRY_", "PYTHON", "XDG_"))}
        own = {
            "DJANGO_SETTINGS_MODULE": "bugsink_conf",
            "PYTHONPATH": str(self._directory),
            "HOME": str(self._directory),
        }
        return {**kept, **own}

    def _wait(self) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            assert self._server is not None
            if self._server.poll() is not None:
                break
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self._port}/health/ready", timeout=5).close()
            except urllib.error.HTTPError:  # it answers
                return
            except OSError:
                time.sleep(0.1)
            else:
                return
        raise RuntimeError("Bugsink did not start:\n" + (self._directory / "gunicorn.log").read_text())
