"""What a gateway does by the clock, in threads of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from caseyos_otel.diagnostics import guard

_TICK_S: Final = 0.25


class Work(NamedTuple):
    """Something to do every so many seconds, first after that time."""

    name: str
    every_s: float
    do: Callable[[], object]


class Timer:
    """A thread that does its work in turn: what takes long delays what is in the same thread."""

    def __init__(self, name: str, work: Sequence[Work]) -> None:
        self._work = tuple(work)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"caseyos-otel-{name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after what is being done, which is not waited for."""
        self._stop.set()

    def _run(self) -> None:
        due = {work.name: time.monotonic() + work.every_s for work in self._work}
        while not self._stop.wait(_TICK_S):
            for work in self._work:
                if time.monotonic() >= due[work.name]:
                    with guard(work.name):
                        work.do()
                    due[work.name] = time.monotonic() + work.every_s
