"""The file that records go into: zeros ahead of them, and nothing half done."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from caseyos_otel.spool.open_segment import OpenSegment
from caseyos_otel.spool.segment import HEADER_SIZE, TICK, Record, encode_record, scan
from tests.limits import limited

RECORD = encode_record(b"frame" + bytes(20), 1)
LIMIT = 4 * 2**20
FILE_SIZE = 1000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outcomes-00000001.seg"


def payloads(path: Path) -> list[bytes]:
    return [item.payload for item in scan(path.read_bytes(), HEADER_SIZE) if isinstance(item, Record)]


@pytest.fixture
def segment(path: Path) -> Iterator[OpenSegment]:
    made = OpenSegment(path)
    made.create()
    yield made
    made.close()


def written(segment: OpenSegment, record: bytes = RECORD) -> int:
    return os.write(segment.fd, record)


def test_a_segment_is_being_written_before_its_file_exists(path: Path) -> None:
    segment = OpenSegment(path)
    assert (segment.size, segment.is_unsynced, path.exists()) == (0, False, False)
    assert segment.close() == 0


def test_records_go_into_zeros_and_the_size_is_where_they_end(segment: OpenSegment) -> None:
    segment.fill(2**14)
    for number in range(1, 4):
        written(segment)
        assert segment.size == HEADER_SIZE + number * len(RECORD)
        assert segment.path.stat().st_size == segment.filled == 2**14
    assert payloads(segment.path) == [b"frame" + bytes(20)] * 3


def test_zeros_never_go_over_a_record_whatever_was_counted(segment: OpenSegment) -> None:
    segment.fill(HEADER_SIZE + 10)
    for _ in range(3):
        written(segment)
        segment.fill(segment.filled + 10)
    assert payloads(segment.path) == [b"frame" + bytes(20)] * 3
    assert segment.close() == 10, "the last zeros are behind the last record"
    assert segment.path.stat().st_size == HEADER_SIZE + 3 * len(RECORD)


def test_stretches_double_until_they_are_large_and_end_at_the_limit(segment: OpenSegment) -> None:
    ends = [segment.filled]
    while ends[-1] < 2**20:
        segment.fill(segment.stretch(segment.filled + 1, 2**20))
        ends.append(segment.filled)
    assert ends == [HEADER_SIZE, *(2**power for power in range(14, 19)), *(n * 2**18 for n in (2, 3, 4))]
    assert segment.stretch(2**20 + 5, 2**20) == 2**20 + 5, "a record that is larger than the limit has its segment"


def test_a_large_record_extends_the_file_itself(segment: OpenSegment) -> None:
    large = encode_record(bytes(2**20), 1)
    segment.extend(HEADER_SIZE + len(large))
    assert segment.path.stat().st_size == HEADER_SIZE
    written(segment, large)
    segment.fill(segment.size + len(RECORD))
    written(segment)
    segment.close()
    assert [len(payload) for payload in payloads(segment.path)] == [2**20, 25]


def test_closing_cuts_the_zeros_and_none_of_a_payload(segment: OpenSegment) -> None:
    segment.fill(LIMIT)
    for _ in range(3):
        written(segment)
    assert payloads(segment.path) == [b"frame" + bytes(20)] * 3, "while it is written, too"
    assert segment.close() == LIMIT - HEADER_SIZE - 3 * len(RECORD)
    assert segment.path.stat().st_size == HEADER_SIZE + 3 * len(RECORD)
    assert payloads(segment.path) == [b"frame" + bytes(20)] * 3
    assert segment.close() == 0, "once"


def test_letting_go_cuts_nothing(segment: OpenSegment) -> None:
    segment.fill(2**14)
    written(segment)
    segment.let_go()
    assert segment.path.stat().st_size == 2**14


def test_closing_in_a_forked_process_cuts_nothing(segment: OpenSegment) -> None:
    """Of its parent's segment, who writes on: an interpreter may let go of what a thread held that is not there."""
    segment.fill(2**14)
    written(segment)
    if (child := os.fork()) == 0:
        os._exit(segment.close())
    assert os.waitpid(child, 0)[1] == 0
    assert segment.path.stat().st_size == 2**14
    written(segment)
    assert len(payloads(segment.path)) == 2


def test_half_a_record_is_cut_when_the_segment_ends(segment: OpenSegment) -> None:
    """Zeros do not keep a place on a copy-on-write disk; here the limit does not count what is there either."""
    segment.fill(FILE_SIZE * 2)
    written(segment)
    with limited(FILE_SIZE):
        assert written(segment, encode_record(b"x" * FILE_SIZE, 1)) < FILE_SIZE
    segment.torn = True
    segment.close()
    assert segment.path.stat().st_size == HEADER_SIZE + len(RECORD)
    assert payloads(segment.path) == [b"frame" + bytes(20)]


def test_half_a_record_costs_none_that_another_thread_wrote_behind_it(segment: OpenSegment) -> None:
    segment.fill(FILE_SIZE * 2)
    written(segment)
    written(segment, encode_record(b"x" * 100, 1)[:50])
    written(segment)
    segment.torn = True
    segment.close()
    assert payloads(segment.path) == [b"frame" + bytes(20)] * 2


def test_a_disk_that_is_full_is_filled_as_far_as_it_goes(segment: OpenSegment) -> None:
    with limited(FILE_SIZE), pytest.raises(OSError, match="File too large"):
        segment.fill(LIMIT)
    assert segment.path.stat().st_size == segment.filled == FILE_SIZE
    written(segment)
    segment.close()
    assert payloads(segment.path) == [b"frame" + bytes(20)]


def test_a_file_that_cannot_be_begun_leaves_nothing(path: Path) -> None:
    with limited(HEADER_SIZE - 1), pytest.raises(OSError, match="only a part of the header"):
        OpenSegment(path).create()
    assert not path.exists()


def test_threads_write_whole_records_without_a_lock(segment: OpenSegment) -> None:
    """What the kernel does is relied on: an offset that all share, moved by whole writes."""
    sizes: list[int] = []

    def write() -> None:
        for number in range(2000):
            written(segment, encode_record(bytes([65 + number % 26]) * (number % 700 + 1), number * TICK))
            if number % 10 == 0:
                sizes.append(segment.size)
            if number % 100 == 0:
                segment.fill(segment.filled + 3000)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    items = list(scan(segment.path.read_bytes(), HEADER_SIZE))
    assert Counter(item.appended_at // TICK for item in items if isinstance(item, Record)) == dict.fromkeys(
        range(2000), 4
    )
    assert set(sizes) <= {item.end for item in items}, "between two records, never within one"
