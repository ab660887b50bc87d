"""What a power cut would cost, and how it is forced to disk."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Final

from caseyos_otel.spool.problem import OnProblem, Problem

_MOST_PATHS: Final = 64
_fdatasync = getattr(os, "fdatasync", os.fsync)


class Unsynced:
    """What changed since the last sync: the open segments, and paths of ended ones and of directories.

    Who syncs has descriptors of its own: it shares no lock with who appends, and none of them closes the other's.
    """

    def __init__(self, on_problem: OnProblem) -> None:
        self._on_problem = on_problem
        self._paths: deque[Path] = deque(maxlen=_MOST_PATHS)
        self._since: float | None = None
        self._files: dict[Path, int] = {}
        self._syncing = threading.RLock()
        self._is_syncing = False

    def add(self, path: Path) -> None:
        """Sync this file or directory with the next sync."""
        if self._since is None:
            self._since = time.monotonic()
        self._paths.append(path)

    def age(self, *, appended: bool) -> float:
        """Seconds since the last sync, or since the first change; 0 where nothing waits for one."""
        return time.monotonic() - self._since if self._since is not None and (self._paths or appended) else 0.0

    def sync(self, segments: Mapping[Path, bool]) -> None:
        """Force what changed to disk, and wait for it. `segments`: the open ones, and whether records were appended."""
        with self._syncing:
            in_another = self._is_syncing  # a signal handler syncs in the middle of a sync
            try:
                self._is_syncing = True
                self._since = time.monotonic()
                paths = self._taken()
                for path, appended in segments.items():
                    if appended:
                        self._sync_open(path)
                for path in paths:
                    self._sync_once(path)
            finally:
                self._is_syncing = in_another
            self._close_all_but(segments)

    def close(self) -> None:
        """Close the descriptors, unless another thread syncs just now."""
        if self._syncing.acquire(blocking=False):
            try:
                self._close_all_but(())
            finally:
                self._syncing.release()

    def let_go(self) -> None:
        """In a forked child: close what is the parent's, who may be syncing."""
        for fd in self._files.values():
            os.close(fd)

    def _taken(self) -> list[Path]:
        """Each path once; one by one, so that none is lost that another thread adds now."""
        taken: dict[Path, None] = {}
        with contextlib.suppress(IndexError):
            while True:
                taken[self._paths.popleft()] = None
        return list(taken)

    def _sync_open(self, path: Path) -> None:
        """Sync a segment that is being written, by a descriptor that stays open for the next time.

        No `stat`: Linux gives a file that was looked at a new time of change with the next write, and that makes a sync
        wait for the file system's journal, half as long again.
        """
        fd = self._files.get(path)
        if fd is None:
            if (fd := self._opened(path)) is None:
                return
            self._files[path] = fd
        self._sync(_fdatasync, fd, path)

    def _sync_once(self, path: Path) -> None:
        if (fd := self._opened(path)) is not None:
            try:
                self._sync(os.fsync if path.is_dir() else _fdatasync, fd, path)
            finally:
                os.close(fd)

    def _opened(self, path: Path) -> int | None:
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None  # delivered and unlinked meanwhile
        except OSError as error:
            self._report(path, error)
            return None

    def _sync(self, sync: Callable[[int], None], fd: int, path: Path) -> None:
        try:
            sync(fd)
        except OSError as error:
            self._report(path, error)

    def _close_all_but(self, paths: Collection[Path]) -> None:
        if self._is_syncing:
            return  # by one of them, just now
        for path in self._files.keys() - set(paths):
            if (fd := self._files.pop(path, None)) is not None:  # a signal handler may have been here
                os.close(fd)

    def _report(self, path: Path, error: OSError) -> None:
        detail = f"a power cut may cost its newest records: {error.strerror}"
        self._on_problem(Problem("not_synced", path, detail))
