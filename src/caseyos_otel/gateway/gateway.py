"""One gateway process: what it accepts is in its spool, and what is in its spool is delivered."""

from __future__ import annotations

import threading
from typing import Final

from caseyos_otel import diagnostics
from caseyos_otel.events.registry import registry
from caseyos_otel.gateway.destinations import GatewayDestinations
from caseyos_otel.gateway.limits import Concurrency, Rate
from caseyos_otel.gateway.metrics import Instruments
from caseyos_otel.gateway.reading import Request, parse_logs, parse_traces, read_logs, read_traces
from caseyos_otel.gateway.refusal import TOO_LARGE, UNAVAILABLE, Refused
from caseyos_otel.gateway.timers import Timers
from caseyos_otel.pipeline import announcement, status
from caseyos_otel.settings import Settings
from caseyos_otel.spool.problem import FrameRefused, SpoolUnavailable

FULL_RETRY_S: Final = 5
"""When a sender shall try again that was refused because the spool is full: a destination must come back first."""
SPANS_FILL: Final = 0.5
"""Share of the spool that spans may fill: the rest is for events."""


class Gateway:
    """Takes requests and owns what happens behind the acknowledgement. `start` may be called again, from any thread."""

    def __init__(self, in_force: Settings) -> None:
        self.settings = in_force
        self.rate = Rate(in_force.gateway_rate)
        self.concurrency = Concurrency(in_force.gateway_concurrency)
        self.instruments = Instruments()
        self.destinations: GatewayDestinations | None = None
        self._starting = threading.Lock()
        self._timers: Timers | None = None
        self._stopped = False

    # -- life ----------------------------------------------------------------------------------------------------

    def start(self) -> GatewayDestinations:
        """Begin to deliver what is in the spool, what dead processes left included."""
        if self.destinations is not None:
            return self.destinations
        with self._starting:
            if self.destinations is None:
                announcement.prepare(self.settings)
                made = GatewayDestinations(self.settings, announcement.resource, self.instruments.meter)
                for delivery in made.deliveries:
                    delivery.start()
                self._timers = Timers(self.settings, made, self.write_status)
                self._timers.start()
                self.instruments.watch(made)
                self.destinations = made
            return self.destinations

    def stop(self, timeout_s: float) -> None:
        """Deliver what destinations take within the deadline; the rest stays in the spool for the next process."""
        self._stopped = True
        if self._timers is not None:
            self._timers.stop()
        if self.destinations is not None:
            self.destinations.table.flush(timeout_s / 2)
            self.destinations.flush(timeout_s, exiting=True)
            self.destinations.close()
            diagnostics.guarded("writing the status file", self.write_status)

    def unready(self) -> str:
        """Why no request can be taken now; empty where it can."""
        if self._stopped:
            return "stopping"
        if self.destinations is None:
            return "starting"
        return "the spool is full" if self.destinations.fullness() >= 0.9 else ""

    def write_status(self) -> None:
        """Leave what `doctor` reads."""
        if (made := self.destinations) is not None:
            status.write(self.settings.state_dir, status.snapshot(0, made.deliveries, made.table.decisions, ()))

    # -- requests ------------------------------------------------------------------------------------------------

    def logs(self, body: bytes) -> Request:
        """Take a request of log records. When this returns, it is in the spool.

        Raises:
            Refused: nothing of it was taken.
        """
        return self._accept("logs", read_logs(parse_logs(body), body, forwarding=False))

    def traces(self, body: bytes) -> Request:
        """Take a request of spans: the events in them, and the spans themselves where they go anywhere.

        Raises:
            Refused: nothing of it was acknowledged; what was taken of it is absorbed when it comes again.
        """
        return self._accept("traces", read_traces(parse_traces(body), body, _is_declared, forwarding=False))

    def _accept(self, signal: str, request: Request) -> Request:
        destinations = self.start()
        for series, frame in request.frames:
            try:
                destinations.append(series, frame)
            except FrameRefused as error:
                raise Refused(TOO_LARGE, str(error)) from None
            except SpoolUnavailable as error:
                diagnostics.error(f"requests are refused: {error}", key="gateway spool")
                raise Refused(UNAVAILABLE, "the spool takes nothing now", FULL_RETRY_S) from None
        self.instruments.accepted(signal, request)
        return request


def _is_declared(name: str) -> bool:
    return registry.get(name) is not None
