"""One gateway process: what it accepts is in its spool, and what is in its spool is delivered."""

from __future__ import annotations

import math
import threading
import time
from pathlib import Path
from typing import Final

from caseyos_otel import diagnostics
from caseyos_otel.diagnostics import drops
from caseyos_otel.errors import ConfigurationError
from caseyos_otel.events import declared
from caseyos_otel.events.registry import registry
from caseyos_otel.exporters.otlp_transport import Signal
from caseyos_otel.gateway.auth import check_destinations
from caseyos_otel.gateway.destinations import ROLE, GatewayDestinations
from caseyos_otel.gateway.limits import Concurrency, Rate
from caseyos_otel.gateway.metrics import Instruments
from caseyos_otel.gateway.reading import Request, parse_logs, parse_traces, read_logs, read_traces
from caseyos_otel.gateway.refusal import TOO_LARGE, UNAVAILABLE, Refused
from caseyos_otel.gateway.timers import Timer, Work
from caseyos_otel.pipeline import announcement, status
from caseyos_otel.settings import Settings
from caseyos_otel.spool.problem import FrameRefused, SpoolUnavailable

FULL_RETRY_S: Final = 5
"""When a sender shall try again that was refused because the spool is full: a destination must come back first."""
NOWHERE_RETRY_S: Final = 60
"""The same where no destination is on: somebody must change the configuration first."""
SYNC_EVERY_S: Final = 1.0
SPANS_FILL: Final = 0.5
"""Share of the spool that spans may fill: the rest is for events."""


class Gateway:
    """Takes requests and owns what happens behind the acknowledgement. `start` may be called again, from any thread."""

    def __init__(self, in_force: Settings, shared: Path | None = None) -> None:
        self.settings = in_force
        self.rate = Rate(in_force.gateway_rate)
        self.concurrency = Concurrency(in_force.gateway_concurrency)
        self.instruments = Instruments(shared)
        self.destinations: GatewayDestinations | None = None
        self._starting = threading.Lock()
        self._timers: tuple[Timer, ...] = ()
        self._stopped = False
        self._refused_at = -math.inf

    # -- life ----------------------------------------------------------------------------------------------------

    def start(self) -> GatewayDestinations:
        """Begin to deliver what is in the spool, what dead processes left included.

        Raises:
            ConfigurationError: a file of declarations is wrong.
            Refused: no destination is on. A service that this is mounted in goes on, and senders keep what they have.
        """
        if self.destinations is not None:
            return self.destinations
        try:
            check_destinations(self.settings)
        except ConfigurationError as error:
            raise Refused(UNAVAILABLE, str(error), NOWHERE_RETRY_S) from None
        with self._starting:
            if self.destinations is None:
                registry.load_entry_points()
                declared.load(self.settings.hooks, registry)
                made = GatewayDestinations(self.settings, announcement.resource, self.instruments.meter)
                for delivery in made.deliveries:
                    delivery.start()
                self._timers = (Timer("upkeep", self._upkeep(made)), *self._slow_timers(made))
                for timer in self._timers:
                    timer.start()
                self.instruments.watch(made)
                self.destinations = made
            return self.destinations

    def _upkeep(self, made: GatewayDestinations) -> list[Work]:
        return [
            Work("deciding traces", 0.25, made.table.tick),
            Work("syncing the spool", SYNC_EVERY_S, made.sync),
            Work("writing the status file", SYNC_EVERY_S, self.write_status),
            Work("adopting", SYNC_EVERY_S, made.spooling.adopt_in_time),
        ]

    def _slow_timers(self, made: GatewayDestinations) -> list[Timer]:
        if not self.settings.is_on("outcomes"):
            return []
        from caseyos_otel.gateway.retention import LOOK_EVERY_S, DailyRetention

        run = DailyRetention(self.settings, made.disclosure.pseudonyms.of)
        return [Timer("retention", [Work("running retention", LOOK_EVERY_S, run)])]

    def stop(self, timeout_s: float) -> None:
        """Deliver what destinations take within the deadline; the rest stays in the spool for the next process."""
        self._stopped = True
        for timer in self._timers:
            timer.stop()
        if self.destinations is not None:
            deadline = time.monotonic() + timeout_s
            self.destinations.table.flush(timeout_s / 4)
            self.destinations.flush(max(0.0, deadline - time.monotonic()), exiting=True)
            self.destinations.close()
            diagnostics.guarded("writing the status file", self.write_status)

    def unready(self) -> str:
        """Why no request can be taken now; empty where it can."""
        if self._stopped:
            return "stopping"
        if self.destinations is None:
            return "starting"
        recently = time.monotonic() - self._refused_at < FULL_RETRY_S
        return "the spool takes nothing" if recently else ""

    def write_status(self) -> None:
        """Leave what `doctor` reads."""
        if (made := self.destinations) is not None:
            seen = status.snapshot(0, made.deliveries, made.table.decisions, role=ROLE)
            status.write(self.settings.state_dir, seen)
            self.instruments.leave()

    # -- requests ------------------------------------------------------------------------------------------------

    def logs(self, body: bytes) -> Request:
        """Take a request of log records. When this returns, it is in the spool.

        Raises:
            Refused: nothing of it was taken.
        """
        destinations = self.start()
        forwarding = destinations.forwarding["logs"].on
        return self._accept("logs", read_logs(parse_logs(body), body, forwarding, destinations.has_place, _is_declared))

    def traces(self, body: bytes) -> Request:
        """Take a request of spans: the events in them, and the spans themselves where they go anywhere.

        Raises:
            Refused: nothing of it was acknowledged; what was taken of it is absorbed when it comes again.
        """
        destinations = self.start()
        forwarding = destinations.forwarding["traces"].on
        if forwarding and destinations.fullness() >= SPANS_FILL:
            raise Refused(UNAVAILABLE, "the spool takes no spans now: the rest of it is for events", FULL_RETRY_S)
        request = read_traces(parse_traces(body), body, _is_declared, forwarding)
        return self._accept("traces", request)

    def _accept(self, signal: Signal, request: Request) -> Request:
        destinations = self.start()
        for series, frame in request.frames:
            try:
                destinations.append(series, frame)
            except FrameRefused as error:
                raise Refused(TOO_LARGE, str(error)) from None
            except SpoolUnavailable as error:
                self._refused_at = time.monotonic()
                diagnostics.error(f"requests are refused: {error}", key="gateway spool")
                raise Refused(UNAVAILABLE, "the spool takes nothing now", FULL_RETRY_S) from None
        if request.others and not destinations.forwarding[signal].on:
            drops.count("not_forwarded", request.others, event=signal)
        self.instruments.accepted(signal, request)
        return request


def _is_declared(name: str) -> bool:
    return registry.get(name) is not None
