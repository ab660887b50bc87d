"""The segment that a series is being written to: records go into zeros that were written before them.

A file that grows with each record costs more, above all to sync: its new size has to reach the disk as well. So a
segment is filled with zeros ahead of its records, a stretch at a time, and what is behind the last record is cut when
it ends. Zeros that nobody cut (the process was killed) are no records, and are read as the end.

Not `mmap`, which would be cheaper still: where a copy-on-write file system is full, or somebody cuts the file, the
kernel answers a store with SIGBUS, which ends the host. `pwrite` answers with an error.
"""

from __future__ import annotations

import contextlib
import errno
import os
from os import pwrite
from pathlib import Path
from typing import Final

from caseyos_otel.spool.problem import unavailable
from caseyos_otel.spool.segment import HEADER_SIZE, encode_header, record_at

LARGE: Final = 2**15
"""Bytes from which on a record is appended as it is: zeros before it would cost as much as it does."""
_AT_ONCE: Final = memoryview(bytes(2**16))
"""Zeros written by one call. Of larger ones ext4 makes larger folios, and an append into those costs four times as much."""
_PAGE: Final = 4096
_FIRST: Final = 2**14
_MOST: Final = 2**18
"""Bytes of the first stretch and of the largest; in between the file doubles, so that a quiet process fills little."""

_NO_ROOM: Final = 0
"""In the middle of an append, and when closed."""
_UNCOUNTED: Final = -1
"""An exception came between the write of a record and its counting."""


class OpenSegment:
    """One file and how far it is written. Its owner's lock keeps other threads away; a signal handler may call anything.

    `size` is the end of the last record that was written whole, `filled` the end of the zeros behind it, `synced` the
    part that a power cut would not cost.
    """

    __slots__ = ("_fd", "_room", "filled", "name", "path", "size", "synced")

    def __init__(self, path: Path) -> None:
        """Create the file, with its header. Raises OSError."""
        self.path = path
        self.name = path.name
        self._fd = _created(path)
        self.size = self.filled = self._room = self.synced = HEADER_SIZE

    @property
    def is_busy(self) -> bool:
        """True in the middle of an append: a signal handler, a finalizer asks."""
        return self._room == _NO_ROOM

    @property
    def is_unsynced(self) -> bool:
        """Whether a power cut would cost a record."""
        return self.size > self.synced

    def append(self, record: bytes) -> bool:
        """Write one record with one `pwrite`. False, with nothing written, where it does not fit into the zeros.

        Nor does it fit into a busy segment. Raises `SpoolUnavailable`; then nothing of the record is left.
        """
        room = self._room
        if room <= 0:
            return False
        self._room = _NO_ROOM  # no call since it was read: a signal handler comes before, or finds it busy
        try:
            size = self.size
            end = size + len(record)
            if end > room:
                self._room = room
                return False
            written = pwrite(self._fd, record, size)
            if written != end - size:
                raise OSError(errno.ENOSPC, f"only {written} of {end - size} bytes written")
            self.size = end
        except OSError as error:
            self._room = _UNCOUNTED
            self._take_back()
            raise unavailable("append to", self.path, error) from error
        except BaseException:
            self._room = _UNCOUNTED
            raise
        self._room = room
        return True

    def settle(self) -> None:
        """Count the record that was written when an exception came. Raises OSError."""
        if self._room == _UNCOUNTED:
            record = record_at(os.pread(self._fd, self.filled - self.size, self.size), 0)
            self.size += 0 if record is None else record.end
            self._room = self.filled

    def stretch(self, end: int, limit: int) -> int:
        """Where the next stretch should end: behind `end`, at most at `limit` unless that is before it."""
        ahead = min(max(self.filled, _FIRST), _MOST)
        return max(end, min(limit, (self.filled + ahead) // _PAGE * _PAGE))

    def extend(self, end: int) -> None:
        """Make room for a `LARGE` record, which writes the file on itself."""
        self.filled = self._room = end

    def fill(self, until: int) -> None:
        """Write zeros up to `until`. Raises OSError; what the disk took counts all the same."""
        try:
            while self.filled < until:
                at_once = min(len(_AT_ONCE) - self.filled % len(_AT_ONCE), until - self.filled)
                self.filled += os.pwrite(self._fd, _AT_ONCE[:at_once], self.filled)
        finally:
            self._room = self.filled

    def close(self) -> int:
        """Cut the zeros behind the last record; how many went.

        In a busy segment nothing is cut: the record may be written and only not counted yet. Where it is not written, the
        append that was interrupted finds no descriptor and raises.
        """
        cut = 0
        if not self.is_busy:
            with contextlib.suppress(OSError):  # zeros that stay are no records either
                os.ftruncate(self._fd, self.size)
                cut = self.filled - self.size
        self.let_go()
        return cut

    def let_go(self) -> None:
        """Leave the file as it is: another process's, after a fork."""
        self._room = _NO_ROOM
        fd, self._fd = self._fd, -1
        os.close(fd)

    def _take_back(self) -> None:
        """Cut what was written of a record. Where even that fails, the next one is written over it."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, self.size)
            self.filled = self._room = self.size


def _created(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        if os.write(fd, encode_header()) != HEADER_SIZE:
            raise OSError(errno.ENOSPC, "only a part of the header was written")
    except OSError:
        os.close(fd)
        path.unlink(missing_ok=True)
        raise
    return fd
