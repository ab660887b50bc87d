"""One destination's delivery: what it does when the destination is away, refuses records, or the process ends."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from caseyos_otel import diagnostics
from caseyos_otel.diagnostics import drops
from caseyos_otel.errors import Rejected, Unavailable
from caseyos_otel.events.record import EventRecord
from caseyos_otel.events.registry import registry
from caseyos_otel.exporters import delivery as deliveries
from caseyos_otel.exporters import owed
from caseyos_otel.exporters.delivery import Delivery
from caseyos_otel.otlp.decode import decode
from caseyos_otel.otlp.encode import RequestEncoder
from caseyos_otel.spool.spool import Spool
from tests.records import event

FOREVER_S = 3600.0
"""An interval that never passes: what happens is what a test asks for."""


def assert_set(event: threading.Event) -> None:
    """Wait until a test lets go."""
    assert event.wait(20)


class Destination:
    """Takes records unless told otherwise; `arrived` holds the signal ids of what it took, in order."""

    def __init__(self) -> None:
        self.arrived: list[str] = []
        self.attempts: list[list[str]] = []
        self.away: Exception | None = None
        self.poison: set[str] = set()
        self.before: Callable[[list[str]], None] = lambda ids: None

    def export(self, records: Sequence[EventRecord]) -> None:
        ids = [record.values["signal_id"] or record.values["action_id"] for record in records]
        self.attempts.append(ids)
        self.before(ids)
        if self.away is not None:
            raise self.away
        if refused := self.poison.intersection(ids):
            raise Rejected(f"refused {sorted(refused)}")
        self.arrived += ids


class Rig:
    """A spool and deliveries from it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.spool = Spool(root, on_problem=self._problem)
        self.set_aside: list[tuple[str, str]] = []
        self.no_room = False
        self.made: list[Delivery] = []
        self._encoder = RequestEncoder({"service.name": "api"}, "scope", "1", "")

    def _problem(self, problem: Any) -> None:
        raise AssertionError(problem)

    def deliver_to(self, destination: Destination, name: str = "somewhere", **more: Any) -> Delivery:
        made = Delivery(
            name,
            destination.export,
            reader=self.spool.reader(name),
            decode=lambda frame: decode(frame, registry),
            wants=more.get("wants", lambda record: True),
            set_aside=self._keep,
            interval_s=more.get("interval_s", FOREVER_S),
            **{key: more[key] for key in ("local", "on_ask") if key in more},
        )
        self.made.append(made)
        return made

    def _keep(self, record: EventRecord, reason: str) -> None:
        if self.no_room:
            raise Unavailable("what is set aside is full")
        self.set_aside.append((record.values["signal_id"], reason))

    def append(self, *ids: str) -> None:
        for signal_id in ids:
            self.spool.writer.append("outcomes", self._encoder.encode([signal(signal_id)]))

    def crash(self) -> Rig:
        """The process is gone, and another one begins over the same directory."""
        self.spool.after_fork_in_child()
        following = Rig(self.root)
        following.spool.reader("somewhere")
        following.spool.adopt()
        return following


def signal(signal_id: str) -> EventRecord:
    return event("signal_received", signal_id=signal_id, source="hubspot", signal_type="form_submitted")


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path / "spool")
    yield made
    for delivery in made.made:
        delivery.stop()
    made.spool.close()


@pytest.fixture
def destination() -> Destination:
    return Destination()


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(diagnostics, "_said", {})
    monkeypatch.setattr(diagnostics.logger, "propagate", True)
    caplog.set_level(logging.DEBUG)


@pytest.fixture
def dropped() -> Callable[[str], int]:
    """How many records were dropped for a reason since the test began."""

    def total(reason: str) -> int:
        return sum(n for (r, to, _), n in drops.snapshot().items() if (r, to) == (reason, "somewhere"))

    before = {reason: total(reason) for reason in ("rejected", "destination_full", "shutdown", "internal_error")}
    return lambda reason: total(reason) - before[reason]


def offer(delivery: Delivery, *ids: str) -> None:
    for signal_id in ids:
        delivery.offer(signal(signal_id))


# -- what arrives ----------------------------------------------------------------------------------------------------


def test_memory_and_spool_arrive_in_their_order(rig: Rig, destination: Destination) -> None:
    delivery = rig.deliver_to(destination)
    rig.append("d1", "d2", "d3")
    offer(delivery, "m1", "m2", "m3")
    assert delivery.flush(5)
    assert [i for i in destination.arrived if i[0] == "d"] == ["d1", "d2", "d3"]
    assert [i for i in destination.arrived if i[0] == "m"] == ["m1", "m2", "m3"]
    assert (delivery.waiting, delivery.health.delivered) == (0, 6)
    assert delivery.flush(5)
    assert len(destination.arrived) == 6


