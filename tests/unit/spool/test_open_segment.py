"""The file that records go into: zeros ahead of them, and nothing half done."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from caseyos_otel.spool.open_segment import OpenSegment
from caseyos_otel.spool.problem import SpoolUnavailable
from caseyos_otel.spool.segment import HEADER_SIZE, Record, encode_record, scan

RECORD = encode_record(b"frame" + bytes(20), 1)
LIMIT = 4 * 2**20
FILE_SIZE = 1000


@contextmanager
def limited(size: int) -> Iterator[None]:
    """The kernel writes up to this size of a file and then reports a short write, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outcomes-00000001.seg"


def payloads(path: Path) -> list[bytes]:
    return [item.payload for item in scan(path.read_bytes(), HEADER_SIZE) if isinstance(item, Record)]


def test_a_record_needs_zeros_that_were_written_before_it(path: Path) -> None:
    segment = OpenSegment(path)
    assert not segment.append(RECORD)
    segment.fill(HEADER_SIZE + len(RECORD))
    assert segment.append(RECORD)
    assert not segment.append(RECORD)
    assert path.stat().st_size == segment.size == segment.filled == HEADER_SIZE + len(RECORD)
    segment.close()


def test_stretches_double_until_they_are_large_and_end_at_the_limit(path: Path) -> None:
    segment = OpenSegment(path)
    ends = [segment.filled]
    while ends[-1] < 2**20:
        segment.fill(segment.stretch(segment.filled + 1, 2**20))
        ends.append(segment.filled)
    assert ends == [HEADER_SIZE, *(2**power for power in range(14, 19)), *(n * 2**18 for n in (2, 3, 4))]
    assert segment.stretch(2**20 + 5, 2**20) == 2**20 + 5, "a record that is larger than the limit has its segment"
    segment.close()


def test_a_large_record_extends_the_file_itself(path: Path) -> None:
    segment, large = OpenSegment(path), encode_record(bytes(2**20), 1)
    segment.extend(HEADER_SIZE + len(large))
    assert path.stat().st_size == HEADER_SIZE
    assert segment.append(large)
    assert not segment.append(RECORD)
    segment.fill(segment.size + len(RECORD))
    assert segment.append(RECORD)
    segment.close()
    assert [len(payload) for payload in payloads(path)] == [2**20, 25]


def test_a_large_record_that_does_not_get_in_is_taken_back(path: Path) -> None:
    segment, large = OpenSegment(path), encode_record(bytes(2**20), 1)
    segment.extend(HEADER_SIZE + len(large))
    with limited(FILE_SIZE), pytest.raises(SpoolUnavailable, match=r"only 984 of"):
        segment.append(large)
    assert path.stat().st_size == segment.size == segment.filled == HEADER_SIZE
    segment.close()


def test_closing_cuts_the_zeros_and_none_of_a_payload(path: Path) -> None:
    segment = OpenSegment(path)
    segment.fill(LIMIT)
    for _ in range(3):
        segment.append(RECORD)
    assert payloads(path) == [b"frame" + bytes(20)] * 3, "while it is written, too"
    assert segment.close() == LIMIT - HEADER_SIZE - 3 * len(RECORD)
    assert path.stat().st_size == HEADER_SIZE + 3 * len(RECORD)
    assert payloads(path) == [b"frame" + bytes(20)] * 3


def test_letting_go_cuts_nothing(path: Path) -> None:
    segment = OpenSegment(path)
    segment.fill(2**14)
    segment.append(RECORD)
    segment.let_go()
    assert path.stat().st_size == 2**14


def test_a_record_that_does_not_get_in_whole_is_taken_back(path: Path) -> None:
    """Zeros do not keep a place on a copy-on-write disk; here the limit does not count what is there either."""
    segment = OpenSegment(path)
    segment.fill(FILE_SIZE * 2)
    large = encode_record(b"x" * FILE_SIZE, 1)
    assert segment.append(RECORD)
    with limited(FILE_SIZE), pytest.raises(SpoolUnavailable, match=rf"{path}.*only \d+ of"):
        segment.append(large)
    assert path.stat().st_size == segment.size == HEADER_SIZE + len(RECORD)
    segment.fill(FILE_SIZE * 2)
    assert segment.append(large)
    assert segment.append(RECORD)
    assert [len(payload) for payload in payloads(path)] == [25, FILE_SIZE, 25]
    segment.close()


def test_a_disk_that_is_full_is_filled_as_far_as_it_goes(path: Path) -> None:
    segment = OpenSegment(path)
    with limited(FILE_SIZE), pytest.raises(OSError, match="File too large"):
        segment.fill(LIMIT)
    assert path.stat().st_size == segment.filled == FILE_SIZE
    assert segment.append(RECORD)
    segment.close()
    assert payloads(path) == [b"frame" + bytes(20)]


def test_a_signal_handler_finds_it_busy_and_what_it_interrupts_goes_on(path: Path) -> None:
    segment, seen = OpenSegment(path), []
    segment.fill(LIMIT)

    class Interrupted(bytes):
        def __len__(self) -> int:
            signal.raise_signal(signal.SIGUSR1)
            return super().__len__()

    before = signal.signal(signal.SIGUSR1, lambda *_: seen.append((segment.is_busy, segment.append(RECORD))))
    try:
        assert segment.append(Interrupted(RECORD))
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == [(True, False)]
    assert segment.append(RECORD)
    assert len(payloads(path)) == 2
    segment.close()


def test_an_exception_leaves_a_segment_that_counts_what_was_written(path: Path) -> None:
    segment = OpenSegment(path)
    segment.fill(LIMIT)

    class TooMuch(bytes):
        def __len__(self) -> int:
            os.pwrite(segment._fd, self, segment.size)  # as if it came behind the write
            raise TimeoutWhileWritingError

    with pytest.raises(TimeoutWhileWritingError):
        segment.append(TooMuch(RECORD))
    assert not segment.append(RECORD), "not before it is settled"
    segment.settle()
    assert segment.size == HEADER_SIZE + len(RECORD)
    assert segment.append(RECORD)
    assert len(payloads(path)) == 2
    segment.close()


def test_closing_a_busy_segment_keeps_a_record_that_is_not_counted_yet(path: Path) -> None:
    segment = OpenSegment(path)
    segment.fill(LIMIT)

    class Closing(bytes):
        def __len__(self) -> int:
            os.pwrite(segment._fd, self, segment.size)
            segment.close()
            return super().__len__()

    with pytest.raises(SpoolUnavailable, match="Bad file descriptor"):
        segment.append(Closing(RECORD))
    assert payloads(path) == [b"frame" + bytes(20)]


class TimeoutWhileWritingError(Exception):
    """What a handler raises."""
