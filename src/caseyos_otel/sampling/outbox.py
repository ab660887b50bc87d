"""What is on its way out of the trace table, and the count of what is not."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import Any, Final

from caseyos_otel import diagnostics
from caseyos_otel.sampling.decision import Decision
from caseyos_otel.sampling.trace import STRIDE, HeldRecord, Route, items_of

Parcel = tuple[Sequence[Any], Decision]
"""Items of one trace as `Trace.held` has them, and what was decided about it. One object however many there are."""

Losses = Counter[tuple[str, str]]
"""How many items were dropped, by (destination, event name)."""

_LOOK_AGAIN_S: Final = 0.001


class Outbox:
    """Decided items in the order in which they arrived. Not locked: its owner is.

    Attributes:
        waiting: How many items wait for the worker; read it, change it through the methods.
        urgent: What leaves as soon as the lock is free.
        hands: By a mark of its own, the thread that has taken parcels and not yet handed them over. Anyone removes his.
    """

    def __init__(self) -> None:
        self.waiting = 0
        self._leaving: deque[Parcel] = deque()
        self.urgent: list[Parcel] = []
        self.hands: dict[object, int] = {}

    def add(self, items: Sequence[Any], decision: Decision) -> None:
        """Queue items of a trace."""
        self.waiting += len(items) // STRIDE
        self._leaving.append((items, decision))

    def leave_now(self, items: Sequence[Any], decision: Decision) -> None:
        """Hand items over as soon as the lock is free."""
        self.urgent.append((items, decision))

    def spill(self, n: int) -> int:
        """Let the first waiting items leave at once, at most `n`; how many they are."""
        before = self.waiting
        self.urgent += self.take(n)
        return before - self.waiting

    def take(self, n: int) -> list[Parcel]:
        """Remove and return the first items, at most `n`."""
        taken: list[Parcel] = []
        while n > 0 and self._leaving:
            items, decision = self._leaving.popleft()
            size = len(items) // STRIDE
            if size > n:
                self._leaving.appendleft((items[n * STRIDE :], decision))
                items, size = items[: n * STRIDE], n
            taken.append((items, decision))
            self.waiting -= size
            n -= size
        return taken

    def take_urgent(self) -> list[Parcel]:
        """Remove and return what leaves at once."""
        urgent, self.urgent = self.urgent, []
        return urgent

    def in_hand(self) -> object:
        """Mark that this thread has taken something; `hands.pop` the mark when it is handed over."""
        mark = object()
        self.hands[mark] = threading.get_ident()
        return mark

    def wait_for_hands(self, deadline: float | None) -> bool:
        """Wait until other threads have handed over what they have taken; False if the deadline is over first.

        Call it without the lock. Not for this thread: it may be here because an exporter flushes in its `on_end`.
        """
        here = threading.get_ident()
        others = [mark for mark, thread in self.hands.copy().items() if thread != here]
        while any(mark in self.hands for mark in others):
            if deadline is not None and time.monotonic() >= deadline:
                return False
            time.sleep(_LOOK_AGAIN_S)
        return True


def hand_over(parcels: Iterable[Parcel], spans: Route) -> Losses:
    """Hand items to where they go; what was not kept is counted. Runs code of others: never while holding a lock."""
    losses: Losses = Counter()
    for items, decision in parcels:
        leaves = decision.keep
        for item in items_of(items):
            held, route = item if type(item) is HeldRecord else (item, spans)
            if leaves or route.always:
                try:
                    route.release(held, decision)
                except Exception as error:
                    diagnostics.swallowed(f"releasing a sampled item to {route.destination}", error)
            else:
                losses[route.destination, route.event_name] += 1
    return losses
