"""The emitter: what has happened by the time `track()` returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider

from caseyos_otel import context
from caseyos_otel.diagnostics import drops
from caseyos_otel.emit.emitter import Emitter, build, exception_attributes
from caseyos_otel.emit.queue import EventQueue
from caseyos_otel.events.record import Delivery, EventRecord
from caseyos_otel.events.registry import registry
from caseyos_otel.otlp.decode import decode
from caseyos_otel.otlp.encode import RequestEncoder
from caseyos_otel.processors.trail import TrailSpanProcessor
from caseyos_otel.spool.segment import HEADER_SIZE, Record, scan
from caseyos_otel.spool.spool import Spool

DEAL = registry.require("outcome_deal_advanced")
FAILED = registry.require("action_failed")
EXECUTED = registry.require("action_executed")
SIGNAL = registry.require("signal_received")


@pytest.fixture
def emitter() -> Emitter:
    return Emitter(EventQueue())


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    made = Spool(tmp_path / "spool", on_problem=lambda problem: pytest.fail(str(problem)))
    made.reader("outcomes")
    yield made
    made.close()


def queued(emitter: Emitter) -> list[EventRecord]:
    return [build(item) for item in list(emitter.queue.items)]


def in_segments(spool: Spool) -> list[EventRecord]:
    """What another process would find in the files, at this moment."""
    found = []
    for segment in sorted(spool.directory.rglob("*.seg")):
        for item in scan(segment.read_bytes()[HEADER_SIZE:]):
            assert isinstance(item, Record)
            found += decode(item.payload, registry)
    return found


def spooling(spool: Spool) -> Callable[[EventRecord], bool]:
    encoder = RequestEncoder({"service.name": "api"}, "scope", "1", "")

    def append(record: EventRecord) -> bool:
        spool.writer.append("outcomes", encoder.encode([record]))
        return True

    return append


def test_an_outcome_is_in_the_spool_before_emit_returns_and_before_it_is_queued(emitter: Emitter, spool: Spool) -> None:
    found: list[list[EventRecord]] = []
    emitter.spool = spooling(spool)
    emitter.woken = lambda: found.append(in_segments(spool))
    emitter.emit(DEAL, {"deal_id": "d1", "new_stage": "won", "pipeline_value": 5000})
    [record] = found[0]
    assert record.declaration is DEAL
    assert (record.values["deal_id"], record.values["pipeline_value"]) == ("d1", 5000)
    assert record.resource == {"service.name": "api"}
    [waiting] = queued(emitter)
    assert (waiting.event_id, waiting.spooled) == (record.event_id, True)


@pytest.mark.parametrize(
    ("name", "fields", "delivery", "spooled"),
    [
        ("outcome_deal_advanced", {"deal_id": "d1"}, None, True),
        ("action_failed", {"action_id": "a1"}, None, True),
        ("action_executed", {"action_id": "a1", "success": False}, None, True),
        ("action_executed", {"action_id": "a1", "success": True}, None, False),
        ("action_executed", {"action_id": "a1", "success": "maybe"}, None, False),
        ("signal_received", {}, None, False),
        ("signal_received", {}, Delivery.DURABLE, True),
        ("outcome_deal_advanced", {"deal_id": "d1"}, Delivery.BEST_EFFORT, False),
        ("action_failed", {"action_id": "a1"}, Delivery.BEST_EFFORT, False),
    ],
)
def test_outcomes_and_failures_are_spooled_and_what_was_asked_for_goes_before(
    name: str, fields: dict[str, Any], delivery: Delivery | None, spooled: bool, emitter: Emitter, spool: Spool
) -> None:
    emitter.spool = spooling(spool)
    emitter.emit(registry.require(name), fields, delivery)
    assert [record.declaration.name for record in in_segments(spool)] == ([name] if spooled else [])
    [record] = queued(emitter)
    assert (bool(record.spooled), record.durable) == (spooled, spooled)


def test_what_cannot_be_spooled_stays_in_memory(emitter: Emitter) -> None:
    emitter.spool = lambda record: False
    emitter.emit(DEAL, {"deal_id": "d1"})
    [record] = queued(emitter)
    assert (record.spooled, record.durable) == (False, True)


def test_a_full_queue_costs_an_outcome_its_place_in_the_queue_not_in_the_spool(spool: Spool) -> None:
    emitter = Emitter(EventQueue(capacity=1))
    emitter.spool = spooling(spool)

    def full() -> tuple[int, ...]:
        asked = (("queue_full", "log", "outcome_deal_advanced"), ("queue_full", "", "signal_received"))
        return tuple(drops.snapshot().get(key, 0) for key in asked)

    before = full()
    emitter.emit(SIGNAL, {})
    emitter.emit(DEAL, {"deal_id": "d1"})
    emitter.emit(SIGNAL, {})
    assert [record.values["deal_id"] for record in in_segments(spool)] == ["d1"]
    assert full() == (before[0] + 1, before[1] + 1)
    assert [record.declaration for record in queued(emitter)] == [SIGNAL]


def test_a_failure_keeps_its_trace_before_its_span_can_end(emitter: Emitter) -> None:
    kept: list[int] = []
    emitter.keep = kept.append
    provider = TracerProvider(shutdown_on_exit=False)
    with provider.get_tracer("service").start_as_current_span("request") as span:
        emitter.emit(SIGNAL, {})
        emitter.emit(DEAL, {"deal_id": "d1"})
        assert kept == []
        emitter.emit(FAILED, {"action_id": "a1"})
        assert kept == [span.get_span_context().trace_id]
        emitter.emit(EXECUTED, {"action_id": "a1", "success": False})
        assert len(kept) == 2
    emitter.emit(FAILED, {"action_id": "a2"})
    assert len(kept) == 2


def test_what_led_to_a_failure_is_remembered_with_its_exception(emitter: Emitter) -> None:
    remembered: list[tuple[Any, ...]] = []
    emitter.remember = lambda *what: remembered.append(what)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(TrailSpanProcessor(lambda: None))
    error = ValueError("refused")
    with provider.get_tracer("service").start_as_current_span("request"):
        emitter.emit(SIGNAL, {"signal_id": "s1"})
        emitter.emit(DEAL, {"deal_id": "d1"})
        emitter.emit(FAILED, {"action_id": "a1"}, exception=error)
    [(event_id, within, trail, exception)] = remembered
    record = queued(emitter)[-1]
    assert (event_id, exception) == (record.event_id, error)
    assert [entry[1] for entry in trail] == [SIGNAL, DEAL, FAILED]
    assert within.run(context.current_trail) is not None
    assert record.exception_attributes["exception.type"] == "ValueError"


def test_every_event_is_in_the_trail_whatever_becomes_of_it() -> None:
    emitter = Emitter(EventQueue(capacity=0))
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(TrailSpanProcessor(lambda: None))
    with provider.get_tracer("service").start_as_current_span("request"):
        emitter.emit(SIGNAL, {"signal_id": "s1"})
        trail = context.current_trail()
    assert trail is not None
    assert [(entry[1], entry[2]["signal_id"]) for entry in trail] == [(SIGNAL, "s1")]


def test_the_clock_is_read_in_the_caller_and_ids_are_in_order(emitter: Emitter) -> None:
    times = iter([100, 200])
    emitter.clock = lambda: next(times)
    emitter.emit(SIGNAL, {})
    emitter.emit(SIGNAL, {})
    first, second = queued(emitter)
    assert [(r.timestamp, r.observed_timestamp) for r in (first, second)] == [(100, 100), (200, 200)]
    assert first.event_id < second.event_id


def test_a_given_id_is_kept_and_text(emitter: Emitter) -> None:
    emitter.emit(SIGNAL, {}, event_id="00000000-0000-8000-8000-000000000001")
    emitter.emit(DEAL, {"deal_id": "d1"}, event_id="00000000-0000-8000-8000-000000000002")
    emitter.emit(SIGNAL, {})
    ids = [record.event_id for record in queued(emitter)]
    assert ids[:2] == [f"00000000-0000-8000-8000-00000000000{n}" for n in (1, 2)]
    assert all(type(event_id) is str for event_id in ids)


def test_a_record_for_a_transaction_is_not_emitted_yet_and_follows_in_the_caller_s_context(emitter: Emitter) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(TrailSpanProcessor(lambda: None))
    with provider.get_tracer("service").start_as_current_span("request") as span, context.bind(deal_id="bound"):
        record = emitter.record(DEAL, {"new_stage": "won"}, delivery=Delivery.TRANSACTION)
        here = copy_context()
        trail = context.current_trail()
    assert len(emitter.queue) == 0
    assert trail is not None and len(trail) == 0
    assert (record.values["deal_id"], record.trace_id) == ("bound", span.get_span_context().trace_id)
    emitter.emit_record(record, here)
    assert [entry[1] for entry in trail] == [DEAL]
    assert list(emitter.queue.items) == [(here, record)]


def test_inline_everything_is_done_when_emit_returns(emitter: Emitter) -> None:
    done: list[int] = []
    emitter.inline = lambda: done.append(len(emitter.queue))
    emitter.emit(SIGNAL, {})
    emitter.emit(DEAL, {"deal_id": "d1"})
    assert done == [1, 2]


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def test_an_exception_is_text_with_its_full_name_and_its_stack() -> None:
    try:
        raise KeyError("missing") from ValueError("refused")
    except KeyError as raised:
        told = exception_attributes(raised)
    assert (told["exception.type"], told["exception.message"]) == ("KeyError", "'missing'")
    assert "ValueError: refused" in told["exception.stacktrace"]
    assert __file__ in told["exception.stacktrace"]
    assert exception_attributes(Unspeakable())["exception.type"] == f"{__name__}.Unspeakable"
    assert exception_attributes(Unspeakable())["exception.message"] == "(its message cannot be shown)"
