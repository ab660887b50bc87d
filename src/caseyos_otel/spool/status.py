"""What waits in a spool, for `doctor` and metrics. Only looks, so it needs no lock and sees live processes too."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from caseyos_otel.spool import cursor, quarantine
from caseyos_otel.spool.directory import destinations_of
from caseyos_otel.spool.problem import unavailable
from caseyos_otel.spool.segment import HEADER_SIZE, RECORD_OVERHEAD, Record, appended_at, check_header, scan
from caseyos_otel.spool.segment_files import SUFFIX


@dataclass(frozen=True, slots=True)
class Pending:
    """Records and bytes (as on disk) that a destination has not passed, and the age of the oldest in seconds.

    A stretch of damage counts as a record: it waits to be passed and set aside.
    """

    records: int = 0
    bytes: int = 0
    oldest_age: float | None = None


def pending(root: Path, destination: str) -> Pending:
    """What waits for `destination` in all directories of the spool at `root`, whoever owns them.

    Raises SpoolUnavailable: there is one, and it cannot be looked at.
    """
    try:
        entries = [entry for entry in os.scandir(root) if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return Pending()
    except OSError as error:
        raise unavailable("look at the directory", root, error) from error
    return total(pending_in(Path(entry.path), destination) for entry in entries if entry.name != quarantine.NAME)


def pending_in(directory: Path, destination: str) -> Pending:
    """What waits for `destination` in one directory; nothing if the directory does not wait for it.

    One that names nobody waits for everybody: whoever adopts it adds its own.
    """
    positions = cursor.trusted(directory, destination)
    try:
        if destination not in (destinations_of(directory) or [destination]):
            return Pending()
        segments = [path for path in directory.iterdir() if path.suffix == SUFFIX]
    except OSError:
        return Pending()
    return total(_pending_in_segment(path, positions.get(path.name, HEADER_SIZE)) for path in segments)


def oldest_age(directory: Path, destination: str) -> float:
    """Seconds that the oldest record in one directory has waited for `destination`; 0 where none waits.

    Reads one record's header a segment: cheap enough for a metric.
    """
    positions = cursor.trusted(directory, destination)
    try:
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
            return appended_at(file.read(RECORD_OVERHEAD))
    except OSError:
        return None


def total(parts: Iterable[Pending]) -> Pending:
    """The sum, with the oldest age of all."""
    found = list(parts)
    ages = [part.oldest_age for part in found if part.oldest_age is not None]
    return Pending(sum(p.records for p in found), sum(p.bytes for p in found), max(ages, default=None))


def _pending_in_segment(path: Path, start: int) -> Pending:
    try:
        with path.open("rb", buffering=0) as file:
            if check_header(file.read(HEADER_SIZE)) == "other_version":
                return Pending()
            file.seek(start)
            data = file.read()
    except OSError:
        return Pending()
    found = list(scan(data))
    oldest = min((item.appended_at for item in found if isinstance(item, Record)), default=None)
    return Pending(len(found), sum(item.end - item.offset for item in found), None if oldest is None else _age(oldest))
