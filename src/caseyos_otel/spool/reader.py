"""What one destination reads: its own process's segments and those adopted from dead ones, from its own cursors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final

from caseyos_otel.spool.directory import SegmentDirectory
from caseyos_otel.spool.segment_files import series_of
from caseyos_otel.spool.wakeup import Wakeup

MAX_RECORDS: Final = 500
MAX_BYTES: Final = 2**20


@dataclass(frozen=True, slots=True)
class Batch:
    """Frames in the order of each series, and the positions behind them. False when there is nothing to deliver."""

    frames: list[bytes] = field(default_factory=list)
    ends: dict[SegmentDirectory, dict[str, int]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.frames)


class SpoolReader:
    """Reads batches for one destination. For one thread, the destination's delivery thread.

    `read` starts at the committed position: until `commit`, it returns the same frames again, in this process or, after
    a crash, in the next. What is exported twice that way is absorbed by `event_id`.
    """

    def __init__(
        self,
        destination: str,
        directories: Callable[[], Sequence[SegmentDirectory]],
        after_commit: Callable[[SegmentDirectory], None],
    ) -> None:
        self.destination = destination
        self.appended = Wakeup()
        self._directories = directories
        self._after_commit = after_commit
        self._turn = 0

    def wait(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds for something appended or adopted since the last call. Read after it."""
        return self.appended.wait(timeout)

    def read(self, max_records: int = MAX_RECORDS, max_bytes: int = MAX_BYTES) -> Batch:
        """Up to `max_records` frames of together `max_bytes` bytes; one frame that is larger comes alone."""
        batch, room = Batch(), max_bytes
        for directory, segment in self._segments():
            if len(batch.frames) >= max_records or room <= 0:
                break
            taken = directory.read(self.destination, segment, max_records - len(batch.frames), room)
            if taken is None:
                continue
            batch.frames.extend(taken.frames)
            batch.ends.setdefault(directory, {})[segment] = taken.end
            room -= sum(map(len, taken.frames))
            if taken.more:
                break  # a later segment of the same series must not overtake
        if not batch.frames:
            self.commit(batch)  # damage was passed and nothing stood behind it
        return batch

    def commit(self, batch: Batch) -> None:
        """The destination has these frames: move its cursors behind them, and unlink what nobody waits for any more."""
        for directory, ends in batch.ends.items():
            directory.advance(self.destination, ends)
            self._after_commit(directory)

    def _segments(self) -> list[tuple[SegmentDirectory, str]]:
        """All segments. The series of all directories take turns at being first, so that none can starve the others."""
        segments = [(directory, segment) for directory in self._directories() for segment in directory.segments()]
        series = [list(group) for _, group in groupby(segments, key=lambda item: (item[0].path, series_of(item[1])))]
        self._turn += 1
        first = self._turn % len(series) if series else 0
        return [item for group in (*series[first:], *series[:first]) for item in group]
