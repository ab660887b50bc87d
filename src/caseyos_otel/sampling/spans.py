"""The span half of tail sampling: a processor that stands before those that export."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Literal

from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor

from caseyos_otel import diagnostics
from caseyos_otel.events.failure import span_failed
from caseyos_otel.sampling.decision import Decision
from caseyos_otel.sampling.held import HeldSpan, Redact, annotated, hold, rebuilt
from caseyos_otel.sampling.table import TraceTable
from caseyos_otel.sampling.trace import SPANS, Route

if TYPE_CHECKING:
    from opentelemetry.context import Context

Mode = Literal["process", "collector", "off"]

_EMPTY_ON_START: Final = (SpanProcessor.on_start, BatchSpanProcessor.on_start, SimpleSpanProcessor.on_start)


class TailSamplingSpanProcessor(SpanProcessor):
    """Holds ended spans until their trace is decided; hands the kept ones to the processors it wraps.

    The table must be ticked (`TraceTable.tick`) by somebody. The wrapped processors see every start, as without us.

    Args:
        table: Decides; shared with whoever samples the log records of the same traces.
        wrapped: The processors that export.
        before: Called with every ended span before sampling, so that an event made from it can keep the trace.
        mode: `process`: kept traces leave. `collector`: every span leaves once its trace is decided, with the verdict
            on it. `off`: every span leaves at once, unchanged.
        redact: Takes the attributes of a span that leaves and returns what may leave (not in mode `off`).

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
        self._wrapped = tuple(wrapped)
        self._starting = tuple(each for each in wrapped if type(each).on_start not in _EMPTY_ON_START)
        self._before = before
        self._sampling = mode != "off"
        self._redact = redact
        self._rebuild = annotated if mode == "collector" else rebuilt
        self._route = Route(self._release, SPANS, always=mode == "collector")

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Count the open span."""
        if self._sampling:
            try:
                self._table.span_started(span.get_span_context(), span.parent)
            except Exception as error:
                diagnostics.swallowed("counting a started span", error)
        for processor in self._starting:
            processor.on_start(span, parent_context)

    def on_end(self, span: ReadableSpan) -> None:
        """Hold the span, or let it follow its trace."""
        if self._before is not None:
            self._call_before(span)
        context = span.get_span_context()
        if context is None or not self._sampling:
            self._export(span)
            return
        try:
            held = hold(span, context)
            failed = span_failed(held)  # type: ignore[arg-type] # it reads what HeldSpan has under the same names
            self._table.span_ended(held, self._route, failed=failed)
        except Exception as error:
            diagnostics.swallowed("holding an ended span", error)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Decide what is pending, then flush the wrapped processors. False if one did not manage in time."""
        deadline = time.monotonic() + timeout_millis / 1000
        self._table.flush()
        results = [each.force_flush(_millis_until(deadline)) for each in self._wrapped]
        return all(result is not False for result in results)

    def shutdown(self) -> None:
        """Decide what is pending, then shut the wrapped processors down, which say themselves what comes too late."""
        self._table.flush()
        self._sampling = False
        for processor in self._wrapped:
            processor.shutdown()

    def _call_before(self, span: ReadableSpan) -> None:
        assert self._before is not None
        try:
            self._before(span)
        except Exception as error:
            diagnostics.swallowed("looking at an ended span", error)

    def _release(self, held: HeldSpan, decision: Decision) -> None:
        self._export(self._rebuild(held, decision, self._redact))

    def _export(self, span: ReadableSpan) -> None:
        for processor in self._wrapped:
            processor.on_end(span)


def _millis_until(deadline: float) -> int:
    return max(0, int((deadline - time.monotonic()) * 1000))
