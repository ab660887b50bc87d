"""What a test may say about the events that were emitted, and what it is told when it is wrong."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from unittest.mock import ANY

import pytest

from caseyos_otel import InvalidEventError, UnknownEventError, bind, track, track_event
from caseyos_otel.events.outcome import OutcomeReplyReceived
from caseyos_otel.testing import Recorder, recording


@pytest.fixture
def events() -> Iterator[Recorder]:
    with recording() as recorder:
        yield recorder


def accept(user_id: str = "casey") -> None:
    track("recommendation_accepted", recommendation_id="7d0c", action_type="send_email", user_id=user_id)


def fail() -> None:
    track("action_failed", action_id="a1", action_type="send_email", error_type="api_error", retryable=True)


def test_has_count_and_all_select_by_name_and_fields(events: Recorder) -> None:
    accept("casey")
    accept("sam")
    assert events.has("recommendation_accepted")
    assert events.has("recommendation_accepted", user_id="sam", recommendation_id="7d0c")
    assert not events.has("recommendation_accepted", user_id="kim")
    assert not events.has("action_failed")
    assert (events.count("recommendation_accepted"), events.count("recommendation_accepted", user_id="sam")) == (2, 1)
    assert [event["user_id"] for event in events.all("recommendation_accepted")] == ["casey", "sam"]
    assert events.has("caseyos.recommendation.accepted", user_id="sam")


def test_one_gives_the_event(events: Recorder) -> None:
    track(OutcomeReplyReceived(recommendation_id="7d0c", recipient="john@acmecorp.com", reply_sentiment="positive"))
    reply = events.one("outcome_reply_received", recipient="john@acmecorp.com")
    assert (reply["recommendation_id"], reply["reply_sentiment"], reply["draft_id"]) == ("7d0c", "positive", None)
    assert (reply.outcome, reply.failure, reply.delivery) == (True, False, "durable")
    assert reply.trace_id is None


def test_matching_is_by_equality_of_typed_values(events: Recorder) -> None:
    meeting = datetime(2026, 1, 30, 9, tzinfo=timezone(timedelta(hours=1)))
    track("outcome_meeting_booked", recommendation_id="7d0c", attendee="john@acmecorp.com", meeting_time=meeting)
    assert events.has("outcome_meeting_booked", meeting_time=datetime(2026, 1, 30, 8, tzinfo=UTC), attendee=ANY)
    assert events.has("outcome_meeting_booked", timestamp=events.clock.now, trace_id=None)


def test_groups_are_read_as_the_specification_writes_them(events: Recorder) -> None:
    metadata = {"recipient": "john@acmecorp.com", "body": "Dear John"}
    track(
        "action_executed",
        action_id="a1",
        action_type="send_email",
        execution_mode="manual",
        success=True,
        metadata=metadata,
    )
    executed = events.one("action_executed", metadata={"recipient": "john@acmecorp.com"})
    assert executed["metadata.recipient"] == "john@acmecorp.com"
    assert "Dear John" not in json.dumps(events.as_dicts())


def test_none_and_sequence_are_true_when_they_hold(events: Recorder) -> None:
    accept()
    track("recommendation_viewed", user_id="casey", recommendations_shown=3)
    fail()
    assert events.none("action_executed")
    assert events.none("recommendation_accepted", user_id="sam")
    assert events.sequence("recommendation_accepted", "action_failed")
    assert events.names == ["recommendation_accepted", "recommendation_viewed", "action_failed"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda events: events.one("action_executed"), "expected one action_executed, got 0"),
        (lambda events: events.one("recommendation_accepted"), "expected one recommendation_accepted, got 2"),
        (
            lambda events: events.one("recommendation_accepted", user_id="kim"),
            "expected one recommendation_accepted with user_id='kim', got 0",
        ),
        (lambda events: events.one("recommendation_accepted", user_id="kim"), "<- here user_id='sam'"),
        (lambda events: events.none("action_failed"), "expected no action_failed, got 1"),
        (
            lambda events: events.sequence("action_failed", "recommendation_accepted"),
            "expected recommendation_accepted after action_failed",
        ),
        (lambda events: events.sequence("action_executed", "action_failed"), "expected action_executed, which"),
        (lambda events: events.sequence("action_failed", "action_failed"), "action_failed after action_failed"),
    ],
)  # fmt: skip
def test_what_does_not_hold_shows_what_was_emitted(events: Recorder, wrong: object, said: str) -> None:
    accept("casey")
    accept("sam")
    fail()
    with pytest.raises(AssertionError) as caught:
        wrong(events)  # type: ignore[operator]
    message = str(caught.value)
    assert said in message
    assert "recommendation_accepted(recommendation_id='7d0c', action_type='send_email', user_id='sam')" in message
    assert "action_failed(action_id='a1'" in message


def test_what_was_emitted_is_shown_shortened(events: Recorder) -> None:
    for _ in range(60):
        track(
            "action_failed", action_id="a1", action_type="send_email", error_type="api_error", error_message="x" * 9999
        )
    shown = events.describe()
    assert "emitted, 60 in all" in shown
    assert "… and 10 more" in shown
    assert len(shown) < 15_000


def test_a_misspelled_name_or_field_is_an_error_of_the_test(events: Recorder) -> None:
    accept()
    with pytest.raises(UnknownEventError, match="did you mean 'action_failed'"):
        events.none("action_faild")
    with pytest.raises(InvalidEventError, match="did you mean 'user_id'"):
        events.none("recommendation_accepted", user="sam")
    with pytest.raises(KeyError, match="did you mean 'user_id'"):
        events.one("recommendation_accepted")["user"]


def test_whole_events_are_the_same_at_each_run(events: Recorder) -> None:
    accept()
    events.clock.advance(minutes=1)
    opened = {"service": "gmail", "failure_count": 5, "threshold": 5}
    track("circuit_breaker_opened", **opened)
    envelope = {"trace_id": None, "span_id": None}
    assert events.as_dicts() == [
        {
            "event": "recommendation_accepted",
            "recommendation_id": "7d0c",
            "queue_item_id": None,
            "aps_score": None,
            "action_type": "send_email",
            "user_id": "casey",
            "time_to_decision_seconds": None,
            "timestamp": "2026-01-23T14:30:00Z",
            "event_id": "00000000-0000-7000-8000-000000000001",
            **envelope,
        },
        {
            "event": "circuit_breaker_opened",
            **opened,
            "timestamp": "2026-01-23T14:31:00Z",
            "event_id": "00000000-0000-7000-8000-000000000002",
            **envelope,
        },
    ]


def test_the_clock_gives_times_and_durations(events: Recorder) -> None:
    @track_event("action_executed", properties={"action_type": "send_email", "execution_mode": "manual"})
    def send(action_id: str) -> None:
        events.clock.advance(milliseconds=1240)

    events.clock.set(datetime(2026, 2, 1, 10, tzinfo=timezone(timedelta(hours=1))))
    send("a1")
    executed = events.one("action_executed")
    assert executed["duration_ms"] == 1240.0
    assert executed.timestamp == datetime(2026, 2, 1, 9, 0, 1, 240_000, tzinfo=UTC)
    with pytest.raises(ValueError, match="time zone is missing"):
        events.clock.set(datetime(2026, 2, 1))  # noqa: DTZ001  # that is the point


def test_an_invalid_event_raises_at_the_call_unless_the_test_says_otherwise(events: Recorder) -> None:
    with pytest.raises(InvalidEventError, match="user_id"):
        track("recommendation_accepted", recommendation_id="7d0c", action_type="send_email")
    with pytest.raises(UnknownEventError):
        track("contract_signed")
    with pytest.raises(InvalidEventError, match="did you mean 'user_id'"):
        track("recommendation_accepted", recommendation_id="7d0c", action_type="send_email", user_di="casey")
    assert not len(events)
    events.strict = False
    track("recommendation_accepted", recommendation_id="7d0c", action_type="send_email")
    track("contract_signed")
    assert events.one("recommendation_accepted").invalid_fields == ("user_id",)


def test_a_decorated_function_that_raises_emits_its_failure_twin(events: Recorder) -> None:
    @track_event("action_executed")
    def send(action_id: str, action_type: str) -> None:
        raise TimeoutError("Gmail did not answer")

    with pytest.raises(TimeoutError):
        send("a1", "send_email")
    failed = events.one("action_failed", error_type="TimeoutError")
    assert failed.failure
    assert failed.exception["exception.message"] == "Gmail did not answer"
    assert events.none("action_executed")


async def test_tasks_and_threads_are_recorded(events: Recorder) -> None:
    async def work(number: int) -> None:
        with bind(recommendation_id=f"r{number}"):
            await asyncio.sleep(0)
            await asyncio.to_thread(track, "recommendation_accepted", action_type="send_email", user_id="casey")

    await asyncio.gather(*(work(number) for number in range(20)))
    assert sorted(event["recommendation_id"] for event in events) == sorted(f"r{number}" for number in range(20))
    assert len({event.event_id for event in events}) == 20


def test_an_event_is_recorded_before_its_caller_goes_on(events: Recorder) -> None:
    missing: list[str] = []

    def work(user: str) -> None:
        for number in range(50):
            accept(f"{user}{number}")
            if not events.has("recommendation_accepted", user_id=f"{user}{number}"):
                missing.append(f"{user}{number}")

    threads = [threading.Thread(target=work, args=(user,)) for user in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert missing == []
    assert len(events) == 200


def test_a_session_needs_no_tables(events: Recorder) -> None:
    track("outcome_reply_received", recipient="john@acmecorp.com", session=object())  # type: ignore[arg-type]
    assert events.one("outcome_reply_received").delivery == "transaction"
    with pytest.raises(InvalidEventError, match="only outcomes"):
        track("recommendation_viewed", user_id="casey", recommendations_shown=3, session=object())  # type: ignore[arg-type]


def test_an_id_that_is_derived_stays_derived(events: Recorder) -> None:
    for _ in range(2):
        track("outcome_reply_received", recipient="john@acmecorp.com", once_per="message-1")
    first, second = events
    assert first.event_id == second.event_id
    assert not first.event_id.startswith("00000000-0000-7000-8000")


def test_the_innermost_recording_gets_the_event_and_ends_with_its_block(events: Recorder) -> None:
    accept("outside")
    with recording(strict=False) as inner:
        accept("inside")
        assert not inner.strict
    accept("outside again")
    assert [event["user_id"] for event in events] == ["outside", "outside again"]
    assert [event["user_id"] for event in inner] == ["inside"]
    assert events.strict
    events.clear()
    assert list(events) == []
