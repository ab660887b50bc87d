"""The one writer of this process: a frame is in the kernel's hands when `append` returns."""

from __future__ import annotations

import errno
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

from caseyos_otel.spool.directory import SegmentDirectory, segment_name
from caseyos_otel.spool.problem import FrameRefused, OnProblem, Problem, SpoolFull, SpoolUnavailable, unavailable
from caseyos_otel.spool.segment import HEADER_SIZE, MAX_PAYLOAD, encode_header, encode_record
from caseyos_otel.spool.space import Space
from caseyos_otel.spool.wakeup import Wakeup

SEGMENT_BYTES: Final = 4 * 2**20
_SERIES: Final = re.compile(r"[a-z][a-z0-9_]*")
_fdatasync = getattr(os, "fdatasync", os.fsync)


@dataclass(slots=True)
class _Open:
    """The segment that a series is being written to. `size` is the end of the last record that was written whole."""

    name: str
    fd: int
    size: int
    dirty: bool = False
    counted: bool = True
    """False while a record is written: if it stays so, an exception came between the write and its counting."""


class SpoolWriter:
    """Appends frames to segments in a directory of its own below `directory`, made at the first append.

    `append` survives `kill -9` of this process; a power cut costs what was appended since the last `sync`. Thread-safe,
    and safe to call again from a signal handler. In a forked child call `after_fork_in_child` before anything else.
    """

    def __init__(
        self,
        directory: Path,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        space: Space | None = None,
        on_problem: OnProblem,
    ) -> None:
        self.directory = directory
        self.space = space or Space(directory)
        self.make_room: Callable[[int], object] = lambda wanted: None
        """Called with the bytes that are too many, before an append is refused for them."""
        self.role = ""
        """What this process is: begins the name of its directory."""
        self._segment_bytes = segment_bytes
        self._on_problem = on_problem
        self._destinations: frozenset[str] = frozenset()
        self._waiting: tuple[Wakeup, ...] = ()
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.RLock()
        self._open: dict[str, _Open] = {}
        self._beginning: set[str] = set()
        self._numbers: dict[str, Iterator[int]] = {}
        self._appending = False
        self._own: SegmentDirectory | None = None
        self._unsynced: deque[Path] = deque(maxlen=64)
        self._unsynced_since: float | None = None

    @property
    def own(self) -> SegmentDirectory | None:
        """The directory of this process; None before the first append and after `close`."""
        return self._own

    def wait_for(self, destinations: Iterable[str]) -> None:
        """Segments are kept until these destinations have them too."""
        with self._lock:
            self._destinations |= set(destinations)
            if self._own is not None:
                self._own.wait_for(self._destinations)

    def notify(self, wakeup: Wakeup) -> None:
        """Set `wakeup` at every append from now on."""
        self._waiting = (*self._waiting, wakeup)

    def append(self, series: str, frame: bytes) -> None:
        """Write one record to the current segment of `series` (`outcomes`, `failures`) with one `write()`.

        Raises `SpoolUnavailable` (what, where, how to mend); then nothing of the frame is on disk, and the next call
        tries anew. `SpoolFull` where it is the bound; `FrameRefused` for a frame that is empty or larger than
        `MAX_PAYLOAD` bytes.
        """
        if not 0 < len(frame) <= MAX_PAYLOAD:
            raise FrameRefused(f"spool: a frame of {len(frame)} bytes; accepted are 1 to {MAX_PAYLOAD}")
        record = encode_record(frame, time.time_ns())
        with self._lock:
            if self._appending:
                self._append_alone(series, record)
            else:
                self._appending = True
                try:
                    self._append(series, record)
                finally:
                    self._appending = False
        for wakeup in self._waiting:
            wakeup.set()

    def written_size(self, name: str) -> int | None:
        """Bytes written whole to segment `name`; None when it is no longer being written.

        Asked without the lock, so in this order: a segment is in `_beginning` before its file exists, until it is in
        `_open`. One that were in neither for a moment would be taken for complete, empty, and unlinked.
        """
        if name in self._beginning:
            return 0
        for segment in tuple(self._open.values()):
            if segment.name == name:
                return segment.size
        return None

    @property
    def unsynced_age(self) -> float:
        """Seconds since the first append that a power cut would cost now; 0 where it would cost none."""
        since = self._unsynced_since
        return 0.0 if since is None else time.monotonic() - since

    def end_segment(self, series: str) -> None:
        """Let the next append to `series` begin a new segment, so that the current one may go."""
        with self._lock:
            if (current := self._open.pop(series, None)) is not None:
                self._retire(current)

    def sync(self) -> None:
        """Force what was appended since the last call to disk. For a background tick: it waits for the disk."""
        with self._lock:
            self._unsynced_since = None
            dirty = [segment for segment in self._open.values() if segment.dirty]
            for segment in dirty:
                segment.dirty = False
            paths = [*self._unsynced, *(self._path(segment) for segment in dirty)]
            self._unsynced.clear()
            self._leave_if_vanished()
        for path in dict.fromkeys(paths):
            self._sync_file(path)

    def close(self) -> None:
        """End the segments and let the directory go: removed when everything is delivered, else left to an adopter.

        An append after this begins a new directory, so that an event at the very end of a process is not lost either.
        """
        with self._lock:
            own, self._own = self._own, None
            self._close_segments()
            if own is not None:
                own.reap(self._destinations)
                if not own.remove_if_empty():
                    own.let_go()

    def after_fork_in_child(self) -> None:
        """Forget what is the parent's: closed here, still locked there. The next append makes a new directory."""
        inherited, own = tuple(self._open.values()), self._own
        self._reset()
        self._waiting = ()
        for segment in inherited:
            os.close(segment.fd)
        if own is not None:
            own.let_go()

    # -- segments ------------------------------------------------------------------------------------------------

    def _append(self, series: str, record: bytes) -> None:
        size = len(record)
        if self.space.used + size > self.space.free_below:
            self._find_room(series, size)
        segment = self._open.get(series)
        if segment is None or segment.size + size > self._segment_bytes:
            segment = self._roll(series)
        if not segment.counted:
            segment.size = os.fstat(segment.fd).st_size
        segment.counted = False
        try:
            written = os.write(segment.fd, record)
        except OSError as error:
            raise unavailable("append to", self._path(segment), error) from error
        if written != size:
            raise self._taken_back(series, segment, written, size)
        segment.size += size
        segment.counted = True
        self.space.used += size
        if not segment.dirty:
            segment.dirty = True
            if self._unsynced_since is None:
                self._unsynced_since = time.monotonic()

    def _find_room(self, series: str, size: int) -> None:
        self.space.look_if_due()
        if too_many := self.space.lacks(series, size):
            self.make_room(too_many)
        if self.space.lacks(series, size):
            raise SpoolFull(
                f"spool: {self.directory} holds {self.space.used} bytes, its bound is {self.space.max_bytes};"
                " bring its destinations back, or raise CASEYOS_OTEL_SPOOL_MAX_BYTES"
            )

    def _append_alone(self, series: str, record: bytes) -> None:
        """An append inside an append (a signal handler, a finalizer) gets a segment for itself.

        It must not touch the current one: the interrupted call may be anywhere between its check and its write.
        """
        segment = self._new_segment(series)
        try:
            if os.write(segment.fd, record) != len(record):
                raise OSError(errno.ENOSPC, "only a part of the record was written")
            self._unsynced.append(self._path(segment))
            self.space.used += len(record)
        except OSError as error:
            self._path(segment).unlink(missing_ok=True)
            raise unavailable("append to", self._path(segment), error) from error
        finally:
            os.close(segment.fd)
            self._beginning.discard(segment.name)

    def _path(self, segment: _Open) -> Path:
        return (self._own.path if self._own else self.directory) / segment.name

    def _roll(self, series: str) -> _Open:
        """The segment for the next record: the current one if it is still empty, else a new one."""
        current = self._open.get(series)
        if current is not None and current.size == HEADER_SIZE:
            return current
        segment = self._new_segment(series)
        try:
            self._open[series] = segment
        finally:
            self._beginning.discard(segment.name)
        if current is not None:
            self._retire(current)
        return segment

    def _new_segment(self, series: str) -> _Open:
        """A segment with its header, still in `_beginning`. Raises `SpoolUnavailable`."""
        if not _SERIES.fullmatch(series):
            raise FrameRefused(f"spool: series {series!r}; accepted are lower-case names such as 'outcomes'")
        try:
            return self._begin_segment(series)
        except FileNotFoundError:
            self._leave_if_vanished()
        except OSError as error:
            raise unavailable("create a segment in", self.directory, error) from error
        try:
            return self._begin_segment(series)
        except OSError as error:
            raise unavailable("create a segment in", self.directory, error) from error

    def _begin_segment(self, series: str) -> _Open:
        directory = self._own_directory().path
        name = segment_name(series, next(self._numbers.setdefault(series, count(1))))
        self._beginning.add(name)
        try:
            fd = os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
            _write_header(fd, directory / name)
        except OSError:
            self._beginning.discard(name)
            raise
        self._unsynced.append(directory)
        return _Open(name, fd, HEADER_SIZE)

    def _retire(self, segment: _Open) -> None:
        if segment.dirty:
            self._unsynced.append(self._path(segment))
        os.close(segment.fd)

    def _taken_back(self, series: str, segment: _Open, written: int, wanted: int) -> SpoolUnavailable:
        """Cut the part of a record that was written; when even that fails, the segment ends here, torn."""
        try:
            os.ftruncate(segment.fd, os.lseek(segment.fd, 0, os.SEEK_CUR) - written)
        except OSError:
            self._retire(self._open.pop(series))
        error = OSError(errno.ENOSPC, f"only {written} of {wanted} bytes written")
        return unavailable("append to", self._path(segment), error)

    def _close_segments(self) -> None:
        segments, self._open = tuple(self._open.values()), {}
        for segment in segments:
            os.close(segment.fd)

    # -- the directory -------------------------------------------------------------------------------------------

    def _own_directory(self) -> SegmentDirectory:
        if self._own is None:
            prepare(self.directory)
            made = SegmentDirectory.create(self.directory, self.written_size, self._on_problem, self.role)
            made.wait_for(self._destinations)
            self._unsynced.append(self.directory)
            if self._own is not None:  # a signal handler was here in between
                made.remove_if_empty()
                return self._own
            self._own = made
        return self._own

    def _leave_if_vanished(self) -> None:
        """Somebody removed our directory: appends would go to files that nobody can find."""
        own = self._own
        if own is None or own.exists():
            return
        self._own = None
        self._close_segments()
        own.let_go()
        detail = "removed under a running process, with what was in it; a new one is made at the next append"
        self._on_problem(Problem("directory_vanished", own.path, detail))

    def _sync_file(self, path: Path) -> None:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return  # delivered and unlinked meanwhile
        except OSError as error:
            self._on_problem(Problem("not_synced", path, f"{error.strerror}"))
            return
        try:
            (os.fsync if path.is_dir() else _fdatasync)(fd)
        except OSError as error:
            self._on_problem(Problem("not_synced", path, f"a power cut may cost its newest records: {error.strerror}"))
        finally:
            os.close(fd)


def _write_header(fd: int, path: Path) -> None:
    try:
        if os.write(fd, encode_header()) != HEADER_SIZE:
            raise OSError(errno.ENOSPC, "only a part of the header was written")
    except OSError:
        os.close(fd)
        path.unlink(missing_ok=True)
        raise


def prepare(directory: Path) -> None:
    """Make the spool directory, mode 0700, or check that it is ours (or root's). Raises `SpoolUnavailable`."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = directory.stat().st_uid
    except OSError as error:
        raise unavailable("use the directory", directory, error) from error
    if owner not in (os.geteuid(), 0):
        raise SpoolUnavailable(
            f"spool: the directory {directory} belongs to user id {owner}, who could read and change what is in it; "
            f"give it to user id {os.geteuid()} (chown), or set CASEYOS_OTEL_SPOOL_DIR to another one"
        )
