"""So many places, and a numbered ticket for whoever comes: a bound that needs no lock while there is room."""

from __future__ import annotations

import itertools
from heapq import heappop, heappush
from typing import Final


class Room:
    """Who draws a ticket below `limit` has a place. Anyone draws, without a lock; the rest is for who holds the table's.

    Invariant: `limit` is the number of places plus the number of tickets below it whose owners have left. So no more than
    `places` are inside, but for those who came in without one; each of them is to be let out before anybody else.

    Attributes:
        draw: Gives the next ticket.
        limit: Up to which ticket there is a place.
        standing: How many came in without a place.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self.draw: Final = itertools.count().__next__
        self._void: list[int] = []  # a heap of tickets at or above the limit that nobody uses
        self.clear()

    def clear(self) -> None:
        """Everyone has left."""
        self.standing = 0
        self._void.clear()
        self.limit = self.draw() + 1 + self._places

    def leave(self, n: int = 1) -> None:
        """So many have left: those without a place first."""
        if not (self.standing or self._void):  # nearly always
            self.limit += n
            return
        stood = min(n, self.standing)
        self.standing -= stood
        self.limit += n - stood
        self._skip()

    def give_back(self, ticket: int) -> None:
        """Who drew this ticket does not come in."""
        heappush(self._void, ticket)
        self._skip()

    def stand(self, ticket: int) -> None:
        """Who drew this ticket comes in without a place."""
        self.standing += 1
        self.give_back(ticket)

    def _skip(self) -> None:
        while self._void and self._void[0] < self.limit:
            heappop(self._void)
            self.limit += 1
