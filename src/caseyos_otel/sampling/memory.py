"""What was decided about traces that have left the table."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from caseyos_otel.sampling import probability

if TYPE_CHECKING:
    from caseyos_otel.sampling.decision import Decision
    from caseyos_otel.sampling.policy import Probability

_WAYS: Final = 8
_LOW_64_BITS: Final = (1 << 64) - 1
_GOLDEN: Final = 0x9E3779B97F4A7C15


class DroppedTraces:
    """Remembers dropped traces in eight bytes each; the oldest of a bucket is forgotten first.

    A forgotten trace is decided again by its randomness, which gives the same answer but for an unsampled caller.
    What is kept of an id is 64 bits of it, never 0 (an empty slot); its bucket is a multiplicative hash of them, so
    that ids that differ in few bits still spread over all buckets.

    Args:
        size: How many traces are remembered; rounded up to a power of two.
    """

    def __init__(self, size: int) -> None:
        buckets = 1 << (max(size, _WAYS) // _WAYS - 1).bit_length()
        self._shift = 65 - buckets.bit_length()
        self._prints = array("Q", bytes(8 * _WAYS * buckets))
        self._next = bytearray(buckets)

    def add(self, trace_id: int) -> None:
        """Remember that this trace was dropped."""
        fingerprint = (trace_id ^ trace_id >> 64) & _LOW_64_BITS or 1
        bucket = (fingerprint * _GOLDEN & _LOW_64_BITS) >> self._shift
        way = self._next[bucket]
        self._prints[bucket * _WAYS + way] = fingerprint
        self._next[bucket] = (way + 1) % _WAYS

    def __contains__(self, trace_id: int) -> bool:
        fingerprint = (trace_id ^ trace_id >> 64) & _LOW_64_BITS or 1
        first = ((fingerprint * _GOLDEN & _LOW_64_BITS) >> self._shift) * _WAYS
        return fingerprint in self._prints[first : first + _WAYS]


V = TypeVar("V")


class Newest(Generic[V]):
    """Remembers something of the last `size` traces it was told of."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: OrderedDict[int, V] = OrderedDict()

    def add(self, trace_id: int, value: V) -> None:
        """Remember this of the trace; the oldest is forgotten where there is no room."""
        self._values[trace_id] = value
        self._values.move_to_end(trace_id)  # it may have been told of before
        if len(self._values) > self._size:
            self._values.popitem(last=False)

    def get(self, trace_id: int, default: V) -> V:
        """What was remembered of the trace."""
        return self._values.get(trace_id, default)


class Memory:
    """What was decided about traces that have left the table, and what holds for those it knows nothing of.

    Args:
        size: How many kept traces are remembered; eight times as many dropped ones.
        by_chance: Decides a trace that is not remembered, by its id alone.
    """

    def __init__(self, size: int, by_chance: Probability) -> None:
        self._kept: Newest[Decision | None] = Newest(size)
        self._dropped = DroppedTraces(8 * size)
        self._stated: Newest[int | None] = Newest(size)
        self._by_chance = by_chance

    def add(self, trace_id: int, decision: Decision) -> None:
        """Remember what was decided; the last word counts."""
        if decision.keep:
            self._kept.add(trace_id, decision)
        else:
            self._dropped.add(trace_id)

    def add_threshold_of_failure(self, trace_id: int, threshold: int | None) -> None:
        """Remember what a failure that is still to come may claim; of most traces that is probability 1."""
        if threshold != probability.ALWAYS:
            self._stated.add(trace_id, threshold)

    def threshold_of_failure(self, trace_id: int) -> int | None:
        """The threshold of a late failure of this trace; None if its probability is unknown."""
        return self._stated.get(trace_id, probability.ALWAYS)

    def get(self, trace_id: int) -> Decision | None:
        """What was decided, if it is remembered."""
        kept = self._kept.get(trace_id, None)
        return self._by_chance.dropped if kept is None and trace_id in self._dropped else kept

    def decision(self, trace_id: int) -> Decision:
        """What was decided; by the trace id alone if nothing is remembered."""
        return self.get(trace_id) or self._by_chance.of(probability.randomness(trace_id))