def test_more_than_a_batch_arrives_in_batches(rig: Rig, destination: Destination) -> None:
    delivery = rig.deliver_to(destination)
    offer(delivery, *map(str, range(deliveries.BATCH + 10)))
    rig.append(*(f"d{n}" for n in range(deliveries.BATCH + 10)))
    assert delivery.flush(5)
    assert max(map(len, destination.attempts)) == deliveries.BATCH
    assert len(destination.arrived) == 2 * (deliveries.BATCH + 10)


def test_what_a_destination_does_not_want_is_passed(rig: Rig, destination: Destination) -> None:
    delivery = rig.deliver_to(destination, wants=lambda record: record.values["signal_id"] != "d2")
    rig.append("d1", "d2", "d3")
    assert delivery.flush(5)
    assert destination.arrived == ["d1", "d3"]
    following = rig.crash()
    assert following.deliver_to(again := Destination()).flush(5)
    assert again.arrived == []


def test_a_spool_to_which_nothing_was_added_is_not_read_again(rig: Rig, destination: Destination) -> None:
    delivery, reads = rig.deliver_to(destination), []
    reader: Any = delivery._reader
    read = reader.read
    reader.read = lambda *limits: (reads.append(1), read(*limits))[1]
    assert delivery.flush(5)
    reads.clear()
    assert delivery.flush(5)
    assert reads == []
    rig.append("d1")
    assert delivery.flush(5)
    assert destination.arrived == ["d1"]


# -- away ------------------------------------------------------------------------------------------------------------


def test_while_a_destination_is_away_everything_is_kept_and_its_order_too(rig: Rig, destination: Destination) -> None:
    delivery = rig.deliver_to(destination)
    destination.away = Unavailable("no answer")
    rig.append("d1", "d2")
    offer(delivery, "m1", "m2")
    assert not delivery.flush(5)
    assert delivery.waiting == 2
    assert (delivery.health.error, delivery.health.delivered) == ("no answer", 0)
    offer(delivery, "m3")
    rig.append("d3")
    assert not delivery.flush(5)
    destination.away = None
    assert delivery.flush(5)
    assert [i for i in destination.arrived if i[0] == "d"] == ["d1", "d2", "d3"]
    assert [i for i in destination.arrived if i[0] == "m"] == ["m1", "m2", "m3"]
    assert delivery.health.last_success is not None


def test_the_pause_grows_to_a_bound_is_jittered_and_ends_with_the_first_success(
    rig: Rig, destination: Destination, caplog: pytest.LogCaptureFixture
) -> None:
    delivery = rig.deliver_to(destination)
    destination.away = Unavailable("no answer")
    rig.append("d1")
    pauses = []
    for _ in range(30):
        delivery.flush(5)
        pauses.append(delivery._pause_s)
    assert 0.5 <= pauses[0] <= 1.0
    assert all(15.0 <= pause <= 30.0 for pause in pauses[-5:])
    assert len(set(pauses[-5:])) > 1
    assert len([r for r in caplog.records if "is away" in r.getMessage()]) == 1
    destination.away = None
    assert delivery.flush(5)
    assert delivery._pause_s == 0.0


def test_a_destination_that_says_when_to_come_again_is_heeded(rig: Rig, destination: Destination) -> None:
    delivery = rig.deliver_to(destination)
    destination.away = Unavailable("too many requests", retry_after_s=7.5)
    rig.append("d1")
    delivery.flush(5)
    assert delivery._pause_s == 7.5


@pytest.mark.parametrize("said_s", [-5.0, 1e12, float("nan")])
def test_a_pause_that_nobody_can_mean_neither_ends_the_thread_nor_lets_it_spin(
    rig: Rig, destination: Destination, said_s: float
) -> None:
    delivery = rig.deliver_to(destination, interval_s=0.01)
    destination.away = Unavailable("too many requests", retry_after_s=said_s)
    delivery.offer(event("signal_received", signal_id="first"))
    delivery.start()
    assert not delivery.flush(5)
    attempts = len(destination.attempts)
    time.sleep(0.1)
    assert len(destination.attempts) == attempts
    assert any(thread.name == "caseyos-otel-somewhere" for thread in threading.enumerate())
    destination.away = None
    assert delivery.flush(5)
    assert destination.arrived == ["first"]


