"""The worker: events in their caller's context, deadlines, forks, and what may take longer than a caller can wait."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar, copy_context
from typing import Any

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import TracerProvider

from caseyos_otel.diagnostics import drops
from caseyos_otel.emit import worker as workers
from caseyos_otel.emit.emitter import Emitter
from caseyos_otel.emit.queue import EventQueue
from caseyos_otel.emit.worker import Worker
from caseyos_otel.events.record import EventRecord
from caseyos_otel.events.registry import registry
from tests.records import event

FOREVER_S = 3600.0
SIGNAL = registry.require("signal_received")


def assert_set(event: threading.Event) -> None:
    """Wait until a test lets go."""
    assert event.wait(20)


class Rig:
    """A queue, an emitter that fills it, and a worker that empties it."""

    def __init__(self) -> None:
        self.queue = EventQueue()
        self.emitter = Emitter(self.queue)
        self.seen: list[EventRecord] = []
        self.batches: list[int] = []
        self.ticks: list[None] = []
        self.process: Callable[[EventRecord], None] = self.seen.append
        self.worker = self.make()

    def make(self, interval_s: float = FOREVER_S) -> Worker:
        return Worker(
            self.queue,
            lambda record: self.process(record),
            lambda: self.batches.append(len(self.seen)),
            lambda: self.ticks.append(None),
            interval_s,
        )

    def emit(self, *ids: str) -> None:
        for signal_id in ids:
            self.emitter.emit(SIGNAL, {"signal_id": signal_id})

    @property
    def ids(self) -> list[Any]:
        return [record.values["signal_id"] for record in self.seen]


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.worker.stop()


def test_drain_processes_in_order_in_the_calling_thread_and_ends_the_batch(rig: Rig) -> None:
    threads: list[threading.Thread] = []
    rig.process = lambda record: (rig.seen.append(record), threads.append(threading.current_thread()))
    rig.emit(*map(str, range(20)))
    assert rig.worker.drain(5)
    assert rig.ids == [str(n) for n in range(20)]
    assert set(threads) == {threading.current_thread()}
    assert rig.batches == [20]
    assert rig.worker.drain(5)
    assert rig.batches == [20]  # there was no batch


def test_a_queue_that_is_not_empty_for_long_has_its_batches_ended_all_the_same(rig: Rig) -> None:
    rig.emit(*map(str, range(1025)))
    assert rig.worker.drain(60)
    assert rig.batches == [512, 1024, 1025]


def test_each_event_is_processed_in_the_context_of_its_caller(rig: Rig) -> None:
    whose: ContextVar[str] = ContextVar("whose", default="nobody's")
    found: list[tuple[Any, ...]] = []

    def process(record: EventRecord) -> None:
        found.append((whose.get(), baggage.get_baggage("tenant"), trace.get_current_span(), record.trace_id))

    rig.process = process
    provider = TracerProvider(shutdown_on_exit=False)
    spans = []
    for name in ("first", "second"):
        with provider.get_tracer("service").start_as_current_span(name) as span:
            whose.set(name)
            token = context.attach(baggage.set_baggage("tenant", name))
            rig.emit(name)
            context.detach(token)
            spans.append(span)
    whose.set("changed later")
    assert rig.worker.drain(5)
    assert found == [
        (name, name, span, span.get_span_context().trace_id)
        for name, span in zip(("first", "second"), spans, strict=True)
    ]
    assert trace.get_current_span() is trace.INVALID_SPAN


def test_what_processing_sets_in_a_context_stays_in_it(rig: Rig) -> None:
    leaked: ContextVar[str] = ContextVar("leaked", default="")
    rig.process = lambda record: leaked.set("by a processor")
    rig.emit("s1")
    rig.worker.drain(5)
    assert leaked.get() == ""


@pytest.mark.swallows
def test_an_event_that_fails_is_counted_and_the_next_ones_go_on(rig: Rig) -> None:
    def process(record: EventRecord) -> None:
        if record.values["signal_id"] == "bad":
            raise ZeroDivisionError
        rig.seen.append(record)

    rig.process = process
    before = drops.by_reason().get("internal_error", 0)
    rig.emit("s1", "bad", "s2")
    assert rig.worker.drain(5)
    assert rig.ids == ["s1", "s2"]
    assert drops.by_reason()["internal_error"] == before + 1


def test_drain_stops_at_its_deadline_and_says_so_and_what_is_left_comes_later(rig: Rig) -> None:
    rig.emit(*map(str, range(100)))
    assert not rig.worker.drain(0)
    assert 0 < len(rig.seen) < 100
    assert rig.worker.drain(5)
    assert rig.ids == [str(n) for n in range(100)]


def test_drain_does_not_wait_longer_than_it_may_for_another_thread_s_batch(rig: Rig) -> None:
    entered, released = threading.Event(), threading.Event()

    def process(_: EventRecord) -> None:
        entered.set()
        assert released.wait(20)

    rig.process = process
    rig.emit("s1")
    other = threading.Thread(target=rig.worker.drain, args=(20,))
    other.start()
    assert entered.wait(10)
    assert not rig.worker.drain(0.01)
    released.set()
    other.join()
    assert rig.worker.drain(5)


def test_an_event_emitted_while_one_is_processed_inline_does_not_wait_for_itself(rig: Rig) -> None:
    results: list[bool] = []
    rig.emitter.inline = lambda: results.append(rig.worker.drain(5))

    def process(record: EventRecord) -> None:
        rig.seen.append(record)
        if record.values["signal_id"] == "outer":
            rig.emit("inner")

    rig.process = process
    rig.emit("outer")
    assert rig.ids == ["outer", "inner"]
    assert results == [True, True]


def test_the_thread_is_started_once_is_a_daemon_and_takes_what_comes(rig: Rig) -> None:
    arrived = threading.Event()
    rig.process = lambda record: arrived.set()
    rig.worker = rig.make(interval_s=0.005)
    rig.worker.start()
    thread = rig.worker._thread
    rig.worker.start()
    assert thread is not None
    assert rig.worker._thread is thread
    assert thread.daemon
    rig.emit("s1")
    assert arrived.wait(10)


def test_it_ticks_whether_there_are_events_or_not(rig: Rig) -> None:
    ticked = threading.Event()
    rig.worker = Worker(rig.queue, rig.seen.append, lambda: None, ticked.set, 0.005)
    rig.worker.start()
    assert ticked.wait(10)
    rig.worker.stop()


@pytest.mark.swallows
def test_a_tick_that_fails_does_not_end_the_thread(rig: Rig) -> None:
    ticked, failures = threading.Event(), iter([ZeroDivisionError, ZeroDivisionError])

    def tick() -> None:
        for failure in failures:
            raise failure
        ticked.set()

    rig.worker = Worker(rig.queue, rig.seen.append, lambda: None, tick, 0.005)
    rig.worker.start()
    assert ticked.wait(10)


def test_the_thread_breathes_within_a_batch(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    breaths: list[int] = []

    class Time:
        monotonic = staticmethod(workers.time.monotonic)

        @staticmethod
        def sleep(seconds: float) -> None:
            assert 0 < seconds < 0.001
            breaths.append(len(rig.seen))

    monkeypatch.setattr(workers, "time", Time)
    rig.emit(*map(str, range(2 * workers._BREATHE_AFTER + 1)))
    with rig.worker._consuming:
        assert rig.worker._consume(None)
    assert breaths == [workers._BREATHE_AFTER, 2 * workers._BREATHE_AFTER]
    rig.emit(*map(str, range(2 * workers._BREATHE_AFTER)))
    rig.worker.drain(5)  # a caller that waits wants it quickly
    assert len(breaths) == 2


# -- errands ---------------------------------------------------------------------------------------------------------


def test_an_errand_is_run_by_the_thread_or_where_there_is_none_by_the_caller(rig: Rig) -> None:
    where: list[str] = []

    def errand() -> None:
        where.append(threading.current_thread().name)

    assert rig.worker.begin(errand).wait(5)
    rig.worker.start()
    assert rig.worker.begin(errand).wait(10)
    assert where == [threading.current_thread().name, "caseyos-otel-worker"]


def test_an_errand_that_takes_too_long_is_not_waited_for(rig: Rig) -> None:
    released = threading.Event()
    rig.worker.start()
    assert not rig.worker.begin(lambda: assert_set(released)).wait(0.01)
    released.set()
    assert rig.worker.begin(lambda: None).wait(10)


@pytest.mark.swallows
def test_an_errand_that_fails_is_over(rig: Rig) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    rig.worker.start()
    assert rig.worker.begin(fail).wait(10)
    assert rig.worker.begin(lambda: None).wait(10)


# -- fork and end ----------------------------------------------------------------------------------------------------


def test_between_pause_and_resume_nothing_is_processed(rig: Rig) -> None:
    arrived = threading.Event()
    rig.process = lambda record: (rig.seen.append(record), arrived.set())
    rig.worker = rig.make(interval_s=0.001)
    rig.worker.start()
    rig.worker.pause(5)
    rig.emit("s1")
    assert not arrived.wait(0.05)
    rig.worker.resume()
    assert arrived.wait(10)
    rig.worker.resume()  # a second time changes nothing
    assert rig.worker.drain(5)


def test_a_pause_that_finds_no_end_of_a_batch_gives_up_and_resume_lets_go_of_nothing(rig: Rig) -> None:
    entered, released = threading.Event(), threading.Event()

    def process(_: EventRecord) -> None:
        entered.set()
        assert released.wait(20)

    rig.process = process
    rig.emit("s1")
    other = threading.Thread(target=rig.worker.drain, args=(20,))
    other.start()
    assert entered.wait(10)
    rig.worker.pause(0.01)
    rig.worker.resume()
    assert not rig.worker.drain(0.01)  # still the other thread's
    released.set()
    other.join()


def test_a_child_can_work_although_its_parent_s_thread_held_everything(rig: Rig) -> None:
    rig.worker.start()
    held = threading.Thread(target=lambda: (rig.worker._consuming.acquire(), rig.worker._starting.acquire()))
    held.start()
    held.join()
    rig.worker.after_fork()
    rig.emit("of the child")
    assert rig.worker.drain(1)
    assert rig.worker._thread is None
    rig.worker.start()
    assert rig.worker.begin(lambda: None).wait(10)


def test_after_the_end_no_thread_begins_and_drain_still_works(rig: Rig) -> None:
    rig.worker.start()
    thread = rig.worker._thread
    assert thread is not None
    rig.worker.stop()
    thread.join(10)
    assert not thread.is_alive()
    rig.emit("late")
    assert rig.worker.drain(5)
    assert rig.ids == ["late"]
    never = rig.make()
    never.stop()
    never.start()
    assert never._thread is None


# -- the queue -------------------------------------------------------------------------------------------------------


def test_a_full_queue_takes_nothing_and_keeps_what_it_has() -> None:
    queue = EventQueue(capacity=2)
    items = [(copy_context(), event("signal_received")) for _ in range(3)]
    assert [queue.append(item) for item in items] == [True, True, False]
    assert [queue.pop(), queue.pop(), queue.pop()] == [*items[:2], None]
    assert queue.append(items[2])


def test_a_child_s_queue_is_empty() -> None:
    queue = EventQueue()
    queue.append((copy_context(), event("signal_received")))
    queue.after_fork()
    assert len(queue) == 0
