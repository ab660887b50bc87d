"""What the trace table knows about a trace that is not decided yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from caseyos_otel.sampling import probability

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

    from caseyos_otel.sampling.decision import Decision


@dataclass(frozen=True, slots=True)
class Upstream:
    """What whoever called us had decided about the trace.

    Attributes:
        sampled: The sampled flag. Not set: the trace is kept on failure only.
        threshold: `ot=th`, the probability with which the trace reached us; 0 for one that began here; None unknown.
    """

    sampled: bool = True
    threshold: int | None = probability.ALWAYS


BEGAN_HERE: Final = Upstream()

SPANS: Final = "spans"
"""The destination that spans are counted for."""


def upstream_of(context: SpanContext, parent: SpanContext | None, *, all_roots: bool) -> Upstream:
    """What came in with a trace, read from its first local span.

    Without `ot=th` the probability is known only where the trace began here and `all_roots` says that every trace
    that begins here is recorded (the head sampler drops none).
    """
    if all_roots and parent is None and context.trace_flags.sampled and not context.trace_state:
        return BEGAN_HERE
    threshold = probability.threshold_of(context.trace_state)
    if threshold is None and parent is None and all_roots:
        threshold = probability.ALWAYS
    return Upstream(context.trace_flags.sampled, threshold)


class EndedSpan(Protocol):
    """What the table and the policies read of a span (the OpenTelemetry names)."""

    @property
    def name(self) -> str: ...
    @property
    def context(self) -> SpanContext: ...
    @property
    def parent(self) -> SpanContext | None: ...
    @property
    def attributes(self) -> Mapping[str, Any]: ...
    @property
    def start_time(self) -> int | None: ...
    @property
    def end_time(self) -> int | None: ...


@dataclass(frozen=True, slots=True)
class Route:
    """Where something that waits for its trace's decision goes.

    Attributes:
        release: Called with the item and the decision, outside every lock.
        destination: Whom a drop is counted for.
        event_name: Which event a drop is counted for; empty for spans.
        always: The item leaves whatever is decided; the decision is only written on it (`collector` mode).
    """

    release: Callable[[Any, Decision], object]
    destination: str
    event_name: str = ""
    always: bool = False


class Trace:
    """An undecided trace: its open local spans are counted, what has ended is held."""

    __slots__ = ("failed", "first_seen", "held", "idle_since", "open_spans", "randomness", "trace_id", "upstream")

    def __init__(self, trace_id: int, randomness: int, upstream: Upstream, now: float) -> None:
        self.trace_id = trace_id
        self.randomness = randomness
        self.upstream = upstream
        self.open_spans = 0
        self.first_seen = now
        self.idle_since = now
        self.failed = False
        self.held: list[tuple[Any, Route]] = []

    def end_span(self, clock: Callable[[], float]) -> None:
        """One open span fewer; a span whose start was not seen was never counted."""
        self.open_spans -= 1
        if self.open_spans <= 0:
            self.open_spans = 0
            self.idle_since = clock()

    @property
    def spans(self) -> list[EndedSpan]:
        """The spans that have ended, in the order of their end."""
        return [item for item, route in self.held if route.destination == SPANS]

    @property
    def duration_ms(self) -> float:
        """Milliseconds from the first start to the last end of the spans that have ended."""
        spans = self.spans
        if not spans:
            return 0.0
        first: int = min(span.start_time or 0 for span in spans)
        last: int = max(span.end_time or 0 for span in spans)
        return (last - first) / 1e6
