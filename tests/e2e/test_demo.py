"""The demo as `make demo` runs it, small: its sums are done again here, from its numbers and the files it leaves."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

DEMO = Path(__file__).parents[2] / "examples" / "command_center" / "demo.py"
RECOMMENDATIONS = 60
SUCCESS_RATIO = 0.1
DESTINATIONS = {"log": "logged", "outcomes": "stored", "sentry": "sentry", "otlp": "otlp"}


@dataclass(frozen=True)
class Ran:
    """A demo that has ended: what it printed, and where its files are."""

    told: dict[str, Any]
    directory: Path
    status: int
    progress: str

    def lines(self) -> list[dict[str, Any]]:
        text = (self.directory / "events.jsonl").read_text("utf-8")
        return [json.loads(line) for line in text.splitlines()]

    def rows(self, database: str, query: str) -> list[tuple[Any, ...]]:
        with sqlite3.connect(self.directory / database) as connection:
            return connection.execute(query).fetchall()


def demo(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, DEMO, "--recommendations", str(RECOMMENDATIONS), "--directory", directory, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)


def json_of(directory: Path, *arguments: str) -> Ran:
    ran = demo(directory, "--json", *arguments)
    assert ran.stdout, ran.stderr
    return Ran(json.loads(ran.stdout.splitlines()[-1]), directory, ran.returncode, ran.stderr)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """One demo; the tests look at it from different sides."""
    return json_of(tmp_path_factory.mktemp("demo") / "day")


def test_it_succeeds_and_says_so(ran: Ran) -> None:
    assert ran.told["problems"] == []
    assert (ran.told["ok"], ran.status) == (True, 0)
    assert [check["what"] for check in ran.told["checks"] if not check["ok"]] == []


def test_all_sixteen_events_are_caused(ran: Ran) -> None:
    assert len(ran.told["events"]) == 16
    assert [event for event, row in ran.told["events"].items() if row["caused"] == 0] == []
    assert ran.told["events"]["recommendation_generated"]["caused"] == RECOMMENDATIONS


@pytest.mark.parametrize("destination", DESTINATIONS)
def test_what_arrived_and_what_was_dropped_is_what_was_caused(ran: Ran, destination: str) -> None:
    for event, row in ran.told["events"].items():
        dropped = sum(row["dropped"].get(destination, {}).values())
        assert (event, row[DESTINATIONS[destination]] + dropped) == (event, row["caused"])
        assert row["repeated"] == {}


def test_nothing_is_dropped_but_by_sampling_for_sentry(ran: Ran) -> None:
    dropped = [row["dropped"] for row in ran.told["events"].values()]
    reasons = {(name, reason) for places in dropped for name, counts in places.items() for reason in counts}
    assert reasons == {("sentry", "sampled")}


def test_sentry_gets_every_failure_as_an_issue_and_some_successes_as_logs(ran: Ran) -> None:
    for event in ("action_failed", "integration_call_failed", "circuit_breaker_opened"):
        row = ran.told["events"][event]
        assert (row["sentry_issues"], row["sentry_logs"]) == (row["caused"], 0)
    events = ran.told["events"].values()
    successes = sum(row["caused"] - row["sentry_issues"] for row in events)
    assert 0 < sum(row["sentry_logs"] for row in events) < successes / 2


def test_the_log_has_each_event_once_as_often_as_it_was_caused(ran: Ran) -> None:
    lines = ran.lines()
    caused = {event: row["caused"] for event, row in ran.told["events"].items()}
    assert Counter(line["event"] for line in lines) == caused
    assert len({line["event_id"] for line in lines}) == len(lines)


def test_the_database_holds_exactly_the_outcomes_that_were_caused(ran: Ran) -> None:
    caused = {event: row["caused"] for event, row in ran.told["events"].items() if event.startswith("outcome_")}
    stored = ran.rows("state/caseyos.db", "SELECT event, count(*) FROM outcome_events GROUP BY event")
    assert dict(stored) == caused
    told = ran.rows("service.db", "SELECT kind, count(*) FROM outcomes GROUP BY kind")
    assert {f"outcome_{kind}": count for kind, count in told} == caused


def test_outcomes_are_those_that_the_service_knows(ran: Ran) -> None:
    query = "SELECT recommendation_id FROM {} WHERE {} = '{}' ORDER BY 1"
    stored = ran.rows("state/caseyos.db", query.format("outcome_events", "event", "outcome_reply_received"))
    assert stored == ran.rows("service.db", query.format("outcomes", "kind", "reply_received"))


def test_metrics_count_every_event_whatever_is_sampled(ran: Ran) -> None:
    assert [e for e, row in ran.told["events"].items() if row["measured"] != row["caused"]] == []


def test_every_trace_is_kept_or_dropped_and_every_failed_one_kept(ran: Ran) -> None:
    traces = ran.told["traces"]
    assert traces["caused"] == ran.told["requests"]
    assert traces["kept"] + traces["dropped"] == traces["caused"] + traces["own"]
    assert traces["failed_kept"] == traces["failed"] > 0
    assert sum(traces["kept_by_reason"].values()) == traces["kept"]
    assert traces["kept_by_reason"]["error"] >= traces["failed"]
    # 200 traces and more, each kept with probability 0.1: beyond these bounds once in a million runs
    without_failure = traces["caused"] + traces["own"] - traces["kept_by_reason"]["error"]
    assert 0 < traces["kept_by_reason"]["probability"] < 3 * SUCCESS_RATIO * without_failure


def test_the_funnel_is_what_the_service_has_in_its_own_database(ran: Ran) -> None:
    def count(query: str) -> int:
        return int(ran.rows("service.db", f"SELECT count(*) FROM {query}")[0][0])

    funnel = {name: step["count"] for name, step in ran.told["funnel"].items()}
    done = "status IN ('executed', 'rolled_back') AND execution_mode != 'dry_run'"
    assert funnel == {
        "recommendations": RECOMMENDATIONS,
        "accepted": count("queue_items WHERE status IN ('accepted', 'done')"),
        "executed": count(f"actions WHERE {done}"),
        "replied": count("outcomes WHERE kind = 'reply_received'"),
        "booked": count("outcomes WHERE kind = 'meeting_booked'"),
        "advanced": count("(SELECT DISTINCT recommendation_id FROM outcomes WHERE kind = 'deal_advanced')"),
    }
    assert ran.told["funnel"]["recommendations"]["rate"] is None
    assert ran.told["funnel"]["accepted"]["rate"] == funnel["accepted"] / RECOMMENDATIONS


def test_addresses_are_in_the_database_alone(ran: Ran) -> None:
    addresses = [row[0] for row in ran.rows("state/caseyos.db", "SELECT contact_email FROM outcome_events") if row[0]]
    assert addresses
    text = (ran.directory / "events.jsonl").read_text("utf-8")
    assert [address for address in addresses if address in text] == []


def test_where_everything_is_and_what_to_try_next(ran: Ran) -> None:
    assert [name for name, path in ran.told["files"].items() if not Path(path).exists()] == []
    assert any("doctor" in command for command in ran.told["try_next"])


def test_progress_is_told_on_standard_error(ran: Ran) -> None:
    assert f"hour 8 of 8 ({RECOMMENDATIONS} of {RECOMMENDATIONS} recommendations decided)" in ran.progress


def test_a_database_of_outcomes_only_gets_the_rest_counted_as_not_applicable(tmp_path: Path) -> None:
    outcomes_only = json_of(tmp_path / "day", "--event-store", "outcomes", "--recommendations", "30")
    assert (outcomes_only.told["problems"], outcomes_only.status) == ([], 0)
    for event, row in outcomes_only.told["events"].items():
        if event.startswith("outcome_"):
            assert row["stored"] == row["caused"]
        else:
            assert row["stored"] == 0
            assert row["dropped"]["outcomes"] == {"not_applicable": row["caused"]}


def test_a_person_gets_a_page(tmp_path: Path) -> None:
    page = demo(tmp_path / "day", "--recommendations", "30")
    assert page.returncode == 0, page.stdout + page.stderr
    assert re.search(r"^recommendation_generated +30 +30 +30 ", page.stdout, re.MULTILINE)
    assert "Funnel (one query over both tables)" in page.stdout
    assert page.stdout.rstrip().endswith("Everything adds up: 16 events at 4 destinations, 10 checks.")


def test_a_service_that_does_not_start_is_shown_with_its_last_words(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "fastapi.py").write_text("raise ImportError('fastapi is broken here')\n")
    command = [sys.executable, DEMO, "--directory", tmp_path / "day"]
    environ = os.environ | {"PYTHONPATH": str(tmp_path / "broken")}
    ran = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 2
    assert "demo: the service ended with status 1 instead of starting" in ran.stderr
    assert "fastapi is broken here" in ran.stderr
    assert "Traceback (most recent call last):\n  File" not in ran.stderr.partition("Its last words")[0]


def test_no_process_outlives_a_demo_that_is_ended(tmp_path: Path) -> None:
    command = [sys.executable, DEMO, "--directory", tmp_path / "day"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert "hour 1" in process.stderr.readline()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 2
    process.send_signal(signal.SIGTERM)
    process.stderr.read()
    assert process.wait(60) == 143
    assert [child for child in children if Path(f"/proc/{child}").exists()] == []


def test_a_directory_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    refused = demo(tmp_path)
    assert refused.returncode == 2
    assert "is not empty; name one that does not exist" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_too_few_recommendations_are_refused(tmp_path: Path) -> None:
    refused = demo(tmp_path, "--recommendations", "19")
    assert refused.returncode == 2
    assert "19: a day with every event needs at least 20" in refused.stderr
