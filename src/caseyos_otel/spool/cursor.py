"""How far one destination has come in each segment of a directory: a small file, replaced whole by rename.

A cursor that cannot be trusted counts as absent: what it covered is read again, and `event_id` absorbs the repetition
downstream. The other way round, a cursor that is too far, would lose records; hence the checksum.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from zlib import crc32

PREFIX: Final = "cursor."


class DamagedCursor(Exception):
    """The file's content does not match its checksum."""


def encode(positions: Mapping[str, int]) -> bytes:
    """One line a segment (name, bytes passed), then the checksum of the lines."""
    lines = "".join(f"{name} {offset}\n" for name, offset in sorted(positions.items())).encode()
    return lines + f"{crc32(lines):08x}\n".encode()


def decode(data: bytes) -> dict[str, int]:
    """Segment name → bytes passed. Raises `DamagedCursor`."""
    lines, checksum = data[:-9], data[-9:]
    if checksum != f"{crc32(lines):08x}\n".encode():
        raise DamagedCursor
    return {name: int(offset) for name, offset in (line.split(" ") for line in lines.decode().splitlines())}


def path_of(directory: Path, destination: str) -> Path:
    """Where the cursor of `destination` lies."""
    return directory / f"{PREFIX}{destination}"


def load(directory: Path, destination: str) -> dict[str, int]:
    """The stored positions; empty when there are none. Raises `DamagedCursor`, OSError."""
    try:
        return decode(path_of(directory, destination).read_bytes())
    except FileNotFoundError:
        return {}


def replace(path: Path, data: bytes) -> None:
    """Write `path` so that a reader, or a crash, sees the old content or the new one. Raises OSError."""
    temporary = path.with_name(f"{path.name}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
    os.replace(temporary, path)
