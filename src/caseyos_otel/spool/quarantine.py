"""Bytes that are no sound record are set aside, once, so that nothing is thrown away unseen."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Final

from caseyos_otel.spool.cursor import replace

NAME: Final = "quarantine"
"""Lies beside the segment directories, so that it outlives them."""
MOST_BYTES: Final = 64 * 2**20
"""Size at which nothing more is set aside; what then comes is reported and counted alone."""


def set_aside(directory: Path, segment: str, offset: int, data: bytes) -> Path | None:
    """Keep `data`, found at `offset` of a segment, under a name made of where it was.

    Returns the new file; None when the same place was set aside before (every destination meets it). Raises OSError,
    also where the quarantine is full.
    """
    quarantine = directory.parent / NAME
    path = quarantine / f"{directory.name}.{segment}.{offset}"
    if path.exists():
        return None
    quarantine.mkdir(mode=0o700, exist_ok=True)
    if sum(size(kept) for kept in files(directory.parent)) + len(data) > MOST_BYTES:
        raise OSError(errno.EDQUOT, f"the quarantine holds {MOST_BYTES} bytes, which is its bound")
    replace(path, data)
    return path


def files(root: Path) -> list[Path]:
    """What the quarantine of a spool directory holds, by name."""
    try:
        return sorted(path for path in (root / NAME).iterdir() if path.is_file() and path.suffix != ".tmp")
    except OSError:
        return []


def size(path: Path) -> int:
    """Bytes of a file; 0 where it is gone."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
