"""The spool of one process: its writer, one reader a destination, and the directories that dead processes left."""

from __future__ import annotations

import os
import re
import resource
import threading
import time
from itertools import islice
from pathlib import Path
from typing import Final

from caseyos_otel.spool import lock, quarantine
from caseyos_otel.spool.directory import ABANDON_AFTER, SegmentDirectory
from caseyos_otel.spool.problem import OnProblem, Problem, ProblemKind
from caseyos_otel.spool.reader import SpoolReader
from caseyos_otel.spool.segment_files import SUFFIX
from caseyos_otel.spool.space import FAILURES, MAX_BYTES, Space
from caseyos_otel.spool.status import Pending, oldest_age, pending_in, total
from caseyos_otel.spool.wakeup import Wakeup
from caseyos_otel.spool.writer import SEGMENT_BYTES, SpoolWriter

_DESTINATION: Final = re.compile(r"[a-z0-9][a-z0-9_-]*")
REPLAY: Final = "replay"
"""Role of what puts back what was set aside."""
_LEAVE_TO_OTHERS: Final = 60.0
"""Seconds before a directory that holds nothing for this process's destinations is looked at again."""
_OURS: Final = re.compile(r"([a-z]+-)?[0-9a-f]{32}")
"""Names of the directories that a writer makes."""
_MOST_ADOPTED: Final = 100
"""Directories at once, each of which takes a descriptor; a host that may open few files lends us an eighth of them."""


