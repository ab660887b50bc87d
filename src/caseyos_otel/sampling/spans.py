"""The span half of tail sampling: a processor that stands before those that export."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Literal

from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor

from caseyos_otel import diagnostics
from caseyos_otel._otel import SPAN_ID, TRACE_ID, context_of, fields_of, on_ending
from caseyos_otel.events.failure import ERROR_TYPE, span_failed
from caseyos_otel.sampling.decision import Decision
from caseyos_otel.sampling.held import HeldSpan, Redact, annotated, rebuilt, redacted
from caseyos_otel.sampling.table import TraceTable
from caseyos_otel.sampling.trace import SPANS, STRIDE, Route

if TYPE_CHECKING:
    from opentelemetry.context import Context


Mode = Literal["process", "collector", "off"]

_EMPTY: Final = (SpanProcessor, BatchSpanProcessor, SimpleSpanProcessor)
_EMPTY_ON_START: Final = frozenset(each.on_start for each in _EMPTY)
_UNSET: Final = ReadableSpan("").status  # of every span that nobody gave one
_TRACE_ID: Final = HeldSpan._fields.index("trace_id")
_SPAN_ID: Final = HeldSpan._fields.index("span_id")
_ATTRIBUTES: Final = HeldSpan._fields.index("attributes")
_EVENTS: Final = HeldSpan._fields.index("events")
_STATUS: Final = HeldSpan._fields.index("status")

SHUTDOWN_S: Final = 5.0
"""What shutdown may spend on handing over what was still undecided."""


class TailSamplingSpanProcessor(SpanProcessor):
    """Holds ended spans until their trace is decided; hands the kept ones to the processors it wraps.

    The table must be ticked (`TraceTable.tick`) by somebody. The wrapped processors see every start, as without us.

    Args:
        table: Decides; shared with whoever samples the log records of the same traces.
        wrapped: The processors that export.
        before: Called with every ended span before sampling, so that an event made from it can keep the trace.
        mode: `process`: kept traces leave. `collector`: every span leaves once its trace is decided, with the verdict
            on it. `off`: every span leaves at once.
        redact: Takes a text of a span that leaves (its name; an attribute, also of its span events and links; the
            description of its status) and returns what may leave.

    Raises:
        ValueError: the table has a span processor already.

    Example:
        >>> from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
        >>> table = TraceTable(0.1)
        >>> processor = TailSamplingSpanProcessor(table, [BatchSpanProcessor(ConsoleSpanExporter())])
        >>> processor.shutdown()
    """

    def __init__(
        self,
        table: TraceTable,
        wrapped: Sequence[SpanProcessor],
        before: Callable[[ReadableSpan], object] | None = None,
        *,
        mode: Mode = "process",
        redact: Redact | None = None,
    ) -> None:
        self._table = table
        self._trace_of = table.traces.get
        self._idle = table.idle
        self._room = table.room
        self._ticket = table.room.draw
        self._clock = table.clock
        self._most = table.max_trace_items * STRIDE
        self._wrapped: tuple[SpanProcessor, ...] = ()
        self._starting: tuple[SpanProcessor, ...] = ()
        self._ending: tuple[Callable[[Span], None], ...] = ()
        for each in wrapped:
            self.wrap(each)
        self._before = before
        self._sampling = mode != "off"
        self._redact = redact
        self._rebuild = annotated if mode == "collector" else rebuilt
        if self._sampling:
            table.spans_go(Route(self._release, SPANS, always=mode == "collector"))

    def wrap(self, processor: SpanProcessor) -> None:
        """Hand what is kept to this one too, from now on."""
        self._wrapped = (*self._wrapped, processor)
        if type(processor).on_start not in _EMPTY_ON_START:
            self._starting = (*self._starting, processor)
        if (ending := on_ending(processor)) is not None:
            self._ending = (*self._ending, ending)

    # Every span of the service pays for these three: no lock and no call that it can do without (see `Trace`).

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Count the open span."""
        try:
            context = context_of(span)
            trace = self._trace_of(context[TRACE_ID])
            if trace is not None:
                trace.open.add(context[SPAN_ID])
            elif self._sampling:
                self._table.begin(context, span.parent)
        except Exception as error:
            diagnostics.swallowed("counting a started span", error)
        for processor in self._starting:
            processor.on_start(span, parent_context)

    def _on_ending(self, span: Span) -> None:
        for ending in self._ending:
            ending(span)

    def on_end(self, span: ReadableSpan) -> None:
        """Hold the span, or let it follow its trace."""
        if not self._sampling:
            self._pass_on(span)
            return
        if self._before is not None:
            self._call_before(span)
        try:
            fields = fields_of(span)
            if (
                fields[_EVENTS]
                or fields[_STATUS] is not _UNSET
                or ERROR_TYPE in fields[_ATTRIBUTES]  # first a look, which is cheap
            ) and span_failed(span):
                self._table.end_failed(HeldSpan(*fields))
                return
            trace = self._trace_of(fields[_TRACE_ID])
            if trace is None or len(trace.held) >= self._most:
                self._table.end(HeldSpan(*fields))
                return
            ticket = self._ticket()
            if ticket >= self._room.limit:
                self._table.make_room(ticket)
            trace.held.extend(fields)
            trace.open.discard(fields[_SPAN_ID])
            if not trace.open:
                trace.idle_since = now = self._clock()
                self._idle.append((now, trace))
                self._table.settle_one(now)
            if trace.decision is not None:
                self._table.sweep(trace)
        except Exception as error:
            diagnostics.swallowed("holding an ended span", error)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Decide what is pending, then flush the wrapped processors. False if that did not end in time."""
        deadline = time.monotonic() + timeout_millis / 1000
        left = self._table.flush(timeout_millis / 1000)
        results = [each.force_flush(_millis_until(deadline)) for each in self._wrapped]
        return left and all(result is not False for result in results)

    def shutdown(self) -> None:
        """Decide what is pending, then shut the wrapped processors down, which say themselves what comes too late."""
        self._table.flush(SHUTDOWN_S)
        self._sampling = False
        self._table.abandon()  # what did not leave in time, and what other threads have ended meanwhile
        for processor in self._wrapped:
            processor.shutdown()

    def _call_before(self, span: ReadableSpan) -> None:
        assert self._before is not None
        try:
            self._before(span)
        except Exception as error:
            diagnostics.swallowed("looking at an ended span", error)

    def _release(self, held: HeldSpan, decision: Decision) -> None:
        span = self._rebuild(held, decision, self._redact)
        for processor in self._wrapped:
            processor.on_end(span)

    def _pass_on(self, span: ReadableSpan) -> None:
        if self._before is not None:
            self._call_before(span)
        if self._redact is not None:
            span = redacted(HeldSpan(*fields_of(span)), self._redact)
        for processor in self._wrapped:
            processor.on_end(span)


def _millis_until(deadline: float) -> int:
    return max(0, int((deadline - time.monotonic()) * 1000))
