"""One directory of segments whose lock this process holds: its own, or one that a dead process left.

In ``<spool>/<random id>/``, or ``<role>-<random id>/``, lie

- ``lock``, held by the owner;
- ``destinations``, one name a line: whom each segment waits for;
- ``outcomes-00000001.seg`` and so on: only the owner's writer appends, only the owner unlinks;
- ``cursor.<destination>``: how far it has come.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self
from uuid import uuid4

from caseyos_otel.spool import cursor, lock, quarantine
from caseyos_otel.spool.problem import OnProblem, Problem, ProblemKind
from caseyos_otel.spool.segment import HEADER_SIZE, RECORD_OVERHEAD, Damage, Record, check_header, headers, intact, scan

SUFFIX: Final = ".seg"
DESTINATIONS: Final = "destinations"
ABANDON_AFTER: Final = 7 * 86_400.0
"""Seconds that a segment waits for a destination which no process here knows any more."""

WrittenSize = Callable[[str], int | None]
"""Bytes of a segment that may be read while it is being written; None when it is complete."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What was read of one segment: the payloads, the position behind them, and whether more stood behind that."""

    frames: list[bytes]
    end: int
    more: bool


class SegmentDirectory:
    """Segments, cursors and the destinations they wait for. Thread-safe; one thread a destination."""

    def __init__(self, path: Path, lock_fd: int, written_size: WrittenSize, on_problem: OnProblem) -> None:
        self.path = path
        self._lock_fd = lock_fd
        self._identity = path.stat()
        self._written_size = written_size
        self._on_problem = on_problem
        self._mutex = threading.RLock()
        self._cursors = cursor.Cursors(path, on_problem)
        self._unreadable: set[str] = set()
        self._readable: dict[str, bool] = {}
        self._destinations = self._stored_destinations()

    # -- whose it is ---------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, root: Path, written_size: WrittenSize, on_problem: OnProblem, role: str = "") -> Self:
        """A new directory, mode 0700, locked; its name begins with the role of its process. Raises OSError."""
        while True:
            path = root / "-".join(filter(None, (role, uuid4().hex)))
            path.mkdir(mode=0o700)
            try:
                fd = lock.acquire(path, create=True)
            except OSError:
                with contextlib.suppress(OSError):
                    path.rmdir()
                raise
            if fd is not None:
                return cls(path, fd, written_size, on_problem)
            # Another process took the directory, still empty, for a dead one and removes it.

    @classmethod
    def take(cls, path: Path, on_problem: OnProblem) -> Self | None:
        """The directory of a dead process, or None while its owner lives. Raises OSError."""
        fd = lock.acquire(path, create=False)
        return None if fd is None else cls(path, fd, lambda name: None, on_problem)

    def let_go(self) -> None:
        """Close the lock, without unlocking it: a parent or child of this process may hold the same one."""
        fd, self._lock_fd = self._lock_fd, -1
        if fd >= 0:
            os.close(fd)

    def exists(self) -> bool:
        """False when somebody removed it, or put another in its place, under the living owner."""
        try:
            return os.path.samestat(self._identity, self.path.stat())
        except OSError:
            return False

    # -- whom it waits for ---------------------------------------------------------------------------------------

    def wait_for(self, destinations: Iterable[str]) -> None:
        """Let every segment here wait for these destinations too."""
        with self._mutex:
            wanted = self._destinations | set(destinations)
            if wanted == self._destinations:
                return
            self._destinations = wanted
            names = "".join(f"{name}\n" for name in sorted(wanted)).encode()
            cursor.replace_or_report(self.path / DESTINATIONS, names, self._on_problem)

    def _stored_destinations(self) -> frozenset[str]:
        try:
            return frozenset((self.path / DESTINATIONS).read_text().split())
        except (OSError, UnicodeDecodeError):
            return frozenset()

    # -- reading -------------------------------------------------------------------------------------------------

    def segments(self) -> list[str]:
        """Names of the segments, oldest first within a series."""
        try:
            return sorted(path.name for path in self.path.iterdir() if path.suffix == SUFFIX)
        except OSError:
            return []

    def read(self, destination: str, segment: str, max_records: int, max_bytes: int) -> Taken | None:
        """The next records of `segment`, at least one if there is one; None when there is nothing new.

        Damage is set aside and passed.
        """
        try:
            return self._read(destination, segment, max_records, max_bytes)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._report_unreadable(segment, error)
            return None

    def _read(self, destination: str, segment: str, max_records: int, max_bytes: int) -> Taken | None:
        start = self._cursors.position(destination, segment)
        data, length = self._bytes(segment, start, max_bytes)
        if not data or not self._is_readable(segment):
            return None
        frames, end = _limited(intact(data), max_records, max_bytes)
        if frames:
            return Taken(frames, start + end, more=end < length)
        taken = self._read_damaged(segment, start, max_records, max_bytes)
        return taken if taken.end > start else None

    def size(self, segment: str) -> int:
        """Bytes of `segment` that may be read. Raises OSError."""
        written = self._written_size(segment)
        return (self.path / segment).stat().st_size if written is None else written

    def _bytes(self, segment: str, start: int, limit: int | None = None) -> tuple[bytes, int]:
        """What may be read from `start` on, up to `limit` bytes, and how much it were without the limit."""
        written = self._written_size(segment)
        with (self.path / segment).open("rb", buffering=0) as file:
            end = os.fstat(file.fileno()).st_size if written is None else written
            length = max(0, end - start)
            wanted = length if limit is None else min(length, limit + RECORD_OVERHEAD)
            return os.pread(file.fileno(), wanted, start), length

    def _read_damaged(self, segment: str, start: int, max_records: int, max_bytes: int) -> Taken:
        """The slow way. The readable part of a segment ends behind a record, even while the segment is being written:
        what is not a record now never will be one.
        """
        rest, _ = self._bytes(segment, start)
        frames: list[bytes] = []
        end = size = 0
        more = False
        for item in scan(rest):
            if isinstance(item, Record):
                size += len(item.payload)
                if frames and (len(frames) >= max_records or size > max_bytes):
                    more = True
                    break
                frames.append(item.payload)
            else:
                self._set_aside(segment, start, item, rest[item.offset : item.end])
            end = item.end
        return Taken(frames, start + end, more)

    def _set_aside(self, segment: str, start: int, damage: Damage, data: bytes) -> None:
        with self._mutex:
            try:
                kept = quarantine.set_aside(self.path, segment, start + damage.offset, data)
            except OSError as error:
                self._report("not_quarantined", segment, f"{len(data)} bytes of a {damage.kind} are passed: {error}")
                return
        if kept is not None:
            self._report(damage.kind, segment, f"{len(data)} bytes at {start + damage.offset} set aside as {kept}")

    def _is_readable(self, segment: str) -> bool:
        with self._mutex:
            if segment not in self._readable:
                with (self.path / segment).open("rb", buffering=0) as file:
                    header = file.read(HEADER_SIZE)
                if len(header) < HEADER_SIZE:
                    return True  # its writer died between creating and beginning it: nothing in it to misread
                state = check_header(header)
                self._readable[segment] = state != "other_version"
                if state == "other_version":
                    self._report("other_version", segment, "left untouched for the version that wrote it")
                elif state == "damaged":
                    self._report("damaged_header", segment, "its records are read all the same")
            return self._readable[segment]

    def advance(self, destination: str, ends: Mapping[str, int]) -> None:
        """Remember that `destination` has everything before these positions."""
        self._cursors.advance(destination, ends, self.segments())

    # -- tidying -------------------------------------------------------------------------------------------------

    def reap(self, known: frozenset[str], abandon_after: float = ABANDON_AFTER) -> None:
        """Unlink the complete segments that nobody waits for any more.

        A segment waits for every destination listed here. One that is listed but not `known` in this process (its DSN
        was taken away; another kind of process has it) is waited for too, until the segment has not been written for
        `abandon_after` seconds: a sibling or the next deployment may still deliver it. Then it goes, and is reported.
        """
        with self._mutex:
            for segment in self.segments():
                try:
                    self._reap(segment, known, abandon_after)
                except OSError:
                    continue  # gone, or not ours to remove: the next round looks again

    def _reap(self, segment: str, known: frozenset[str], abandon_after: float) -> None:
        if self._written_size(segment) is not None or not self._is_readable(segment):
            return
        laggards = self._laggards(segment)
        if laggards & known or not self._destinations:
            return
        if laggards and time.time() - (self.path / segment).stat().st_mtime < abandon_after:
            return
        if laggards:
            self._report("abandoned", segment, f"unlinked; not delivered to {', '.join(sorted(laggards))}")
        (self.path / segment).unlink()
        self._readable.pop(segment, None)

    def complete(self, series: str) -> list[tuple[float, str]]:
        """When each segment of a series that is no longer written was last written (Unix seconds), and its name."""
        found = []
        for segment in self.segments():
            with contextlib.suppress(OSError):  # gone meanwhile
                if series_of(segment) == series and self._written_size(segment) is None and self._is_readable(segment):
                    found.append(((self.path / segment).stat().st_mtime, segment))
        return found

    def evict(self, segment: str) -> int:
        """Unlink a complete segment although somebody waits for it, and report what is lost; the bytes that are free now."""
        with self._mutex, contextlib.suppress(FileNotFoundError):
            size = self.size(segment)
            lost = {name: self._unread(name, segment) for name in sorted(self._laggards(segment))}
            (self.path / segment).unlink()
            self._readable.pop(segment, None)
            for destination, records in lost.items():
                detail = f"the spool is full: {records} failures that {destination} does not have yet make room"
                self._on_problem(Problem("spool_full", self.path / segment, detail, records, destination))
            return size
        return 0

    def _unread(self, destination: str, segment: str) -> int:
        data, _ = self._bytes(segment, self._cursors.position(destination, segment))
        return sum(1 for _ in headers(data))

    def _laggards(self, segment: str) -> frozenset[str]:
        size = self.size(segment)
        return frozenset(name for name in self._destinations if self._cursors.position(name, segment) < size)

    def has_work_for(self, known: frozenset[str]) -> bool:
        """True while a destination of this process has something to read here."""
        try:
            return any(self._laggards(name) & known for name in self.segments() if self._is_readable(name))
        except OSError:
            return True

    def remove_if_empty(self) -> bool:
        """Remove the directory and let its lock go, when nothing is left but the owner's own small files."""
        with self._mutex:
            names = [path.name for path in self.path.iterdir()] if self.path.exists() else []
            if not all(_is_small_file(name) for name in names):
                return False
            with contextlib.suppress(OSError):  # what cannot be removed now, the next adopter tries again
                # The lock last: whoever finds the directory meanwhile must still find it locked.
                for name in sorted(names, key=lambda name: name == lock.NAME):
                    (self.path / name).unlink(missing_ok=True)
                self.path.rmdir()
            self.let_go()
            return True

    def _report_unreadable(self, segment: str, error: OSError) -> None:
        if segment not in self._unreadable:
            self._unreadable.add(segment)
            self._report("unreadable", segment, f"passed over, tried again at each reading: {error.strerror}")

    def _report(self, kind: ProblemKind, name: str, detail: str) -> None:
        self._on_problem(Problem(kind, self.path / name, detail))


def segment_name(series: str, number: int) -> str:
    """The file name of a segment; sorted by name, the segments of a series are in order."""
    return f"{series}-{number:08d}{SUFFIX}"


def series_of(segment: str) -> str:
    """The series that a segment belongs to."""
    return segment.partition("-")[0]


def _is_small_file(name: str) -> bool:
    return name in (lock.NAME, DESTINATIONS, f"{DESTINATIONS}.tmp") or name.startswith(cursor.PREFIX)


def _limited(records: Iterable[Record], max_records: int, max_bytes: int) -> tuple[list[bytes], int]:
    """The payloads that fit, the first in any case, and the position behind them."""
    frames: list[bytes] = []
    end = size = 0
    for record in records:
        size += len(record.payload)
        if frames and (len(frames) >= max_records or size > max_bytes):
            break
        frames.append(record.payload)
        end = record.end
    return frames, end
