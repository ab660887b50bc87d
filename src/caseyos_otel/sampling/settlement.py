"""How a trace is decided, and how what it held leaves or is counted. Everything here runs under the table's lock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from caseyos_otel.sampling.decision import ERROR, LATE_ERROR, Decision
from caseyos_otel.sampling.memory import Memory
from caseyos_otel.sampling.outbox import Losses, Outbox
from caseyos_otel.sampling.policy import Probability, threshold_of_failure
from caseyos_otel.sampling.room import Room
from caseyos_otel.sampling.tally import Tally
from caseyos_otel.sampling.trace import BEGAN_HERE, SPANS, STRIDE, HeldRecord, Route, Trace, flat_record, items_of
from caseyos_otel.sampling.undecided import Undecided

AT_ONCE: Final = 64
"""Traces decided, or items taken out, while the lock is held once."""


def _nowhere(_item: object, _decision: Decision) -> None:
    pass


class Settlement:
    """Takes traces out of the table: when they fail, are idle, old, or in the way; remembers and counts what it decided.

    Attributes:
        undecided: What it takes from. Others add to it without the lock.
        room, trace_room: For items (held, or waiting to leave) and for undecided traces.
        outbox: Where what leaves waits.
        memory, tally: What was decided, and how often.
        spans: Where spans go.
    """

    def __init__(
        self,
        decide: Callable[[Trace], Decision],
        by_chance: Probability,
        *,
        max_traces: int,
        max_items: int,
        max_age_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._decide = decide
        self._by_chance: Final = by_chance
        self._max_traces = max_traces
        self._max_age_s = max_age_s
        self._clock = clock
        self.undecided: Final = Undecided()
        self._traces: Final = self.undecided.by_id
        self.room: Final = Room(max_items)
        self.trace_room: Final = Room(max_traces)
        self.spans = Route(_nowhere, SPANS)
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.undecided.clear()
        self.room.clear()
        self.trace_room.clear()
        self.outbox = Outbox()
        self.memory = Memory(self._max_traces, self._by_chance)
        self.tally = Tally()

    @property
    def has_span_route(self) -> bool:
        """Whether somebody has said where spans go."""
        return self.spans.release is not _nowhere

    # Which trace, and when

    def fail(self, trace_id: int) -> Decision:
        """Keep the trace: at once if it is undecided, from here on if it had been dropped or kept for less."""
        trace = self._traces.get(trace_id)
        if trace is not None:
            trace.failed = True
            return self.settle(trace, "error")
        if not trace_id:
            return ERROR
        earlier = self.memory.get(trace_id)
        if earlier is not None and earlier.failure:
            return earlier
        decision = ERROR
        if earlier is not None:  # part of the trace has left for less, or is gone
            threshold = self.memory.threshold_of_failure(trace_id)
            decision = replace(LATE_ERROR, threshold=threshold, incomplete=earlier.incomplete or not earlier.keep)
        self._remember(trace_id, decision)
        return decision

    def settle_idle(self, moment: float) -> bool:
        """Decide the first trace that has been idle since this moment or before; False if there is none."""
        if (trace := self.undecided.take_idle(moment)) is None:
            return False
        self.settle(trace, "grace")
        return True

    def settle_old(self, now: float) -> bool:
        """Decide the oldest trace if its age is over; False if there is none."""
        oldest = self.undecided.oldest()
        if oldest is None or oldest.first_seen + self._max_age_s > now:
            return False
        self.tally.evictions["age"] += bool(oldest.open)
        self.settle(oldest, "age" if oldest.open else "grace")
        return True

    def settle_all(self, traces: Sequence[Trace]) -> None:
        """Decide these traces now, as at the end of the process."""
        for trace in traces:
            self.settle(trace, "shutdown" if trace.open else "grace")

    def evict(self, bound: str) -> bool:
        """Decide the oldest trace, which is in the way; False if there is none."""
        if (oldest := self.undecided.oldest()) is None:
            return False
        self.tally.evictions[bound] += 1
        self.settle(oldest, "overflow")
        return True

    def make_room(self, ticket: int) -> None:
        """At the bound, make room for one item: what is decided leaves now; if nothing is, the oldest traces are."""
        while ticket >= self.room.limit:
            if self.outbox.waiting:
                self.room.leave(self.outbox.spill(ticket - self.room.limit + 1))
            elif not self.evict("items"):  # other threads have the last places and are about to take them
                self.room.stand(ticket)
                break

    # What becomes of it

    def settle(self, trace: Trace, cause: str) -> Decision:
        """Decide a trace and take it out of the table; what it held is on its way out or gone."""
        trace_id = trace.trace_id
        if trace.decision is not None:
            return self.memory.decision(trace_id)
        decision = self._decide(trace)
        if cause != "grace" and not decision.failure:
            decision = _explained(decision, cause, incomplete=bool(trace.open))
        if trace.upstream is not BEGAN_HERE and not decision.failure:
            self.memory.add_threshold_of_failure(trace_id, threshold_of_failure(ERROR.threshold, trace))
        self._remember(trace_id, decision)
        trace.decision = decision
        self._traces.pop(trace_id, None)
        self.trace_room.leave()
        if self.tally.times:
            self.tally.durations.append(self._clock() - trace.first_seen)
        if trace.held:
            self.release_held(trace)
        return decision

    def release_held(self, trace: Trace) -> None:
        """What a decided trace holds is on its way out or gone."""
        decision, held = trace.decision, trace.held
        assert decision is not None
        while n := len(held):
            if decision.keep or self.spans.always:
                self._queue(held[:n], decision)
            else:
                self.room.leave(n // STRIDE)
                if trace.has_records:
                    self.tally.losses.update(self.whose(held[:n]))
                else:
                    self.tally.lost_spans += n // STRIDE
            del held[:n]

    def send(self, items: Sequence[Any], route: Route, decision: Decision) -> None:
        """An item that was never held is on its way out or gone."""
        if not (decision.keep or route.always):
            self.tally.losses[route.destination, route.event_name] += 1
            return
        ticket = self.room.draw()
        if ticket >= self.room.limit:
            self.make_room(ticket)
        self._queue(items, decision)

    def send_next(self, record: HeldRecord, decision: Decision) -> None:
        """The same, but it leaves at once, unless others wait that were here before it."""
        if decision.keep and not self.outbox.waiting:
            self.outbox.leave_now(flat_record(record), decision)
        else:
            self.send(flat_record(record), record.route, decision)

    def take(self, n: int) -> Sequence[tuple[Sequence[Any], Decision]]:
        """Take the first items that wait, at most `n`."""
        before = self.outbox.waiting
        taken = self.outbox.take(n)
        self.room.leave(before - self.outbox.waiting)
        return taken

    def whose(self, items: Sequence[Any]) -> Losses:
        """How many of these items go where."""
        routes = (item.route if isinstance(item, HeldRecord) else self.spans for item in items_of(items))
        return Counter((route.destination, route.event_name) for route in routes)

    def _queue(self, items: Sequence[Any], decision: Decision) -> None:
        """Let items wait for the worker, or leave at once as many as have had no room."""
        self.outbox.add(items, decision)
        if self.room.standing:
            self.room.leave(self.outbox.spill(self.room.standing))

    def _remember(self, trace_id: int, decision: Decision) -> None:
        self.tally.decisions[decision.keep, decision.reason] += 1
        self.memory.add(trace_id, decision)


def _explained(decision: Decision, cause: str, *, incomplete: bool) -> Decision:
    """The decision with what brought it about: a bound, the end of the process, an age with spans still open."""
    return replace(decision, reason=decision.reason if cause == "age" else cause, incomplete=incomplete)
