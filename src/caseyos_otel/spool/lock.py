"""Whose a segment directory is: the process that holds the `flock` on its file `lock`. No process ids, no guessing.

The kernel releases the lock with the last descriptor of the process, however it ends. A lock belongs to the open file:
a forked child that keeps the descriptor keeps the directory locked, and closing it there takes nothing from the parent.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

NAME: Final = "lock"


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
