"""What cannot be delivered as it is, kept with its reason until somebody mends it: undeclared events, refused records."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from caseyos_otel.diagnostics import drops, guard
from caseyos_otel.events.record import EventRecord
from caseyos_otel.exporters.structured_log import nested, rfc3339_of

MOST_BYTES: Final = 16 * 2**20
"""Size at which nothing more is set aside; what then comes is counted alone."""


class SetAside:
    """A file of JSON lines beside the spool, mode 0600. Fields of an undeclared event stay here: they leave for nowhere."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def undeclared(self, name: str, fields: Mapping[str, Any]) -> None:
        """An event that nobody declared."""
        self._keep({"reason": "undeclared", "event": name, "fields": fields})

    def undeclared_frame(self, name: str, frame: bytes) -> None:
        """A frame whose event this process does not know (another release's)."""
        drops.count("undeclared", event=name)
        self._keep({"reason": "undeclared", "event": name, "otlp": base64.b64encode(frame).decode("ascii")})

    def rejected(self, record: EventRecord, reason: str) -> None:
        """A record that a destination refuses."""
        values = nested(record.values, record.declaration.groups)
        kept = {"event_id": record.event_id, "timestamp": rfc3339_of(record.timestamp or 0), **values}
        self._keep({"reason": reason, "event": record.declaration.name, "fields": kept})

    def _keep(self, entry: dict[str, Any]) -> None:
        with guard("setting an event aside"):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                line = json.dumps({"set_aside_at": time.time(), **entry}, default=repr).encode("ascii") + b"\n"
                if os.fstat(descriptor).st_size + len(line) <= MOST_BYTES:
                    os.write(descriptor, line)
            finally:
                os.close(descriptor)
