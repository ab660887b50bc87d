"""Our package uninstalled under a service that uses it: the same command, the same variables, the same answers."""

from __future__ import annotations

import sys
import venv
from pathlib import Path
from typing import Any, NamedTuple

import fastapi
import httpx
import pytest

from tests.e2e.receiver import OtlpReceiver, Sentry
from tests.e2e.service import Server, environment
from tests.ports import free_port

EXAMPLE = Path(__file__).parents[2] / "examples" / "command_center"
INSTALLED = Path(fastapi.__file__).parents[1]
"""The folder that packages are installed in."""
INSTRUMENT = "import sys; from opentelemetry.instrumentation.auto_instrumentation import run; sys.exit(run())"
"""What `opentelemetry-instrument` is, for an interpreter that has no script of it."""


class Answers(NamedTuple):
    """What the service said, and what it left behind."""

    said: list[Any]
    events: list[str]
    output: str
    state: Path


@pytest.fixture(scope="module")
def without_us(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with everything that is installed here, but us: neither the package nor its entry points."""
    here = tmp_path_factory.mktemp("venv")
    venv.create(here, with_pip=False, symlinks=True)
    (packages,) = here.glob("lib/python*/site-packages")
    for installed in INSTALLED.iterdir():
        if not installed.name.startswith("caseyos_otel") and installed.suffix != ".pth":
            (packages / installed.name).symlink_to(installed)
    return here / "bin" / "python"


def test_the_service_answers_the_same_with_us_and_without(without_us: Path, tmp_path: Path) -> None:
    with_ours = answers(Path(sys.executable), tmp_path / "with")
    without = answers(without_us, tmp_path / "without")
    assert without.said == with_ours.said
    assert without.said[1:] == [True, "john@acmecorp.com", 200, "api_error"]
    assert {"signal_received", "recommendation_generated", "recommendation_accepted", "action_failed"} <= {
        *with_ours.events
    }
    assert (with_ours.state / "caseyos.db").exists()
    assert without.events == []
    assert "caseyos-otel" not in without.output
    assert "Traceback" not in without.output
    assert not without.state.exists()


class ServerOf(Server):
    """A server that another interpreter runs."""

    def __init__(self, python: Path, command: list[str], *more: Any) -> None:
        super().__init__(command, *more)
        self._command = [str(python), "-c", INSTRUMENT, str(python), "-m", *command]


def answers(python: Path, here: Path) -> Answers:
    """Ask the example service for a signal's whole way; its integrations are away."""
    here.mkdir()
    port = free_port()
    nobody = f"http://127.0.0.1:{free_port()}"
    with OtlpReceiver() as receiver, Sentry() as sentry:
        env = environment(
            here / "state", PYTHONPATH=str(EXAMPLE), OTEL_PYTHON_DISTRO="caseyos", CASEYOS_OTEL_SUCCESS_RATIO="1",
            SENTRY_DSN=sentry.dsn, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
            COMMAND_CENTER_DATABASE_URL=f"sqlite:///{here / 'service.db'}",
            **{f"COMMAND_CENTER_{name}_URL": nobody for name in ("HUBSPOT", "GMAIL", "CALENDAR")},
        )  # fmt: skip
        command = ["uvicorn", "command_center.app:app", "--port", str(port), "--log-level", "warning"]
        with (
            ServerOf(python, command, env, here, port, here / "log") as server,
            httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client,
        ):
            said = conversation(client)
            server.stop()
            return Answers(said, [line["event"] for line in server.lines], server.output(), here / "state")


def conversation(client: httpx.Client) -> list[Any]:
    signal = {"source": "webhook", "signal_type": "form_submitted", "contact_email": "john@acmecorp.com"}
    healthy = client.get("/health").json()
    generated = client.post("/api/signals", json=signal).json()["recommendation_generated"]
    (move,) = client.get("/api/command-queue/today").json()["moves"]
    path = f"/api/command-queue/{move['queue_item_id']}"
    accepted = client.post(f"{path}/accept").status_code
    executed = client.post(f"{path}/execute", json={}).json()["error_type"]
    return [healthy, generated, move["recipient"], accepted, executed]
