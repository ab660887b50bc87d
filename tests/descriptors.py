"""What a process has open."""

from __future__ import annotations

import os
from pathlib import Path


def descriptors(path: Path, pid: int | str = "self") -> dict[int, Path]:
    """The descriptors of a file, or of everything in a directory."""
    links = {int(entry.name): Path(entry) for entry in os.scandir(f"/proc/{pid}/fd")}
    found = {fd: link.readlink() for fd, link in links.items() if link.is_symlink()}
    return {fd: target for fd, target in found.items() if path in (target, *target.parents)}
