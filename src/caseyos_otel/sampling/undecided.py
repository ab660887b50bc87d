"""The undecided traces: by id, by age, and in the order in which they became idle."""

from __future__ import annotations

from collections import deque
from typing import Final

from caseyos_otel.sampling.trace import Trace

_AS_MANY_AGAIN: Final = 64


class Undecided:
    """Anyone adds, without a lock (each step is atomic); only who holds the table's lock takes out.

    Attributes:
        by_id: The traces by their id.
        idle: (since when, trace) of each trace whose last open span has ended; an entry is void once that has changed.
    """

    def __init__(self) -> None:
        self.by_id: Final[dict[int, Trace]] = {}
        self.idle: Final[deque[tuple[float, Trace]]] = deque()
        self._by_age: Final[deque[Trace]] = deque()

    def clear(self) -> None:
        """Forget all of them."""
        self.by_id.clear()
        self.idle.clear()
        self._by_age.clear()

    def add(self, trace: Trace) -> None:
        """A trace begins."""
        self.by_id[trace.trace_id] = trace
        self._by_age.append(trace)

    def is_idle_since(self, moment: float) -> bool:
        """Whether the first one that became idle did so at this moment or before."""
        try:
            return self.idle[0][0] <= moment
        except IndexError:
            return False

    def take_idle(self) -> Trace | None:
        """Take the first one that became idle off the list; None if it has become busy again."""
        since, trace = self.idle.popleft()
        return trace if not trace.open and trace.idle_since == since else None

    def oldest(self) -> Trace | None:
        """The one that began first."""
        by_age = self._by_age
        if len(by_age) + len(self.idle) > 4 * len(self.by_id) + _AS_MANY_AGAIN:  # mostly traces that are decided
            self._sift()
        while by_age:
            if by_age[0].decision is None:
                return by_age[0]
            by_age.popleft()
        return None

    def _sift(self) -> None:
        """Let go of what is void. What is added meanwhile stays behind it: the order is that of age all the time."""
        traces = [self._by_age.popleft() for _ in range(len(self._by_age))]
        self._by_age.extendleft(trace for trace in reversed(traces) if trace.decision is None)
        entries = [self.idle.popleft() for _ in range(len(self.idle))]
        self.idle.extendleft(
            (since, trace) for since, trace in reversed(entries) if trace.decision is None and trace.idle_since == since
        )
