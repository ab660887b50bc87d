"""A circuit breaker: after `threshold` outages in a row it refuses calls for `reset_seconds`, then lets one try."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from . import telemetry

State = Literal["closed", "open", "half_open"]


class CircuitOpenError(Exception):
    """The call was refused without being made, because the service behind it was failing a moment ago."""

    def __init__(self, service: str, retry_after_seconds: float) -> None:
        super().__init__(f"{service}: circuit breaker is open, try again in {retry_after_seconds:.1f} s")
        self.service = service
        self.retry_after_seconds = retry_after_seconds


@dataclass(slots=True)
class CircuitBreaker:
    """One breaker a remote service. Not thread-safe: it lives on one event loop."""

    service: str
    threshold: int
    reset_seconds: float
    is_outage: Callable[[BaseException], bool]
    clock: Callable[[], float] = time.monotonic
    openings: int = 0
    failure_count: int = 0
    _opened_at: float | None = None
    _trying: bool = False

    @property
    def state(self) -> State:
        """Open for `reset_seconds` after an opening, half-open from then until a trial call decides."""
        if self._opened_at is None:
            return "closed"
        return "half_open" if self.clock() - self._opened_at >= self.reset_seconds else "open"

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Guard one call; raise `CircuitOpenError` instead of letting it through while the breaker is open."""
        trial = self._admit()
        opening = self.openings
        try:
            yield
        except BaseException as error:
            if self.is_outage(error):
                self._failed(opening)
            raise
        else:
            self._succeeded(opening)
        finally:
            self._trying = self._trying and not trial

    def _admit(self) -> bool:
        state = self.state
        if state == "open" or self._trying:
            raise CircuitOpenError(self.service, self._remaining())
        self._trying = state == "half_open"
        return self._trying

    def _failed(self, opening: int) -> None:
        # A call that began before the latest opening says nothing new: it must not open the breaker twice.
        if opening != self.openings:
            return
        self.failure_count += 1
        if self._opened_at is not None or self.failure_count >= self.threshold:
            self._opened_at = self.clock()
            self.openings += 1
            telemetry.circuit_breaker_opened(
                service=self.service, failure_count=self.failure_count, threshold=self.threshold
            )

    def _succeeded(self, opening: int) -> None:
        if opening == self.openings:
            self.failure_count = 0
            self._opened_at = None

    def _remaining(self) -> float:
        elapsed = self.clock() - self._opened_at if self._opened_at is not None else self.reset_seconds
        return max(0.0, self.reset_seconds - elapsed)
