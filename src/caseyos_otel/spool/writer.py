"""The one writer of this process: a frame is in the kernel's hands when `append` returns."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Final

from caseyos_otel.spool.directory import SegmentDirectory, prepare
from caseyos_otel.spool.open_segment import LARGE, OpenSegment
from caseyos_otel.spool.problem import FrameRefused, OnProblem, Problem, SpoolUnavailable, full, unavailable
from caseyos_otel.spool.segment import HEADER_SIZE, MAX_PAYLOAD, encode_record
from caseyos_otel.spool.segment_files import segment_name
from caseyos_otel.spool.space import Space
from caseyos_otel.spool.unsynced import Unsynced
from caseyos_otel.spool.wakeup import Wakeup

SEGMENT_BYTES: Final = 4 * 2**20
_LOOK_EVERY_S: Final = 0.5
"""How often it is looked whether the directory is still there."""
_SERIES: Final = re.compile(r"[a-z][a-z0-9_]*")


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
        self._open: dict[str, OpenSegment] = {}
        self._beginning: set[str] = set()
        self._numbers: dict[str, Iterator[int]] = {}
        self._preparing = False
        self._own: SegmentDirectory | None = None
        self._unsynced = Unsynced(self._on_problem)
        self._look_again_at = 0.0

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
        """Write one record to the current segment of `series` (`outcomes`, `failures`) with one `pwrite()`.

        Raises `SpoolUnavailable` (what, where, how to mend); then nothing of the frame is on disk, and the next call
        tries anew. `SpoolFull` where it is the bound; `FrameRefused` for a frame that is empty or larger than
        `MAX_PAYLOAD` bytes.
        """
        if not 0 < len(frame) <= MAX_PAYLOAD:
            raise FrameRefused(f"spool: a frame of {len(frame)} bytes; accepted are 1 to {MAX_PAYLOAD}")
        record = encode_record(frame, time.time_ns())
        with self._lock:
            segment = self._open.get(series)
            if segment is None or not segment.append(record):
                self._append_slowly(series, record)
        for wakeup in self._waiting:
            if not wakeup.is_set:
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
        """Seconds of appends that a power cut would cost at most: since the last sync; 0 where it would cost none."""
        return self._unsynced.age(tuple(self._open.values()))

    def end_segment(self, series: str) -> None:
        """Let the next append to `series` begin a new segment, so that the current one may go."""
        with self._lock:
            if (current := self._open.pop(series, None)) is not None:
                self._retire(current)

    def sync(self) -> None:
        """Force what was appended since the last call to disk. For a background tick: it waits, and no append does."""
        if (now := time.monotonic()) >= self._look_again_at:
            self._look_again_at = now + _LOOK_EVERY_S
            with self._lock:
                self._leave_if_vanished()
        self._unsynced.sync(tuple(self._open.values()))

    def close(self) -> None:
        """End the segments and let the directory go: removed when everything is delivered, else left to an adopter.

        An append after this begins a new directory, so that an event at the very end of a process is not lost either.
        """
        with self._lock:
            own, self._own = self._own, None
            self._close_segments()
            self._unsynced.close()
            if own is not None:
                own.reap(self._destinations)
                if not own.remove_if_empty():
                    own.let_go()

    def after_fork_in_child(self) -> None:
        """Forget what is the parent's: closed here, still locked there. The next append makes a new directory."""
        inherited, unsynced, own = tuple(self._open.values()), self._unsynced, self._own
        self._reset()
        self._waiting = ()
        for segment in inherited:
            segment.let_go()
        unsynced.let_go()
        if own is not None:
            own.let_go()

    # -- room for a record ---------------------------------------------------------------------------------------

    def _append_slowly(self, series: str, record: bytes) -> None:
        """An append that needs room first, or comes from a signal handler or a finalizer inside another one.

        Such a one gets a segment for itself: the interrupted call may be anywhere between its check and its write.
        """
        current = self._open.get(series)
        if self._preparing or (current is not None and current.is_busy):
            self._append_alone(series, record)
            return
        self._preparing = True
        try:
            segment = self._prepared(series, len(record))
        finally:
            self._preparing = False
        if not segment.append(record):  # a signal handler took the room meanwhile
            self._append_alone(series, record)

    def _prepared(self, series: str, size: int) -> OpenSegment:
        """The segment for the next record, with room for it. Raises `SpoolUnavailable`, `SpoolFull`."""
        if self.space.lacks(series, size):
            self._find_room(series, size)
        segment = self._current(series, size)
        end = segment.size + size
        if end > segment.filled:
            until = segment.stretch(end, self._segment_bytes)
            self._fill(segment, end if self.space.lacks(series, until - segment.filled) else until, end)
        return segment

    def _find_room(self, series: str, size: int) -> None:
        self.space.look_if_due()
        if too_many := self.space.lacks(series, size):
            self.make_room(too_many)
        if self.space.lacks(series, size):
            raise full(self.directory, self.space.used, self.space.max_bytes)

    def _fill(self, segment: OpenSegment, until: int, end: int) -> None:
        """Fill a segment as far as the disk goes. Raises `SpoolUnavailable` where that is not to the `end` of the record."""
        before = segment.filled
        try:
            if end - segment.size < LARGE:
                segment.fill(until)
            else:
                segment.extend(end)
        except OSError as error:
            if segment.filled < end:
                raise unavailable("append to", segment.path, error) from error
        finally:
            self.space.used += segment.filled - before

    def _append_alone(self, series: str, record: bytes) -> None:
        segment = self._new_segment(series)
        try:
            end = HEADER_SIZE + len(record)
            self._fill(segment, end, end)
            segment.append(record)
            self._unsynced.add(segment.path)
        except SpoolUnavailable:
            segment.path.unlink(missing_ok=True)
            raise
        finally:
            segment.close()
            self._beginning.discard(segment.name)

    # -- segments ------------------------------------------------------------------------------------------------

    def _current(self, series: str, size: int) -> OpenSegment:
        """The segment that `size` bytes belong in: the current one where it is empty or they fit into it, else a new one."""
        segment = self._open.get(series)
        if segment is not None:
            try:
                segment.settle()
            except OSError as error:
                raise unavailable("read", segment.path, error) from error
            if segment.size == HEADER_SIZE or segment.size + size <= self._segment_bytes:
                return segment
        return self._roll(series)

    def _roll(self, series: str) -> OpenSegment:
        segment = self._new_segment(series)
        try:
            previous, self._open[series] = self._open.get(series), segment
        finally:
            self._beginning.discard(segment.name)
        if previous is not None:
            self._retire(previous)
        return segment

    def _new_segment(self, series: str) -> OpenSegment:
        """A segment with its header, still in `_beginning`. Raises `SpoolUnavailable`."""
        if not _SERIES.fullmatch(series):
            raise FrameRefused(f"spool: series {series!r}; accepted are lower-case names such as 'outcomes'")
        try:
            try:
                return self._begin_segment(series)
            except FileNotFoundError:
                self._leave_if_vanished()
                return self._begin_segment(series)
        except OSError as error:
            raise unavailable("create a segment in", self.directory, error) from error

    def _begin_segment(self, series: str) -> OpenSegment:
        directory = self._own_directory().path
        name = segment_name(series, next(self._numbers.setdefault(series, count(1))))
        self._beginning.add(name)
        try:
            segment = OpenSegment(directory / name)
        except OSError:
            self._beginning.discard(name)
            raise
        self._unsynced.add(directory)
        return segment

    def _retire(self, segment: OpenSegment) -> None:
        if segment.is_unsynced:
            self._unsynced.add(segment.path)
        self.space.used -= segment.close()

    def _close_segments(self) -> None:
        segments, self._open = tuple(self._open.values()), {}
        for segment in segments:
            segment.close()

    # -- the directory -------------------------------------------------------------------------------------------

    def _own_directory(self) -> SegmentDirectory:
        if self._own is None:
            prepare(self.directory)
            made = SegmentDirectory.create(self.directory, self.written_size, self._on_problem, self.role)
            made.wait_for(self._destinations)
            self._unsynced.add(self.directory)
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
