"""What the trace table knows about a trace that is not decided yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from opentelemetry.trace import DEFAULT_TRACE_STATE, TraceFlags

from caseyos_otel._otel import TRACE_FLAGS, TRACE_STATE
from caseyos_otel.sampling import probability
from caseyos_otel.sampling.held import HeldSpan

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

    from caseyos_otel.sampling.decision import Decision

_SAMPLED: Final = int(TraceFlags.SAMPLED)


Recorded = Literal["every_span", "every_root", "unknown"]
"""What the head sampler lets us see: every span; every trace that begins here, but not what an unsampled caller asks for;
or it may drop any, and does not say how many."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """What whoever called us had decided about the trace.

    Attributes:
        sampled: The sampled flag. Not set: the trace is kept on failure only.
        threshold: `ot=th`, the probability with which the trace reached us; 0 for one that began here; None unknown.
        recorded: Whether we would have seen it in any case. A failure in it is then kept with probability 1.
    """

    sampled: bool = True
    threshold: int | None = probability.ALWAYS
    recorded: bool = True


BEGAN_HERE: Final = Upstream()

STRIDE: Final = len(HeldSpan._fields)

SPANS: Final = "spans"
"""The destination that spans are counted for."""


def upstream_of(context: SpanContext, parent: SpanContext | None, recorded: Recorded) -> Upstream:
    """What came in with a trace, read from its first local span.

    Without `ot=th` the probability is known only where the trace began here and every such trace is recorded.
    """
    began_here = parent is None and recorded != "unknown"
    if began_here and context[TRACE_FLAGS] & _SAMPLED:
        tracestate = context[TRACE_STATE]
        if tracestate is DEFAULT_TRACE_STATE or not tracestate:  # its length is a function of OpenTelemetry's
            return BEGAN_HERE
    threshold = probability.threshold_of(context.trace_state)
    if threshold is None and began_here:
        threshold = probability.ALWAYS
    return Upstream(context.trace_flags.sampled, threshold, recorded == "every_span")


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


class HeldRecord(NamedTuple):
    """A record that waits for its trace's decision."""

    item: Any
    route: Route


_RECORD: Final = object()


def flat_record(record: HeldRecord) -> tuple[Any, ...]:
    """A record as `Trace.held` has it."""
    return (_RECORD, record, *(None,) * (STRIDE - 2))


def items_of(flat: Sequence[Any]) -> Iterator[HeldSpan | HeldRecord]:
    """The spans and records that `Trace.held`, or a part of it, consists of."""
    for first in range(0, len(flat), STRIDE):
        if flat[first] is _RECORD:
            yield flat[first + 1]
        else:
            yield tuple.__new__(HeldSpan, flat[first : first + STRIDE])  # half the price of calling HeldSpan


class Trace:
    """An undecided trace: its open local spans are counted, what has ended is held.

    Callers add to `open` and `held` without a lock (one operation of a list or set is atomic); who holds the table's lock
    takes out. Who has appended looks at `decision` afterwards: if it is made, nobody else may look here again.

    Attributes:
        open: Ids of the open local spans. Not a counter: that is not atomic, and of some spans the start is not seen.
        held: The fields of ended spans and of records, `STRIDE` for each, one behind the other in the order of their
            arrival: so the garbage collector, which visits what is held again and again, finds one list a trace.
        has_records: Whether there are records among them.
        first_seen, idle_since: Monotonic seconds; the latter counts while no local span is open.
        decision: None until it is made.
    """

    __slots__ = (
        "decision",
        "failed",
        "first_seen",
        "has_records",
        "held",
        "idle_since",
        "open",
        "randomness",
        "trace_id",
        "upstream",
    )

    def __init__(self, trace_id: int, randomness: int, upstream: Upstream, now: float) -> None:
        self.trace_id = trace_id
        self.randomness = randomness
        self.upstream = upstream
        self.open: set[int] = set()
        self.first_seen = now
        self.idle_since = now
        self.failed = False
        self.held: list[Any] = []
        self.has_records = False
        self.decision: Decision | None = None

    @property
    def spans(self) -> list[HeldSpan]:
        """The spans that have ended, in the order of their end."""
        return [item for item in items_of(tuple(self.held)) if isinstance(item, HeldSpan)]

    @property
    def duration_ms(self) -> float:
        """Milliseconds from the first start to the last end of the spans that have ended."""
        spans = self.spans
        if not spans:
            return 0.0
        first: int = min(span.start_time or 0 for span in spans)
        last: int = max(span.end_time or 0 for span in spans)
        return (last - first) / 1e6
