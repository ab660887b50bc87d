"""What can go wrong in the spool: the error that callers degrade on, and the report that is counted and shown."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from caseyos_otel.errors import CaseyosOtelError

ProblemKind = Literal[
    "corrupt_record",
    "torn_tail",
    "damaged_header",
    "other_version",
    "damaged_cursor",
    "cursor_not_written",
    "not_quarantined",
    "not_synced",
    "unreadable",
    "abandoned",
    "lock_missing",
    "foreign_owner",
    "directory_vanished",
    "spool_full",
]


@dataclass(frozen=True, slots=True)
class Problem:
    """What the spool survived and somebody should know: kind (the reason to count under), file, what was done.

    `records` were lost, where that is known, to `destination`, or to all.
    """

    kind: ProblemKind
    path: Path
    detail: str
    records: int = 1
    destination: str = ""


OnProblem = Callable[[Problem], None]
"""Takes reports; must not raise. Called from the thread that met the problem."""


class SpoolUnavailable(CaseyosOtelError):
    """The spool cannot take a frame now; nothing of it is on disk. The caller keeps the event in memory instead."""


class SpoolFull(SpoolUnavailable):
    """The spool holds as much as it may, and there are no failures left that could make room."""


class FrameRefused(SpoolUnavailable):
    """This frame (empty, or larger than a record may be) can never be spooled; other frames can."""


_REMEDIES = {
    errno.ENOSPC: "free space on its disk, or point CASEYOS_OTEL_SPOOL_DIR at a volume that has some",
    errno.EDQUOT: "raise the disk quota, or point CASEYOS_OTEL_SPOOL_DIR at another volume",
    errno.EFBIG: "raise the file size limit of the process (ulimit -f)",
    errno.EROFS: "point CASEYOS_OTEL_SPOOL_DIR at a writable volume",
    errno.ENOTDIR: "a file stands where a directory should be: move it, or set CASEYOS_OTEL_SPOOL_DIR",
    errno.EEXIST: "a file stands where a directory should be: move it, or set CASEYOS_OTEL_SPOOL_DIR",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}


def unavailable(doing: str, path: Path, error: OSError) -> SpoolUnavailable:
    """The error that says what failed, where, and how to mend it."""
    fallback = f"make the directory writable for user id {os.geteuid()}, or set CASEYOS_OTEL_SPOOL_DIR to one that is"
    remedy = _REMEDIES.get(error.errno or 0, fallback)
    return SpoolUnavailable(f"spool: cannot {doing} {path}: {error.strerror or error}; {remedy}")


def full(directory: Path, used: int, bound: int) -> SpoolFull:
    """The error at the bound, where nothing can make room."""
    return SpoolFull(
        f"spool: {directory} holds {used} bytes, its bound is {bound};"
        " bring its destinations back, or raise CASEYOS_OTEL_SPOOL_MAX_BYTES"
    )
