"""The status file of a process: what `doctor` and the demo read of processes they are not."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from caseyos_otel.diagnostics import drops
from caseyos_otel.exporters.delivery import Delivery

FOLDER: Final = "status"
_STALE_AFTER_S: Final = 3600.0


def snapshot(
    queued: int,
    deliveries: Iterable[Delivery],
    decisions: Mapping[tuple[bool, str], int],
    notes: Sequence[str],
) -> dict[str, Any]:
    """What this process has delivered, owes and dropped, as JSON. Times are seconds since 1970."""
    return {
        "pid": os.getpid(),
        "written_at": time.time(),
        "queued": queued,
        "destinations": {
            d.name: {
                "delivered": d.health.delivered,
                "waiting": d.waiting,
                "last_success": d.health.last_success,
                "last_error": d.health.last_error,
                "error": d.health.error,
            }
            for d in deliveries
        },
        "traces": [{"kept": kept, "reason": reason, "n": n} for (kept, reason), n in decisions.items()],
        "dropped": [
            {"reason": reason, "destination": destination, "event": event, "n": n}
            for (reason, destination, event), n in sorted(drops.snapshot().items())
        ],
        "notes": list(notes),
    }


def write(state_dir: Path, status: Mapping[str, Any], role: str = "") -> None:
    """Replace this process's status file in one step, and remove those that nobody has written for an hour.

    `role`: for a gateway in a service's process, which has a file of its own.
    """
    folder = state_dir / FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{'-'.join(filter(None, (str(os.getpid()), role)))}.json"
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(status), "utf-8")
    fresh.replace(path)
    for other in folder.glob("*.json"):
        with suppress(FileNotFoundError):  # another process removes it too
            if time.time() - other.stat().st_mtime > _STALE_AFTER_S:
                other.unlink()


def read_all(state_dir: Path) -> list[dict[str, Any]]:
    """Status of every process that wrote one within the hour."""
    found = []
    for path in sorted((state_dir / FOLDER).glob("*.json")):
        try:
            found.append(json.loads(path.read_text("utf-8")))
        except (OSError, ValueError):
            continue
    return found
