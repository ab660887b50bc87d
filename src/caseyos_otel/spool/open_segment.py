"""The file that a series is being written to: records go into zeros that were written before them.

A file that grows with each record costs more, above all to sync: its new size has to reach the disk as well. So a
segment is filled with zeros ahead of its records, a stretch at a time, and what is behind the last record is cut when
it ends. Zeros that nobody cut (the process was killed) are no records, and are read as the end.

Not `mmap`, which would be cheaper still: where a copy-on-write file system is full, or somebody cuts the file, the
kernel answers a store with SIGBUS, which ends the host. `write` answers with an error.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import Final

from caseyos_otel.spool.segment import HEADER_SIZE, Record, encode_header, scan

LARGE: Final = 2**15
"""Bytes from which on a record is appended as it is: zeros before it would cost as much as it does."""
_AT_ONCE: Final = memoryview(bytes(2**15))
"""Zeros written by one call. Of larger ones ext4 makes larger folios, and an append into those costs up to four times as much."""
_PAGE: Final = 4096
_FIRST: Final = 2**14
_MOST: Final = 2**18
"""Bytes of the first stretch and of the largest; in between the file doubles, so that a quiet process fills little."""
CLOSED: Final = -1
"""The descriptor of a file that is not open."""


class OpenSegment:
    """One file, and two descriptors of it that need no lock.

    `fd` has the offset behind the last record: the kernel moves it with each `write()`, whole records and one after the
    other, whoever writes (POSIX.1-2017, System Interfaces 2.9.7). The other one appends zeros to the end of the file. So
    neither can write over a record, whatever the counts here say: they only decide when zeros are due.
    """

    __slots__ = ("_pid", "_zeros", "fd", "filled", "name", "path", "synced", "torn")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        self.fd = self._zeros = CLOSED
        self.filled = self.synced = HEADER_SIZE
        self.torn = False
        """A record was not written whole: what is behind the last one that was is cut at the end."""
        self._pid = os.getpid()

    def create(self) -> None:
        """Create the file, with its header. Raises OSError, also in a child that was forked since: it is its parent's."""
        self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            if not self._is_ours:
                raise OSError(errno.EOWNERDEAD, "its process forked in the middle of that")
            if os.write(self.fd, encode_header()) != HEADER_SIZE:
                raise OSError(errno.ENOSPC, "only a part of the header was written")
            self._zeros = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        except OSError:
            self.let_go()
            if self._is_ours:
                self.path.unlink(missing_ok=True)
            raise

    @property
    def size(self) -> int:
        """The end of the last record that was written; the kernel answers between two of them, never within one."""
        return 0 if self.fd == CLOSED else os.lseek(self.fd, 0, os.SEEK_CUR)

    @property
    def is_gone(self) -> bool:
        """Whether somebody removed the file. Asked without `stat`, which would make the next sync of it dearer."""
        return not os.access(self.path, os.F_OK)

    @property
    def is_unsynced(self) -> bool:
        """Whether a power cut would cost a record."""
        return self.size > self.synced

    def mark_synced(self) -> bool:
        """Take for synced what is written now; whether anything was not yet."""
        before, self.synced = self.synced, self.size
        return self.synced > before

    def stretch(self, end: int, limit: int) -> int:
        """Where the next stretch should end: behind `end`, at most at `limit` unless that is before it."""
        ahead = min(max(self.filled, _FIRST), _MOST)
        return max(end, min(limit, (self.filled + ahead) // _PAGE * _PAGE))

    def extend(self, end: int) -> None:
        """Count room for a `LARGE` record, which writes the file on itself."""
        self.filled = end

    def fill(self, until: int) -> None:
        """Append zeros up to `until`. Raises OSError; what the disk took counts all the same."""
        while self.filled < until:
            at_once = min(len(_AT_ONCE) - self.filled % len(_AT_ONCE), until - self.filled)
            self.filled += os.write(self._zeros, _AT_ONCE[:at_once])

    def close(self) -> int:
        """Cut what is behind the last record; how many bytes went. For who knows that nobody writes any more."""
        cut = 0
        if self.fd != CLOSED and self._is_ours:
            with contextlib.suppress(OSError):  # what stays are zeros, no records
                end = self._last_whole() if self.torn else self.size
                found = os.fstat(self.fd)
                cut = found.st_size - end if found.st_nlink else 0  # who unlinked it has counted all of it
                os.ftruncate(self.fd, end)
        self.let_go()
        return cut

    def let_go(self) -> None:
        """Leave the file as it is: another process's, after a fork."""
        descriptors, self.fd, self._zeros = (self.fd, self._zeros), CLOSED, CLOSED
        for fd in descriptors:  # forgotten first: an exception in between must not have one closed twice
            if fd != CLOSED:
                os.close(fd)

    @property
    def _is_ours(self) -> bool:
        """False in a forked child."""
        return os.getpid() == self._pid

    def _last_whole(self) -> int:
        data = os.pread(self.fd, self.size, 0)
        return max((item.end for item in scan(data, HEADER_SIZE) if isinstance(item, Record)), default=HEADER_SIZE)
