"""The trace table: one decision for everything that belongs to a trace, spans and events alike."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from caseyos_otel._otel import SPAN_ID, TRACE_ID, TRACE_STATE
from caseyos_otel.sampling import probability
from caseyos_otel.sampling.decision import DROPPED, ERROR, LATE_ERROR, UNDECIDED, Decision, Verdict
from caseyos_otel.sampling.memory import Memory
from caseyos_otel.sampling.outbox import Losses, Outbox, Parcel, hand_over
from caseyos_otel.sampling.policy import Policy, Probability, decider, default_chain
from caseyos_otel.sampling.probability import LOW_56_BITS
from caseyos_otel.sampling.room import Room
from caseyos_otel.sampling.tally import Tally
from caseyos_otel.sampling.trace import (
    BEGAN_HERE,
    SPANS,
    STRIDE,
    HeldRecord,
    Route,
    Trace,
    flat_record,
    items_of,
    upstream_of,
)
from caseyos_otel.sampling.turns import Turns
from caseyos_otel.sampling.undecided import Undecided

if TYPE_CHECKING:
    from uuid import UUID

    from opentelemetry.trace import SpanContext

    from caseyos_otel.sampling.held import HeldSpan

_AT_ONCE: Final = 64
"""Traces decided, or items taken out, while the lock is held once."""

OnDropped = Callable[[str, int, str, str], object]
"""Called as (reason, n, destination, event name) for what is dropped."""


def _uncounted(_reason: str, _n: int, _destination: str, _event_name: str) -> None:
    pass


def _nowhere(_item: object, _decision: Decision) -> None:
    pass


class TraceTable:
    """Holds what belongs to undecided traces, decides, and remembers what it decided.

    A trace is decided when something in it fails (`keep`, a failed span), when its last open local span ended
    `grace_s` ago, at `max_age_s`, at a bound (the oldest first), and at `flush`. What is kept leaves in `tick` and
    `flush`, in the order of arrival; only at the bound of items does a caller release some itself.

    Thread-safe, by CPython's global interpreter lock. For most spans the processor only asks `traces` and appends to
    what it finds, without a lock; for the rest (a trace begins, something fails, comes late or meets a bound) it calls
    a method here, which locks. Nothing is released under the lock. What the garbage collector or a signal handler
    starts or ends while this very thread is inside is done when it leaves.

    Args:
        ratio: Share of failure-free traces that is kept, 0 to 1.
        policies: First match wins; default: errors, then probability.
        max_traces: Undecided traces; also how many kept ones are remembered (eight times as many dropped ones).
        max_items: Spans and records held or waiting to leave, over all traces.
        max_trace_items: Spans and records of one trace.
        max_age_s: Seconds after which a trace is decided though spans are open.
        grace_s: Seconds for stragglers after the last open local span has ended.
        every_root_recorded: False if a head sampler of the user's may drop traces that begin here; their probability
            is then unknown unless that sampler writes `ot=th`. An attribute too, for who learns it at `attach`.
        on_dropped: Counts what is dropped; called outside the lock.
        on_decided: Called by the worker with the seconds from a trace's first span to its decision; an attribute too.
        clock: Monotonic seconds.

    Attributes:
        traces: The undecided traces by id. Only who holds the lock takes one out.
        idle: (since when, trace) of each trace whose last open span has ended.
        room: For items: held, or waiting to leave.

    Raises:
        ValueError: a bound is not positive, or `ratio` is not from 0 to 1.
    """

    def __init__(
        self,
        ratio: float = 0.1,
        *,
        policies: Sequence[Policy] | None = None,
        max_traces: int = 10_000,
        max_items: int = 50_000,
        max_trace_items: int = 2_000,
        max_age_s: float = 30.0,
        grace_s: float = 0.01,
        every_root_recorded: bool = True,
        on_dropped: OnDropped = _uncounted,
        on_decided: Callable[[float], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if min(max_traces, max_items, max_trace_items, max_age_s) <= 0 or grace_s < 0:
            raise ValueError(
                f"the trace table's bounds must be positive, got max_traces={max_traces}, max_items={max_items}, "
                f"max_trace_items={max_trace_items}, max_age_s={max_age_s}, grace_s={grace_s} (grace_s may be 0)"
            )
        self.threshold: Final = probability.threshold(ratio)
        self._by_chance = Probability(self.threshold)
        self._decide: Final = decider(default_chain(self.threshold) if policies is None else policies, self._mistaken)
        self._max_traces = max_traces
        self.max_trace_items: Final = max_trace_items
        self._max_age_s = max_age_s
        self._grace_s = grace_s
        self.every_root_recorded = every_root_recorded
        self._on_dropped = on_dropped
        self.on_decided = on_decided
        self.clock: Final = clock
        self._undecided: Final = Undecided()
        self.traces: Final = self._undecided.by_id
        self.idle: Final = self._undecided.idle
        self.room: Final = Room(max_items)
        self._trace_room: Final = Room(max_traces)
        self._spans = Route(_nowhere, SPANS)
        self.after_fork()

    def after_fork(self) -> None:
        """In a child: forget everything. The traces are the parent's; its lock may be held by a thread that is gone."""
        self._turns = Turns()
        self._undecided.clear()
        self.room.clear()
        self._trace_room.clear()
        self._outbox = Outbox()
        self._memory = Memory(self._max_traces, self._by_chance)
        self._tally = Tally(self._by_chance.dropped)

    def spans_go(self, route: Route) -> None:
        """Say where spans go. One span processor a table: it counts the open spans of one provider.

        Raises:
            ValueError: another span processor has this table.
        """
        if self._spans.release is not _nowhere:
            raise ValueError("this TraceTable has a span processor already; wrap all exporting processors in that one")
        self._spans = route

    # What is asked: by callers, and by whoever samples records

    def keep(self, trace_id: int) -> None:
        """Something in this trace failed: it is kept, whatever came in. Cheap; what was held leaves at the next tick."""
        if trace_id:
            self._do(self._fail, trace_id)

    def known(self, trace_id: int) -> Decision | None:
        """What was decided about the trace, if it was decided here and is remembered."""
        with self._turns.lock:
            return self._memory.get(trace_id)

    def verdict(self, trace_id: int) -> Verdict:
        """What is known about the trace now. One that was never seen here is decided by its id alone."""
        with self._turns.lock:
            decision = None if trace_id in self.traces else self._memory.decision(trace_id)
        if decision is None:
            return UNDECIDED
        return Verdict(True, decision.threshold, decision.reason) if decision.keep else DROPPED

    def offer(
        self,
        trace_id: int,
        item: object,
        release: Callable[[Any, Decision], object],
        *,
        failure: bool = False,
        destination: str = "sentry",
        event_name: str = "",
    ) -> None:
        """Hand over a record of a trace: it leaves if that is kept, is counted if it is dropped, else held.

        Args:
            trace_id: The record's trace; 0 for a failure that has none.
            item: The record.
            release: Called as (item, decision), now or in a later `tick`; never while the table is locked.
            failure: The record keeps its trace, and leaves in any case.
            destination: Whom a drop is counted for.
            event_name: Which event a drop is counted for.
        """
        record = HeldRecord(item, Route(release, destination, event_name))
        self._do(self._offer, trace_id, record, failure)

    def offer_untraced(
        self,
        event_id: UUID | str | bytes,
        item: object,
        release: Callable[[Any, Decision], object],
        *,
        destination: str = "sentry",
        event_name: str = "",
    ) -> None:
        """Hand over a record that belongs to no trace and is no failure: decided now, by the hash of its event id."""
        decision = self._by_chance.of(probability.randomness_of_event(event_id))
        if decision.keep:
            record = flat_record(HeldRecord(item, Route(release, destination, event_name)))
            self._count(hand_over([(record, decision)], self._spans))
        else:
            self._on_dropped("sampled", 1, destination, event_name)

    # What the span processor says of spans that are not as most

    def begin(self, context: SpanContext, parent: SpanContext | None) -> None:
        """A span has started whose trace is not in the table. Where it is the root of all there is room, no lock."""
        ticket = self._trace_room.draw()
        if parent is None and ticket < self._trace_room.limit:
            trace = self._trace(context, None)
            trace.open.add(context[SPAN_ID])
            self.traces[trace.trace_id] = trace
        else:
            self._do(self._begin_unless_decided, context, parent, ticket)

    def end(self, span: HeldSpan) -> None:
        """A span has ended whose trace is not in the table, or is full.

        If its start was not seen (the table was attached later), it begins a trace that only waits for its grace.
        """
        self._do(self._end, span)

    def end_failed(self, span: HeldSpan) -> None:
        """A failed span has ended: it keeps its trace, and leaves behind what that has held."""
        self._do(self._end_failed, span)

    def make_room(self, ticket: int) -> None:
        """Make room for the item that drew this ticket."""
        self._do(self._make_room, ticket)

    def sweep(self, trace: Trace) -> None:
        """Something was appended to a trace that has been decided meanwhile."""
        self._do(self._release_held, trace)

    def settle_one(self, now: float) -> None:
        """A trace has become idle: decide one whose grace is over, if there is one.

        Who puts one in takes one out: under load objects then go as fast as they come, and the garbage collector, which
        counts the difference, has nothing to do. The worker's tick takes the rest.
        """
        moment = now - self._grace_s
        idle = self.idle
        if idle and idle[0][0] <= moment:
            self._do(self._settle_idle, moment)

    # What the worker calls

    def tick(self, now: float | None = None) -> None:
        """Decide the traces whose time has come and let what is kept leave. Call it every 50 to 100 ms."""
        at = self.clock() if now is None else now
        more = [True]
        while more[0]:
            self._do(self._settle_due, at, more)
        self._leave(None)

    def flush(self, timeout_s: float | None = None) -> bool:
        """Decide every trace and let what is kept leave; one with open spans is marked incomplete.

        Returns False if `timeout_s` was over before all of it had left; the rest leaves in the next tick or flush.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._settle_all()
        left = self._leave(deadline)
        return self._outbox.wait_for_hands(deadline) and left

    def abandon(self) -> None:
        """Count what is held or waits to leave as lost at `shutdown`: nobody will take it any more."""
        self._settle_all()
        for items, _ in self._take(self._outbox.waiting):
            self._count(_whose(items, self._spans), "shutdown")

    @property
    def held_traces(self) -> int:
        """Undecided traces now."""
        return len(self.traces)

    @property
    def held_items(self) -> int:
        """Spans and records held or waiting to leave now."""
        with self._turns.lock:
            held = sum(len(trace.held) for trace in list(self.traces.values()))
            return held // STRIDE + self._outbox.waiting

    @property
    def decisions(self) -> dict[tuple[bool, str], int]:
        """How many decisions kept (True) or dropped (False) a trace, by reason; `late_error` is a second one."""
        with self._turns.lock:
            return self._tally.decisions

    @property
    def evictions(self) -> dict[str, int]:
        """How many traces were decided early, by the bound (`traces`, `items`, `trace_items`, `age`) that they met."""
        with self._turns.lock:
            return dict(self._tally.evictions)

    @property
    def late_items(self) -> dict[bool, int]:
        """How many spans and records came after the decision about their trace, by whether that was to keep it."""
        with self._turns.lock:
            return dict(self._tally.late)

    # Under the lock

    def _do(self, work: Callable[..., object], *arguments: Any) -> None:
        """Do something under the lock, then hand over what leaves at once."""
        if not self._turns.take(work, *arguments):
            return
        if self._outbox.urgent:
            self._hand_over(self._outbox.take_urgent)
        if self._turns.mistakes:
            self._turns.report()

    def _mistaken(self, doing: str, error: Exception) -> None:
        self._turns.mistakes.append((doing, error))

    def _begin_unless_decided(self, context: SpanContext, parent: SpanContext | None, ticket: int) -> None:
        trace = self.traces.get(context.trace_id)
        if trace is None and (parent is None or self._memory.get(context.trace_id) is None):
            trace = self._begin(context, parent, ticket)
        else:
            self._trace_room.give_back(ticket)
        if trace is not None:
            trace.open.add(context.span_id)

    def _begin(self, context: SpanContext, parent: SpanContext | None, ticket: int) -> Trace:
        while ticket >= self._trace_room.limit and self._evict("traces"):
            pass
        if ticket < self._trace_room.limit:
            trace = self._trace(context, parent)
            self.traces[trace.trace_id] = trace
            return trace
        # Other threads have the last places and are about to take them: this trace is decided at its start.
        self._trace_room.stand(ticket)
        trace = self._trace(context, parent)
        self._tally.evictions["traces"] += 1
        self._settle(trace, "overflow")
        return trace

    def _trace(self, context: SpanContext, parent: SpanContext | None) -> Trace:
        trace_id = context[TRACE_ID]
        upstream = upstream_of(context, parent, self.every_root_recorded)
        if upstream is BEGAN_HERE:
            return Trace(trace_id, trace_id & LOW_56_BITS, upstream, self.clock())
        return Trace(trace_id, probability.randomness(trace_id, context[TRACE_STATE]), upstream, self.clock())

    def _end(self, span: HeldSpan) -> None:
        trace_id = span.trace_id
        trace = self.traces.get(trace_id)
        if trace is None and self._memory.get(trace_id) is None:
            trace = self._begin(span.context, span.parent, self._trace_room.draw())
        if trace is not None and not self._is_full(trace):
            self._hold(trace, span)
            trace.open.discard(span.span_id)
            if not trace.open:
                trace.idle_since = self.clock()
                self.idle.append((trace.idle_since, trace))
        else:
            decision = self._memory.decision(trace_id)
            self._tally.late[decision.keep] += 1
            self._send(span, self._spans, decision)

    def _end_failed(self, span: HeldSpan) -> None:
        trace_id = span.trace_id
        if trace_id not in self.traces:
            if self._memory.get(trace_id) is not None:
                self._tally.late[True] += 1
            else:
                self._begin(span.context, span.parent, self._trace_room.draw())
        self._send(span, self._spans, self._fail(trace_id))

    def _offer(self, trace_id: int, record: HeldRecord, failure: bool) -> None:
        if failure:
            self._send_next(record, self._fail(trace_id))
            return
        trace = self.traces.get(trace_id)
        if trace is not None and not self._is_full(trace):
            trace.has_records = True
            self._hold(trace, flat_record(record))
        else:
            decision = self._memory.decision(trace_id)
            self._tally.late[decision.keep] += 1
            self._send_next(record, decision)

    def _hold(self, trace: Trace, fields: tuple[Any, ...]) -> None:
        ticket = self.room.draw()
        if ticket >= self.room.limit:
            self._make_room(ticket)
        trace.held.extend(fields)
        if trace.decision is not None:  # it was the oldest: room was made of it
            self._release_held(trace)

    def _send(self, items: Sequence[Any], route: Route, decision: Decision) -> None:
        """An item that was never held is on its way out or gone."""
        if not (decision.keep or route.always):
            self._tally.losses[route.destination, route.event_name] += 1
            return
        ticket = self.room.draw()
        if ticket >= self.room.limit:
            self._make_room(ticket)
        self._queue(items, decision)

    def _queue(self, items: Sequence[Any], decision: Decision) -> None:
        """Let items wait for the worker, or leave at once as many as have had no room."""
        self._outbox.add(items, decision)
        if self.room.standing:
            self.room.leave(self._outbox.spill(self.room.standing))

    def _send_next(self, record: HeldRecord, decision: Decision) -> None:
        """The same, but it leaves at once, unless others wait that were here before it."""
        if decision.keep and not self._outbox.waiting:
            self._outbox.leave_now(flat_record(record), decision)
        else:
            self._send(flat_record(record), record.route, decision)

    def _fail(self, trace_id: int) -> Decision:
        """Keep the trace: at once if it is undecided, from here on if it had been dropped or kept for less."""
        trace = self.traces.get(trace_id)
        if trace is not None:
            trace.failed = True
            return self._settle(trace, "error")
        if not trace_id:
            return ERROR
        earlier = self._memory.get(trace_id)
        if earlier is not None and earlier.failure:
            return earlier
        decision = ERROR
        if earlier is not None:  # part of the trace has left for less, or is gone
            decision = replace(LATE_ERROR, incomplete=earlier.incomplete or not earlier.keep)
        self._remember(trace_id, decision)
        return decision

    def _settle(self, trace: Trace, cause: str) -> Decision:
        """Decide a trace and take it out of the table; what it held is on its way out or gone."""
        if trace.decision is not None:
            return self._memory.decision(trace.trace_id)
        decision = self._decide(trace)
        if cause != "grace" and not decision.failure:
            decision = _explained(decision, cause, incomplete=bool(trace.open))
        self._remember(trace.trace_id, decision)
        trace.decision = decision
        self.traces.pop(trace.trace_id, None)
        self._trace_room.leave()
        if self.on_decided is not None:
            self._tally.durations.append(self.clock() - trace.first_seen)
        if trace.held:
            self._release_held(trace)
        return decision

    def _release_held(self, trace: Trace) -> None:
        decision, held = trace.decision, trace.held
        assert decision is not None
        while n := len(held):
            if decision.keep or self._spans.always:
                self._queue(held[:n], decision)
            else:
                self.room.leave(n // STRIDE)
                if trace.has_records:
                    self._tally.losses.update(_whose(held[:n], self._spans))
                else:
                    self._tally.lost_spans += n // STRIDE
            del held[:n]

    def _settle_idle(self, moment: float) -> bool:
        """Decide the first trace that has been idle since this moment or before; False if there is none."""
        if (trace := self._undecided.take_idle(moment)) is None:
            return False
        self._settle(trace, "grace")
        return True

    def _settle_due(self, now: float, more: list[bool]) -> None:
        """Decide some traces whose grace or age is over; says whether there may be more of them."""
        for _ in range(_AT_ONCE):
            if self._settle_idle(now - self._grace_s):
                continue
            oldest = self._undecided.oldest()
            if oldest is None or oldest.first_seen + self._max_age_s > now:
                more[0] = False
                return
            self._tally.evictions["age"] += bool(oldest.open)
            self._settle(oldest, "age" if oldest.open else "grace")

    def _settle_all(self) -> None:
        with self._turns.lock:
            traces = list(self.traces.values())
        for first in range(0, len(traces), _AT_ONCE):
            self._do(self._settle_pending, traces[first : first + _AT_ONCE])

    def _settle_pending(self, traces: Sequence[Trace]) -> None:
        for trace in traces:
            self._settle(trace, "shutdown" if trace.open else "grace")

    def _remember(self, trace_id: int, decision: Decision) -> None:
        if decision is self._by_chance.dropped:
            self._tally.dropped_by_chance += 1
            self._memory.add_dropped(trace_id)
        else:
            self._tally.decided(decision)
            self._memory.add(trace_id, decision)

    def _is_full(self, trace: Trace) -> bool:
        """Whether the trace has reached its bound; it is decided then, so that it never passes it."""
        if len(trace.held) < self.max_trace_items * STRIDE:
            return False
        self._tally.evictions["trace_items"] += 1
        self._settle(trace, "overflow")
        return True

    def _make_room(self, ticket: int) -> None:
        """At the bound, make room for one item: what is decided leaves now; if nothing is, the oldest traces are."""
        while ticket >= self.room.limit:
            if self._outbox.waiting:
                self.room.leave(self._outbox.spill(ticket - self.room.limit + 1))
            elif not self._evict("items"):  # other threads have the last places and are about to take them
                self.room.stand(ticket)
                break

    def _evict(self, bound: str) -> bool:
        """Decide the oldest trace; False if there is none."""
        if (oldest := self._undecided.oldest()) is None:
            return False
        self._tally.evictions[bound] += 1
        self._settle(oldest, "overflow")
        return True

    def _take(self, n: int) -> list[Parcel]:
        with self._turns.lock:
            before = self._outbox.waiting
            taken = self._outbox.take(n)
            self.room.leave(before - self._outbox.waiting)
        return taken

    # Outside the lock

    def _hand_over(self, take: Callable[[], Iterable[Parcel]]) -> None:
        outbox = self._outbox
        with self._turns.lock:
            mark = outbox.in_hand()
            parcels = take()
        try:
            self._count(hand_over(parcels, self._spans))
        finally:
            outbox.hands.pop(mark, None)

    def _leave(self, deadline: float | None) -> bool:
        """Release what waits now; what comes meanwhile leaves the next time. Whether all of it left before the deadline."""
        at_once = _AT_ONCE if deadline is None else 1
        waiting = self._outbox.waiting
        while waiting > 0 and (deadline is None or time.monotonic() < deadline):
            self._hand_over(partial(self._take, min(at_once, waiting)))
            waiting -= at_once
        with self._turns.lock:
            losses, durations = self._tally.take()
        self._count(losses)
        if self.on_decided is not None:
            for seconds in durations:
                self.on_decided(seconds)
        return waiting <= 0

    def _count(self, losses: Losses, reason: str = "sampled") -> None:
        for (destination, event_name), n in losses.items():
            if n:
                self._on_dropped(reason, n, destination, event_name)


def _whose(items: Sequence[Any], spans: Route) -> Losses:
    """How many of these items go where."""
    routes = (item.route if isinstance(item, HeldRecord) else spans for item in items_of(items))
    return Counter((route.destination, route.event_name) for route in routes)


def _explained(decision: Decision, cause: str, *, incomplete: bool) -> Decision:
    """The decision with what brought it about: a bound, the end of the process, an age with spans still open."""
    return replace(decision, reason=decision.reason if cause == "age" else cause, incomplete=incomplete)
