"""The head sampler that lets tail sampling see every span."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.sdk.trace.sampling import DEFAULT_ON, Decision, Sampler, SamplingResult
from opentelemetry.trace import TraceFlags

from caseyos_otel import _otel

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, SpanKind, TraceState
    from opentelemetry.util.types import Attributes

_NOTHING: Final[Attributes] = MappingProxyType({})
_DEFAULT: Final[Any] = DEFAULT_ON  # the SDK leaves the classes of its samplers untyped


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
        parent = (_otel.current_context() if parent_context is None else parent_context).get(_otel.SPAN_KEY)
        try:
            context = parent.get_span_context()  # type: ignore[attr-defined]  # not asked whether it is a span: 0.15 µs
        except AttributeError:
            return _Result(Decision.RECORD_AND_SAMPLE, attributes, None)
        if context.trace_flags & TraceFlags.SAMPLED or not context.is_valid:
            return _Result(Decision.RECORD_AND_SAMPLE, attributes, context.trace_state)
        return _Result(Decision.RECORD_ONLY, attributes, context.trace_state)


class _Result(SamplingResult):
    """Without the proxy round the attributes: the span copies them anyway."""

    def __init__(self, decision: Decision, attributes: Attributes, trace_state: TraceState | None) -> None:
        self.decision = decision
        self.attributes = attributes or _NOTHING  # type: ignore[assignment]  # inferred from a proxy there
        self.trace_state = trace_state


def recording_sampler(default: Sampler) -> Sampler:
    """The default head sampler, wrapped so that every span is recorded. A sampler that a user chose is not wrapped."""
    if isinstance(default, RecordingSampler):
        return default
    is_default: bool = type(default) is type(_DEFAULT) and default.get_description() == _DEFAULT.get_description()
    return RecordingParentBased(default) if is_default else RecordingSampler(default)
