"""`track()` and `bind()`: what enters the queue, what is refused, and that nothing reaches the caller."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from datetime import UTC, datetime
from typing import Any

import pytest

from caseyos_otel import Event, InvalidEventError, UnknownEventError, bind, context, optional, required, track
from caseyos_otel.diagnostics import drops
from caseyos_otel.emit.emitter import build
from caseyos_otel.emit.queue import EventQueue
from caseyos_otel.events.outcome import OutcomeDealAdvanced
from caseyos_otel.events.recommendation import RecommendationAccepted
from caseyos_otel.events.record import EventRecord
from caseyos_otel.instrumentation import track as tracking

ACCEPTED = {"recommendation_id": "r1", "action_type": "send_email", "user_id": "casey"}


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> Iterator[EventQueue]:
    fresh = EventQueue()
    for name, value in {"queue": fresh, "woken": lambda: None, "inline": None, "strict": False}.items():
        monkeypatch.setattr(tracking.emitter, name, value)
    monkeypatch.setattr(tracking, "enabled", True)
    monkeypatch.setattr(tracking, "set_aside_unknown", None)
    return fresh


def records(queue: EventQueue) -> list[EventRecord]:
    return [build(item) for item in list(queue.items)]


def test_an_event_by_name_and_one_by_class_are_the_same(queue: EventQueue) -> None:
    track("recommendation_accepted", **ACCEPTED)
    track(RecommendationAccepted(**ACCEPTED))
    by_name, by_class = records(queue)
    assert by_name.values == by_class.values
    assert by_name.declaration is by_class.declaration
    assert by_name.event_id != by_class.event_id


def test_a_class_that_nobody_registered_is_known_from_its_first_event_on(queue: EventQueue) -> None:
    class ContractSigned(Event, name="contract_signed_here", otel="acme.contract.signed_here", outcome=True):
        """A contract was signed."""

        contract_id: str = required(doc="The contract.")
        value: float | None = optional(doc="Its value.")

    track(ContractSigned(contract_id="c1"))
    track("contract_signed_here", contract_id="c2", value=1.5)
    assert [(r.values["contract_id"], r.outcome, r.durable) for r in records(queue)] == [
        ("c1", True, True),
        ("c2", True, True),
    ]


def test_a_given_timestamp_is_the_event_s_time_and_a_naive_one_costs_itself_alone(queue: EventQueue) -> None:
    moment = datetime(2026, 1, 23, 14, 30, 0, 250000, tzinfo=UTC)
    track("recommendation_accepted", **ACCEPTED, timestamp=moment)
    track("recommendation_accepted", **ACCEPTED, timestamp="2026-01-23T14:30:00Z")
    track("recommendation_accepted", **ACCEPTED, timestamp=datetime(2026, 1, 23))  # noqa: DTZ001  # naive on purpose
    given, text, naive = records(queue)
    assert given.timestamp == 1769178600250000000
    assert text.timestamp == 1769178600000000000
    assert naive.invalid_fields == ("timestamp",)
    assert naive.values["recommendation_id"] == "r1"


@pytest.mark.parametrize("year", [1, 1900, 1969, 2600, 9999])
def test_a_timestamp_that_no_otlp_message_can_tell_costs_itself_alone_wherever_the_event_goes(
    queue: EventQueue, year: int
) -> None:
    track("recommendation_accepted", **ACCEPTED, timestamp=datetime(year, 6, 1, tzinfo=UTC))
    [record] = records(queue)
    assert record.invalid_fields == ("timestamp",)
    assert time.time() - (record.timestamp or 0) / 1e9 < 60


def test_once_per_gives_the_same_id_for_the_same_event_and_key(queue: EventQueue) -> None:
    track("outcome_deal_advanced", deal_id="d1", once_per="d1:won")
    track("outcome_deal_advanced", deal_id="d1", once_per="d1:won")
    track("outcome_deal_advanced", deal_id="d1", once_per="d1:lost")
    first, again, other = (record.event_id for record in records(queue))
    assert first == again != other
    assert first.startswith("00000000-0000-8")


def test_delivery_overrides_the_class(queue: EventQueue) -> None:
    track("recommendation_accepted", **ACCEPTED, delivery="durable")
    track("outcome_deal_advanced", deal_id="d1", delivery="best_effort")
    assert [record.durable for record in records(queue)] == [True, False]


def test_an_unknown_event_never_raises_and_is_counted_and_set_aside(
    queue: EventQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[tuple[str, Any]] = []
    monkeypatch.setattr(tracking, "set_aside_unknown", lambda name, fields: kept.append((name, fields)))
    before = drops.by_reason().get("undeclared", 0)
    track("recommendation_acepted", user_id="casey")
    assert drops.by_reason()["undeclared"] == before + 1
    assert kept == [("recommendation_acepted", {"user_id": "casey"})]
    assert len(queue) == 0


def test_strict_mode_raises_for_unknown_events_unknown_fields_and_bad_values(
    queue: EventQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking.emitter, "strict", True)
    with pytest.raises(UnknownEventError, match="did you mean 'recommendation_accepted'"):
        track("recommendation_acepted", **ACCEPTED)
    with pytest.raises(InvalidEventError, match="did you mean 'user_id'"):
        track("recommendation_accepted", **ACCEPTED, user_di="casey")
    with pytest.raises(InvalidEventError, match=r"recommendation_accepted.aps_score .*'high'.*a finite number"):
        track("recommendation_accepted", **ACCEPTED, aps_score="high")
    with pytest.raises(InvalidEventError, match=r"action_id.*required"):
        track("action_failed", action_type="send_email", error_type="api_error")
    with pytest.raises(InvalidEventError, match="time zone"):
        track("recommendation_accepted", **ACCEPTED, timestamp=datetime(2026, 1, 23))  # noqa: DTZ001  # naive on purpose
    assert len(queue) == 0


def test_a_bad_field_costs_that_field_and_is_named_and_counted(queue: EventQueue) -> None:
    before = drops.by_reason().get("invalid_field", 0)
    track("recommendation_accepted", **ACCEPTED, aps_score="high", queue_item_id=object())
    (record,) = records(queue)
    assert record.values["aps_score"] is None
    assert set(record.invalid_fields) == {"aps_score", "queue_item_id"}
    assert drops.by_reason()["invalid_field"] == before + 2


def test_undeclared_fields_do_not_leave(queue: EventQueue) -> None:
    track(
        "action_executed",
        action_id="a1",
        action_type="send_email",
        execution_mode="automated",
        success=True,
        body="Dear John",
        metadata={"recipient": "john@acmecorp.com", "subject": "Hi", "body": "Dear John, the whole letter"},
    )
    (record,) = records(queue)
    assert "Dear John" not in repr(record.values)
    assert record.values["metadata.recipient"] == "john@acmecorp.com"


def test_bound_fields_fill_in_across_await_and_into_executor_threads(queue: EventQueue) -> None:
    async def inner() -> None:
        await asyncio.sleep(0)
        track("outcome_deal_advanced", deal_id="d1")
        await asyncio.to_thread(track, "outcome_deal_advanced", deal_id="d2")

    with bind(recommendation_id="r1"), bind(deal_id="bound"):
        asyncio.run(inner())
        with ThreadPoolExecutor(1) as pool:
            pool.submit(copy_context().run, track, "outcome_deal_advanced").result()
    track("outcome_deal_advanced", deal_id="d3")
    found = [(r.values["deal_id"], r.values["recommendation_id"]) for r in records(queue)]
    assert found == [("d1", "r1"), ("d2", "r1"), ("bound", "r1"), ("d3", None)]


def test_bound_fields_fill_in_what_an_instance_leaves_out(queue: EventQueue) -> None:
    with bind(recommendation_id="r1"):
        track(OutcomeDealAdvanced(deal_id="d1"))
    assert records(queue)[0].values["recommendation_id"] == "r1"


def test_binding_travels_in_baggage_only_where_asked_for(queue: EventQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    from opentelemetry import baggage

    with bind(recommendation_id="r1"):
        assert baggage.get_all() == {}
    monkeypatch.setattr(context, "propagate", True)
    with bind(recommendation_id="r1"):
        assert baggage.get_all() == {"caseyos.recommendation_id": "r1"}
        carried = threading.Thread(
            target=copy_context().run, args=(track, "outcome_deal_advanced"), kwargs={"deal_id": "d"}
        )
        carried.start()
        carried.join()
    assert baggage.get_all() == {}
    assert records(queue)[0].values["recommendation_id"] == "r1"


def test_a_full_queue_is_counted_and_never_raises(queue: EventQueue) -> None:
    queue.capacity = 1
    before = drops.by_reason().get("queue_full", 0)
    track("recommendation_accepted", **ACCEPTED)
    track("recommendation_accepted", **ACCEPTED)
    assert len(queue) == 1
    assert drops.by_reason()["queue_full"] == before + 1


def test_disabled_emits_nothing(queue: EventQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "enabled", False)
    track("recommendation_accepted", **ACCEPTED)
    track("nonsense")
    assert len(queue) == 0
