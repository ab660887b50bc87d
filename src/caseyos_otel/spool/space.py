"""How much may wait: the bytes of every segment below one spool directory, whoever owns it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

from caseyos_otel.spool import quarantine

OUTCOMES: Final = "outcomes"
FAILURES: Final = "failures"
MAX_BYTES: Final = 512 * 2**20
_SEGMENT_SUFFIX: Final = ".seg"
_LOOK_EVERY_S: Final = 0.1
"""A full spool is looked at again so often, not at every append."""


class Space:
    """Bytes in use and the bound. Failures may fill nine tenths: what they cannot take is left for outcomes.

    `used` is measured now and then, and counted up in between; what others append meanwhile is seen at the next look.
    """

    def __init__(self, root: Path, max_bytes: int = MAX_BYTES) -> None:
        self._root = root
        self.max_bytes = max_bytes
        self.used = 0
        self._looked_at: float | None = None

    @property
    def for_failures(self) -> int:
        """Bytes that failures may fill."""
        return self.max_bytes // 10 * 9

    def lacks(self, series: str, size: int) -> int:
        """Bytes too many, were `size` more appended to a series; 0 where they fit."""
        if self._looked_at is None:  # what dead processes left counts from the first append on
            self.look()
        return max(0, self.used + size - (self.max_bytes if series == OUTCOMES else self.for_failures))

    def look(self) -> None:
        """Measure again. Never raises: what cannot be seen does not count."""
        self._looked_at = time.monotonic()
        self.used = used(self._root)

    def look_if_due(self) -> None:
        """Measure again unless it was done just now."""
        if self._looked_at is None or time.monotonic() - self._looked_at >= _LOOK_EVERY_S:
            self.look()


def used(root: Path) -> int:
    """Bytes of all segments below a spool directory."""
    return sum(_bytes_of(path) for path in _folders(root))


def _folders(root: Path) -> list[str]:
    try:
        with os.scandir(root) as entries:
            return [e.path for e in entries if e.name != quarantine.NAME and e.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _bytes_of(folder: str) -> int:
    total = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(_SEGMENT_SUFFIX):
                    total += entry.stat(follow_symlinks=False).st_size
    except OSError:
        pass  # removed meanwhile: nothing of it waits
    return total