class Spool:
    """What one process owns of the spool. Starts no thread: `adopt` and the writer's `sync` and `look_around` want a
    periodic caller.

    `role`: with one, it adopts only what processes of the same role left, or a replay; without, what anybody left. A
    gateway writes its log lines out of the spool, a service wrote them before: a gateway would write a service's twice.
    """

    def __init__(
        self,
        directory: Path,
        *,
        on_problem: OnProblem,
        segment_bytes: int = SEGMENT_BYTES,
        max_bytes: int = MAX_BYTES,
        abandon_after: float = ABANDON_AFTER,
        role: str = "",
    ) -> None:
        self.directory = directory
        self.space = Space(directory, max_bytes)
        self._segment_bytes = min(segment_bytes, max(max_bytes // 16, 1))
        self.writer = SpoolWriter(directory, segment_bytes=self._segment_bytes, space=self.space, on_problem=on_problem)
        self.writer.make_room = self._evict_failures
        self.writer.role = self._role = role
        self._on_problem = on_problem
        self._abandon_after = abandon_after
        self._readers: dict[str, SpoolReader] = {}
        self._adopted: tuple[SegmentDirectory, ...] = ()
        self._not_before: dict[Path, float] = {}
        self._reported: set[tuple[ProblemKind, Path]] = set()
        self._adopting = threading.Lock()

    def reader(self, destination: str) -> SpoolReader:
        """The reader of `destination`; from now on every segment waits for it. Raises ValueError for a bad name."""
        if not _DESTINATION.fullmatch(destination):
            raise ValueError(f"destination {destination!r}; accepted are lower-case names such as 'outcomes'")
        if destination not in self._readers:
            self._readers[destination] = SpoolReader(destination, self.directories, self._reap)
            self.writer.notify(self._readers[destination].appended)
            self.writer.wait_for(self._readers)
            for directory in self._adopted:
                directory.wait_for(self._readers)
        return self._readers[destination]

    def directories(self) -> tuple[SegmentDirectory, ...]:
        """What this process owns now: adopted ones, then its own."""
        own = self.writer.own
        return self._adopted if own is None else (*self._adopted, own)

    def adopt(self) -> int:
        """Take over the directories whose owner is dead, tidy what was taken before; how many were taken now.

        For every destination of this process, so call it after the readers are made, then every few seconds. A
        directory that holds nothing for them, and waits for others, is let go for a process that knows those. Of very
        many the rest is taken as these are delivered.
        """
        if not self._adopting.acquire(blocking=False):
            return 0
        try:
            self._tidy()  # there is room for others then
            taken = sum(1 for _ in islice(filter(self._adopt, self._candidates()), self._room()))
            self._tidy()
        finally:
            self._adopting.release()
        if taken:
            self._wake_readers()
        return taken

    def relieve(self) -> None:
        """Let the oldest failures go before they reach their bound, so that no caller waits for it. Call it each second."""
        self.space.look()
        if too_many := self.space.lacks(FAILURES, self._segment_bytes):
            self._evict_failures(too_many)

    def oldest_age(self, destination: str) -> float:
        """Seconds that the oldest record here has waited for a destination; 0 where none waits."""
        return max((oldest_age(directory.path, destination) for directory in self.directories()), default=0.0)

    def pending(self, destination: str) -> Pending:
        """What waits for `destination` in the directories of this process."""
        return total(pending_in(directory.path, destination) for directory in self.directories())

    def close(self) -> None:
        """Let everything go. What is delivered is removed; the rest stays for the next process."""
        self.writer.close()
        with self._adopting:
            adopted, self._adopted = self._adopted, ()
            for directory in adopted:
                self._reap(directory)
                if not directory.remove_if_empty():
                    directory.let_go()

    def after_fork_in_child(self) -> None:
        """Everything that was owned stays the parent's. The readers stay, and wait for the new writer."""
        adopted, self._adopted = self._adopted, ()
        self._adopting = threading.Lock()
        self.writer.after_fork_in_child()
        for reader in self._readers.values():
            reader.appended = Wakeup()
            self.writer.notify(reader.appended)
        for directory in adopted:
            directory.let_go()

    # -- bound ---------------------------------------------------------------------------------------------------

    def _evict_failures(self, wanted: int) -> None:
        """Free `wanted` bytes, oldest failures first, as far as this process has some."""
        freed = self._evict_complete(wanted)
        if freed < wanted:
            self.writer.end_segment(FAILURES)
            self._evict_complete(wanted - freed)

    def _evict_complete(self, wanted: int) -> int:
        freed = 0
        found = [(at, directory, name) for directory in self.directories() for at, name in directory.complete(FAILURES)]
        for _, directory, segment in sorted(found, key=lambda item: (item[0], item[2])):
            if freed >= wanted:
                break
            freed += directory.evict(segment)
        self.space.used -= freed
        return freed

    # -- adoption ------------------------------------------------------------------------------------------------

    def _candidates(self) -> list[Path]:
        owned = {directory.path for directory in self.directories()}
        now = time.monotonic()
        self._not_before = {path: until for path, until in self._not_before.items() if until > now}
        try:
            entries = list(os.scandir(self.directory))
        except OSError:
            return []  # nothing spooled yet, or unusable: the writer says so at its first append
        return [
            path
            for entry in entries
            if entry.name != quarantine.NAME and self._may_adopt(entry.name) and entry.is_dir(follow_symlinks=False)
            if (path := self.directory / entry.name) not in owned and path not in self._not_before
        ]

    def _room(self) -> int:
        """How many more directories may be taken."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = _MOST_ADOPTED if soft == resource.RLIM_INFINITY else min(_MOST_ADOPTED, soft // 8)
        return max(0, most - len(self._adopted))

    def _may_adopt(self, name: str) -> bool:
        return not self._role or name.startswith((f"{self._role}-", f"{REPLAY}-"))

    def _adopt(self, path: Path) -> bool:
        directory = self._take(path)
        if directory is None:
            return False
        directory.wait_for(self._readers)
        self._adopted = (*self._adopted, directory)
        return True

    def _take(self, path: Path) -> SegmentDirectory | None:
        try:
            if path.lstat().st_uid != os.geteuid():
                self._report_once("foreign_owner", path, "not read: it belongs to another user")
                return None
            if (path / lock.NAME).exists():
                return SegmentDirectory.take(path, self._tell)
            self._without_lock(path)
        except OSError:
            pass  # removed by its owner meanwhile, or unreadable: the next round looks again
        return None

    def _without_lock(self, path: Path) -> None:
        """A process died while it made the directory, or somebody removed the lock of one that may be alive."""
        if not any(entry.suffix == SUFFIX for entry in path.iterdir()):
            if _OURS.fullmatch(path.name):  # an empty directory of somebody else's is none of our business
                path.rmdir()
        elif not (path / lock.NAME).exists():  # looked for again: it is there before the first segment
            detail = f"not read: its owner may be alive; if no process uses it, make an empty file {lock.NAME!r} in it"
            self._report_once("lock_missing", path, detail)

    def _tidy(self) -> None:
        """Remove what is delivered; leave to others what is not ours to deliver."""
        known = frozenset(self._readers)
        for directory in self._adopted:
            if directory.has_work_for(known):
                continue  # asked first: what is passed stays passed, while delivery threads go on
            self._reap(directory)
            if not directory.remove_if_empty():
                self._not_before[directory.path] = time.monotonic() + _LEAVE_TO_OTHERS
                directory.let_go()
            self._adopted = tuple(other for other in self._adopted if other is not directory)

    def _reap(self, directory: SegmentDirectory) -> None:
        directory.reap(frozenset(self._readers), self._abandon_after)

    def _wake_readers(self) -> None:
        for reader in self._readers.values():
            reader.appended.set()

    def _tell(self, problem: Problem) -> None:
        """What stays as it is, is found again whenever the directory is adopted again."""
        if problem.kind == "other_version":
            self._report_once(problem.kind, problem.path, problem.detail)
        else:
            self._on_problem(problem)

    def _report_once(self, kind: ProblemKind, path: Path, detail: str) -> None:
        if (kind, path) not in self._reported:
            self._reported.add((kind, path))
            self._on_problem(Problem(kind, path, detail))
