"""Where something is in a spool, for `events where` and `spool status`. Only looks: nothing is locked for long or changed."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from caseyos_otel.spool import cursor, lock, quarantine
from caseyos_otel.spool.directory import destinations_of
from caseyos_otel.spool.segment import HEADER_SIZE, Record, check_header, scan
from caseyos_otel.spool.segment_files import SUFFIX


@dataclass(frozen=True, slots=True)
class Place:
    """A record in a segment: when it was appended (Unix ns), who has not passed it and who has, and its payload."""

    segment: Path
    appended_at: int
    waiting: tuple[str, ...]
    passed: tuple[str, ...]
    payload: bytes


def folders(root: Path) -> list[Path]:
    """The segment directories of a spool, whoever owns them."""
    try:
        return sorted(p for p in root.iterdir() if p.is_dir() and not p.is_symlink() and p.name != quarantine.NAME)
    except OSError:
        return []


def segments(folder: Path) -> list[Path]:
    """The segments of one directory, oldest first within a series."""
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == SUFFIX)
    except OSError:
        return []


def is_alive(folder: Path) -> bool:
    """Whether a process holds the directory's lock."""
    try:
        fd = os.open(folder / lock.NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def find(root: Path, needle: bytes, everybody: Collection[str] = ()) -> Iterator[Place]:
    """The records whose payload contains `needle`. A directory that names no destinations waits for `everybody`."""
    for folder in folders(root):
        names = sorted(_destinations(folder) or everybody)
        positions = {name: cursor.trusted(folder, name) for name in names}
        for segment in segments(folder):
            for record in _records(segment, needle):
                ends = {name: positions[name].get(segment.name, HEADER_SIZE) for name in names}
                waiting = tuple(name for name in names if ends[name] < record.end)
                passed = tuple(name for name in names if ends[name] >= record.end)
                yield Place(segment, record.appended_at, waiting, passed, record.payload)


def find_quarantined(root: Path, needle: bytes) -> list[Path]:
    """The quarantined pieces that contain `needle`."""
    return [path for path in quarantine.files(root) if needle in _content(path)]


def _records(segment: Path, needle: bytes) -> Iterator[Record]:
    data = _content(segment)
    if needle not in data or check_header(data[:HEADER_SIZE]) == "other_version":
        return
    for item in scan(data, HEADER_SIZE):
        if isinstance(item, Record) and needle in item.payload:
            yield item


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _destinations(folder: Path) -> frozenset[str]:
    try:
        return destinations_of(folder)
    except OSError:
        return frozenset()
