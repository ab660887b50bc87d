"""The bounded queue between callers and the worker."""

from __future__ import annotations

from collections import deque
from typing import Any, Final

CAPACITY: Final = 50_000
"""Events that wait at most; a best-effort event takes about 1 KB."""

Item = tuple[Any, ...]
"""(declaration, bound, event_id, timestamp, contextvars.Context, delivery, exception attributes, record or None)"""


class EventQueue:
    """A deque with a bound. Appending and popping are atomic in CPython: no lock, no wake-up in the caller."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.capacity = capacity
        self.items: deque[Item] = deque()

    def append(self, item: Item) -> bool:
        """Add an item; False when the queue is full, and the item is not in it."""
        if len(self.items) >= self.capacity:
            return False
        self.items.append(item)
        return True

    def pop(self) -> Item | None:
        """The oldest item, or None."""
        try:
            return self.items.popleft()
        except IndexError:
            return None

    def __len__(self) -> int:
        return len(self.items)

    def after_fork(self) -> None:
        """A child begins with an empty queue: what the parent has queued, the parent emits."""
        self.items = deque()
