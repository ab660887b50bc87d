"""What was decided about traces that have left the table."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from caseyos_otel.sampling.policy import Decision

_WAYS: Final = 8
_LOW_64_BITS: Final = (1 << 64) - 1


class DroppedTraces:
    """Remembers dropped traces in eight bytes each; the oldest of a bucket is forgotten first.

    A forgotten trace is decided again by its randomness, which gives the same answer but for an unsampled caller.

    Args:
        size: How many traces are remembered; rounded up to a power of two.
    """

    def __init__(self, size: int) -> None:
        buckets = 1 << (max(size, _WAYS) // _WAYS - 1).bit_length()
        self._mask = buckets - 1
        self._prints = array("Q", bytes(8 * _WAYS * buckets))

    def add(self, trace_id: int) -> None:
        """Remember that this trace was dropped."""
        first = (trace_id >> 64 & self._mask) * _WAYS
        prints = self._prints
        prints[first + 1 : first + _WAYS] = prints[first : first + _WAYS - 1]
        prints[first] = trace_id & _LOW_64_BITS

    def __contains__(self, trace_id: int) -> bool:
        first = (trace_id >> 64 & self._mask) * _WAYS
        return (trace_id & _LOW_64_BITS) in self._prints[first : first + _WAYS]


class KeptTraces:
    """Remembers the decisions about the last `size` kept traces."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._decisions: OrderedDict[int, Decision] = OrderedDict()

    def add(self, trace_id: int, decision: Decision) -> None:
        """Remember why this trace was kept; the oldest is forgotten where there is no room."""
        self._decisions[trace_id] = decision
        if len(self._decisions) > self._size:
            self._decisions.popitem(last=False)

    def get(self, trace_id: int) -> Decision | None:
        """The decision, or None if the trace was not kept or is forgotten."""
        return self._decisions.get(trace_id)
