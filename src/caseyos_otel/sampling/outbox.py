"""What is on its way out of the trace table, and the count of what is not."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from typing import Any

from caseyos_otel import diagnostics
from caseyos_otel.sampling.decision import Decision
from caseyos_otel.sampling.trace import Route

Leaving = tuple[Any, Route, Decision]
Losses = Counter[tuple[str, str]]
"""How many items were dropped, by (destination, event name)."""


class Outbox:
    """Decided items in the order in which they arrived. Not locked: its owner is.

    Attributes:
        leaving: What waits for the worker; read its length, change it through the methods.
    """

    def __init__(self) -> None:
        self.leaving: deque[Leaving] = deque()
        self._at_once: list[Leaving] = []
        self._losses: Losses = Counter()

    def add(self, item: object, route: Route, decision: Decision) -> bool:
        """Queue the item if it leaves, else count it; whether it waits now."""
        leaves = decision.keep or route.always
        if leaves:
            self.leaving.append((item, route, decision))
        else:
            self._losses[route.destination, route.event_name] += 1
        return leaves

    def leave_now(self, item: object, route: Route, decision: Decision) -> None:
        """Hand the item over as soon as the lock is free."""
        self._at_once.append((item, route, decision))

    def spill(self, n: int) -> int:
        """Let the first waiting items leave at once, at most `n`; how many they are."""
        spilled = self.take(n)
        self._at_once += spilled
        return len(spilled)

    def take(self, limit: int) -> list[Leaving]:
        """Remove and return the first items, at most `limit`."""
        return [self.leaving.popleft() for _ in range(min(limit, len(self.leaving)))]

    def take_urgent(self) -> list[Leaving]:
        """Remove and return what leaves at once."""
        urgent, self._at_once = self._at_once, []
        return urgent

    def take_losses(self) -> Losses:
        """Remove and return the counts of dropped items."""
        losses, self._losses = self._losses, Counter()
        return losses


def hand_over(leaving: Iterable[Leaving]) -> None:
    """Hand items to where they go. Runs code of others: never call it while holding a lock."""
    for item, route, decision in leaving:
        try:
            route.release(item, decision)
        except Exception as error:
            diagnostics.swallowed(f"releasing a sampled item to {route.destination}", error)
