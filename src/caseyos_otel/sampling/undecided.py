"""The undecided traces: by id and age, and in the order in which they became idle."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final

from caseyos_otel.sampling.trace import Trace

_AS_MANY_AGAIN: Final = 64


class Undecided:
    """Anyone adds, without a lock (each step is atomic); only who holds the table's lock takes out.

    Attributes:
        by_id: The traces by their id, in the order in which they began.
        idle: (since when, trace) of each trace whose last open span has ended; an entry is void once that has changed.
    """

    def __init__(self) -> None:
        self.by_id: Final[OrderedDict[int, Trace]] = OrderedDict()  # a plain dict takes ever longer to find its first
        self.idle: Final[deque[tuple[float, Trace]]] = deque()

    def clear(self) -> None:
        """Forget all of them."""
        self.by_id.clear()
        self.idle.clear()

    def take_idle(self, moment: float) -> Trace | None:
        """Take the first one that has been idle since this moment or before; None if there is none."""
        idle = self.idle
        while idle and idle[0][0] <= moment:
            since, trace = idle.popleft()
            if trace.idle_since == since and not trace.open and trace.decision is None:
                return trace
        return None

    def oldest(self) -> Trace | None:
        """The one that began first."""
        if len(self.idle) > 4 * len(self.by_id) + _AS_MANY_AGAIN:  # mostly traces that are decided
            self._sift()
        while self.by_id:
            try:
                return next(iter(self.by_id.values()))
            except RuntimeError:  # somebody has added one between these two steps
                continue
        return None

    def _sift(self) -> None:
        """Let go of what is void. What is added meanwhile stays behind it: the order is that of time all the time."""
        entries = [self.idle.popleft() for _ in range(len(self.idle))]
        self.idle.extendleft(
            (since, trace) for since, trace in reversed(entries) if trace.decision is None and trace.idle_since == since
        )
