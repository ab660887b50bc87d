"""The head sampler that lets tail sampling see every span."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, SpanKind, TraceState
    from opentelemetry.util.types import Attributes


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


def recording_sampler(default: Sampler) -> Sampler:
    """The default head sampler, wrapped so that every span is recorded. A sampler that a user chose is not wrapped."""
    return default if isinstance(default, RecordingSampler) else RecordingSampler(default)
