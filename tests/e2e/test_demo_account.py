"""The demo's account finds what is lost, doubled or malformed: else a demo that succeeds would say nothing."""

from __future__ import annotations

import importlib
import json
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "command_center"
EVENT = "outcome_deal_advanced"
LINE = {
    "event": EVENT,
    "deal_id": "hs_deal_123",
    "recommendation_id": "r1",
    "old_stage": "SQL",
    "new_stage": "Opportunity",
    "pipeline_value": 50000,
    "timestamp": "2026-01-24T10:00:00Z",
    "event_id": "01a20d37-2a0b-721c-8556-2e99e9dc8b5c",
    "trace_id": "e6c618153ffad2aca3f3c249ee81a7f5",
    "span_id": "813330a94bcba3c7",
    "service": "command-center",
}


@pytest.fixture
def arrived(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(EXAMPLE)
    return importlib.import_module("demo_parts.arrived")


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(EXAMPLE)
    return importlib.import_module("demo_parts.account")


def drop(reason: str, destination: str, n: int = 1) -> dict[str, Any]:
    return {"reason": reason, "destination": destination, "event": EVENT, "n": n}


def problems(
    account: ModuleType,
    arrived: ModuleType,
    *,
    caused: int = 2,
    log: tuple[str, ...] = ("a", "b"),
    sentry: tuple[str, ...] = ("a", "b"),
    dropped: tuple[dict[str, Any], ...] = (),
) -> list[str]:
    """The problems of a day with one kind of event, of which the database and OTLP got `a` and `b`."""

    def events(ids: tuple[str, ...]) -> Any:
        made = arrived.Events()
        for event_id in ids:
            made.add(EVENT, event_id)
        return made

    received = arrived.Received(sentry=events(sentry), otlp=events(("a", "b")))
    stored = arrived.Stored(events(("a", "b")), events(("a", "b")))
    (row,) = account.rows({EVENT: caused}, arrived.Log(events(log), [], set()), stored, received, dropped)
    found: list[str] = row.problems()
    return found


def test_equal_sums_are_no_problem(account: ModuleType, arrived: ModuleType) -> None:
    assert problems(account, arrived) == []


def test_a_drop_with_a_reason_is_no_problem(account: ModuleType, arrived: ModuleType) -> None:
    assert problems(account, arrived, sentry=("a",), dropped=(drop("sampled", "sentry"),)) == []


def test_a_lost_event_is_one(account: ModuleType, arrived: ModuleType) -> None:
    found = problems(account, arrived, log=("a",))
    assert found == [f"{EVENT}, logged: 1 arrived + 0 dropped, 2 were caused (+1 missing)"]


def test_a_drop_for_another_destination_does_not_excuse_it(account: ModuleType, arrived: ModuleType) -> None:
    found = problems(account, arrived, log=("a",), sentry=("a",), dropped=(drop("sampled", "sentry"),))
    assert found == [f"{EVENT}, logged: 1 arrived + 0 dropped, 2 were caused (+1 missing)"]


def test_an_event_that_nobody_caused_is_one(account: ModuleType, arrived: ModuleType) -> None:
    found = problems(account, arrived, sentry=("a", "b", "c"))
    assert found == [f"{EVENT}, Sentry: 3 arrived + 0 dropped, 2 were caused (-1 missing)"]


def test_an_event_that_arrives_twice_is_one(account: ModuleType, arrived: ModuleType) -> None:
    assert problems(account, arrived, log=("a", "b", "b")) == [f"{EVENT}, logged: 1 arrived a second time"]


def test_a_second_arrival_does_not_stand_for_a_lost_event(account: ModuleType, arrived: ModuleType) -> None:
    assert len(problems(account, arrived, log=("a", "a"))) == 2


def test_a_drop_without_destination_counts_for_all(account: ModuleType, arrived: ModuleType) -> None:
    dropped = (drop("queue_full", ""),)
    assert problems(account, arrived, caused=3, log=("a", "b"), dropped=dropped) == []


def test_a_refused_field_excuses_no_loss(account: ModuleType, arrived: ModuleType) -> None:
    assert len(problems(account, arrived, log=("a",), dropped=(drop("invalid_field", ""),))) == 1


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (json.dumps(LINE), None),
        ("{", "is no JSON"),
        ('{"event": "outcome_deal_advanced", "pipeline_value": NaN}', "NaN is no JSON"),
        ("[]", "is no JSON object"),
        (json.dumps({**LINE, "event": "deal_won"}), "'deal_won', which the specification does not have"),
        (json.dumps({name: LINE[name] for name in LINE if name != "old_stage"}), f"{EVENT} lacks old_stage"),
        (json.dumps({name: LINE[name] for name in LINE if name != "event_id"}), f"{EVENT} lacks event_id"),
        (json.dumps({**LINE, "deal_id": None}), f"{EVENT} has null for deal_id"),
        (json.dumps({**LINE, "invalid_fields": ["x"]}), "has invalid fields: ['x']"),
    ],
)
def test_each_line_of_the_log_is_looked_at(arrived: ModuleType, tmp_path: Path, line: str, problem: str | None) -> None:
    (tmp_path / "events.jsonl").write_text(f"{json.dumps(LINE)}\n{line}\n")
    found = arrived.read_log(tmp_path / "events.jsonl").problems
    assert len(found) == (problem is not None)
    assert problem is None or problem in found[0]
    assert problem is None or found[0].startswith("events.jsonl:2: ")


def test_a_trace_whose_decision_changed_counts_once(account: ModuleType, arrived: ModuleType) -> None:
    traces = arrived.Traces()
    for trace_id, reason in (("t1", "probability"), ("t2", "probability"), ("t2", "late_error"), ("t3", "error")):
        traces.reasons[trace_id].add(reason)
    log = arrived.Log(arrived.Events(), [], {"t2", "t3", "t4"})
    decided = [
        {"kept": False, "reason": "probability", "n": 7},
        {"kept": True, "reason": "probability", "n": 2},
        {"kept": True, "reason": "late_error", "n": 1},
        {"kept": True, "reason": "error", "n": 1},
    ]
    counts = account.trace_counts(10, log, traces, [], decided)
    assert (counts.kept, counts.dropped) == (3, 7)
    assert Counter(counts.kept_by_reason) == {"error": 1, "late_error": 1, "probability": 1}
    assert (counts.failed, counts.failed_kept) == (3, 2)
