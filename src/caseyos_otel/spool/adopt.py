"""Taking over the directories that dead processes left, so that a destination that is away holds up no other one."""

from __future__ import annotations

import os
import random
import re
import resource
import threading
import time
from collections.abc import Collection
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
"""Directories that are held for one destination at a time. Each takes a descriptor."""
_LOOK_S: Final = 0.05
"""Seconds of one round, so that the start of a process is not late for what thousands left."""
_REMEMBER_S: Final = 86_400.0
"""Seconds after which what was passed over is looked at again, and marked as waited for."""


class Adoption:
    """Holds directories of dead processes: for each destination as many, in which something waits for it, as are its share.

    What is held for a destination, its delivery thread reads. Where one is away, its share is full, and directories in
    which only that one is waited for are passed over until it has room; the others' shares go on from one to the next.
    """

    def __init__(self, root: Path, *, role: str, abandon_after: float, on_problem: OnProblem) -> None:
        self._root = root
        self._role = role
        self._abandon_after = abandon_after
        self._on_problem = on_problem
        self._known: frozenset[str] = frozenset()
        self._held: dict[SegmentDirectory, frozenset[str]] = {}
        self._not_before: dict[Path, float] = {}
        self._passed_over: dict[Path, tuple[frozenset[str], float]] = {}
        self._reported: set[tuple[ProblemKind, Path]] = set()
        self._running = threading.Lock()
        self.cut_short = False
        """Whether the last look ended before it had seen everything."""

    @property
    def directories(self) -> tuple[SegmentDirectory, ...]:
        """All that are held."""
        return tuple(self._held)

    def held_for(self, destination: str) -> list[SegmentDirectory]:
        """What a destination is to read."""
        return [directory for directory, names in self._held.items() if destination in names]

    def may_go_on(self) -> bool:
        """Whether a look would find more than the last one: it was cut short, or something held is delivered."""
        return self.cut_short or any(not names <= held.waiting(names) for held, names in self._held.items())

    def run(self, known: frozenset[str], own: Path | None) -> int:
        """Let go what is delivered, take what there is room for; how many were taken.

        `known`: the destinations of this process. `own`: its writer's directory.
        """
        if not self._running.acquire(blocking=False):
            return 0
        try:
            with lock.undivided:
                if known != self._known:
                    self._known, self._passed_over = known, {}
                return self._look(self._tidy(), own)
        finally:
            self._running.release()

    def wait_for(self, destinations: Collection[str]) -> None:
        """Let what is held wait for these destinations too."""
        for directory in self._held:
            directory.wait_for(destinations)

    def close(self) -> None:
        """Let everything go. What is delivered is removed; the rest stays for the next process."""
        with self._running, lock.undivided:
            held, self._held = self._held, {}
            for directory in held:
                directory.finish(self._known, self._abandon_after)

    def after_fork_in_child(self) -> None:
        """What was adopted stays the parent's."""
        held, self._held = self._held, {}
        self._running = threading.Lock()
        for directory in held:
            directory.let_go()

    # -- what is held --------------------------------------------------------------------------------------------

    def _tidy(self) -> _Room:
        """Let go what nothing holds any more; the room that the rest leaves."""
        room = _Room(self._known)
        # Asked first: what is passed stays passed, while delivery threads go on.
        waiting = {directory: directory.waiting(self._known) for directory in self._held}
        held = {directory: room.take(names) for directory, names in waiting.items()}
        self._held = {directory: names for directory, names in held.items() if names}
        for directory in self._held:
            directory.still_waited_for()
        for directory in held.keys() - self._held.keys():
            self._let_go(directory, waiting[directory])
        return room

    def _let_go(self, directory: SegmentDirectory, waiting: frozenset[str]) -> None:
        if waiting:
            directory.still_waited_for()
            self._passed_over[directory.path] = waiting, time.monotonic() + _REMEMBER_S
            directory.release()
        elif not directory.finish(self._known, self._abandon_after):
            self._not_before[directory.path] = time.monotonic() + _LEAVE_TO_OTHERS

    # -- what is found -------------------------------------------------------------------------------------------

    def _look(self, room: _Room, own: Path | None) -> int:
        """Take what there is room for; how many were taken."""
        before = len(self._held)
        found = self._candidates(own)
        until = time.monotonic() + _LOOK_S  # not counting the listing: whatever it takes, one at least is looked at
        self.cut_short = False
        for path in found:
            if not room.is_for(self._wanted(path)):
                continue
            if (directory := self._take(path)) is not None:
                self._adopt(directory, room)
            if time.monotonic() > until:
                self.cut_short = True
                break
        return len(self._held) - before

    def _adopt(self, directory: SegmentDirectory, room: _Room) -> None:
        directory.wait_for(self._known)
        waiting = directory.waiting(self._known)
        if names := room.take(waiting):
            self._held = {**self._held, directory: names}
            self._passed_over.pop(directory.path, None)
        else:
            self._let_go(directory, waiting)

    def _candidates(self, own: Path | None) -> list[Path]:
        """What may be a dead process's, in any order: a look may end before it has seen all."""
        there, now = set(self._paths()), time.monotonic()
        self._not_before = {path: until for path, until in self._not_before.items() if until > now}
        self._passed_over = {
            path: (names, until) for path, (names, until) in self._passed_over.items() if until > now and path in there
        }
        found = list(there.difference(self._not_before, [own], [directory.path for directory in self._held]))
        random.shuffle(found)
        return found

    def _wanted(self, path: Path) -> frozenset[str]:
        """Whom a directory waits for, as far as is known from when it was passed over."""
        return self._passed_over[path][0] if path in self._passed_over else self._known

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


class _Room:
    """How many more directories may be held for each destination."""

    def __init__(self, known: frozenset[str]) -> None:
        self._left = dict.fromkeys(known, _share(len(known)))

    def is_for(self, waiting: frozenset[str]) -> bool:
        """Whether one of these destinations has not got its share."""
        return any(self._left[name] for name in waiting)

    def take(self, waiting: frozenset[str]) -> frozenset[str]:
        """Those of the destinations that a directory is held for: which wait in it and have not got their share."""
        names = frozenset(name for name in waiting if self._left[name])
        for name in names:
            self._left[name] -= 1
        return names


def _share(destinations: int) -> int:
    """Directories for each: a host that may open few files lends us an eighth of them for all together."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _MOST_A_DESTINATION
    return min(_MOST_A_DESTINATION, max(1, soft // 8 // max(1, destinations)))
