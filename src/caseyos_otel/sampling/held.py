"""A span while it waits, and the one rebuild when it leaves: an ended span cannot be changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, TraceFlags, TraceState

from caseyos_otel._otel import span_context
from caseyos_otel.sampling import probability

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    from caseyos_otel.sampling.decision import Decision

REASON: Final = "caseyos.sampling.reason"
INCOMPLETE: Final = "caseyos.sampling.incomplete"
KEPT: Final = "caseyos.sampling.kept"
PRIORITY: Final = "sampling.priority"
"""The OpenTelemetry Collector's probabilistic sampler keeps a span where this is 1."""

_NONE_DROPPED: Final = (0, 0, 0)
_readable: Final = ReadableSpan.__init__  # found here quicker than by `super()`

Redact = Callable[[str], str]
"""Takes a text of a span (its name, an attribute, a status description) and returns what may leave."""


class HeldSpan(NamedTuple):
    """What an ended span consists of (`_otel.fields_of`), under OpenTelemetry's names. `attributes` is read only."""

    name: str
    trace_id: int
    span_id: int
    trace_flags: int
    trace_state: TraceState
    parent: SpanContext | None
    resource: Resource
    attributes: Mapping[str, Any]
    events: Sequence[Event]
    links: Sequence[Link]
    kind: SpanKind
    status: Status
    start_time: int | None
    end_time: int | None
    instrumentation_scope: InstrumentationScope | None
    dropped: tuple[int, int, int] | None

    @property
    def context(self) -> SpanContext:
        """The span's own context."""
        return SpanContext(self.trace_id, self.span_id, False, TraceFlags(self.trace_flags), self.trace_state)


class KeptSpan(ReadableSpan):
    """A span as it leaves; keeps how much the original had dropped at its limits."""

    def __init__(
        self,
        held: HeldSpan,
        flags: TraceFlags,
        tracestate: TraceState,
        attributes: Mapping[str, Any],
        redact: Redact | None,
    ) -> None:
        (
            name,
            trace_id,
            span_id,
            _,
            _,
            parent,
            resource,
            _,
            events,
            links,
            kind,
            status,
            start,
            end,
            scope,
            lost,
        ) = held
        if redact is not None:
            name = redact(name)
            if events or links or status.description:
                events, links = _redacted_events(events, redact), _redacted_links(links, redact)
                status = _redacted_status(status, redact)
        context = span_context(trace_id, span_id, flags, tracestate)
        _readable(
            self, name, context, parent, resource, attributes, events, links, kind, None, status, start, end, scope
        )
        self._dropped = lost or _NONE_DROPPED

    @property
    def dropped_attributes(self) -> int:
        """Attributes that the original dropped at its limit."""
        return self._dropped[0]

    @property
    def dropped_events(self) -> int:
        """Span events that the original dropped at its limit."""
        return self._dropped[1]

    @property
    def dropped_links(self) -> int:
        """Links that the original dropped at its limit."""
        return self._dropped[2]


def rebuilt(held: HeldSpan, decision: Decision, redact: Redact | None = None) -> ReadableSpan:
    """The kept span as it leaves: sampled flag, `ot=th`, why it was kept; redacted where asked."""
    tracestate = _tracestate(held, decision.threshold)
    return KeptSpan(held, _sampled(held.trace_flags), tracestate, _explained(held, decision, redact), redact)


def annotated(held: HeldSpan, decision: Decision, redact: Redact | None = None) -> ReadableSpan:
    """The span as it leaves in `collector` mode: the verdict written on it, its probability untouched."""
    attributes = _explained(held, decision, redact)
    attributes[KEPT] = decision.keep
    return KeptSpan(held, _sampled(held.trace_flags), held.trace_state, attributes, redact)


def redacted(held: HeldSpan, redact: Redact) -> ReadableSpan:
    """The span as it leaves where nothing is sampled: as it was, but for what may not leave."""
    flags = TraceFlags(held.trace_flags)
    return KeptSpan(held, flags, held.trace_state, _redacted(held.attributes, redact), redact)


def _explained(held: HeldSpan, decision: Decision, redact: Redact | None) -> dict[str, Any]:
    attributes = dict(held.attributes) if redact is None else _redacted(held.attributes, redact)
    attributes[REASON] = decision.reason
    if decision.incomplete:
        attributes[INCOMPLETE] = True
    if decision.failure:
        attributes[PRIORITY] = 1
    return attributes


def _redacted(attributes: Mapping[str, Any], redact: Redact) -> dict[str, Any]:
    return {key: _redacted_value(value, redact) for key, value in attributes.items()}


def _redacted_value(value: Any, redact: Redact) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, tuple | list):
        return tuple(_redacted_value(each, redact) for each in value)
    if isinstance(value, Mapping):
        return _redacted(value, redact)
    return value


def _redacted_events(events: Sequence[Event], redact: Redact) -> Sequence[Event]:
    """A recorded exception repeats its message in attributes of a span event, and in the status."""
    return tuple(Event(each.name, _redacted(each.attributes or {}, redact), each.timestamp) for each in events)


def _redacted_links(links: Sequence[Link], redact: Redact) -> Sequence[Link]:
    return tuple(Link(each.context, _redacted(each.attributes or {}, redact)) for each in links)


def _redacted_status(status: Status, redact: Redact) -> Status:
    return Status(status.status_code, redact(status.description)) if status.description else status


def _tracestate(held: HeldSpan, threshold: int | None) -> TraceState:
    """`ot=th` is the higher of ours and an incoming one; none where the two contradict the trace's randomness."""
    tracestate = held.trace_state
    if not tracestate:
        return probability.bare_tracestate(threshold)
    incoming = probability.threshold_of(tracestate)
    if threshold is not None and incoming is not None and incoming > threshold:
        reached = probability.keep(probability.randomness(held.trace_id, tracestate), incoming)
        threshold = incoming if reached else None
    return probability.with_threshold(tracestate, threshold)


@lru_cache(maxsize=16)
def _sampled(flags: int) -> TraceFlags:
    return TraceFlags(flags | TraceFlags.SAMPLED)
