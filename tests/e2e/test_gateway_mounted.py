"""A gateway mounted in a service that has a pipeline of its own: one process, one spool, and neither takes the other's."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter

from caseyos_otel.pipeline import status
from tests.e2e.gateway import REPLY, emit, serving
from tests.e2e.service import Server, environment, wait_for
from tests.ports import free_port

SERVICE = """
from fastapi import FastAPI

from caseyos_otel import track
from caseyos_otel.gateway.app import create_app

service = FastAPI()


@service.get("/orders/{number}")
def order(number: str) -> str:
    track("outcome_meeting_booked", recommendation_id=number)
    return number


service.mount("/telemetry", create_app())
"""


@contextmanager
def shop(here: Path, env: dict[str, str], name: str) -> Iterator[Server]:
    port = free_port()
    command = ["uvicorn", "service:service", "--port", str(port), "--log-level", "warning"]
    with Server(command, env, here, port, here / name) as server:
        yield server


def send(server: Server, recommendation: str) -> None:
    exporter = OTLPLogExporter(endpoint=f"http://127.0.0.1:{server.port}/telemetry/v1/logs")
    assert emit(exporter, [(REPLY, {"caseyos.recommendation.id": recommendation, "caseyos.draft.id": "d1"})])


def test_both_survive_a_kill_and_each_event_is_logged_and_stored_once(tmp_path: Path) -> None:
    """The database is away (a directory stands in its place) until both have something in the spool; then a kill."""
    (tmp_path / "service.py").write_text(SERVICE)
    state, database = tmp_path / "state", tmp_path / "away.db"
    database.mkdir()
    variables = {"OTEL_SERVICE_NAME": "shop", "CASEYOS_OTEL_DATABASE_URL": f"sqlite:///{database}"}
    env = environment(state, **variables)
    logged: Counter[str] = Counter()
    with shop(tmp_path, env, "first.log") as server:
        assert server.get("/orders/own") == '"own"'
        send(server, "sent")
        wait_for(lambda: len(server.lines) == 2, "not logged:", server.output)
        left = [path.parent for path in (state / "spool" / "shop").glob("*/lock")]
        assert {path.name.rpartition("-")[0] for path in left} == {"", "gateway"}
        wait_for(lambda: len(status.read_all(state)) == 2, "each has a status file:", lambda: status.read_all(state))
        assert sorted(seen["notes"] for seen in status.read_all(state)) == [[], ["gateway"]]
        logged += Counter(line["recommendation_id"] for line in server.lines)
    database.rmdir()
    with serving(state, **variables) as gateway:  # it has the same spool, and would log what the service has logged
        wait_for(lambda: stored(database) == ["sent"], "not stored:", gateway.log.read_text)
        assert gateway.stop() == 0
        assert gateway.lines() == []
    with shop(tmp_path, env, "second.log") as server:
        send(server, "later")
        wait_for(lambda: stored(database) == ["later", "own", "sent"], "not stored:", server.output)
        wait_for(lambda: server.lines, "not logged:", server.output)
        wait_for(lambda: not any(path.exists() for path in left), "not tidied:", server.output)
        logged += Counter(line["recommendation_id"] for line in server.lines)
    assert logged == {"own": 1, "sent": 1, "later": 1}


def stored(database: Path) -> list[str]:
    if not database.is_file():
        return []
    with sqlite3.connect(database) as connection:
        try:
            return sorted(row[0] for row in connection.execute("SELECT recommendation_id FROM outcome_events"))
        except sqlite3.OperationalError:  # not migrated yet
            return []
