"""Deliver everything that waits in a spool, within a deadline: what `spool drain` does, for a hook before a container stops."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from caseyos_otel.pipeline import announcement
from caseyos_otel.pipeline.destinations import Destinations
from caseyos_otel.settings import Settings
from caseyos_otel.spool.status import pending

_LOOK_EVERY_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Drained:
    """Records that still wait, by destination, and what each of these last said."""

    left: Mapping[str, int]
    errors: Mapping[str, str]


def waiting(in_force: Settings) -> dict[str, int]:
    """Records that wait for each destination that reads the spool, in all directories of it."""
    names = [d.name for d in in_force.destinations() if d.on and d.name != "log"]
    return {name: pending(in_force.spool_path, name).records for name in names}


def drain(in_force: Settings, timeout_s: float, progress: Callable[[int], object] = lambda left: None) -> Drained:
    """Deliver what dead processes left, and wait for living ones to deliver theirs. `progress` gets how many are left."""
    deadline = time.monotonic() + timeout_s
    left = waiting(in_force)
    if not any(left.values()):
        return Drained(left, {})
    destinations = Destinations(in_force, announcement.resource)
    for delivery in destinations.deliveries:
        delivery.start()
    try:
        while any(left.values()) and time.monotonic() < deadline:
            destinations.spooling.adopt()
            destinations.flush(min(1.0, max(0.0, deadline - time.monotonic())))
            left = waiting(in_force)
            progress(sum(left.values()))
            if any(left.values()):
                time.sleep(_LOOK_EVERY_S)
    finally:
        destinations.close()
    errors = {d.name: d.health.error for d in destinations.deliveries if d.health.error and left.get(d.name)}
    return Drained(left, errors)
