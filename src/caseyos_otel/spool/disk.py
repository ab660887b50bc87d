"""What kind of file system a directory lies on: whether it is still there when its container is replaced."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

EPHEMERAL: Final = frozenset({"overlay", "overlayfs", "aufs", "tmpfs", "ramfs", "rootfs"})
"""A container's own layer, and memory. A volume is of another type (ext4, xfs, nfs, …)."""
_MOUNTS: Final = Path("/proc/self/mountinfo")
_OCTAL: Final = re.compile(r"\\([0-7]{3})")


def type_of(directory: Path, mounts: Path = _MOUNTS) -> str | None:
    """The type of the file system of `directory`, which need not exist yet; None where the system does not tell."""
    try:
        lines = mounts.read_text("utf-8", "surrogateescape").splitlines()
        place = directory.resolve()
    except OSError:
        return None
    found: tuple[int, str] | None = None
    for line in lines:
        point, kind = _parsed(line)
        # a later mount hides an earlier one at the same place
        if place.is_relative_to(point) and (found is None or len(point.parts) >= found[0]):
            found = len(point.parts), kind
    return None if found is None else found[1]


def is_ephemeral(kind: str | None) -> bool:
    """Whether what lies on a file system of this type goes with its container, or with the machine's power."""
    return kind in EPHEMERAL


def _parsed(line: str) -> tuple[Path, str]:
    """Mount point and type of one line: see proc(5)."""
    fields, _, rest = line.partition(" - ")
    point = _OCTAL.sub(lambda match: chr(int(match[1], 8)), fields.split(" ")[4])
    return Path(point), rest.split(" ")[0]