def test_a_destination_that_is_down_delays_only_itself(rig: Rig, destination: Destination) -> None:
    released, stuck = threading.Event(), Destination()
    stuck.before = lambda ids: assert_set(released)
    slow, quick = rig.deliver_to(stuck, "slow"), rig.deliver_to(destination, "quick")
    slow.start()
    quick.start()
    rig.append("d1")
    asked = slow.ask()
    try:
        assert quick.flush(10)
        assert destination.arrived == ["d1"]
        assert not slow.answered(asked, 0.05)
    finally:
        released.set()
    assert slow.answered(asked, 10)
    assert stuck.arrived == ["d1"]


# -- refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["spool", "memory"])
def test_only_the_poison_is_set_aside(
    where: str, rig: Rig, destination: Destination, dropped: Callable[[str], int]
) -> None:
    delivery = rig.deliver_to(destination)
    destination.poison = {"3", "8"}
    ids = [str(n) for n in range(10)]
    rig.append(*ids) if where == "spool" else offer(delivery, *ids)
    assert delivery.flush(5)
    assert destination.arrived == [i for i in ids if i not in destination.poison]
    assert rig.set_aside == [("3", "somewhere: refused ['3']"), ("8", "somewhere: refused ['8']")]
    assert dropped("rejected") == 2
    assert delivery.health.delivered == 8


@pytest.mark.parametrize("where", ["spool", "memory"])
def test_a_refused_record_that_cannot_be_set_aside_waits_and_is_counted_once(
    where: str, rig: Rig, destination: Destination, dropped: Callable[[str], int]
) -> None:
    delivery, rig.no_room = rig.deliver_to(destination), True
    destination.poison = {"1"}
    rig.append(*"012") if where == "spool" else offer(delivery, *"012")
    assert not delivery.flush(5)
    assert not delivery.flush(5)
    assert (destination.arrived, dropped("rejected")) == (["0"], 0)
    rig.no_room = False
    assert delivery.flush(5)
    assert (destination.arrived, dropped("rejected")) == (["0", "2"], 1)
    assert [signal_id for signal_id, _ in rig.set_aside] == ["1"]


@pytest.mark.parametrize("where", ["spool", "memory"])
def test_a_destination_that_goes_away_amid_a_bisection_gets_and_loses_nothing_twice(
    where: str, rig: Rig, destination: Destination, dropped: Callable[[str], int]
) -> None:
    delivery = rig.deliver_to(destination)
    destination.poison = {"1"}
    ids = [str(n) for n in range(8)]

    def leave(batch: list[str]) -> None:
        destination.away = Unavailable("gone") if batch == ["4", "5", "6", "7"] else None

    destination.before = leave
    rig.append(*ids) if where == "spool" else offer(delivery, *ids)
    assert not delivery.flush(5)
    assert destination.arrived == ["0", "2", "3"]
    offer(delivery, "unrelated")  # a batch from memory between the two attempts
    destination.before = lambda batch: None
    destination.away = None
    assert delivery.flush(5)
    assert sorted(destination.arrived) == sorted([*(i for i in ids if i != "1"), "unrelated"])
    assert [signal_id for signal_id, _ in rig.set_aside] == ["1"]
    assert dropped("rejected") == 1
    assert delivery._settled == set()


# -- our own mistakes ------------------------------------------------------------------------------------------------


def test_a_mistake_of_ours_keeps_what_is_durable_counts_what_is_not_and_goes_on(
    rig: Rig, destination: Destination, dropped: Callable[[str], int], caplog: pytest.LogCaptureFixture
) -> None:
    delivery = rig.deliver_to(destination)
    destination.away = ZeroDivisionError("a mistake")
    offer(delivery, "m1", "m2")
    assert not delivery.flush(5)
    by_event = drops.snapshot()["internal_error", "somewhere", "signal_received"]
    assert by_event == 2
    assert delivery.waiting == 0
    rig.append("d1")
    assert not delivery.flush(5)
    assert [r.levelname for r in caplog.records] == ["ERROR"]
    destination.away = None
    assert delivery.flush(5)
    assert destination.arrived == ["d1"]
    assert drops.snapshot()["internal_error", "somewhere", "signal_received"] == by_event


# -- bounds ----------------------------------------------------------------------------------------------------------


