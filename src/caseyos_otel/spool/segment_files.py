"""The segments of one directory as files: which there are, what may be read of them, what of that is sound."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from caseyos_otel.spool import quarantine
from caseyos_otel.spool.problem import OnProblem, Problem, ProblemKind
from caseyos_otel.spool.segment import (
    HEADER_SIZE,
    RECORD_OVERHEAD,
    Damage,
    Record,
    check_header,
    intact,
    is_blank,
    scan,
)

SUFFIX: Final = ".seg"

WrittenSize = Callable[[str], int | None]
"""Bytes of a segment that may be read while it is being written; None when it is complete."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What was read of one segment: the payloads, the position behind them, and whether more stood behind that."""

    frames: list[bytes]
    end: int
    more: bool


class SegmentFiles:
    """Reads segments, and sets aside what is damaged in them. Thread-safe.

    While a segment is written, its readable part ends behind the last record that was written whole. Once it is
    complete, that is the end of the file: the zeros that a killed process leaves behind its last record are read like
    a stretch without records, so that positions and file sizes alone tell what is done.
    """

    def __init__(self, path: Path, written_size: WrittenSize, on_problem: OnProblem) -> None:
        self._path = path
        self._written_size = written_size
        self._on_problem = on_problem
        self._mutex = threading.RLock()
        self._unreadable: set[str] = set()
        self._readable: dict[str, bool] = {}

    def names(self) -> list[str]:
        """Names of the segments, oldest first within a series."""
        try:
            return sorted(path.name for path in self._path.iterdir() if path.suffix == SUFFIX)
        except OSError:
            return []

    def size(self, segment: str) -> int:
        """Bytes of `segment` that may be read. Raises OSError."""
        written = self._written_size(segment)
        return (self._path / segment).stat().st_size if written is None else written

    def is_complete(self, segment: str) -> bool:
        """Whether a segment is no longer written, and of a format that we know. Raises OSError."""
        return self._written_size(segment) is None and self.is_readable(segment)

    def is_readable(self, segment: str) -> bool:
        """False for a segment of another format, which is reported once. Raises OSError."""
        with self._mutex:
            known = self._readable.get(segment)
            if known is not None:
                return known
            with (self._path / segment).open("rb", buffering=0) as file:
                header = file.read(HEADER_SIZE)
            if len(header) < HEADER_SIZE:
                return True  # its writer died between creating and beginning it: nothing in it to misread
            state = check_header(header)
            self._readable[segment] = state != "other_version"
            if state == "other_version":
                self._report("other_version", segment, "left untouched for the version that wrote it")
            elif state == "damaged":
                self._report("damaged_header", segment, "its records are read all the same")
            return state != "other_version"

    def read(self, segment: str, start: int, max_records: int, max_bytes: int) -> Taken | None:
        """The next records from `start` on, at least one if there is one; None when there is nothing new.

        Damage is set aside and passed.
        """
        try:
            return self._read(segment, start, max_records, max_bytes)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._report_unreadable(segment, error)
            return None

    def count(self, segment: str, start: int) -> int:
        """Records from `start` on; a stretch of damage counts as one. Raises OSError."""
        data, _ = self._bytes(segment, start)
        return sum(1 for _ in scan(data))

    def unlink(self, segment: str) -> None:
        """Remove a segment. Raises OSError."""
        (self._path / segment).unlink()
        with self._mutex:
            self._readable.pop(segment, None)

    def _read(self, segment: str, start: int, max_records: int, max_bytes: int) -> Taken | None:
        data, length = self._bytes(segment, start, max_bytes)
        if not data or not self.is_readable(segment):
            return None
        frames, end = _limited(intact(data), max_records, max_bytes)
        if frames and len(data) == length and is_blank(data, end):
            end = length
        if frames:
            return Taken(frames, start + end, more=end < length)
        taken = self._read_damaged(segment, start, max_records, max_bytes)
        return taken if taken.end > start else None

    def _bytes(self, segment: str, start: int, limit: int | None = None) -> tuple[bytes, int]:
        """What may be read from `start` on, up to `limit` bytes, and how much it were without the limit."""
        written = self._written_size(segment)
        with (self._path / segment).open("rb", buffering=0) as file:
            end = os.fstat(file.fileno()).st_size if written is None else written
            length = max(0, end - start)
            wanted = length if limit is None else min(length, limit + RECORD_OVERHEAD)
            return os.pread(file.fileno(), wanted, start), length

    def _read_damaged(self, segment: str, start: int, max_records: int, max_bytes: int) -> Taken:
        """The slow way. What is not a record now never will be one; but half of one (a full disk) at the end of a
        segment that is being written was refused, and is cut when the segment ends: not passed until then.
        """
        is_written = self._written_size(segment) is not None
        rest, _ = self._bytes(segment, start)
        frames: list[bytes] = []
        end = size = 0
        for item in scan(rest):
            if isinstance(item, Record):
                size += len(item.payload)
                if frames and (len(frames) >= max_records or size > max_bytes):
                    return Taken(frames, start + end, more=True)
                frames.append(item.payload)
            elif is_written and item.kind == "torn_tail":
                return Taken(frames, start + item.offset, more=False)
            else:
                self._set_aside(segment, start, item, rest[item.offset : item.end])
            end = item.end
        return Taken(frames, start + len(rest), more=False)

    def _set_aside(self, segment: str, start: int, damage: Damage, data: bytes) -> None:
        with self._mutex:
            try:
                kept = quarantine.set_aside(self._path, segment, start + damage.offset, data)
            except OSError as error:
                self._report("not_quarantined", segment, f"{len(data)} bytes of a {damage.kind} are passed: {error}")
                return
        if kept is not None:
            self._report(damage.kind, segment, f"{len(data)} bytes at {start + damage.offset} set aside as {kept}")

    def _report_unreadable(self, segment: str, error: OSError) -> None:
        if segment not in self._unreadable:
            self._unreadable.add(segment)
            self._report("unreadable", segment, f"passed over, tried again at each reading: {error.strerror}")

    def _report(self, kind: ProblemKind, name: str, detail: str) -> None:
        self._on_problem(Problem(kind, self._path / name, detail))


def segment_name(series: str, number: int) -> str:
    """The file name of a segment; sorted by name, the segments of a series are in order."""
    return f"{series}-{number:08d}{SUFFIX}"


def series_of(segment: str) -> str:
    """The series that a segment belongs to."""
    return segment.partition("-")[0]


def _limited(records: Iterable[Record], max_records: int, max_bytes: int) -> tuple[list[bytes], int]:
    """The payloads that fit, the first in any case, and the position behind them."""
    frames: list[bytes] = []
    end = size = 0
    for record in records:
        size += len(record.payload)
        if frames and (len(frames) >= max_records or size > max_bytes):
            break
        frames.append(record.payload)
        end = record.end
    return frames, end
