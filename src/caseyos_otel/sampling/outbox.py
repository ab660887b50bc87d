"""What is on its way out of the trace table, and the count of what is not."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from typing import Any

from caseyos_otel import diagnostics
from caseyos_otel.sampling.decision import Decision
from caseyos_otel.sampling.trace import Route

Leaving = tuple[Any, Route, Decision]


class Outbox:
    """Decided items in the order in which they arrived. Not locked: its owner is.

    Attributes:
        leaving: What waits to be handed over; read its length, change it through the methods.
    """

    def __init__(self) -> None:
        self.leaving: deque[Leaving] = deque()
        self._losses: Counter[tuple[str, str]] = Counter()

    def add(self, item: object, route: Route, decision: Decision) -> None:
        """Queue the item if it leaves, else count it."""
        if decision.keep or route.always:
            self.leaving.append((item, route, decision))
        else:
            self._losses[route.destination, route.event_name] += 1

    def take(self, limit: int) -> list[Leaving]:
        """Remove and return the first items, at most `limit`."""
        return [self.leaving.popleft() for _ in range(min(limit, len(self.leaving)))]

    def take_losses(self) -> Counter[tuple[str, str]]:
        """Remove and return the counts of dropped items by (destination, event name)."""
        losses, self._losses = self._losses, Counter()
        return losses


def hand_over(leaving: Iterable[Leaving]) -> None:
    """Hand items to where they go. Runs code of others: never call it while holding a lock."""
    for item, route, decision in leaving:
        try:
            route.release(item, decision)
        except Exception as error:
            diagnostics.swallowed(f"releasing a sampled item to {route.destination}", error)
