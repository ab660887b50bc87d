"""What a gateway process takes at once, and of one client."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from caseyos_otel.gateway.refusal import RATE_LIMITED, UNAVAILABLE, Refused

MOST_CLIENTS: Final = 10_000
"""Clients whose rate is remembered; the one that was heard longest ago is forgotten first."""
BURST_S: Final = 2.0
"""A client that was silent may send the requests of so many seconds at once."""


class Rate:
    """A token bucket a client: `per_second` requests, 0 for no limit."""

    def __init__(self, per_second: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str) -> None:
        """Count one request of `client`.

        Raises:
            Refused: it has sent more than it may.
        """
        if not self._per_second:
            return
        now = self._clock()
        most = max(1.0, self._per_second * BURST_S)
        left, seen = self._buckets.pop(client, (most, now))
        left = min(most, left + (now - seen) * self._per_second)
        self._buckets[client] = (max(0.0, left - 1.0), now)
        if len(self._buckets) > MOST_CLIENTS:
            self._buckets.popitem(last=False)
        if left < 1.0:
            raise Refused(RATE_LIMITED, f"more than {self._per_second} requests a second from one client", 1)


class Concurrency:
    """Requests that are being read. Their number bounds the memory that bodies take."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.now = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """While one more request is read.

        Raises:
            Refused: there are too many already.
        """
        if self.now >= self._most:
            raise Refused(UNAVAILABLE, f"{self._most} requests are being read already", 1)
        self.now += 1
        try:
            yield
        finally:
            self.now -= 1
