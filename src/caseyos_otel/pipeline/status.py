"""The status file of a process: what `doctor` and the demo read of processes they are not."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from caseyos_otel.diagnostics import drops
from caseyos_otel.exporters.delivery import Delivery

FOLDER: Final = "status"
_STALE_AFTER_S: Final = 3600.0
_TOKEN: Final = secrets.token_hex(4)
"""Beside the process id: in two containers that share a volume both may be 1. A forked child has another id."""


def snapshot(
    queued: int,
    deliveries: Iterable[Delivery],
    decisions: Mapping[tuple[bool, str], int],
    notes: Sequence[str] = (),
    role: str = "",
) -> dict[str, Any]:
    """What this process has delivered, owes and dropped, as JSON. Times are seconds since 1970.

    `role`: `gateway` of a gateway; in a service's process it has a file of its own.
    """
    return {
        "pid": os.getpid(),
        "role": role,
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


def write(state_dir: Path, status: Mapping[str, Any]) -> None:
    """Replace this process's status file in one step, and remove those that nobody has written for an hour."""
    folder = state_dir / FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{'-'.join(filter(None, (str(os.getpid()), _TOKEN, status['role'])))}.json"
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(status), "utf-8")
    fresh.replace(path)
    for other in (*folder.glob("*.json"), *folder.glob("*.new")):  # the latter of who died while writing
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
