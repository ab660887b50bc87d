"""Taking over the directories that dead processes left, so that a destination that is away holds up no other one."""

from __future__ import annotations

import os
import re
import resource
import threading
import time
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from caseyos_otel.spool import lock, quarantine
from caseyos_otel.spool.directory import SegmentDirectory
from caseyos_otel.spool.problem import OnProblem, Problem, ProblemKind
from caseyos_otel.spool.segment_files import SUFFIX

REPLAY: Final = "replay"
"""Role of what puts back what was set aside."""
_LEAVE_TO_OTHERS: Final = 60.0
"""Seconds before a directory that holds nothing for this process's destinations is looked at again."""
_OURS: Final = re.compile(r"([a-z]+-)?[0-9a-f]{32}")
"""Names of the directories that a writer makes."""
_MOST_A_DESTINATION: Final = 64
_MOST_LOOKED_AT: Final = 250
"""Directories in one round (some 20 ms), so that the start of a process is not late for what thousands left."""


class Adoption:
    """Holds directories of dead processes: of those that a destination waits in, as many as are its share.

    Each held directory takes a descriptor. Where one destination is away, what it alone waits in fills its share and is
    then passed over, and the others' shares go on from directory to directory.
    """

    def __init__(self, root: Path, *, role: str, abandon_after: float, on_problem: OnProblem) -> None:
        self.directories: tuple[SegmentDirectory, ...] = ()
        self.may_go_on = False
        """Whether the last round left some that another round might take."""
        self._root = root
        self._role = role
        self._abandon_after = abandon_after
        self._on_problem = on_problem
        self._not_before: dict[Path, float] = {}
        self._passed_over: dict[Path, Collection[str]] = {}
        self._reported: set[tuple[ProblemKind, Path]] = set()
        self._running = threading.Lock()

    def run(self, known: frozenset[str], own: Path | None) -> int:
        """Let go what is delivered or beyond a share, take what there is room for; how many were taken.

        `known`: the destinations of this process. `own`: its writer's directory.
        """
        if not self._running.acquire(blocking=False):
            return 0
        try:
            shares = _Shares(known)
            for directory in self.directories:
                if not self._keep(directory, shares):
                    self.directories = tuple(other for other in self.directories if other is not directory)
            dead = filter(None, map(self._take, self._candidates(shares, own)))
            taken = [self._adopt(directory, shares) for directory in islice(dead, _MOST_LOOKED_AT)]
            self.may_go_on = any(taken) or len(taken) == _MOST_LOOKED_AT
            return sum(taken)
        finally:
            self._running.release()

    def wait_for(self, destinations: Collection[str]) -> None:
        """Let what is held, and what was passed over, wait for these destinations too."""
        self._passed_over = {}
        for directory in self.directories:
            directory.wait_for(destinations)

    def close(self, known: frozenset[str]) -> None:
        """Let everything go. What is delivered is removed; the rest stays for the next process."""
        with self._running:
            adopted, self.directories = self.directories, ()
            for directory in adopted:
                self._finish(directory, known)

    def after_fork_in_child(self) -> None:
        """What was adopted stays the parent's."""
        adopted, self.directories = self.directories, ()
        self._running = threading.Lock()
        for directory in adopted:
            directory.let_go()

    # -- what is held --------------------------------------------------------------------------------------------

    def _keep(self, directory: SegmentDirectory, shares: _Shares) -> bool:
        """Whether a directory stays held; let go where not."""
        # Asked first: what is passed stays passed, while delivery threads go on.
        waiting = directory.waiting(shares.known)
        if shares.take(waiting):
            return True
        if waiting:
            self._passed_over[directory.path] = waiting
            directory.release()
        elif not self._finish(directory, shares.known):
            self._not_before[directory.path] = time.monotonic() + _LEAVE_TO_OTHERS
        return False

    def _finish(self, directory: SegmentDirectory, known: frozenset[str]) -> bool:
        """Remove what is delivered, and let go; whether nothing is left."""
        directory.reap(known, self._abandon_after)
        if directory.remove_if_empty():
            return True
        directory.release()
        return False

    # -- what is found -------------------------------------------------------------------------------------------

    def _candidates(self, shares: _Shares, own: Path | None) -> Iterator[Path]:
        """What may be a dead process's, and is not known to wait only for destinations that have their share by then."""
        there, now = set(self._paths()), time.monotonic()
        self._not_before = {path: until for path, until in self._not_before.items() if until > now}
        self._passed_over = {path: waiting for path, waiting in self._passed_over.items() if path in there}
        for path in there.difference(self._not_before, [own], [directory.path for directory in self.directories]):
            if shares.have_room(self._passed_over.get(path, shares.known)):
                yield path

    def _paths(self) -> list[Path]:
        try:
            entries = list(os.scandir(self._root))
        except OSError:
            return []  # nothing spooled yet, or unusable: the writer says so at its first append
        return [
            self._root / entry.name
            for entry in entries
            if entry.name != quarantine.NAME and self._may_adopt(entry.name) and entry.is_dir(follow_symlinks=False)
        ]

    def _may_adopt(self, name: str) -> bool:
        return not self._role or name.startswith((f"{self._role}-", f"{REPLAY}-"))

    def _adopt(self, directory: SegmentDirectory, shares: _Shares) -> bool:
        directory.wait_for(shares.known)
        if not self._keep(directory, shares):
            return False
        self.directories = (*self.directories, directory)
        self._passed_over.pop(directory.path, None)
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

    # -- what is told --------------------------------------------------------------------------------------------

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


class _Shares:
    """How many more directories may be held for each destination."""

    def __init__(self, known: frozenset[str]) -> None:
        self.known = known
        self._left = dict.fromkeys(known, _share(len(known)))

    def have_room(self, waiting: Collection[str]) -> bool:
        """Whether one of these destinations has not got its share."""
        return any(self._left[name] > 0 for name in waiting)

    def take(self, waiting: Collection[str]) -> bool:
        """Count a directory in which these destinations wait, where one of them has room for it."""
        if not self.have_room(waiting):
            return False
        for name in waiting:
            self._left[name] -= 1
        return True


def _share(destinations: int) -> int:
    """Directories for each: a host that may open few files lends us an eighth of them for all together."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _MOST_A_DESTINATION
    return min(_MOST_A_DESTINATION, max(1, soft // 8 // max(1, destinations)))
