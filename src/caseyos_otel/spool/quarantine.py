"""Bytes that are no sound record are set aside, once, so that nothing is thrown away unseen."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from caseyos_otel.spool.cursor import replace

NAME: Final = "quarantine"
"""Lies beside the segment directories, so that it outlives them."""


def set_aside(directory: Path, segment: str, offset: int, data: bytes) -> Path | None:
    """Keep `data`, found at `offset` of a segment, under a name made of where it was.

    Returns the new file; None when the same place was set aside before (every destination meets it). Raises OSError.
    """
    quarantine = directory.parent / NAME
    path = quarantine / f"{directory.name}.{segment}.{offset}"
    if path.exists():
        return None
    quarantine.mkdir(mode=0o700, exist_ok=True)
    replace(path, data)
    return path