def test_a_record_that_makes_the_same_mistake_again_and_again_is_set_aside_and_the_others_go_on(
    rig: Rig, destination: Destination
) -> None:
    def trip(ids: list[str]) -> None:
        if "bad" in ids:
            raise ZeroDivisionError("about this very record")

    destination.before = trip
    delivery = rig.deliver_to(destination)
    rig.append("s1", "bad", "s2")
    for _ in range(deliveries.MISTAKES):
        assert not delivery.flush(5)
    assert delivery.flush(5)
    assert destination.arrived == ["s1", "s2"]
    assert rig.set_aside == [("bad", "somewhere: ZeroDivisionError: about this very record")]


def test_memory_is_bounded_and_the_oldest_goes_first(
    rig: Rig, destination: Destination, dropped: Callable[[str], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owed, "MEMORY", 5)
    delivery = rig.deliver_to(destination)
    offer(delivery, *map(str, range(8)))
    assert delivery.waiting == 5
    assert dropped("destination_full") == 3
    assert delivery.flush(5)
    assert destination.arrived == ["3", "4", "5", "6", "7"]


# -- crashes, threads, forks, ends -----------------------------------------------------------------------------------


def test_a_crash_between_export_and_commit_repeats_the_batch(rig: Rig, destination: Destination) -> None:
    class Killed(BaseException):
        pass

    delivery = rig.deliver_to(destination)
    rig.append("d1", "d2")

    def die(_: Any) -> None:
        raise Killed

    delivery._reader.commit = die  # type: ignore[union-attr,method-assign]
    with pytest.raises(Killed):
        delivery.flush(5)
    assert destination.arrived == ["d1", "d2"]
    following = rig.crash()
    after = following.deliver_to(destination)
    assert after.flush(5)
    assert destination.arrived == ["d1", "d2", "d1", "d2"]
    assert following.crash().deliver_to(nothing := Destination()).flush(5)
    assert nothing.attempts == []


def test_flush_without_a_thread_delivers_in_the_caller_and_with_one_in_the_thread(
    rig: Rig, destination: Destination
) -> None:
    threads: list[str] = []
    destination.before = lambda ids: threads.append(threading.current_thread().name)
    delivery = rig.deliver_to(destination)
    offer(delivery, "m1")
    assert delivery.flush(5)
    delivery.start()
    offer(delivery, "m2")
    assert delivery.flush(5)
    assert threads == [threading.current_thread().name, "caseyos-otel-somewhere"]


def test_a_running_thread_delivers_by_itself_and_starts_once(rig: Rig, destination: Destination) -> None:
    arrived = threading.Event()
    destination.before = lambda ids: arrived.set()
    delivery = rig.deliver_to(destination, interval_s=0.01)
    delivery.start()
    thread = delivery._thread
    delivery.start()
    assert delivery._thread is thread
    assert thread is not None and thread.daemon
    offer(delivery, "m1")
    assert arrived.wait(10)


def test_flush_gives_up_at_its_deadline(rig: Rig, destination: Destination) -> None:
    released = threading.Event()
    destination.before = lambda ids: assert_set(released)
    delivery = rig.deliver_to(destination)
    delivery.start()
    offer(delivery, "m1")
    assert not delivery.flush(0.05)
    released.set()
    assert delivery.flush(10)
    destination.away = Unavailable("no answer")
    offer(delivery, "m2")
    assert not delivery.flush(10)


def test_our_own_requests_make_no_spans(rig: Rig, destination: Destination) -> None:
    from opentelemetry.instrumentation.utils import is_instrumentation_enabled

    seen: list[bool] = []
    destination.before = lambda ids: seen.append(is_instrumentation_enabled())
    delivery = rig.deliver_to(destination)
    offer(delivery, "m1")
    delivery.flush(5)
    assert seen == [False]
    assert is_instrumentation_enabled()


def test_a_child_has_no_thread_and_nothing_of_its_parent_s_memory(rig: Rig, destination: Destination) -> None:
    delivery = rig.deliver_to(destination)
    offer(delivery, "of the parent")
    delivery._exporting.acquire()  # held by a thread that does not exist in the child
    delivery.after_fork()
    offer(delivery, "of the child")
    assert delivery.flush(5)
    assert destination.arrived == ["of the child"]
    delivery.start()
    offer(delivery, "in a thread of its own")
    assert delivery.flush(5)
    assert destination.arrived == ["of the child", "in a thread of its own"]


def test_what_is_left_in_memory_at_the_end_is_counted_and_the_rest_waits_in_the_spool(
    rig: Rig, destination: Destination, dropped: Callable[[str], int]
) -> None:
    delivery = rig.deliver_to(destination)
    destination.away = Unavailable("no answer")
    offer(delivery, "m1", "m2")
    rig.append("d1")
    delivery.flush(5)
    delivery.stop()
    assert dropped("shutdown") == 2
    assert delivery.waiting == 0
    assert rig.crash().deliver_to(after := Destination()).flush(5)
    assert after.arrived == ["d1"]


@pytest.mark.parametrize("given_up", [False, True])
def test_what_was_on_its_way_when_the_end_came_is_counted_once(
    given_up: bool, rig: Rig, destination: Destination, dropped: Callable[[str], int]
) -> None:
    on_its_way, ended = threading.Event(), threading.Event()

    def export(ids: list[str]) -> None:
        on_its_way.set()
        assert ended.wait(10)

    destination.before, destination.away = export, Unavailable("its request was given up")
    delivery = rig.deliver_to(destination)
    delivery.start()
    offer(delivery, "m1")
    delivery.ask()
    assert on_its_way.wait(10)
    delivery.stop()
    if given_up:
        delivery.lose()
        assert dropped("shutdown") == 1, "the process ends now"
    ended.set()
    assert delivery._thread is not None
    delivery._thread.join(10)
    assert dropped("shutdown") == 1
    assert delivery.waiting == 0


def test_after_the_end_no_thread_begins(rig: Rig, destination: Destination) -> None:
    delivery = rig.deliver_to(destination)
    delivery.stop()
    delivery.start()
    assert delivery._thread is None


def at_exit(delivery: Delivery, timeout_s: float = 20.0) -> bool:
    return delivery.answered_at_exit(delivery.ask(), timeout_s)


def test_an_exit_does_not_wait_for_one_that_does_not_answer_whether_or_not_it_ever_did(
    rig: Rig, destination: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "PATIENCE_S", 0.05)
    silent = threading.Event()
    destination.before = lambda ids: assert_set(silent)
    delivery = rig.deliver_to(destination)
    delivery.start()
    delivery.offer(signal("m1"))
    assert not at_exit(delivery), "nobody has ever answered"
    assert delivery.away
    silent.set()
    assert delivery.flush(20)
    silent.clear()
    rig.append("s1")
    delivery.offer(signal("m2"))
    assert not at_exit(delivery)
    silent.set()
    assert delivery.flush(20)
    assert destination.arrived == ["m1", "m2", "s1"]


def test_an_exit_waits_no_whole_patience_for_one_that_is_known_to_be_away(
    rig: Rig, destination: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "PATIENCE_S", 3600.0)
    monkeypatch.setattr(deliveries, "IMPATIENCE_S", 0.05)
    delivery = rig.deliver_to(destination)
    delivery.start()
    rig.append("s1")
    destination.away = Unavailable("down")
    assert not delivery.flush(20)
    silent = threading.Event()
    destination.before = lambda ids: assert_set(silent)
    destination.away = None
    back = threading.Timer(2.0, silent.set)
    back.start()
    assert not at_exit(delivery), "who waits for longer sees it answer"
    back.join()
    assert delivery.flush(20)
    assert destination.arrived == ["s1"]


def test_an_exit_that_asks_again_tries_nothing_again_where_no_thread_runs(rig: Rig, destination: Destination) -> None:
    delivery = rig.deliver_to(destination)
    rig.append("s1")
    destination.away = Unavailable("down")
    asked = delivery.ask()
    assert not delivery.answered_at_exit(asked, 20)
    assert not delivery.answered_at_exit(asked, 20)
    assert destination.attempts == [["s1"]]


def test_an_exit_waits_as_long_as_one_answers_batch_after_batch(
    rig: Rig, destination: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "PATIENCE_S", 0.5)
    destination.before = lambda ids: time.sleep(0.1)
    delivery = rig.deliver_to(destination)
    delivery.start()
    ids = [f"m{number}" for number in range(6 * deliveries.BATCH)]  # together they take longer than one answer may
    offer(delivery, *ids)
    assert at_exit(delivery)
    assert destination.arrived == ids


def test_an_exit_waits_for_a_local_destination_however_long_its_first_export_takes(
    rig: Rig, destination: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "PATIENCE_S", 0.05)
    destination.before = lambda ids: time.sleep(0.3)
    delivery = rig.deliver_to(destination, local=True)
    delivery.start()
    rig.append("s1")
    assert at_exit(delivery)
    assert destination.arrived == ["s1"]


def test_a_flush_delivers_what_somebody_else_buffers(rig: Rig, destination: Destination) -> None:
    asked: list[str] = []
    delivery = rig.deliver_to(destination, on_ask=lambda: asked.append("flushed"))
    delivery.start()
    assert delivery.flush(20)
    assert asked == ["flushed"]
