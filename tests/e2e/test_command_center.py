"""The example service as users run it: processes of its own, a working day over HTTP, without caseyos-otel."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.ports import free_port

EXAMPLE = Path(__file__).parents[2] / "examples" / "command_center"
RECOMMENDATIONS = 50

DRIVE = """
import json, sys
import working_day

steps = []
progress = lambda done, total, label: steps.append([done, total])
caused = working_day.drive(sys.argv[1], sys.argv[2], recommendations=int(sys.argv[3]), progress=progress)
print(json.dumps({**caused.as_dict(), "steps": steps, "events": list(working_day.EVENTS)}))
"""


@dataclass(frozen=True)
class Day:
    """What the driver says it caused, beside what the service and the stand-ins know themselves."""

    told: dict[str, Any]
    database: Path
    integrations: dict[str, dict[str, Any]]
    calls: dict[str, dict[str, int]]

    def rows(self, query: str) -> int:
        with sqlite3.connect(self.database) as connection:
            return int(connection.execute(f"select count(*) from {query}").fetchone()[0])


@contextmanager
def running(arguments: list[str], environment: dict[str, str], ready_url: str) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, *arguments], cwd=EXAMPLE, env=environment)
    try:
        wait_for(ready_url, process)
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < until:
        try:
            httpx.get(url, trust_env=False).raise_for_status()
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"{url} does not answer (exit status {process.poll()})")


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Day:
    """One working day, driven once; the tests look at it from different sides."""
    directory = tmp_path_factory.mktemp("command_center")
    service_port, stand_ins_port = free_port(), free_port()
    service, stand_ins = f"http://127.0.0.1:{service_port}", f"http://127.0.0.1:{stand_ins_port}"
    environment = environment_without_caseyos_otel(directory) | {
        "COMMAND_CENTER_DATABASE_URL": f"sqlite:///{directory / 'service.db'}",
        "COMMAND_CENTER_HUBSPOT_URL": stand_ins,
        "COMMAND_CENTER_GMAIL_URL": stand_ins,
        "COMMAND_CENTER_CALENDAR_URL": stand_ins,
        "COMMAND_CENTER_BREAKER_RESET_SECONDS": "0.5",
    }
    uvicorn = ["-m", "uvicorn", "--port", str(service_port), "--log-level", "warning", "command_center.app:app"]
    stand_in = ["-m", "command_center.stand_ins", "--port", str(stand_ins_port), "--seed", "7"]
    with (
        running(stand_in, environment, f"{stand_ins}/_counts"),
        running(uvicorn, environment, f"{service}/health"),
    ):
        told = drive(service, stand_ins, environment)
        states = httpx.get(f"{service}/api/integrations", trust_env=False).json()["integrations"]
        calls = httpx.get(f"{stand_ins}/_counts", trust_env=False).json()
    return Day(told, directory / "service.db", {state["integration"]: state for state in states}, calls)


def environment_without_caseyos_otel(directory: Path) -> dict[str, str]:
    """An environment in which importing caseyos_otel fails as if it were not installed."""
    blocked = directory / "blocked"
    blocked.mkdir()
    (blocked / "caseyos_otel.py").write_text("raise ModuleNotFoundError(\"No module named 'caseyos_otel'\")\n")
    environment = {"PYTHONPATH": f"{blocked}:{EXAMPLE}", "PATH": "/usr/bin:/bin"}
    imported = subprocess.run(
        [sys.executable, "-c", "import caseyos_otel"], env=environment, capture_output=True, check=False
    )
    assert b"No module named 'caseyos_otel'" in imported.stderr
    return environment


def drive(service: str, stand_ins: str, environment: dict[str, str]) -> dict[str, Any]:
    arguments = [sys.executable, "-c", DRIVE, service, stand_ins, str(RECOMMENDATIONS)]
    driven = subprocess.run(
        arguments, cwd=EXAMPLE, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert driven.returncode == 0, driven.stderr
    told: dict[str, Any] = json.loads(driven.stdout)
    return told


def test_every_event_is_caused(day: Day) -> None:
    assert list(day.told["caused"]) == day.told["events"]
    assert len(day.told["events"]) == 16
    assert [event for event, count in day.told["caused"].items() if count == 0] == []


@pytest.mark.parametrize(
    ("event", "query"),
    [
        ("signal_received", "signals"),
        ("signal_processed", "signals where processed_at is not null"),
        ("recommendation_generated", "recommendations"),
        ("recommendation_accepted", "queue_items where status in ('accepted', 'done')"),
        ("recommendation_dismissed", "queue_items where status = 'dismissed'"),
        ("action_executed", "actions where status in ('executed', 'rolled_back')"),
        ("action_failed", "actions where status = 'failed'"),
        ("action_rolled_back", "actions where rollback_attempts > 0"),
        ("outcome_reply_received", "outcomes where kind = 'reply_received'"),
        ("outcome_meeting_booked", "outcomes where kind = 'meeting_booked'"),
        ("outcome_deal_advanced", "outcomes where kind = 'deal_advanced'"),
        ("outcome_deliverable_shipped", "deliverables where shipped_at is not null"),
    ],
)
def test_the_drivers_count_is_what_the_service_has_stored(day: Day, event: str, query: str) -> None:
    assert day.told["caused"][event] == day.rows(query)


def test_every_recommendation_is_asked_for_and_decided(day: Day) -> None:
    caused = day.told["caused"]
    assert caused["recommendation_generated"] == RECOMMENDATIONS
    assert caused["recommendation_accepted"] + caused["recommendation_dismissed"] == RECOMMENDATIONS
    assert day.told["steps"][-1] == [RECOMMENDATIONS, RECOMMENDATIONS]


def test_the_drivers_count_of_calls_is_what_the_service_has_made(day: Day) -> None:
    calls = sum(state["calls"] for state in day.integrations.values())
    failures = sum(state["failures"] for state in day.integrations.values())
    caused = day.told["caused"]
    assert (caused["integration_call_success"], caused["integration_call_failed"]) == (calls - failures, failures)


@pytest.mark.parametrize("integration", ["hubspot", "gmail", "calendar"])
def test_the_service_and_each_stand_in_have_seen_the_same_calls(day: Day, integration: str) -> None:
    state, answers = day.integrations[integration], day.calls[integration]
    assert state["calls"] == sum(answers.values())
    assert state["failures"] == sum(count for status, count in answers.items() if int(status) >= 400)


def test_the_calendar_was_dead_until_its_breaker_opened_and_is_back(day: Day) -> None:
    assert day.told["caused"]["circuit_breaker_opened"] == 1
    assert (day.integrations["calendar"]["openings"], day.integrations["calendar"]["breaker"]) == (1, "closed")
    assert day.calls["calendar"]["503"] >= 5
    assert day.calls["calendar"]["200"] > 0


def test_outcomes_are_those_among_the_events(day: Day) -> None:
    outcomes = {event: count for event, count in day.told["caused"].items() if event.startswith("outcome_")}
    assert day.told["outcomes"] == outcomes
    assert len(outcomes) == 4


def test_refused_requests_are_failed_actions(day: Day) -> None:
    assert day.told["failed_requests"] == day.told["caused"]["action_failed"]


def test_a_day_too_short_for_every_event_is_refused() -> None:
    code = "import working_day; working_day.drive('http://127.0.0.1:9', 'http://127.0.0.1:9', recommendations=19)"
    refused = subprocess.run([sys.executable, "-c", code], cwd=EXAMPLE, capture_output=True, text=True, check=False)
    assert "recommendations=19: a day with every event needs at least 20" in refused.stderr
