"""Whose a segment directory is: the process that holds the `flock` on its file `lock`. No process ids, no guessing.

The kernel releases the lock with the last descriptor of the process, however it ends. A lock belongs to the open file:
a forked child that keeps the descriptor keeps the directory locked, and closing it there takes nothing from the parent.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from pathlib import Path
from typing import Final

NAME: Final = "lock"
_PATIENCE_S: Final = 0.5


def acquire(directory: Path, *, create: bool) -> int | None:
    """The descriptor that holds the lock of `directory`, or None when another process holds it or it is gone.

    `create` makes the file, which must not be there yet. Raises OSError when the file can be neither opened nor locked.
    """
    path = directory / NAME
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT | os.O_EXCL if create else 0)
    try:
        fd = os.open(path, flags, 0o600)
    except (FileNotFoundError, FileExistsError):
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_still(fd, path):
            return fd
    except BlockingIOError:
        pass
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def _is_still(fd: int, path: Path) -> bool:
    """Between open and lock its owner may have removed the directory: then the lock is on a file without a name."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


class Undivided:
    """What a fork of this process waits for, so that no child inherits a lock unawares.

    A child lets go of the locks that it finds held. It cannot know of one that was taken but not yet put down. Half a
    second at most, for a fork and for who else wants it: a child with a lock too many is better than a deadlock.
    """

    def __init__(self) -> None:
        self._mutex = threading.RLock()
        os.register_at_fork(
            before=self.__enter__, after_in_parent=self.__exit__, after_in_child=self._after_fork_in_child
        )

    def __enter__(self) -> None:
        self._mutex.acquire(timeout=_PATIENCE_S)

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(RuntimeError):  # it was not to be had in time
            self._mutex.release()

    def _after_fork_in_child(self) -> None:
        try:
            self._mutex.release()
        except RuntimeError:  # of a thread that is not here
            self._mutex = threading.RLock()


undivided: Final = Undivided()
"""Of this process."""
