"""One thread at a time, and never one piece of work inside another."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeVar

from caseyos_otel import diagnostics

T = TypeVar("T")


class Turns:
    """A lock for whoever can be interrupted by himself.

    The garbage collector and signal handlers run between two steps of any thread, also of the one that holds the lock,
    and may start or end a span there. Such work waits until the thread has done what it was at.

    Attributes:
        lock: Held while work is done; take it to read what the work changes.
        mistakes: (what was being done, error) of what went wrong. Said by `report` and never under the lock: a handler of
            the service's may wait in another thread for this lock while it holds its own.
    """

    def __init__(self) -> None:
        self.lock: Final = threading.RLock()
        self.mistakes: Final[deque[tuple[str, Exception]]] = deque()
        self._inside = False
        self._postponed: Final[deque[tuple[Callable[..., object], tuple[Any, ...]]]] = deque()

    def take(self, work: Callable[..., object], *arguments: Any) -> bool:
        """Do the work under the lock; False if this thread is at work already, which will then do it."""
        with self.lock:
            if self._inside:
                self._postponed.append((work, arguments))
                return False
            self._inside = True
            try:
                try:
                    work(*arguments)
                except Exception as error:
                    self._mistaken(error)
                if self._postponed:
                    self._catch_up()
            finally:
                self._inside = False
            return True

    @property
    def interrupted(self) -> bool:
        """Whether this thread is at work already: who asks has interrupted it."""
        with self.lock:
            return self._inside

    def ask(self, work: Callable[..., T], *arguments: Any) -> T | None:
        """What the work returns; None, and it is not done, if this thread is at work already."""
        answer: list[T] = []
        with self.lock:
            if not self._inside:
                self.take(lambda: answer.append(work(*arguments)))
        return answer[0] if answer else None

    def _catch_up(self) -> None:
        while self._postponed:
            work, arguments = self._postponed.popleft()
            try:
                work(*arguments)
            except Exception as error:
                self._mistaken(error)

    def _mistaken(self, error: Exception) -> None:
        self.mistakes.append(("sampling a trace", error))

    def report(self) -> None:
        """Say what went wrong. Call it without the lock."""
        while self.mistakes:
            diagnostics.swallowed(*self.mistakes.popleft())
