"""What arrives and is not as most: a trace begins, a span fails or comes late, a record wants to wait for its trace.

Everything here runs under the table's lock, but for `trace`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from caseyos_otel._otel import TRACE_ID, TRACE_STATE
from caseyos_otel.sampling import probability
from caseyos_otel.sampling.probability import LOW_56_BITS
from caseyos_otel.sampling.trace import BEGAN_HERE, STRIDE, HeldRecord, Trace, flat_record, upstream_of

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

    from caseyos_otel.sampling.held import HeldSpan
    from caseyos_otel.sampling.settlement import Settlement
    from caseyos_otel.sampling.trace import Recorded


class Arrivals:
    """Holds what belongs to an undecided trace; sends on its way what comes after the decision.

    Attributes:
        recorded: What the head sampler lets us see.
    """

    def __init__(
        self,
        settlement: Settlement,
        *,
        max_trace_items: int,
        recorded: Recorded,
        clock: Callable[[], float],
    ) -> None:
        self._settlement: Final = settlement
        self._traces: Final = settlement.undecided.by_id
        self._idle: Final = settlement.undecided.idle
        self._most: Final = max_trace_items * STRIDE
        self._clock = clock
        self.recorded = recorded

    def trace(self, context: SpanContext, parent: SpanContext | None) -> Trace:
        """A trace as its first local span shows it, not yet in the table."""
        trace_id = context[TRACE_ID]
        upstream = upstream_of(context, parent, self.recorded)
        if upstream is BEGAN_HERE:
            return Trace(trace_id, trace_id & LOW_56_BITS, upstream, self._clock())
        return Trace(trace_id, probability.randomness(trace_id, context[TRACE_STATE]), upstream, self._clock())

    def start(self, context: SpanContext, parent: SpanContext | None, ticket: int) -> None:
        """A span has started whose trace is not in the table: it begins one, unless that was decided already.

        `ticket` is one of `trace_room`.
        """
        trace = self._traces.get(context.trace_id)
        if trace is None and (parent is None or self._settlement.memory.get(context.trace_id) is None):
            trace = self._begin(context, parent, ticket)
        else:
            self._settlement.trace_room.give_back(ticket)
        if trace is not None:
            trace.open.add(context.span_id)

    def end(self, span: HeldSpan) -> None:
        """A span has ended whose trace is not in the table, or is full. One whose start was not seen begins a trace."""
        settlement, trace_id = self._settlement, span.trace_id
        trace = self._traces.get(trace_id)
        if trace is None and settlement.memory.get(trace_id) is None:
            trace = self._begin(span.context, span.parent, settlement.trace_room.draw())
        if trace is not None and not self._is_full(trace):
            self._hold(trace, span)
            trace.open.discard(span.span_id)
            if not trace.open:
                trace.idle_since = self._clock()
                self._idle.append((trace.idle_since, trace))
        else:
            decision = settlement.memory.decision(trace_id)
            settlement.tally.late[decision.keep] += 1
            settlement.send(span, settlement.spans, decision)

    def end_failed(self, span: HeldSpan) -> None:
        """A failed span has ended: it keeps its trace, and leaves behind what that has held."""
        settlement, trace_id = self._settlement, span.trace_id
        if trace_id not in self._traces:
            if settlement.memory.get(trace_id) is not None:
                settlement.tally.late[True] += 1
            else:
                self._begin(span.context, span.parent, settlement.trace_room.draw())
        settlement.send(span, settlement.spans, settlement.fail(trace_id))

    def offer(self, trace_id: int, record: HeldRecord, failure: bool) -> None:
        """A record leaves if its trace is kept, is counted if that is dropped, else held. A failed one keeps the trace."""
        settlement = self._settlement
        if failure:
            settlement.send_next(record, settlement.fail(trace_id))
            return
        trace = self._traces.get(trace_id)
        if trace is not None and not self._is_full(trace):
            trace.has_records = True
            self._hold(trace, flat_record(record))
        else:
            known = settlement.memory.get(trace_id)
            if known is not None:  # else nothing of the trace was here before
                settlement.tally.late[known.keep] += 1
            settlement.send_next(record, known or settlement.memory.decision(trace_id))

    def _begin(self, context: SpanContext, parent: SpanContext | None, ticket: int) -> Trace:
        settlement, room = self._settlement, self._settlement.trace_room
        while ticket >= room.limit and settlement.evict("traces"):
            pass
        trace = self.trace(context, parent)
        if ticket < room.limit:
            self._traces[trace.trace_id] = trace
        else:  # other threads have the last places and are about to take them: this one is decided at its start
            room.stand(ticket)
            settlement.tally.evictions["traces"] += 1
            settlement.settle(trace, "overflow")
        return trace

    def _hold(self, trace: Trace, fields: tuple[Any, ...]) -> None:
        ticket = self._settlement.room.draw()
        if ticket >= self._settlement.room.limit:
            self._settlement.make_room(ticket)
        trace.held.extend(fields)
        if trace.decision is not None:  # it was the oldest: room was made of it
            self._settlement.release_held(trace)

    def _is_full(self, trace: Trace) -> bool:
        """Whether the trace has reached its bound; it is decided then."""
        if len(trace.held) < self._most:
            return False
        self._settlement.tally.evictions["trace_items"] += 1
        self._settlement.settle(trace, "overflow")
        return True
