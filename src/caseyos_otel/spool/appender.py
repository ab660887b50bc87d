"""The right to append to a segment: while anybody holds it, the segment is being written."""

from __future__ import annotations

import errno
from collections import deque
from typing import Self
from weakref import ref

from caseyos_otel.spool.open_segment import CLOSED, OpenSegment
from caseyos_otel.spool.problem import SpoolUnavailable, unavailable


class Appender:
    """Where the next record of a series goes: one `write()` to `fd`, without a lock, from any thread or signal handler.

    Who appends holds it for as long as that takes. When the last one has dropped it, nobody can be between finding the
    segment and writing to it, and only then may the segment be cut, closed, unlinked: keep a weak reference to know.
    """

    __slots__ = ("__weakref__", "fd", "room", "segment")

    def __init__(self, segment: OpenSegment) -> None:
        self.segment = segment
        self.fd = CLOSED
        self.room = 0
        """Bytes of zeros that no record was promised yet. Who counts wrong makes the file grow, and nothing else."""

    def begin(self) -> None:
        """Create the file. Raises OSError."""
        self.segment.create()
        self.fd = self.segment.fd

    def count_room(self) -> None:
        """Count the zeros that are there."""
        self.room = 0 if self.segment.torn else self.segment.filled - self.segment.size

    def torn(self, written: int, size: int) -> SpoolUnavailable:
        """Let nothing follow half a record; the error that says so."""
        self.segment.torn = True
        self.room = 0
        error = OSError(errno.ENOSPC, f"only {written} of {size} bytes written")
        return unavailable("append to", self.segment.path, error)

    def let_go(self) -> None:
        """In a forked child: nothing is appended here any more, not even by a call that the fork interrupted."""
        self.fd = CLOSED
        self.room = 0
        self.segment.torn = True


class Held(ref[Appender]):
    """Tells whether anybody still holds an appender; when nobody does, it is put into `over`.

    By the deque's own method, and not by one of ours: an exception that a signal handler raises in there (a time limit,
    Ctrl-C) would be swallowed, as in every finalizer.
    """

    __slots__ = ("is_late", "segment")
    segment: OpenSegment
    is_late: bool
    """It was waited for in vain."""

    def __new__(cls, appender: Appender, over: deque[Held]) -> Self:
        held = super().__new__(cls, appender, over.append)
        held.segment = appender.segment
        held.is_late = False
        return held
