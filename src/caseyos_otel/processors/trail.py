"""Gives every span the trail of its request."""

from __future__ import annotations

from collections.abc import Callable

from opentelemetry.context import Context
from opentelemetry.sdk.trace import Span, SpanProcessor

from caseyos_otel import _otel, context


class TrailSpanProcessor(SpanProcessor):
    """A local root gets a new trail; its descendants share it. `woken()` starts the worker at the first span."""

    def __init__(self, woken: Callable[[], None]) -> None:
        self._woken = woken

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Called in the thread that starts the span."""
        self._woken()
        context.start_trail(span, _otel.parent_span(parent_context))
