"""One directory of segments whose lock this process holds: its own, or one that a dead process left.

In ``<spool>/<random id>/``, or ``<role>-<random id>/``, lie

- ``lock``, held by the owner;
- ``destinations``, one name a line: whom each segment waits for;
- ``outcomes-00000001.seg`` and so on: only the owner's writer appends, only the owner unlinks;
- ``cursor.<destination>``: how far it has come.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, Self
from uuid import uuid4

from caseyos_otel.spool import cursor, lock
from caseyos_otel.spool.problem import OnProblem, Problem, SpoolUnavailable, unavailable
from caseyos_otel.spool.segment_files import SegmentFiles, Taken, WrittenSize, series_of

DESTINATIONS: Final = "destinations"
ABANDON_AFTER: Final = 7 * 86_400.0
"""Seconds that a segment waits for a destination which no process here knows any more."""
_NOTE_EVERY_S: Final = 3600.0
NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]*")
"""Of a destination. What a power cut left in that file may be anything."""


class SegmentDirectory:
    """Segments, cursors and the destinations they wait for. Thread-safe; one thread a destination."""

    def __init__(self, path: Path, lock_fd: int, written_size: WrittenSize, on_problem: OnProblem, pid: int) -> None:
        """`pid`: whose it is, read before it was made or locked, as the process may have forked since."""
        self.path = path
        self._lock_fd = lock_fd
        self._pid = pid
        self._identity = path.stat()
        self._on_problem = on_problem
        self._mutex = threading.RLock()
        self._files = SegmentFiles(path, written_size, on_problem)
        self._cursors = cursor.Cursors(path, on_problem)
        self._destinations = destinations_of(path)
        self._noted_at = -math.inf

    # -- whose it is ---------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, root: Path, written_size: WrittenSize, on_problem: OnProblem, role: str = "") -> Self:
        """A new directory, mode 0700, locked; its name begins with the role of its process. Raises OSError."""
        while True:
            pid = os.getpid()
            path = root / "-".join(filter(None, (role, uuid4().hex)))
            path.mkdir(mode=0o700)
            try:
                fd = lock.acquire(path, create=True)
            except OSError:
                with contextlib.suppress(OSError):
                    path.rmdir()
                raise
            if fd is not None:
                return cls(path, fd, written_size, on_problem, pid)
            # Another process took the directory, still empty, for a dead one and removes it.

    @classmethod
    def take(cls, path: Path, on_problem: OnProblem) -> Self | None:
        """The directory of a dead process, or None while its owner lives. Raises OSError."""
        pid = os.getpid()
        fd = lock.acquire(path, create=False)
        if fd is None:
            return None
        try:
            return cls(path, fd, lambda name: None, on_problem, pid)
        except BaseException:
            os.close(fd)
            raise

    def let_go(self) -> None:
        """Close the lock, without unlocking it: a parent or child of this process may hold the same one."""
        fd, self._lock_fd = self._lock_fd, -1
        if fd >= 0:
            os.close(fd)

    def release(self) -> None:
        """`let_go`, in turn with what other threads do here: none of them touches what the next owner has."""
        with self._mutex:
            self.let_go()

    @property
    def _is_ours(self) -> bool:
        return self._lock_fd >= 0

    def hold(self) -> None:
        """Make and lock the lock anew where somebody removed it (a cleaner of old files): nobody could tell who lives."""
        if not self._is_ours or self.is_inherited or os.access(self.path / lock.NAME, os.F_OK):
            return
        with lock.undivided, contextlib.suppress(OSError):
            if (fd := lock.acquire(self.path, create=True)) is not None:
                before, self._lock_fd = self._lock_fd, fd
                if before >= 0:  # a signal handler may have let go
                    os.close(before)

    @property
    def is_inherited(self) -> bool:
        """True in a forked child of the process whose it is."""
        return os.getpid() != self._pid

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
            if wanted == self._destinations or not self._is_ours:
                return
            self._destinations = wanted
            names = "".join(f"{name}\n" for name in sorted(wanted)).encode()
            cursor.replace_or_report(self.path / DESTINATIONS, names, self._on_problem)

    def still_waited_for(self) -> None:
        """Note, once an hour at most, that a living process knows whom it waits for: `reap` asks how long ago."""
        if self._is_ours and time.monotonic() - self._noted_at >= _NOTE_EVERY_S:
            self._noted_at = time.monotonic()
            with contextlib.suppress(OSError):
                os.utime(self._lock_fd)

    # -- reading -------------------------------------------------------------------------------------------------

    def segments(self) -> list[str]:
        """Names of the segments, oldest first within a series."""
        return self._files.names()

    def size(self, segment: str) -> int:
        """Bytes of `segment` that may be read. Raises OSError."""
        return self._files.size(segment)

    def read(self, destination: str, segment: str, max_records: int, max_bytes: int) -> Taken | None:
        """The next records of `segment` for a destination, at least one if there is one; None when there is nothing new.

        Damage is set aside and passed. Nothing is read here any more once the directory is let go.
        """
        if not self._is_ours:
            return None
        return self._files.read(segment, self._cursors.position(destination, segment), max_records, max_bytes)

    def advance(self, destination: str, ends: Mapping[str, int]) -> None:
        """Remember that `destination` has everything before these positions, if it did not have more.

        Where the directory was let go meanwhile, as far as nobody else has it now: else it is delivered once more.
        """
        with self._mutex:
            if self._is_ours:
                self._cursors.advance(destination, ends, self.segments())
                return
            with lock.undivided, contextlib.suppress(OSError):
                if (again := self.take(self.path, self._on_problem)) is not None:
                    try:
                        again.advance(destination, ends)
                    finally:
                        again.let_go()

    # -- tidying -------------------------------------------------------------------------------------------------

    def reap(self, known: frozenset[str], abandon_after: float = ABANDON_AFTER) -> None:
        """Unlink the complete segments that nobody waits for any more.

        A segment waits for every destination listed here. One that is listed but not `known` in this process (its DSN
        was taken away; another kind of process has it) is waited for too, until for `abandon_after` seconds the segment
        has not been written and no other process has said that it knows it: a sibling or the next deployment may still
        deliver it. Then it goes, and is reported.
        """
        abandoned = []
        with self._mutex:
            for segment in self.segments() if self._is_ours else ():
                try:
                    abandoned += self._reap(segment, known, abandon_after)
                except OSError:
                    continue  # gone, or not ours to remove: the next round looks again
        for problem in abandoned:  # who is told may append, and wait for somebody who waits for this mutex
            self._on_problem(problem)

    def _reap(self, segment: str, known: frozenset[str], abandon_after: float) -> list[Problem]:
        if not self._files.is_complete(segment):
            return []
        laggards = self._laggards(segment)
        if laggards & known or not self._destinations:
            return []
        if laggards and time.time() - self._last_wanted(segment) < abandon_after:
            return []
        self._files.unlink(segment)
        detail = f"unlinked; not delivered to {', '.join(sorted(laggards))}"
        return [Problem("abandoned", self.path / segment, detail)] if laggards else []

    def _last_wanted(self, segment: str) -> float:
        """When it was written, or somebody waited for it (Unix seconds)."""
        return max((self.path / segment).stat().st_mtime, os.fstat(self._lock_fd).st_mtime)

    def complete(self, series: str) -> list[tuple[float, str]]:
        """When each segment of a series that is no longer written was last written (Unix seconds), and its name."""
        found = []
        for segment in self.segments():
            with contextlib.suppress(OSError):  # gone meanwhile
                if series_of(segment) == series and self._files.is_complete(segment):
                    found.append(((self.path / segment).stat().st_mtime, segment))
        return found

    def evict(self, segment: str) -> int:
        """Unlink a complete segment although somebody waits for it, and report what is lost; the bytes that are free now."""
        with self._mutex:
            if not self._is_ours:
                return 0
            try:
                size = self.size(segment)
                lost = {name: self._unread(name, segment) for name in sorted(self._laggards(segment))}
                self._files.unlink(segment)
            except FileNotFoundError:
                return 0
        for destination, records in lost.items():
            detail = f"the spool is full: {records} failures that {destination} does not have yet make room"
            if records:
                self._on_problem(Problem("spool_full", self.path / segment, detail, records, destination))
        return size

    def _unread(self, destination: str, segment: str) -> int:
        return self._files.count(segment, self._cursors.position(destination, segment))

    def _laggards(self, segment: str) -> frozenset[str]:
        size = self.size(segment)
        return frozenset(name for name in self._destinations if self._cursors.position(name, segment) < size)

    def waiting(self, known: frozenset[str]) -> frozenset[str]:
        """Which destinations of this process have something to read here; what cannot be looked at does not count."""
        laggards: set[str] = set()
        for name in self.segments():
            with contextlib.suppress(OSError):
                if self._files.is_readable(name):
                    laggards |= self._laggards(name)
        return known & laggards

    def finish(self, known: frozenset[str], abandon_after: float = ABANDON_AFTER) -> bool:
        """`reap`, and let go: removed when nothing is left, else for the next owner. Whether nothing is left."""
        self.reap(known, abandon_after)
        if self.remove_if_empty():
            return True
        self.release()
        return False

    def remove_if_empty(self) -> bool:
        """Remove the directory and let its lock go, when nothing is left but the owner's own small files."""
        with self._mutex:
            try:
                names = [path.name for path in self.path.iterdir()] if self.path.exists() else []
            except OSError:  # no descriptor is left to look with, for one
                return False
            if not all(map(_is_small_file, names)):
                return False
            with contextlib.suppress(OSError):  # what cannot be removed now, the next adopter tries again
                # The lock last: whoever finds the directory meanwhile must still find it locked.
                for name in sorted(names, key=lambda name: name == lock.NAME):
                    (self.path / name).unlink(missing_ok=True)
                self.path.rmdir()
            self.let_go()
            return True


def _is_small_file(name: str) -> bool:
    return name in (lock.NAME, DESTINATIONS, f"{DESTINATIONS}.tmp") or name.startswith(cursor.PREFIX)


def destinations_of(directory: Path) -> frozenset[str]:
    """Whom its segments wait for. Nobody is named where a power cut emptied that file, for one: they wait for everybody.

    Raises OSError: it is there, and cannot be read.
    """
    try:
        names = (directory / DESTINATIONS).read_text("ascii", "replace").split()
    except FileNotFoundError:
        return frozenset()
    return frozenset(filter(NAME.fullmatch, names))


def prepare(root: Path) -> None:
    """Make the spool directory, mode 0700, or check that it is ours (or root's). Raises `SpoolUnavailable`."""
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = root.stat().st_uid
    except OSError as error:
        raise unavailable("use the directory", root, error) from error
    if owner not in (os.geteuid(), 0):
        raise SpoolUnavailable(
            f"spool: the directory {root} belongs to user id {owner}, who could read and change what is in it; "
            f"give it to user id {os.geteuid()} (chown), or set CASEYOS_OTEL_SPOOL_DIR to another one"
        )
