"""The command line, run in the process in an environment of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

from caseyos_otel.cli.app import app

OTHERS = ("OTEL_", "CASEYOS_", "SENTRY_", "RAILWAY_", "KUBERNETES_")


class Ran(NamedTuple):
    """What a command left."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


Run = Callable[..., Ran]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, state: Path) -> Run:
    """`run("doctor", "--json", VARIABLE="value")`."""
    import os

    for name in [name for name in os.environ if name.startswith(OTHERS)]:
        monkeypatch.delenv(name)

    def run(*arguments: str, **environ: str) -> Ran:
        env = {"CASEYOS_OTEL_STATE_DIR": str(state), **environ}
        result = CliRunner().invoke(app, list(arguments), env=env)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ran(result.exit_code, result.stdout, result.stderr)

    return run
