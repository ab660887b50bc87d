"""The clock of a recording: it stands still until a test moves it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

START: Final = datetime(2026, 1, 23, 14, 30, tzinfo=UTC)
"""Where every recording begins: the moment of the specification's examples."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class Clock:
    """Gives events their time and measured durations.

    Example:
        >>> clock = Clock()
        >>> clock.advance(minutes=1, milliseconds=250)
        >>> clock.now.isoformat()
        '2026-01-23T14:31:00.250000+00:00'
    """

    def __init__(self) -> None:
        self._now = START
        self._elapsed = timedelta()

    def __call__(self) -> int:
        """Nanoseconds since 1970."""
        return (self._now - _EPOCH) // _MICROSECOND * 1000

    @property
    def now(self) -> datetime:
        """The time that the next event gets; UTC."""
        return self._now

    def set(self, moment: datetime) -> None:
        """Make it `moment`. Measured durations stay as they are, like those of a clock that was adjusted.

        Raises:
            ValueError: `moment` has no time zone.
        """
        if moment.tzinfo is None:
            raise ValueError(f"clock.set({moment!r}): a time zone is missing; say datetime(…, tzinfo=UTC)")
        self._now = moment.astimezone(UTC)

    def advance(self, **duration: Any) -> None:
        """Let time pass: `advance(seconds=90)`, with the names of `datetime.timedelta`. Durations grow by it."""
        passed = timedelta(**duration)
        self._now += passed
        self._elapsed += passed

    def perf_counter(self) -> float:
        """Seconds that have passed, for durations that `@track_event` measures."""
        return self._elapsed.total_seconds()
