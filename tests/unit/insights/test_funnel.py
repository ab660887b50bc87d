from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import uuid_utils
from sqlalchemy import Engine, event

from caseyos_otel.events.record import EventRecord
from caseyos_otel.events.registry import registry
from caseyos_otel.insights.funnel import Funnel, funnel
from caseyos_otel.storage import engine as engines
from caseyos_otel.storage import schema
from caseyos_otel.storage.writer import Writer

MOMENT = datetime(2026, 1, 23, 14, 30, tzinfo=UTC)
Store = Callable[..., None]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """A SQLite file with our tables."""
    made = engines.create(engines.parse_url(f"sqlite:///{tmp_path / 'caseyos.db'}"))
    schema.upgrade(made)
    yield made
    made.dispose()


@pytest.fixture
def store(engine: Engine) -> Store:
    """`store("event_name", {"field": value}, at=…)` stores one event as the delivery thread does."""
    writer = Writer(engine, event_store="all", disclose=lambda record: record.values, pseudonym=lambda text: text)

    def store(name: str, fields: Mapping[str, Any], at: datetime = MOMENT) -> None:
        declaration = registry.require(name)
        nanoseconds = int(at.timestamp()) * 10**9
        record = EventRecord(
            declaration,
            declaration.bind(fields).values,
            event_id=str(uuid_utils.uuid7()),
            timestamp=nanoseconds,
            observed_timestamp=nanoseconds,
        )
        writer.write([record])

    return store


def recommend(store: Store, number: int, *, name: str = "recommendation_generated", **more: Any) -> None:
    store(name, {"recommendation_id": f"r{number}", "aps_score": 87.5, "action_type": "send_email", **more})


def execute(store: Store, number: int, mode: str = "automated", *, success: bool = True) -> None:
    fields = {"action_id": f"a{number}", "action_type": "send_email", "execution_mode": mode, "success": success}
    store("action_executed", fields)


def test_the_specifications_example(engine: Engine, store: Store) -> None:
    for number in range(100):
        recommend(store, number)
    for number in range(70):
        recommend(store, number, name="recommendation_accepted", user_id="casey")
        execute(store, number)
    for number in range(28):
        store("outcome_reply_received", {"recommendation_id": f"r{number}", "action_id": f"a{number}"})
    for number in range(17):
        store("outcome_meeting_booked", {"recommendation_id": f"r{number}", "action_id": f"a{number}"})
    for number in range(8):
        store("outcome_deal_advanced", {"recommendation_id": f"r{number}", "deal_id": f"d{number}"})

    found = funnel(engine)

    assert found == Funnel(recommendations=100, accepted=70, executed=70, replied=28, booked=17, advanced=8)
    assert (found.acceptance_rate, found.execution_rate, found.reply_rate) == (0.7, 1.0, 0.4)
    assert found.booking_rate == pytest.approx(0.607, abs=0.001)
    assert found.conversion_rate == pytest.approx(0.47, abs=0.001)


def test_an_empty_database_has_no_rates(engine: Engine) -> None:
    found = funnel(engine)
    assert found == Funnel()
    assert [(step.name, step.count, step.rate) for step in found.steps()] == [
        ("recommendations", 0, None),
        ("accepted", 0, None),
        ("executed", 0, None),
        ("replied", 0, None),
        ("booked", 0, None),
        ("advanced", 0, None),
    ]


def test_each_recommendation_counts_once_at_each_step(engine: Engine, store: Store) -> None:
    for _ in range(2):
        recommend(store, 1)
        execute(store, 1)
        store("outcome_reply_received", {"recommendation_id": "r1", "draft_id": "d1"})
    for stage in ("SQL", "Opportunity"):
        store("outcome_deal_advanced", {"recommendation_id": "r1", "deal_id": "hs_deal_1", "new_stage": stage})
    assert funnel(engine) == Funnel(recommendations=1, executed=1, replied=1, advanced=1)


def test_what_names_no_recommendation_stands_for_itself(engine: Engine, store: Store) -> None:
    for _ in range(2):
        recommend(store, 0, recommendation_id=None)
    store("outcome_deal_advanced", {"deal_id": "hs_deal_1"})
    store("outcome_deal_advanced", {"deal_id": "hs_deal_1"})
    assert funnel(engine) == Funnel(recommendations=2, advanced=1)


def test_dry_runs_and_failed_actions_are_not_executed(engine: Engine, store: Store) -> None:
    execute(store, 1, "dry_run")
    execute(store, 2, success=False)
    execute(store, 3, "manual")
    store("action_failed", {"action_id": "a4", "action_type": "send_email", "error_type": "api_error"})
    assert funnel(engine).executed == 1


def test_other_events_do_not_count(engine: Engine, store: Store) -> None:
    recommend(store, 1, name="recommendation_dismissed", user_id="casey")
    store("outcome_deliverable_shipped", {"deliverable_id": "d1"})
    assert funnel(engine) == Funnel()


def test_a_period_includes_its_beginning_and_not_its_end(engine: Engine, store: Store) -> None:
    for day in range(3):
        at = MOMENT + timedelta(days=day)
        store("recommendation_generated", {"recommendation_id": f"r{day}", "aps_score": 1, "action_type": "x"}, at)
        store("outcome_deal_advanced", {"recommendation_id": f"r{day}", "deal_id": f"d{day}"}, at)
    second_day, third_day = MOMENT + timedelta(days=1), MOMENT + timedelta(days=2)
    assert funnel(engine, since=second_day, until=third_day) == Funnel(recommendations=1, advanced=1)
    assert funnel(engine, since=second_day).recommendations == 2
    assert funnel(engine, until=second_day).advanced == 1


def test_a_moment_without_time_zone_is_refused(engine: Engine) -> None:
    with pytest.raises(ValueError, match="since=2026-01-23T00:00:00 has no time zone"):
        funnel(engine, since=datetime(2026, 1, 23))  # noqa: DTZ001  # the mistake under test


def test_it_is_one_query(engine: Engine) -> None:
    statements: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda _c, _cursor, statement, *_: statements.append(statement))
    funnel(engine)
    assert len(statements) == 1
    assert "outcome_events" in statements[0]
    assert "FROM events" in statements[0]
