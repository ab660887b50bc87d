"""Records at the trace table: they obey the decision about the spans of their trace."""

from __future__ import annotations

import multiprocessing
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from caseyos_otel.sampling.decision import ERROR, Decision
from caseyos_otel.sampling.log_records import offer_record
from caseyos_otel.sampling.probability import threshold
from caseyos_otel.sampling.table import TraceTable

KEPT_BY_ID = (9 << 64) | (1 << 56) - 1
DROPPED_BY_ID = (9 << 64) | 1
TENTH = threshold(0.1)


class Released:
    """What was released, in order."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.decisions: list[Decision] = []

    def __call__(self, item: Any, decision: Decision) -> None:
        self.items.append(item)
        self.decisions.append(decision)


def test_a_record_waits_for_its_trace_and_leaves_with_it(sampling: Callable[..., Any]) -> None:
    service, released = sampling(), Released()
    service.will_be_kept(True)
    root = service.tracer.start_span("root")
    trace_id = root.get_span_context().trace_id
    service.table.offer(trace_id, "first", released, event_name="e")
    service.table.offer(trace_id, "second", released, event_name="e")
    assert service.table.known(trace_id) is None
    root.end()
    assert released.items == []
    service.pass_time(1)
    assert released.items == ["first", "second"]
    assert service.table.known(trace_id) == Decision(True, "probability", TENTH)


def test_a_record_of_a_dropped_trace_is_counted_by_destination_and_event(sampling: Callable[..., Any]) -> None:
    service, released = sampling(), Released()
    root = service.tracer.start_span("root")
    trace_id = root.get_span_context().trace_id
    service.table.offer(trace_id, "held", released, event_name="held")
    root.end()
    service.pass_time(1)
    service.table.offer(trace_id, "after", released, event_name="after", destination="otlp")
    service.table.tick()
    assert released.items == []
    assert service.table.known(trace_id) == Decision(False, "probability", TENTH)
    assert service.dropped == {
        ("sampled", "sentry", "held"): 1,
        ("sampled", "otlp", "after"): 1,
        ("sampled", "spans", ""): 1,
    }


def test_a_record_that_comes_after_its_root_has_ended_follows_the_memory(sampling: Callable[..., Any]) -> None:
    service, released = sampling(), Released()
    root = service.tracer.start_span("root")
    trace_id = root.get_span_context().trace_id
    service.table.keep(trace_id)
    root.end()
    service.pass_time(1)
    service.table.offer(trace_id, "record", released)
    assert released.items == ["record"]
    assert released.decisions == [Decision(True, "error", 0)]


@pytest.mark.parametrize(("tracestate", "threshold"), [("ot=th:8", 1 << 55), ("ot=th:f;rv:8", None), ("", 0)])
@pytest.mark.parametrize("flags", ["01", "00"])
def test_a_failed_record_that_comes_late_claims_no_more_than_its_caller(
    sampling: Callable[..., Any], incoming: Any, flags: str, tracestate: str, threshold: int | None
) -> None:
    service, released = sampling(), Released()
    tracestate = tracestate.replace("rv:8", "rv:80000000000000")
    root = service.tracer.start_span("root", incoming(flags, tracestate))
    root.end()
    service.pass_time(1)
    service.table.offer(root.get_span_context().trace_id, "late", released, failure=True)
    assert [(each.reason, each.threshold) for each in released.decisions] == [("late_error", threshold)]


@pytest.mark.parametrize(("trace_id", "kept"), [(KEPT_BY_ID, True), (DROPPED_BY_ID, False)])
def test_a_trace_without_any_local_span_is_decided_by_its_id(trace_id: int, kept: bool) -> None:
    table, released = TraceTable(0.1), Released()
    table.offer(trace_id, "record", released)
    assert released.items == (["record"] if kept else [])
    assert table.late_items == {}


def test_a_record_of_an_unsampled_caller_is_dropped_though_its_id_would_be_kept(
    sampling: Callable[..., Any], incoming: Any
) -> None:
    service, released = sampling(), Released()
    root = service.tracer.start_span("root", incoming("00"))
    root.end()
    service.pass_time(1)
    service.table.offer(root.get_span_context().trace_id, "record", released)
    assert released.items == []
    decision = service.table.known(root.get_span_context().trace_id)
    assert decision is not None and not decision.keep


def test_records_can_hold_no_more_than_the_bounds(sampling: Callable[..., Any]) -> None:
    service, released = sampling(max_items=4, max_trace_items=3), Released()
    service.will_be_kept(True)
    roots = [service.tracer.start_span("root") for _ in range(2)]
    for number in range(10):
        service.table.offer(roots[number % 2].get_span_context().trace_id, number, released)
        assert service.table.held_items <= 4
    service.table.flush()
    assert sorted(released.items) == list(range(10))


def test_a_failure_leaves_at_once_and_keeps_its_trace(sampling: Callable[..., Any]) -> None:
    service, released = sampling(), Released()
    root = service.tracer.start_span("root")
    trace_id = root.get_span_context().trace_id
    offer_record(service.table, "failure", released, trace_id=trace_id, event_id="1", failure=True)
    assert released.items == ["failure"]
    root.end()
    service.pass_time(1)
    assert service.names() == ["root"]


def test_a_failure_without_a_trace_leaves_and_keeps_nothing_else() -> None:
    table, released = TraceTable(0.0), Released()
    offer_record(table, "failure", released, trace_id=0, event_id="1", failure=True)
    offer_record(table, "success", released, trace_id=0, event_id="1", failure=False)
    assert released.items == ["failure"]
    assert released.decisions[0].threshold == 0


def test_records_without_a_trace_are_decided_one_by_one(sampling: Callable[..., Any]) -> None:
    service, released = sampling(), Released()
    for number in range(5_000):
        offer_record(
            service.table, number, released, trace_id=0, event_id=str(number), failure=False, event_name="alone"
        )
    assert 400 <= len(released.items) <= 600
    assert set(released.decisions) == {Decision(True, "probability", TENTH)}
    assert service.dropped == {("sampled", "sentry", "alone"): 5_000 - len(released.items)}


@pytest.mark.swallows
def test_a_release_that_raises_costs_its_item_only(sampling: Callable[..., Any]) -> None:
    service, released = sampling(), Released()

    def broken(item: Any, decision: Decision) -> None:
        raise RuntimeError("destination is broken")

    service.will_be_kept(True)
    root = service.tracer.start_span("root")
    service.table.offer(root.get_span_context().trace_id, "lost", broken)
    service.table.offer(root.get_span_context().trace_id, "record", released)
    root.end()
    service.pass_time(1)
    assert released.items == ["record"]
    assert service.names() == ["root"]


def test_a_release_may_ask_the_table(sampling: Callable[..., Any]) -> None:
    service = sampling()
    asked: list[Decision | None] = []
    done = threading.Event()

    def release(item: int, decision: Decision) -> None:
        other = threading.Thread(target=lambda: (asked.append(service.table.known(item)), done.set()))
        other.start()
        assert done.wait(10), "the table was locked while it released"

    service.will_be_kept(True)
    root = service.tracer.start_span("root")
    service.table.offer(root.get_span_context().trace_id, root.get_span_context().trace_id, release)
    root.end()
    service.pass_time(1)
    assert asked == [Decision(True, "probability", TENTH)]


def test_the_memory_of_kept_traces_is_bounded_and_falls_back_to_the_id() -> None:
    table = TraceTable(0.1, max_traces=2)
    for number in range(1, 4):
        table.keep(number)
    assert [table.known(number) for number in range(1, 4)] == [None, ERROR, ERROR]


def test_the_memory_of_a_kept_trace_is_as_new_as_the_last_word_about_it(sampling: Callable[..., Any]) -> None:
    service = sampling(max_traces=2)
    service.will_be_kept(True)
    root = service.tracer.start_span("root")
    root.end()
    service.pass_time(1)
    trace_id = root.get_span_context().trace_id
    for failed in (5, trace_id, 6):
        service.table.keep(failed)
    decision = service.table.known(trace_id)
    assert decision is not None
    assert decision.reason == "late_error"


def test_the_memory_of_dropped_traces_holds_eight_times_the_traces(sampling: Callable[..., Any]) -> None:
    service = sampling(max_traces=1_000)
    roots = []
    for _ in range(2_000):
        roots.append(service.tracer.start_span("root").get_span_context().trace_id)
        service.pass_time(31)
    for trace_id in roots:
        service.table.keep(trace_id)
    reasons = Counter(reason for (_, reason), n in service.table.decisions.items() for _ in range(n))
    assert reasons == {"probability": 2_000, "late_error": 2_000}


def test_decisions_are_counted_by_reason(sampling: Callable[..., Any]) -> None:
    service = sampling()
    for kept in (True, False, False):
        service.will_be_kept(kept)
        service.tracer.start_span("root").end()
    service.table.keep(12)
    service.pass_time(1)
    assert service.table.decisions == {(True, "probability"): 1, (False, "probability"): 2, (True, "error"): 1}


@pytest.mark.parametrize("bound", ["max_traces", "max_items", "max_trace_items", "max_age_s"])
def test_a_bound_that_is_not_positive_is_refused_by_name(bound: str) -> None:
    with pytest.raises(ValueError, match=f"{bound}=0"):
        TraceTable(0.1, **{bound: 0})  # type: ignore[arg-type]


def _in_child(table: TraceTable) -> None:
    table.after_fork()
    table.keep(5)
    raise SystemExit(0 if table.held_items == 0 and table.known(5) == ERROR else 1)


def test_a_child_forked_while_another_thread_has_the_lock_goes_on(sampling: Callable[..., Any]) -> None:
    service, released = sampling(), Released()
    root = service.tracer.start_span("root")
    service.table.offer(root.get_span_context().trace_id, "the parent's", released)
    locked, forked = threading.Event(), threading.Event()

    def hold_the_lock() -> None:
        with service.table._turns.lock:
            locked.set()
            forked.wait(30)

    holder = threading.Thread(target=hold_the_lock)
    holder.start()
    assert locked.wait(10)
    child = multiprocessing.get_context("fork").Process(target=_in_child, args=(service.table,))
    try:
        child.start()
        child.join(20)
    finally:
        forked.set()
        holder.join()
        child.kill()
    assert child.exitcode == 0
    assert service.table.held_items == 1
