"""The segments that are being written: how far each is, and when nobody can write to it any more."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from caseyos_otel.spool.appender import Appender, Held
from caseyos_otel.spool.open_segment import OpenSegment


class WrittenSegments:
    """Takes no lock, so it may be asked anywhere: by readers, in a signal handler, in the middle of an append."""

    def __init__(self) -> None:
        self.current: dict[str, Appender] = {}
        """Who appends the next record of each series. Others may still be appending one to a segment before it."""
        self._held: dict[str, Held] = {}
        self._over: deque[Held] = deque()

    def announce(self, path: Path) -> Appender:
        """A segment whose file does not exist yet: one that were not known by then would be taken for complete, and unlinked."""
        appender = Appender(OpenSegment(path))
        self._held[path.name] = Held(appender, self._over)
        return appender

    def size(self, name: str) -> int | None:
        """Bytes written whole to segment `name`; None when nobody can write to it any more."""
        held = self._held.get(name)
        appender = None if held is None else held()
        return None if appender is None else appender.segment.size

    @property
    def is_unsynced(self) -> bool:
        """Whether a power cut would cost a record of a segment that is being written."""
        return any(appender.segment.is_unsynced for appender in self._appenders())

    def mark_synced(self) -> dict[Path, bool]:
        """The segments that are being written, and whether they changed since the last time.

        Nothing holds them any more afterwards.
        """
        return {appender.segment.path: appender.segment.mark_synced() for appender in self._appenders()}

    def end(self, close: Callable[[OpenSegment], None]) -> None:
        """`close` the segments that nobody can write to any more: each by one thread, and again where an exception came."""
        while self._over:
            try:
                held = self._over.popleft()
            except IndexError:
                return  # another thread was quicker
            try:
                close(held.segment)
            except BaseException:
                self._over.append(held)
                raise
            self._held.pop(held.segment.name, None)

    def wait(self, seconds: float) -> bool:
        """Wait until only current segments are written; False where one is not over by then.

        It is soon, but for an append in the middle of which this is called, or whose frame an exception keeps that
        somebody keeps. That is waited for once, and no append after it.
        """
        until = time.monotonic() + seconds
        while waiting := self._in_flight():
            if all(held.is_late for held in waiting):
                return False
            if time.monotonic() >= until:
                for held in waiting:
                    held.is_late = True
                return False
            time.sleep(0.001)
        return True

    def let_go(self) -> None:
        """In a forked child: close what is the parent's, who writes on."""
        for held in self._held.values():
            if (appender := held()) is not None:
                appender.let_go()
            held.segment.let_go()

    def _in_flight(self) -> list[Held]:
        current = {appender.segment.name for appender in tuple(self.current.values())}
        return [held for name, held in tuple(self._held.items()) if name not in current and held() is not None]

    def _appenders(self) -> list[Appender]:
        return [appender for held in tuple(self._held.values()) if (appender := held()) is not None]
