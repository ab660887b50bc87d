"""The trace table: one decision for everything that belongs to a trace, spans and events alike."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from caseyos_otel._otel import SPAN_ID
from caseyos_otel.sampling import probability
from caseyos_otel.sampling.arrivals import Arrivals
from caseyos_otel.sampling.outbox import Losses, Parcel, hand_over
from caseyos_otel.sampling.policy import Policy, Probability, decider, default_chain
from caseyos_otel.sampling.settlement import AT_ONCE, Settlement
from caseyos_otel.sampling.trace import STRIDE, HeldRecord, Route, flat_record
from caseyos_otel.sampling.turns import Turns

if TYPE_CHECKING:
    from uuid import UUID

    from opentelemetry.trace import SpanContext

    from caseyos_otel.sampling.decision import Decision
    from caseyos_otel.sampling.held import HeldSpan
    from caseyos_otel.sampling.trace import Recorded, Trace

OnDropped = Callable[[str, int, str, str], object]
"""Called as (reason, n, destination, event name) for what is dropped."""


def _uncounted(_reason: str, _n: int, _destination: str, _event_name: str) -> None:
    pass


class TraceTable:
    """Holds what belongs to undecided traces, decides, and remembers what it decided.

    A trace is decided when something in it fails (`keep`, a failed span), when its last open local span ended
    `grace_s` ago, at `max_age_s`, at a bound (the oldest first), and at `flush`. What is kept leaves in `tick` and
    `flush`, in the order of arrival; only a record whose trace is kept already, and what has no room, leaves in its caller.

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
        recorded: What the head sampler lets us see; the probability of what it may drop is unknown, unless it writes
            `ot=th`. See also `spans_recorded`.
        on_dropped: Counts what is dropped; called outside the lock.
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
        recorded: Recorded = "every_span",
        on_dropped: OnDropped = _uncounted,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if min(max_traces, max_items, max_trace_items, max_age_s) <= 0 or grace_s < 0:
            raise ValueError(
                f"the trace table's bounds must be positive, got max_traces={max_traces}, max_items={max_items}, "
                f"max_trace_items={max_trace_items}, max_age_s={max_age_s}, grace_s={grace_s} (grace_s may be 0)"
            )
        self._by_chance = Probability(probability.threshold(ratio))
        chain = default_chain(self._by_chance.threshold) if policies is None else policies
        self._settlement: Final = Settlement(
            decider(chain, self._mistaken),
            self._by_chance,
            max_traces=max_traces,
            max_items=max_items,
            max_age_s=max_age_s,
            clock=clock,
        )
        self._arrivals: Final = Arrivals(
            self._settlement, max_trace_items=max_trace_items, recorded=recorded, clock=clock
        )
        self.max_trace_items: Final = max_trace_items
        self._grace_s = grace_s
        self._on_dropped = on_dropped
        self._on_decided: Callable[[float], object] | None = None
        self.clock: Final = clock
        self.traces: Final = self._settlement.undecided.by_id
        self.idle: Final = self._settlement.undecided.idle
        self.room: Final = self._settlement.room
        self._trace_room: Final = self._settlement.trace_room
        self._turns = Turns()

    def after_fork(self) -> None:
        """In a child: forget everything. The traces are the parent's; its lock may be held by a thread that is gone."""
        self._turns = Turns()
        self._settlement.clear()
        self.on_decided(self._on_decided)

    def spans_go(self, route: Route) -> None:
        """Say where spans go. One span processor a table: it counts the open spans of one provider.

        Raises:
            ValueError: another span processor has this table.
        """
        if self._settlement.has_span_route:
            raise ValueError("this TraceTable has a span processor already; wrap all exporting processors in that one")
        self._settlement.spans = route

    def spans_recorded(self, recorded: Recorded) -> None:
        """Say what only `attach` knows: what the head sampler lets us see."""
        self._arrivals.recorded = recorded

    def on_decided(self, record: Callable[[float], object] | None) -> None:
        """Let the worker call `record` with the seconds from a trace's first span to its decision."""
        self._on_decided = record
        self._settlement.tally.times = record is not None

    # What is asked: by callers, and by whoever samples records

    def keep(self, trace_id: int) -> None:
        """Something in this trace failed: it is kept, whatever came in. Cheap; what was held leaves at the next tick."""
        if trace_id:
            self._do(self._settlement.fail, trace_id)

    def known(self, trace_id: int) -> Decision | None:
        """What was decided about the trace, if it was decided here and is remembered."""
        with self._turns.lock:
            return self._settlement.memory.get(trace_id)

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
        self._do(self._arrivals.offer, trace_id, record, failure)

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
            self._count(hand_over([(record, decision)], self._settlement.spans))
        else:
            self._on_dropped("sampled", 1, destination, event_name)

    # What the span processor says of spans that are not as most

    def begin(self, context: SpanContext, parent: SpanContext | None) -> None:
        """A span has started whose trace is not in the table. Where it is the root of all there is room, no lock."""
        ticket = self._trace_room.draw()
        if parent is None and ticket < self._trace_room.limit:
            trace = self._arrivals.trace(context, None)
            trace.open.add(context[SPAN_ID])
            self.traces[trace.trace_id] = trace
        else:
            self._do(self._arrivals.start, context, parent, ticket)

    def end(self, span: HeldSpan) -> None:
        """A span has ended whose trace is not in the table, or is full.

        If its start was not seen (the table was attached later), it begins a trace that only waits for its grace.
        """
        self._do(self._arrivals.end, span)

    def end_failed(self, span: HeldSpan) -> None:
        """A failed span has ended: it keeps its trace, and leaves behind what that has held."""
        self._do(self._arrivals.end_failed, span)

    def make_room(self, ticket: int) -> None:
        """Make room for the item that drew this ticket."""
        self._do(self._settlement.make_room, ticket)

    def sweep(self, trace: Trace) -> None:
        """Something was appended to a trace that has been decided meanwhile."""
        self._do(self._settlement.release_held, trace)

    def settle_one(self, now: float) -> None:
        """A trace has become idle: decide one whose grace is over, if there is one.

        Who puts one in takes one out: under load objects then go as fast as they come, and the garbage collector, which
        counts the difference, has nothing to do. The worker's tick takes the rest.
        """
        moment = now - self._grace_s
        try:
            due = self.idle[0][0] <= moment
        except IndexError:  # another thread has taken the last one
            return
        if due:
            self._do(self._settlement.settle_idle, moment)

    # What the worker calls

    def tick(self, now: float | None = None) -> None:
        """Decide the traces whose time has come and let what is kept leave. Call it every 50 to 100 ms."""
        if self._turns.interrupted:
            return
        at = self.clock() if now is None else now
        more = [True]
        while more[0]:
            self._do(self._settle_due, at, more)
        self._leave(None)
        self._count_losses()

    def flush(self, timeout_s: float | None = None) -> bool:
        """Decide every trace and let what is kept leave; one with open spans is marked incomplete.

        Returns False if `timeout_s` was over before all of it had left; the rest leaves in the next tick or flush. So it
        is where a signal handler flushes that has interrupted this table.
        """
        if self._turns.interrupted:
            return False
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._settle_all()
        left = self._leave(deadline)
        self._count_losses()
        return self._settlement.outbox.wait_for_hands(deadline) and left

    def abandon(self) -> None:
        """Count what is held or waits to leave as lost at `shutdown`: nobody will take it any more."""
        self._settle_all()
        for items, _ in self._turns.ask(self._settlement.take, self._settlement.outbox.waiting) or ():
            self._count(self._settlement.whose(items), "shutdown")
        self._count_losses()

    @property
    def held_traces(self) -> int:
        """Undecided traces now."""
        return len(self.traces)

    @property
    def held_items(self) -> int:
        """Spans and records held or waiting to leave now."""
        with self._turns.lock:
            held = sum(len(trace.held) for trace in list(self.traces.values()))
            return held // STRIDE + self._settlement.outbox.waiting

    @property
    def decisions(self) -> dict[tuple[bool, str], int]:
        """How many decisions kept (True) or dropped (False) a trace, by reason; `late_error` is a second one."""
        with self._turns.lock:
            return dict(self._settlement.tally.decisions)

    @property
    def evictions(self) -> dict[str, int]:
        """How many traces were decided early, by the bound (`traces`, `items`, `trace_items`, `age`) that they met."""
        with self._turns.lock:
            return dict(self._settlement.tally.evictions)

    @property
    def late_items(self) -> dict[bool, int]:
        """How many spans and records came after the decision about their trace, by whether that was to keep it."""
        with self._turns.lock:
            return dict(self._settlement.tally.late)

    # Under the lock

    def _do(self, work: Callable[..., object], *arguments: Any) -> None:
        """Do something under the lock, then hand over what leaves at once."""
        if not self._turns.take(work, *arguments):
            return
        if self._settlement.outbox.urgent:
            self._hand_over(self._settlement.outbox.take_urgent)
        if self._turns.mistakes:
            self._turns.report()

    def _mistaken(self, doing: str, error: Exception) -> None:
        self._turns.mistakes.append((doing, error))

    def _settle_due(self, now: float, more: list[bool]) -> None:
        """Decide some traces whose grace or age is over; says whether there may be more of them."""
        settlement, moment = self._settlement, now - self._grace_s
        more[0] = False  # it stays so where something raises
        more[0] = all(settlement.settle_idle(moment) or settlement.settle_old(now) for _ in range(AT_ONCE))

    def _settle_all(self) -> None:
        with self._turns.lock:
            traces = list(self.traces.values())
        for first in range(0, len(traces), AT_ONCE):
            self._do(self._settlement.settle_all, traces[first : first + AT_ONCE])

    # Outside the lock

    def _hand_over(self, take: Callable[..., Sequence[Parcel]], *arguments: int) -> None:
        outbox = self._settlement.outbox
        mark = outbox.in_hand()
        try:
            parcels = self._turns.ask(take, *arguments) or ()
            self._count(hand_over(parcels, self._settlement.spans))
        finally:
            outbox.hands.pop(mark, None)

    def _leave(self, deadline: float | None) -> bool:
        """Release what waits now; what comes meanwhile leaves the next time. Whether all of it left before the deadline."""
        at_once = AT_ONCE if deadline is None else 1
        waiting = self._settlement.outbox.waiting
        while waiting > 0 and (deadline is None or time.monotonic() < deadline):
            self._hand_over(self._settlement.take, min(at_once, waiting))
            waiting -= at_once
        return waiting <= 0

    def _count_losses(self) -> None:
        losses, durations = self._turns.ask(self._settlement.tally.take) or (Counter(), ())
        self._count(losses)
        if self._on_decided is not None:
            for seconds in durations:
                self._on_decided(seconds)

    def _count(self, losses: Losses, reason: str = "sampled") -> None:
        for (destination, event_name), n in losses.items():
            if n:
                self._on_dropped(reason, n, destination, event_name)
