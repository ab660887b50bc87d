"""The head sampler that lets tail sampling see every span."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.sdk.trace.sampling import DEFAULT_ON, Decision, Sampler, SamplingResult
from opentelemetry.trace import Span

from caseyos_otel import _otel
from caseyos_otel._otel import IS_VALID, TRACE_FLAGS, TRACE_STATE

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, SpanKind, TraceState
    from opentelemetry.util.types import Attributes

_NOTHING: Final[Attributes] = MappingProxyType({})
_DEFAULT: Final[Any] = DEFAULT_ON  # the SDK leaves the classes of its samplers untyped
# Names of this module: every span of the service is sampled, and a look into a class costs more than a look here.
_SAMPLED: Final = Decision.RECORD_AND_SAMPLE
_RECORDED: Final = Decision.RECORD_ONLY
_SPAN_KEY: Final = _otel.SPAN_KEY
_current_context: Final = _otel.current_context
_context_of: Final = _otel.context_of

_blank: Final = object.__new__


class RecordingSampler(Sampler):
    """Records every span; the flag that goes out to other services stays what `root` decided.

    Like the SDK's `AlwaysRecordSampler`, which loses the attributes given at the start of a span that `root` drops
    (its drop result has none): a failure kept from an unsampled caller would have no method and no URL.
    """

    def __init__(self, root: Sampler) -> None:
        self._root = root

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """What `root` says, but never DROP."""
        result = self._root.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)
        if result.decision is not Decision.DROP:
            return result
        return SamplingResult(Decision.RECORD_ONLY, attributes, result.trace_state)

    def get_description(self) -> str:
        """The description of `root`, wrapped."""
        return f"RecordingSampler{{{self._root.get_description()}}}"


class RecordingParentBased(RecordingSampler):
    """The same for the SDK's default sampler, whose answer needs but one look at the parent: half of its cost."""

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """Sampled where there is no parent or a sampled one, else recorded only."""
        parent: Any = (_current_context() if parent_context is None else parent_context).get(_SPAN_KEY)
        # Without the proxy that `__init__` puts round the attributes: a span copies them.
        result = _blank(SamplingResult)
        result.attributes = attributes or _NOTHING  # type: ignore[assignment]  # inferred from that proxy
        if parent is None:
            result.decision, result.trace_state = _SAMPLED, None
            return result
        try:
            context = _context_of(parent)
        except AttributeError:  # somebody else's
            if not isinstance(parent, Span):
                result.decision, result.trace_state = _SAMPLED, None
                return result
            context = parent.get_span_context()
        result.decision = _SAMPLED if context[TRACE_FLAGS] & 1 or not context[IS_VALID] else _RECORDED
        result.trace_state = context[TRACE_STATE]
        return result


def recording_sampler(default: Sampler) -> Sampler:
    """The default head sampler, wrapped so that every span is recorded. A sampler that a user chose is not wrapped."""
    if isinstance(default, RecordingSampler):
        return default
    is_default: bool = type(default) is type(_DEFAULT) and default.get_description() == _DEFAULT.get_description()
    return RecordingParentBased(default) if is_default else RecordingSampler(default)
