"""Which events this process has handled lately: a sender that saw no answer sends a request again."""

from __future__ import annotations

from typing import Final

MOST: Final = 50_000
"""Ids of a generation, about 7 MB. A sender's time-out and first retry lie within so many events, save at the highest rates."""


class Seen:
    """The last `most` to twice as many ids: when a generation is full, the one before it is forgotten whole."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._now: set[str] = set()
        self._before: frozenset[str] | set[str] = frozenset()

    def __contains__(self, event_id: str) -> bool:
        return event_id in self._now or event_id in self._before

    def add(self, event_id: str) -> None:
        """Remember an id."""
        if len(self._now) >= self._most:
            self._before, self._now = self._now, set()
        self._now.add(event_id)
