"""What happens to our own mistakes and losses: every drop has a reason and a counter; our errors never reach the service."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

logger: Final = logging.getLogger("caseyos_otel")
"""Our own logger. A NullHandler keeps it silent where the service configured no logging; nothing is added to root."""
logger.addHandler(logging.NullHandler())

_MOST_COUNTS: Final = 1000
_SAY_AGAIN_AFTER_S: Final = 60.0


class Drops:
    """Counts of what was not delivered, by reason, destination and event.

    Reasons are `sampled`, `not_applicable`, `undeclared`, `invalid_field`, `queue_full`, `not_configured`,
    `destination_full`, `rejected`, `spool_unavailable`, `internal_error`, `suppressed`, `discarded`, `shutdown`,
    `set_aside_full`, `malformed`, `not_forwarded`, `duplicate`, and the kinds of the spool's problems (`spool_full`,
    `corrupt_record`, …).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str, str]] = Counter()

    def count(self, reason: str, n: int = 1, *, destination: str = "", event: str = "") -> None:
        """Add `n` records that `destination` did not get (empty: no destination got them) for `reason`."""
        with self._lock:
            if len(self._counts) >= _MOST_COUNTS and (reason, destination, event) not in self._counts:
                event = "other"  # names that come over the wire have no end
            self._counts[reason, destination, event] += n

    def snapshot(self) -> dict[tuple[str, str, str], int]:
        """Counts by (reason, destination, event)."""
        with self._lock:
            return dict(self._counts)

    def by_reason(self) -> dict[str, int]:
        """Counts by reason alone."""
        totals: Counter[str] = Counter()
        for (reason, _, _), n in self.snapshot().items():
            totals[reason] += n
        return dict(totals)

    def after_fork(self) -> None:
        """A child counts its own losses; the parent's lock may be held by a thread that does not exist here."""
        self._lock = threading.Lock()
        self._counts = Counter()


drops: Final = Drops()
"""The counts of this process."""

reraise: bool = False
"""Tests set it: what `guard` swallows is raised instead."""

_said: dict[str, float] = {}


def warn(message: str, *, key: str | None = None) -> None:
    """Log a warning of ours, at most once a minute for the same `key` (default: the message)."""
    _say(logging.WARNING, message, key, None)


def error(message: str, *, key: str | None = None) -> None:
    """Log an error that is no exception of ours, at most once a minute for the same `key` (default: the message)."""
    _say(logging.ERROR, message, key, None)


def fault(message: str, error: BaseException, *, key: str | None = None) -> None:
    """Log an error of ours with its traceback, at most once a minute for the same `key`."""
    _say(logging.ERROR, message, key, error)


def _say(level: int, message: str, key: str | None, error: BaseException | None) -> None:
    now = time.monotonic()
    if now - _said.get(key or message, -_SAY_AGAIN_AFTER_S) < _SAY_AGAIN_AFTER_S:
        return
    if len(_said) > 1000:
        _said.clear()
    _said[key or message] = now
    try:
        logger.log(level, message, exc_info=error)
    except Exception:
        drops.count("internal_error")  # a logging filter of the service's raises: there is nobody left to tell


@contextmanager
def guard(doing: str, *but: type[Exception]) -> Iterator[None]:
    """Keep our own exceptions from the service: counted as `internal_error`, logged at most once a minute.

    Those of the classes in `but` pass.

    Example:
        >>> with guard("rendering a log line"):
        ...     pass
    """
    try:
        yield
    except but:
        raise
    except Exception as error:
        swallowed(doing, error)


def swallowed(doing: str, error: Exception) -> None:
    """Record an exception of ours that must not reach the service; raise it again where tests asked for that."""
    if reraise:
        raise error
    drops.count("internal_error")
    fault(f"caseyos-otel failed while {doing}: {type(error).__name__}", error, key=f"{doing}:{type(error).__name__}")


def guarded(doing: str, call: Callable[[], object]) -> None:
    """`guard` for one call."""
    with guard(doing):
        call()
