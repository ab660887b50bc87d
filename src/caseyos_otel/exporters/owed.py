"""Best-effort events that one destination is owed: in memory, bounded, each delivered or counted."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from caseyos_otel.diagnostics import drops
from caseyos_otel.events.record import EventRecord

MEMORY: Final = 20_000
"""Best-effort events a destination may owe; beyond, the oldest is dropped as `destination_full`."""


class Owed:
    """Records wait, are in hand while they are sent, and come back where nobody took them. Any thread may call anything."""

    def __init__(self, destination: str) -> None:
        self._destination = destination
        self._waiting: deque[EventRecord] = deque()
        self._in_hand: list[EventRecord] = []
        self._claiming = threading.Lock()

    def __len__(self) -> int:
        return len(self._waiting)

    def offer(self, record: EventRecord) -> None:
        """Take on a record. The oldest goes where there is no room."""
        if len(self._waiting) >= MEMORY:
            self._drop("destination_full", [self._waiting.popleft()])
        self._waiting.append(record)

    def take(self, most: int) -> list[EventRecord]:
        """The oldest records, which are in hand now."""
        records: list[EventRecord] = []
        with suppress(IndexError):  # offered and lost by other threads
            while len(records) < most:
                records.append(self._waiting.popleft())
        self._in_hand = records
        return records

    def claim(self) -> Sequence[EventRecord]:
        """What is in hand, for the one who asks first: the thread that sends it, or the end of the process."""
        with self._claiming:
            claimed, self._in_hand = self._in_hand, []
        return claimed

    def give_back(self, records: Sequence[EventRecord]) -> None:
        """They wait again, before all others."""
        self._waiting.extendleft(reversed(records))

    def lose(self) -> None:
        """The process ends: what waits is counted as `shutdown`."""
        with suppress(IndexError):  # two threads lose it
            while True:
                self._drop("shutdown", [self._waiting.popleft()])

    def lose_all(self) -> None:
        """Nobody waits for an answer any more: what is in hand is lost as well."""
        self._drop("shutdown", self.claim())
        self.lose()

    def after_fork(self) -> None:
        """What is in memory is the parent's."""
        self._waiting.clear()
        self._in_hand = []
        self._claiming = threading.Lock()

    def _drop(self, reason: str, records: Sequence[EventRecord]) -> None:
        for record in records:
            drops.count(reason, destination=self._destination, event=record.declaration.name)
