"""What is on its way out of the trace table, and the count of what is not."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import Any

from caseyos_otel import diagnostics
from caseyos_otel.sampling.decision import Decision
from caseyos_otel.sampling.trace import STRIDE, HeldRecord, Route, items_of

Parcel = tuple[Sequence[Any], Decision]
"""Items of one trace as `Trace.held` has them, and what was decided about it. One object however many there are."""

Losses = Counter[tuple[str, str]]
"""How many items were dropped, by (destination, event name)."""


class Outbox:
    """Decided items in the order in which they arrived. Not locked: its owner is.

    Attributes:
        waiting: How many items wait for the worker; read it, change it through the methods.
        urgent: What leaves as soon as the lock is free.
    """

    def __init__(self) -> None:
        self.waiting = 0
        self._leaving: deque[Parcel] = deque()
        self.urgent: list[Parcel] = []

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


def hand_over(parcels: Iterable[Parcel], spans: Route) -> Losses:
    """Hand items to where they go; what was not kept is counted. Runs code of others: never while holding a lock."""
    losses: Losses = Counter()
    for items, decision in parcels:
        for item in items_of(items):
            held, route = item if isinstance(item, HeldRecord) else (item, spans)
            if not (decision.keep or route.always):
                losses[route.destination, route.event_name] += 1
                continue
            try:
                route.release(held, decision)
            except Exception as error:
                diagnostics.swallowed(f"releasing a sampled item to {route.destination}", error)
    return losses
