"""What waits in a spool, for `doctor` and metrics. Only looks, so it needs no lock and sees live processes too."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from caseyos_otel.spool import cursor, quarantine
from caseyos_otel.spool.directory import DESTINATIONS
from caseyos_otel.spool.segment import HEADER_SIZE, RECORD_OVERHEAD, check_header, headers
from caseyos_otel.spool.segment_files import SUFFIX


@dataclass(frozen=True, slots=True)
class Pending:
    """Records and bytes (as on disk) that a destination has not passed, and the age of the oldest in seconds."""

    records: int = 0
    bytes: int = 0
    oldest_age: float | None = None


def pending(root: Path, destination: str) -> Pending:
    """What waits for `destination` in all directories of the spool at `root`, whoever owns them."""
    try:
        entries = [entry for entry in os.scandir(root) if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return Pending()
    return total(pending_in(Path(entry.path), destination) for entry in entries if entry.name != quarantine.NAME)


def pending_in(directory: Path, destination: str) -> Pending:
    """What waits for `destination` in one directory; nothing if the directory does not wait for it."""
    try:
        if destination not in (directory / DESTINATIONS).read_text().split():
            return Pending()
        positions = _positions(directory, destination)
        segments = [path for path in directory.iterdir() if path.suffix == SUFFIX]
    except OSError:
        return Pending()
    return total(_pending_in_segment(path, positions.get(path.name, HEADER_SIZE)) for path in segments)


def oldest_age(directory: Path, destination: str) -> float:
    """Seconds that the oldest record in one directory has waited for `destination`; 0 where none waits.

    Reads one record's header a segment: cheap enough for a metric.
    """
    try:
        positions = _positions(directory, destination)
        segments = [path for path in directory.iterdir() if path.suffix == SUFFIX]
    except OSError:
        return 0.0
    found = [_appended_at(path, positions.get(path.name, HEADER_SIZE)) for path in segments]
    oldest = min((at for at in found if at is not None), default=None)
    return 0.0 if oldest is None else _age(oldest)


def _age(appended_at: int) -> float:
    """Seconds at most: a record tells its time to about two of them (`segment.TICK`)."""
    return max(0.0, time.time() - appended_at / 1e9)


def _appended_at(path: Path, start: int) -> int | None:
    try:
        with path.open("rb", buffering=0) as file:
            if check_header(file.read(HEADER_SIZE)) == "other_version":
                return None
            file.seek(start)
            return next((appended_at for _, appended_at in headers(file.read(RECORD_OVERHEAD), whole=False)), None)
    except OSError:
        return None


def total(parts: Iterable[Pending]) -> Pending:
    """The sum, with the oldest age of all."""
    found = list(parts)
    ages = [part.oldest_age for part in found if part.oldest_age is not None]
    return Pending(sum(p.records for p in found), sum(p.bytes for p in found), max(ages, default=None))


def _positions(directory: Path, destination: str) -> dict[str, int]:
    try:
        return cursor.load(directory, destination)
    except cursor.DamagedCursorError:
        return {}


def _pending_in_segment(path: Path, start: int) -> Pending:
    try:
        with path.open("rb", buffering=0) as file:
            if check_header(file.read(HEADER_SIZE)) == "other_version":
                return Pending()
            file.seek(start)
            data = file.read()
    except OSError:
        return Pending()
    found = list(headers(data))
    if not found:
        return Pending()
    oldest = min(appended_at for _, appended_at in found)
    return Pending(len(found), sum(length + RECORD_OVERHEAD for length, _ in found), _age(oldest))
