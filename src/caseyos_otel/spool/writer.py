"""The one writer of this process: a frame is in the kernel's hands when `append` returns."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from os import write
from pathlib import Path
from time import time_ns
from typing import Final
from zlib import crc32

from caseyos_otel.spool.appender import Appender
from caseyos_otel.spool.directory import SegmentDirectory, prepare
from caseyos_otel.spool.lock import undivided
from caseyos_otel.spool.open_segment import LARGE, OpenSegment
from caseyos_otel.spool.problem import FrameRefused, OnProblem, Problem, full, unavailable
from caseyos_otel.spool.segment import HEADER_SIZE, MARK, MAX_PAYLOAD, RECORD_OVERHEAD, record_head, tick_of
from caseyos_otel.spool.segment_files import segment_name
from caseyos_otel.spool.space import Space
from caseyos_otel.spool.unsynced import Unsynced
from caseyos_otel.spool.wakeup import Wakeup
from caseyos_otel.spool.written import WrittenSegments

SEGMENT_BYTES: Final = 4 * 2**20
_IN_FLIGHT_S: Final = 0.05
"""An append that has found its segment takes microseconds to write to it."""
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
        self._tick = 0
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.RLock()
        self._written = WrittenSegments()
        self._numbers: dict[str, Iterator[int]] = {}
        self._preparing = False
        self._own: SegmentDirectory | None = None
        self._unsynced = Unsynced(self._on_problem)

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
        length = len(frame)
        size = length + RECORD_OVERHEAD
        appender = self._written.current.get(series)
        if appender is None or not RECORD_OVERHEAD < size <= appender.room:
            del appender  # its segment may have to end
            appender = self._with_room(series, length)
        appender.room -= size
        marked, tick = MARK + length, self._tick
        try:  # `encode_record`, without the call: every caller waits for this
            written = write(appender.fd, record_head(marked, crc32(frame, marked ^ tick), tick) + frame)
        except OSError as error:
            raise unavailable("append to", appender.segment.path, error) from error
        if written != size:
            raise appender.torn(written, size)
        for wakeup in self._waiting:
            if not wakeup.is_set:
                wakeup.set()

    def look_around(self) -> None:
        """Take the time that records tell from now on; notice what somebody removed. Call it each second.

        At each append the clock alone would be a tenth of it.
        """
        self._tick = tick_of(time_ns())
        with self._lock:
            self._leave_what_vanished()

    @property
    def unsynced_age(self) -> float:
        """Seconds of appends that a power cut would cost at most: since the last sync; 0 where it would cost none."""
        return self._unsynced.age(appended=self._written.is_unsynced)

    def end_segment(self, series: str) -> None:
        """Let the next append to `series` begin a new segment, so that the current one may go."""
        with self._lock:
            self._written.current.pop(series, None)
        self._written.wait(_IN_FLIGHT_S)
        self._end_those_over()

    def sync(self) -> None:
        """Force what was appended since the last call to disk. For a background tick: it waits, and no append does."""
        self._end_those_over()
        self._unsynced.sync(self._written.mark_synced())

    def close(self) -> None:
        """End the segments and let the directory go: removed when everything is delivered, else left to an adopter.

        An append after this begins a new directory, so that an event at the very end of a process is not lost either.
        One in the middle of which this is called (a signal handler) still goes to the old directory, which therefore
        stays this process's until it ends.
        """
        with self._lock:
            own, self._own = self._own, None
            self._written.current = {}
            self._unsynced.close()
        is_over = self._written.wait(_IN_FLIGHT_S)
        self._end_those_over()
        if own is not None and is_over:
            own.finish(self._destinations)

    def after_fork_in_child(self) -> None:
        """Forget what is the parent's: closed here, still locked there. The next append makes a new directory."""
        written, unsynced, own = self._written, self._unsynced, self._own
        self._reset()
        self._waiting = ()
        written.let_go()
        unsynced.let_go()
        if own is not None:
            own.let_go()

    # -- room for a record ---------------------------------------------------------------------------------------

    def _with_room(self, series: str, length: int) -> Appender:
        """Who appends a payload that needs room first. Raises as `append` does.

        A signal handler or a finalizer that needs some in the middle of this gets a segment for itself.
        """
        if not 0 < length <= MAX_PAYLOAD:
            raise FrameRefused(f"spool: a frame of {length} bytes; accepted are 1 to {MAX_PAYLOAD}")
        self._tick = tick_of(time_ns())
        with self._lock:
            if self._preparing:
                return self._new_segment(series)
            try:
                self._preparing = True
                return self._prepared(series, length + RECORD_OVERHEAD)
            finally:
                self._preparing = False
                self._end_those_over()

    def _prepared(self, series: str, size: int) -> Appender:
        if self.space.lacks(series, HEADER_SIZE + size):  # a segment may have to begin
            self._find_room(series, HEADER_SIZE + size)
        appender = self._current(series, size)
        segment = appender.segment
        end = segment.size + size
        if end > segment.filled:
            until = segment.stretch(end, self._segment_bytes)
            self._fill(segment, end if self.space.lacks(series, until - segment.filled) else until, end)
        appender.count_room()
        return appender

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

    # -- segments ------------------------------------------------------------------------------------------------

    def _current(self, series: str, size: int) -> Appender:
        """Whose segment `size` bytes belong in: the current one where it is empty or they fit into it, else a new one."""
        current = self._written.current  # another one after a close or a fork in the middle of this
        appender = current.get(series)
        if appender is not None and not appender.segment.torn:
            written = appender.segment.size
            if written == HEADER_SIZE or written + size <= self._segment_bytes:
                return appender
        current[series] = appender = self._new_segment(series)
        return appender

    def _new_segment(self, series: str) -> Appender:
        """A segment with its header. Raises `SpoolUnavailable`."""
        if not _SERIES.fullmatch(series):
            raise FrameRefused(f"spool: series {series!r}; accepted are lower-case names such as 'outcomes'")
        try:
            try:
                return self._begin_segment(series)
            except (FileNotFoundError, FileExistsError):  # removed; or a child forked in the middle of this was quicker
                self._leave_what_vanished()
                return self._begin_segment(series)
        except OSError as error:
            raise unavailable("create a segment in", self.directory, error) from error

    def _begin_segment(self, series: str) -> Appender:
        """Announced before it is certain that the directory is still ours: who closes that from then on sees it in use."""
        while True:
            own = self._own_directory()
            name = segment_name(series, next(self._numbers.setdefault(series, count(1))))
            appender = self._written.announce(own.path / name)
            if self._own is own:
                appender.begin()
                self.space.used += HEADER_SIZE
                self._unsynced.add(own.path)
                return appender

    def _end_those_over(self) -> None:
        self._written.end(self._end)

    def _end(self, segment: OpenSegment) -> None:
        if segment.is_unsynced:
            self._unsynced.add(segment.path)
        self.space.used -= segment.close()

    # -- the directory -------------------------------------------------------------------------------------------

    def _own_directory(self) -> SegmentDirectory:
        """This process's; one that its parent was just making, where that forked in the middle, is not."""
        while (own := self._own) is None or own.is_inherited:
            prepare(self.directory)
            with undivided:
                self._make_directory(own)
        return own

    def _make_directory(self, instead_of: SegmentDirectory | None) -> None:
        made = SegmentDirectory.create(self.directory, self._written.size, self._on_problem, self.role)
        made.wait_for(self._destinations)
        self._unsynced.add(self.directory)
        if self._own is instead_of:
            self._own = made
        else:  # a signal handler was here in between
            made.remove_if_empty()
        if instead_of is not None:
            instead_of.let_go()

    def _leave_what_vanished(self) -> None:
        """Somebody removed our directory, or segments in it: appends would go to files that nobody can find."""
        own = self._own
        if own is None:
            return
        if not own.exists():
            self._own = None
            self._written.current = {}
            own.let_go()
            self._vanished(own.path)
            return
        own.hold()
        own.still_waited_for()
        for series, appender in tuple(self._written.current.items()):
            if appender.segment.is_gone:
                self._written.current.pop(series, None)
                self._vanished(appender.segment.path)

    def _vanished(self, path: Path) -> None:
        detail = "removed under a running process, with what was in it; a new one is made at the next append"
        self._on_problem(Problem("directory_vanished", path, detail))
