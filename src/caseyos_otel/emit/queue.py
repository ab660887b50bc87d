"""The bounded queue between callers and the worker."""

from __future__ import annotations

from collections import deque
from contextvars import Context
from typing import Any, Final

from caseyos_otel.context import TrailEntry
from caseyos_otel.events.model import Problem
from caseyos_otel.events.record import Delivery, EventRecord

CAPACITY: Final = 50_000
"""Events that wait at most; a best-effort event takes about 1 KB."""

Pending = tuple[Context, TrailEntry, Any, tuple[Problem, ...], Delivery | None]
"""(the caller's context, its entry in the trail, event id, what was wrong with fields, what was asked for by `delivery=`)"""
Ready = tuple[Context, EventRecord]
"""(the caller's context, the record): the caller needed the record itself."""
Item = Pending | Ready


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
