"""Gives every span the trail of its request."""

from __future__ import annotations

from collections.abc import Callable

from opentelemetry.context import Context
from opentelemetry.sdk.trace import Span, SpanProcessor

from caseyos_otel import _otel, context
from caseyos_otel.diagnostics import swallowed


class TrailSpanProcessor(SpanProcessor):
    """A local root gets a new trail; its descendants share it. `woken()` starts the worker at the first span."""

    def __init__(self, woken: Callable[[], None]) -> None:
        self._woken = woken

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Called in the thread that starts the span."""
        try:
            self._woken()
            context.start_trail(span, _otel.parent_span(parent_context))
        except Exception as error:  # written out: `guard` costs 1 µs each time, and every span comes here
            swallowed("starting the trail of a span", error)
