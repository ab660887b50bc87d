"""What a gateway does by the clock, in one thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from caseyos_otel.diagnostics import guard
from caseyos_otel.gateway.destinations import GatewayDestinations
from caseyos_otel.settings import Settings

_TICK_S: Final = 0.25
SYNC_EVERY_S: Final = 1.0
ADOPT_EVERY_S: Final = 5.0


class Timers:
    """Syncs the spool, adopts what dead processes left, decides traces, writes the status file."""

    def __init__(self, settings: Settings, destinations: GatewayDestinations, write_status: Callable[[], None]) -> None:
        self._stop = threading.Event()
        self._work: tuple[tuple[str, float, Callable[[], object]], ...] = (
            ("deciding traces", _TICK_S, destinations.table.tick),
            ("syncing the spool", SYNC_EVERY_S, destinations.sync),
            ("adopting", ADOPT_EVERY_S, destinations.adopt),
            ("writing the status file", SYNC_EVERY_S, write_status),
        )
        self._last: dict[str, float] = {}
        self._thread = threading.Thread(target=self._run, name="caseyos-otel-timers", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after what is being done."""
        self._stop.set()
        self._thread.join(1.0)

    def _run(self) -> None:
        while not self._stop.wait(_TICK_S):
            now = time.monotonic()
            for name, every_s, work in self._work:
                if now - self._last.get(name, 0.0) >= every_s:
                    self._last[name] = now
                    with guard(name):
                        work()
