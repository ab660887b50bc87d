"""The spool as a process uses it: durable events go in, come out as records, and what cannot be used is set aside."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from caseyos_otel import diagnostics
from caseyos_otel.diagnostics import drops
from caseyos_otel.events.record import Delivery as Promise
from caseyos_otel.events.record import EventRecord
from caseyos_otel.events.registry import registry
from caseyos_otel.otlp.decode import MalformedRequestError, OnInvalid, OnUndeclared, decode
from caseyos_otel.otlp.encode import RequestEncoder
from caseyos_otel.pipeline import announcement
from caseyos_otel.pipeline.gauges import SpoolHealth
from caseyos_otel.pipeline.set_aside import SetAside
from caseyos_otel.redaction.disclosure import minimise
from caseyos_otel.settings import Settings
from caseyos_otel.spool.disk import is_ephemeral, type_of
from caseyos_otel.spool.problem import FrameRefused, Problem, SpoolFull, SpoolUnavailable
from caseyos_otel.spool.reader import SpoolReader
from caseyos_otel.spool.spool import Spool

AGAIN_AFTER_S: Final = 10.0
"""A spool that has refused nothing for so long takes events again: at the edge of a full disk small records still fit where
a large one did not, and nobody wants to read of each."""
ADOPT_EVERY_S: Final = 5.0


class Spooling:
    """`resource` gives the resource attributes of this process, when asked. `role` is its role in the spool: see `Spool`."""

    def __init__(self, settings: Settings, resource: Callable[[], Mapping[str, Any]], role: str = "") -> None:
        self._synced = settings.spool_sync == "interval"
        self._resource = resource
        self._encoder: RequestEncoder | None = None
        self._refused_at: float | None = None
        self._adopted_at = 0.0
        self._readers: list[str] = []
        self.spool = Spool(settings.spool_path, max_bytes=settings.spool_max_bytes, on_problem=_problem, role=role)
        self.set_aside = SetAside(settings.spool_path, lambda record: self._frames().encode([record]))
        disk = type_of(settings.spool_path)
        self.ephemeral_disk = disk if is_ephemeral(disk) else None
        """Type of the spool's file system where it does not outlive its container."""

    def reader(self, destination: str) -> SpoolReader:
        """What a destination reads the spool by; from now on nothing is removed that it has not had."""
        self._readers.append(destination)
        return self.spool.reader(destination)

    # -- in --------------------------------------------------------------------------------------------------------

    def keep(self, record: EventRecord) -> bool:
        """Make a durable record survive this process; False if it stays in memory alone, which is counted and said."""
        if not self._is_waited_for(record):
            return False
        minimise(record)
        try:
            frame = self._frames().encode([record])
            self.spool.writer.append("outcomes" if record.outcome else "failures", frame)
        except SpoolUnavailable as error:
            self._refused(record, error)
            return False
        if self._refused_at is not None and time.monotonic() - self._refused_at >= AGAIN_AFTER_S:
            self._refused_at = None
            diagnostics.logger.info("the spool takes durable events again")
        return True

    def _is_waited_for(self, record: EventRecord) -> bool:
        """An outcome that its caller's transaction stored is no issue either: only an OTLP receiver is left."""
        return "otlp" in self._readers if record.delivery is Promise.TRANSACTION else bool(self._readers)

    def _refused(self, record: EventRecord, error: SpoolUnavailable) -> None:
        full = isinstance(error, SpoolFull)
        drops.count("spool_full" if full else "spool_unavailable", event=record.declaration.name)
        if full:
            diagnostics.error(f"{error}; durable events stay in memory until then", key="spool_full")
        elif isinstance(error, FrameRefused):
            diagnostics.warn(f"{error}; the event stays in memory", key="frame_refused")
        else:
            if self._refused_at is None:  # one warning, until it comes back
                diagnostics.warn(f"{error}; durable events stay in memory until then", key=f"spool:{time.monotonic()}")
            self._refused_at = time.monotonic()

    def _frames(self) -> RequestEncoder:
        if self._encoder is None:
            self._encoder = RequestEncoder(
                self._resource(), announcement.SCOPE, announcement.version(), announcement.SCHEMA_URL
            )
        return self._encoder

    # -- out -------------------------------------------------------------------------------------------------------

    def read(self, frame: bytes) -> list[EventRecord]:
        """The records of a frame, minimised. What is not declared, or no request at all, is set aside."""
        return self.read_or(frame, self.set_aside.undeclared_frame)

    def read_or(
        self, frame: bytes, on_undeclared: OnUndeclared, on_invalid: OnInvalid | None = None
    ) -> list[EventRecord]:
        """`read`, with what is done with an undeclared event, or an invalid field."""
        try:
            return records_of(frame, on_undeclared, on_invalid)
        except MalformedRequestError as error:
            self.set_aside.malformed_frame(frame, str(error))
            return []

    # -- its life --------------------------------------------------------------------------------------------------

    def left_behind(self) -> bool:
        """Whether a process that is gone left something to deliver, or may have."""
        return bool(self.spool.directories()) or self.spool.adoption.cut_short

    def adopt(self) -> None:
        """Take over what dead processes left in the spool."""
        self._adopted_at = time.monotonic()
        if self._readers:
            self.spool.adopt()

    def adopt_in_time(self) -> None:
        """`adopt` where it is due: every five seconds, and at each call while there is more. Call it each second."""
        if time.monotonic() - self._adopted_at >= ADOPT_EVERY_S or self.spool.adoption.may_go_on():
            self.adopt()

    def sync(self) -> None:
        """Sync the spool against power loss, and keep it within its bound."""
        self.sync_alone()
        self.spool.relieve()

    def sync_alone(self) -> None:
        """Sync the spool against power loss, as far as the settings want it; let its writer look around."""
        self.spool.writer.look_around()
        if self._synced:
            self.spool.writer.sync()

    def health(self) -> SpoolHealth:
        """What an operator watches of the spool."""
        ages = {name: self.spool.oldest_age(name) for name in self._readers}
        unsynced = self.spool.writer.unsynced_age if self._synced else 0.0
        return SpoolHealth(self.spool.space.used, self.spool.space.max_bytes, unsynced, ages)

    def after_fork(self) -> None:
        """A child has a spool directory of its own."""
        self._encoder = None
        self.spool.after_fork_in_child()


def records_of(
    frame: bytes, on_undeclared: OnUndeclared | None = None, on_invalid: OnInvalid | None = None
) -> list[EventRecord]:
    """The records of a frame, minimised. Raises MalformedRequestError."""
    records = decode(frame, registry, on_undeclared=on_undeclared, on_invalid=on_invalid)
    for record in records:
        # Again, though `keep` did it: a frame that a gateway left is as it came over the wire, and one that a process
        # before an upgrade left was minimised by the rules of its day.
        minimise(record)
    return records


def _problem(problem: Problem) -> None:
    drops.count(problem.kind, problem.records, destination=problem.destination or "spool")
    diagnostics.warn(f"spool: {problem.path}: {problem.kind}: {problem.detail}", key=f"{problem.kind}:{problem.path}")
