"""The trace table: one decision for everything that belongs to a trace, spans and events alike."""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from caseyos_otel.sampling import probability
from caseyos_otel.sampling.decision import DROPPED, ERROR, LATE_ERROR, UNDECIDED, Decision, Verdict
from caseyos_otel.sampling.memory import DroppedTraces, KeptTraces
from caseyos_otel.sampling.outbox import Leaving, Outbox, hand_over
from caseyos_otel.sampling.policy import Policy, decide, default_chain
from caseyos_otel.sampling.trace import EndedSpan, Route, Trace, upstream_of

if TYPE_CHECKING:
    from uuid import UUID

    from opentelemetry.trace import SpanContext

_RELEASED_AT_ONCE: Final = 128

OnDropped = Callable[[str, int, str, str], object]
"""Called as (reason, n, destination, event name) for what is dropped."""


def _uncounted(_reason: str, _n: int, _destination: str, _event_name: str) -> None:
    pass


class TraceTable:
    """Holds what belongs to undecided traces, decides, and remembers what it decided.

    A trace is decided when something in it fails (`keep`, a failed span), when its last open local span ended
    `grace_s` ago, at `max_age_s`, at a bound (the oldest first), and at `flush`. What is kept leaves in `tick` and
    `flush`, in the order of arrival; only at the bound of items does a caller release some itself. So a kept span
    costs its caller no more than a dropped one.

    Thread-safe. Nothing is released under the lock. The lock is re-entrant: the garbage collector or a signal handler
    may end a span inside it.

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
        clock: Monotonic seconds.

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
        grace_s: float = 0.2,
        every_root_recorded: bool = True,
        on_dropped: OnDropped = _uncounted,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if min(max_traces, max_items, max_trace_items, max_age_s) <= 0 or grace_s < 0:
            raise ValueError(
                f"the trace table's bounds must be positive, got max_traces={max_traces}, max_items={max_items}, "
                f"max_trace_items={max_trace_items}, max_age_s={max_age_s}, grace_s={grace_s} (grace_s may be 0)"
            )
        self.threshold: Final = probability.threshold(ratio)
        self._policies = default_chain(self.threshold) if policies is None else tuple(policies)
        self._max_traces = max_traces
        self._max_items = max_items
        self._max_trace_items = max_trace_items
        self._max_age_s = max_age_s
        self._grace_s = grace_s
        self.every_root_recorded = every_root_recorded
        self._on_dropped = on_dropped
        self._clock = clock
        self.after_fork()

    def after_fork(self) -> None:
        """In a child: forget everything. The traces are the parent's; its lock may be held by a thread that is gone."""
        self._lock = threading.RLock()
        self._traces: OrderedDict[int, Trace] = OrderedDict()
        self._held = 0
        self._outbox = Outbox()
        self._kept = KeptTraces(self._max_traces)
        self._dropped = DroppedTraces(8 * self._max_traces)
        self._decisions: Counter[tuple[bool, str]] = Counter()

    # What is asked: by callers, and by whoever samples records

    def keep(self, trace_id: int) -> Decision:
        """Something in this trace failed: it is kept, whatever came in. Cheap; held items leave at the next tick."""
        if trace_id == 0:
            return ERROR
        with self._lock:
            return self._fail(trace_id)

    def verdict(self, trace_id: int) -> Verdict:
        """What is known about the trace now. One that was never seen here is decided by its id alone."""
        with self._lock:
            decision = None if trace_id in self._traces else self._decision(trace_id)
        if decision is None:
            return UNDECIDED
        return Verdict(True, decision.threshold, decision.reason) if decision.keep else DROPPED

    def offer(
        self,
        trace_id: int,
        item: object,
        release: Callable[[Any, Decision], object],
        *,
        destination: str = "sentry",
        event_name: str = "",
    ) -> None:
        """Hand over a record of a trace: released now if it is kept, counted if it is dropped, else held.

        Args:
            trace_id: The record's trace.
            item: The record.
            release: Called as (item, decision), now or in a later `tick`; never while the table is locked.
            destination: Whom a drop is counted for.
            event_name: Which event a drop is counted for.
        """
        route = Route(release, destination, event_name)
        decision: Decision | None = None
        with self._lock:
            spilled = self._room() if self._held + len(self._outbox.leaving) >= self._max_items else ()
            trace = self._traces.get(trace_id)
            if trace is not None and not self._full(trace):
                self._hold(trace, item, route)
            else:
                decision = self._decision(trace_id)
        if spilled:
            hand_over(spilled)
        if decision is not None:
            self._finish(item, route, decision)

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
        kept = probability.keep(probability.randomness_of_event(event_id), self.threshold)
        decision = Decision(kept, "probability", self.threshold)
        self._finish(item, Route(release, destination, event_name), decision)

    # What the span processor tells

    def span_started(self, context: SpanContext, parent: SpanContext | None) -> None:
        """Count one open local span; the first one of a trace begins it."""
        trace_id = context.trace_id
        with self._lock:
            trace = self._traces.get(trace_id)
            if trace is not None:
                trace.open_spans += 1
            elif not self._is_decided(trace_id):
                self._begin(context, parent).open_spans = 1

    def span_ended(self, span: EndedSpan, route: Route, *, failed: bool) -> None:
        """Take an ended span: held, or on its way out, or dropped, by its trace's decision.

        A span whose start was not seen (the table was attached later) begins a trace that only waits for its grace.
        """
        trace_id = span.context.trace_id
        with self._lock:
            spilled = self._room() if self._held + len(self._outbox.leaving) >= self._max_items else ()
            trace = self._traces.get(trace_id)
            if trace is None and not self._is_decided(trace_id):
                trace = self._begin(span.context, span.parent)
            if failed:
                self._outbox.add(span, route, self._fail(trace_id))
            elif trace is not None and not self._full(trace):
                self._hold(trace, span, route)
                trace.end_span(self._clock)
            else:
                self._outbox.add(span, route, self._decision(trace_id))
        if spilled:
            hand_over(spilled)

    # What the worker calls

    def tick(self, now: float | None = None) -> None:
        """Decide the traces whose time has come and let what is kept leave. Call it every 50 to 100 ms."""
        at = self._clock() if now is None else now
        with self._lock:
            traces = list(self._traces.values())
        for trace in [trace for trace in traces if self._is_due(trace, at)]:
            with self._lock:
                if self._is_due(trace, at):
                    self._settle(trace, "age" if trace.open_spans else "grace")
        self._leave()

    def flush(self) -> None:
        """Decide every trace and let what is kept leave; one with open spans is marked incomplete."""
        with self._lock:
            traces = list(self._traces.values())
        for trace in traces:
            with self._lock:
                self._settle(trace, "shutdown" if trace.open_spans else "grace")
        self._leave()

    @property
    def held_traces(self) -> int:
        """Undecided traces now."""
        return len(self._traces)

    @property
    def held_items(self) -> int:
        """Spans and records held or waiting to leave now."""
        with self._lock:
            return self._held + len(self._outbox.leaving)

    @property
    def decisions(self) -> dict[tuple[bool, str], int]:
        """How many decisions kept (True) or dropped (False) a trace, by reason; `late_error` is a second one."""
        with self._lock:
            return dict(self._decisions)

    # Under the lock

    def _begin(self, context: SpanContext, parent: SpanContext | None) -> Trace:
        while len(self._traces) >= self._max_traces:
            self._settle(self._oldest(), "overflow")
        upstream = upstream_of(context, parent, all_roots=self.every_root_recorded)
        randomness = probability.randomness(context.trace_id, context.trace_state)
        trace = self._traces[context.trace_id] = Trace(context.trace_id, randomness, upstream, self._clock())
        return trace

    def _fail(self, trace_id: int) -> Decision:
        """Keep the trace: at once if it is undecided, from here on if it had been dropped or kept for less."""
        trace = self._traces.get(trace_id)
        if trace is not None:
            trace.failed = True
            return self._settle(trace, "error")
        earlier = self._kept.get(trace_id)
        if earlier is not None and earlier.failure:
            return earlier
        if earlier is not None:
            decision = replace(LATE_ERROR, incomplete=earlier.incomplete)
        else:
            decision = replace(LATE_ERROR, incomplete=True) if trace_id in self._dropped else ERROR
        self._remember(trace_id, decision)
        return decision

    def _settle(self, trace: Trace, cause: str) -> Decision:
        """Decide a trace and take it out of the table; what it held is on its way out or gone."""
        decision = _explained(decide(trace, self._policies), trace, cause)
        if self._traces.get(trace.trace_id) is not trace:
            return self._decision(trace.trace_id)
        # Remembered before it is taken out: what ends inside this lock meanwhile must find it in one of the two.
        self._remember(trace.trace_id, decision)
        del self._traces[trace.trace_id]
        held, trace.held = trace.held, []
        self._held -= len(held)
        for item, route in held:
            self._outbox.add(item, route, decision)
        return decision

    def _remember(self, trace_id: int, decision: Decision) -> None:
        self._decisions[decision.keep, decision.reason] += 1
        if decision.keep:
            self._kept.add(trace_id, decision)
        else:
            self._dropped.add(trace_id)

    def _is_decided(self, trace_id: int) -> bool:
        return self._kept.get(trace_id) is not None or trace_id in self._dropped

    def _decision(self, trace_id: int) -> Decision:
        """What was decided about a trace that is not in the table; by its id alone if nothing is remembered."""
        kept = self._kept.get(trace_id)
        if kept is not None:
            return kept
        by_id = probability.keep(probability.randomness(trace_id), self.threshold) and trace_id not in self._dropped
        return Decision(by_id, "probability", self.threshold)

    def _hold(self, trace: Trace, item: object, route: Route) -> None:
        trace.held.append((item, route))
        self._held += 1

    def _full(self, trace: Trace) -> bool:
        """Whether the trace has reached its bound; it is decided then, so that it never passes it."""
        if len(trace.held) < self._max_trace_items:
            return False
        self._settle(trace, "overflow")
        return True

    def _room(self) -> list[Leaving]:
        """At the bound, make room for one item: what is decided leaves now; if nothing is, the oldest traces are."""
        while not self._outbox.leaving and self._traces:
            self._settle(self._oldest(), "overflow")
            if self._held < self._max_items:
                break
        return self._outbox.take(self._held + len(self._outbox.leaving) - self._max_items + 1)

    def _oldest(self) -> Trace:
        return next(iter(self._traces.values()))

    def _is_due(self, trace: Trace, now: float) -> bool:
        idle = trace.open_spans == 0 and trace.idle_since + self._grace_s <= now
        return idle or trace.first_seen + self._max_age_s <= now

    # Outside the lock

    def _leave(self) -> None:
        """Release what waits now; what comes meanwhile leaves the next time."""
        for _ in range(0, len(self._outbox.leaving), _RELEASED_AT_ONCE):
            with self._lock:
                leaving = self._outbox.take(_RELEASED_AT_ONCE)
            hand_over(leaving)
        with self._lock:
            losses = self._outbox.take_losses()
        for (destination, event_name), n in losses.items():
            self._on_dropped("sampled", n, destination, event_name)

    def _finish(self, item: object, route: Route, decision: Decision) -> None:
        if decision.keep:
            hand_over([(item, route, decision)])
        else:
            self._on_dropped("sampled", 1, route.destination, route.event_name)


def _explained(decision: Decision, trace: Trace, cause: str) -> Decision:
    """The decision with what brought it about: a bound, the end of the process, an age with spans still open."""
    if decision.failure or cause == "grace":
        return decision
    if cause == "age":
        return replace(decision, incomplete=True)
    return replace(decision, reason=cause, incomplete=trace.open_spans > 0)
