"""How far one destination has come in each segment of a directory: a small file, replaced whole by rename.

A cursor that cannot be trusted counts as absent: what it covered is read again, and `event_id` absorbs the repetition
downstream. The other way round, a cursor that is too far, would lose records; hence the checksum.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final
from zlib import crc32

from caseyos_otel.spool.problem import OnProblem, Problem
from caseyos_otel.spool.segment import HEADER_SIZE

PREFIX: Final = "cursor."


class DamagedCursorError(Exception):
    """The file's content does not match its checksum."""


def encode(positions: Mapping[str, int]) -> bytes:
    """One line a segment (name, bytes passed), then the checksum of the lines."""
    lines = "".join(f"{name} {offset}\n" for name, offset in sorted(positions.items())).encode()
    return lines + f"{crc32(lines):08x}\n".encode()


def decode(data: bytes) -> dict[str, int]:
    """Segment name → bytes passed. Raises `DamagedCursorError`."""
    lines, checksum = data[:-9], data[-9:]
    if checksum != f"{crc32(lines):08x}\n".encode():
        raise DamagedCursorError
    return {name: int(offset) for name, offset in (line.split(" ") for line in lines.decode().splitlines())}


def path_of(directory: Path, destination: str) -> Path:
    """Where the cursor of `destination` lies."""
    return directory / f"{PREFIX}{destination}"


def load(directory: Path, destination: str) -> dict[str, int]:
    """The stored positions; empty when there are none. Raises `DamagedCursorError`, OSError."""
    try:
        return decode(path_of(directory, destination).read_bytes())
    except FileNotFoundError:
        return {}


def trusted(directory: Path, destination: str) -> dict[str, int]:
    """`load` for who only looks: empty where reading would start over."""
    try:
        return load(directory, destination)
    except (DamagedCursorError, OSError):
        return {}


def replace(path: Path, data: bytes) -> None:
    """Write `path` so that a reader, or a crash, sees the old content or the new one. Raises OSError."""
    temporary = path.with_name(f"{path.name}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
    temporary.replace(path)


def replace_or_report(path: Path, data: bytes, on_problem: OnProblem) -> None:
    """`replace`; where the disk refuses, delivery goes on with what is in memory.

    A directory that is gone (delivered and closed meanwhile) needs neither cursor nor report.
    """
    try:
        replace(path, data)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not path.parent.exists():
            return
        on_problem(Problem("cursor_not_written", path, f"kept in memory only: {error.strerror}"))


class Cursors:
    """The cursors of one directory. Thread-safe; each destination advances its own."""

    def __init__(self, directory: Path, on_problem: OnProblem) -> None:
        self._directory = directory
        self._on_problem = on_problem
        self._mutex = threading.RLock()
        self._positions: dict[str, dict[str, int]] = {}

    def position(self, destination: str, segment: str) -> int:
        """Bytes of `segment` that `destination` has passed."""
        return self._of(destination).get(segment, HEADER_SIZE)

    def advance(self, destination: str, ends: Mapping[str, int], existing: Collection[str]) -> None:
        """Move to `ends`, in memory and in the file, never back; forget segments that are not `existing` any more."""
        with self._mutex:
            kept = {name: offset for name, offset in self._of(destination).items() if name in existing}
            further = {name: max(end, kept.get(name, end)) for name, end in ends.items()}
            positions = self._positions[destination] = {**kept, **further}
            replace_or_report(path_of(self._directory, destination), encode(positions), self._on_problem)

    def _of(self, destination: str) -> dict[str, int]:
        with self._mutex:
            if destination not in self._positions:
                self._positions[destination] = self._loaded(destination)
            return self._positions[destination]

    def _loaded(self, destination: str) -> dict[str, int]:
        try:
            return load(self._directory, destination)
        except (DamagedCursorError, OSError) as error:
            detail = f"reading starts over, repetitions are absorbed by event_id ({error!r})"
            self._on_problem(Problem("damaged_cursor", path_of(self._directory, destination), detail))
            return {}
