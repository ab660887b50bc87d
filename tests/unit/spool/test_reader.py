from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from caseyos_otel.spool.problem import Problem
from caseyos_otel.spool.segment import HEADER_SIZE, VERSION, Record, encode_header, encode_record, scan
from caseyos_otel.spool.spool import Spool

MakeSpool = Callable[..., Spool]
Drain = Callable[..., list[bytes]]
Crash = Callable[[Spool], None]


def kinds(problems: list[Problem]) -> list[str]:
    return sorted(problem.kind for problem in problems)


def segments(root: Path) -> list[str]:
    return sorted(path.name for path in root.rglob("*.seg"))


def test_a_batch_is_read_again_until_it_is_committed(make_spool: MakeSpool, crash: Crash) -> None:
    spool = make_spool("outcomes")
    for number in range(6):
        spool.writer.append("outcomes", b"%d" % number)
    reader = spool.reader("outcomes")
    reader.commit(reader.read(2))
    assert reader.read(3).frames == reader.read(3).frames == [b"2", b"3", b"4"]
    crash(spool)  # after the export, before the commit
    following = make_spool("outcomes")
    following.adopt()
    reader = following.reader("outcomes")
    assert reader.read(3).frames == [b"2", b"3", b"4"]
    reader.commit(reader.read(3))
    assert reader.read(3).frames == [b"5"]


def test_a_batch_is_bounded_in_records_and_bytes_but_never_stuck(make_spool: MakeSpool) -> None:
    spool = make_spool("outcomes", segment_bytes=700)
    for size in (100, 100, 100, 5000, 100):
        spool.writer.append("outcomes", bytes(size))
    reader = spool.reader("outcomes")
    sizes = []
    while batch := reader.read(max_records=2, max_bytes=250):
        sizes.append([len(frame) for frame in batch.frames])
        reader.commit(batch)
    assert sizes == [[100, 100], [100], [5000], [100]] or sizes == [[100, 100], [100, 5000], [100]]


def test_each_series_keeps_its_order_and_none_is_left_out(make_spool: MakeSpool, drain: Drain) -> None:
    spool = make_spool("outcomes", segment_bytes=150)
    for number in range(20):
        spool.writer.append("outcomes" if number % 2 else "failures", b"%d" % number)
    numbers = [int(frame) for frame in drain(spool, "outcomes", 3)]
    assert [n for n in numbers if n % 2] == list(range(1, 20, 2))
    assert [n for n in numbers if not n % 2] == list(range(0, 20, 2))


def test_a_later_segment_does_not_overtake_when_a_batch_is_full(make_spool: MakeSpool, drain: Drain) -> None:
    spool = make_spool("outcomes", segment_bytes=400)
    for size in (100, 200, 10, 250, 10, 300, 10):
        spool.writer.append("outcomes", bytes(size))
    reader, sizes = spool.reader("outcomes"), []
    while batch := reader.read(max_bytes=150):
        sizes += [len(frame) for frame in batch.frames]
        reader.commit(batch)
    assert sizes == [100, 200, 10, 250, 10, 300, 10]


def test_a_segment_goes_when_the_slowest_destination_has_it_and_it_is_not_being_written(
    make_spool: MakeSpool, root: Path, drain: Drain
) -> None:
    spool = make_spool("outcomes", "sentry", segment_bytes=100)
    for number in range(3):
        spool.writer.append("failures", b"%d" % number * 60)
    everything = segments(root)
    assert len(everything) == 3
    assert len(drain(spool, "outcomes")) == 3
    assert segments(root) == everything, "sentry is still behind"
    slow = spool.reader("sentry")
    slow.commit(slow.read(1))
    assert segments(root) == everything[1:]
    slow.commit(slow.read())
    assert segments(root) == everything[2:], "the last one is being written"
    spool.close()
    assert list(root.iterdir()) == []


def test_appending_wakes_every_destination_once(make_spool: MakeSpool) -> None:
    spool = make_spool("outcomes", "sentry")
    for reader in (spool.reader("outcomes"), spool.reader("sentry")):
        assert not reader.wait(0)
    spool.writer.append("outcomes", b"1")
    spool.writer.append("outcomes", b"2")
    assert spool.reader("outcomes").wait(10)
    assert not spool.reader("outcomes").wait(0)
    assert spool.reader("sentry").wait(10)


def test_a_waiting_thread_is_woken(make_spool: MakeSpool) -> None:
    spool = make_spool("outcomes")
    reader = spool.reader("outcomes")
    seen: list[bool] = []
    thread = threading.Thread(target=lambda: seen.append(reader.wait(60)))
    thread.start()
    spool.writer.append("outcomes", b"frame")
    thread.join(30)
    assert seen == [True]


@pytest.mark.parametrize("content", [b"", b"outcomes-00000001.seg 99999\n00000000\n", b"\xff" * 40])
def test_a_damaged_cursor_means_reading_again_not_losing(
    make_spool: MakeSpool, drain: Drain, crash: Crash, root: Path, problems: list[Problem], content: bytes
) -> None:
    spool = make_spool("outcomes", "sentry")
    spool.writer.append("outcomes", b"frame")
    assert drain(spool, "outcomes") == [b"frame"]
    crash(spool)
    (cursor,) = root.rglob("cursor.outcomes")
    cursor.write_bytes(content)
    following = make_spool("outcomes", "sentry")
    following.adopt()
    assert drain(following, "outcomes") == [b"frame"]
    assert kinds(problems) == ["damaged_cursor"]


def test_a_cursor_that_cannot_be_written_is_reported_and_delivery_goes_on(
    make_spool: MakeSpool, drain: Drain, root: Path, problems: list[Problem]
) -> None:
    spool = make_spool("outcomes")
    spool.writer.append("outcomes", b"one")
    (next(root.iterdir()) / "cursor.outcomes.tmp").mkdir()
    assert drain(spool, "outcomes") == [b"one"]
    spool.writer.append("outcomes", b"two")
    assert drain(spool, "outcomes") == [b"two"]
    assert set(kinds(problems)) == {"cursor_not_written"}


@pytest.mark.parametrize("cut", [True, False], ids=["at the end of the file", "before zeros"])
def test_a_torn_tail_is_set_aside_once_and_what_stands_before_it_is_delivered(
    make_spool: MakeSpool, drain: Drain, crash: Crash, root: Path, problems: list[Problem], cut: bool
) -> None:
    spool = make_spool("outcomes", "sentry")
    spool.writer.append("outcomes", b"whole")
    spool.writer.append("outcomes", b"unfinished")
    crash(spool)
    (segment,) = root.rglob("*.seg")
    data = segment.read_bytes()
    record = [item for item in scan(data, HEADER_SIZE) if isinstance(item, Record)][-1]
    assert len(data) > record.end, "filled ahead of its records"
    if cut:
        os.truncate(segment, record.end - 4)
    else:
        segment.write_bytes(data[: record.end - 4] + bytes(len(data) - record.end + 4))
    following = make_spool("outcomes", "sentry")
    following.adopt()
    assert drain(following, "outcomes") == drain(following, "sentry") == [b"whole"]
    assert kinds(problems) == ["torn_tail"]
    (aside,) = (root / "quarantine").iterdir()
    assert aside.read_bytes().rstrip(b"\0") == data[record.offset : record.end - 4]
    following.adopt()
    assert segments(root) == []


@pytest.mark.parametrize("version", [VERSION - 1, VERSION + 1])
def test_a_segment_of_another_format_stays_as_it_is_and_its_neighbours_are_delivered(
    make_spool: MakeSpool, drain: Drain, crash: Crash, root: Path, problems: list[Problem], version: int
) -> None:
    spool = make_spool("outcomes")
    spool.writer.append("outcomes", b"ours")
    crash(spool)
    newer = next(root.iterdir()) / "outcomes-00000000.seg"
    newer.write_bytes(content := encode_header(version) + b"who knows")
    nobody = make_spool(abandon_after=0.0)
    nobody.adopt()
    assert newer.exists(), "even when everything else is given up"
    problems.clear()
    (newer.parent / "outcomes-00000001.seg").write_bytes(encode_header() + encode_record(b"ours", 1))
    nobody.close()
    following = make_spool("outcomes")
    following.adopt()
    assert drain(following, "outcomes") == [b"ours"]
    following.adopt()
    assert newer.read_bytes() == content
    assert segments(root) == [newer.name]
    assert kinds(problems) == ["other_version"]


def test_a_damaged_header_costs_no_record(
    make_spool: MakeSpool, drain: Drain, crash: Crash, root: Path, problems: list[Problem]
) -> None:
    spool = make_spool("outcomes")
    spool.writer.append("outcomes", b"frame")
    crash(spool)
    (segment,) = root.rglob("*.seg")
    segment.write_bytes(b"\0" * HEADER_SIZE + segment.read_bytes()[HEADER_SIZE:])
    following = make_spool("outcomes")
    following.adopt()
    assert drain(following, "outcomes") == [b"frame"]
    assert kinds(problems) == ["damaged_header"]


def test_a_segment_that_was_only_just_begun_is_removed_in_silence(
    make_spool: MakeSpool, crash: Crash, root: Path, problems: list[Problem]
) -> None:
    spool = make_spool("outcomes")
    spool.writer.append("outcomes", b"frame")
    crash(spool)
    (segment,) = root.rglob("*.seg")
    segment.write_bytes(b"")
    following = make_spool("outcomes")
    following.adopt()
    assert list(root.iterdir()) == []
    assert problems == []


def test_a_segment_that_cannot_be_read_is_reported_once_and_keeps_nothing_else_back(
    make_spool: MakeSpool, drain: Drain, root: Path, problems: list[Problem]
) -> None:
    spool = make_spool("outcomes")
    spool.writer.append("outcomes", b"frame")
    (next(root.iterdir()) / "failures-00000009.seg").mkdir()
    assert drain(spool, "outcomes") == [b"frame"]
    assert kinds(problems) == ["unreadable"]


def test_destinations_in_threads_of_their_own_get_everything_once_while_directories_come_and_go(
    make_spool: MakeSpool, drain: Drain, crash: Crash, root: Path, problems: list[Problem]
) -> None:
    spool = make_spool("outcomes", "sentry", segment_bytes=300)
    done = threading.Event()
    delivered: dict[str, list[bytes]] = {"outcomes": [], "sentry": []}

    def deliver(destination: str) -> None:
        while not done.is_set():
            spool.reader(destination).wait(0.01)
            delivered[destination] += drain(spool, destination, 7)

    threads = [threading.Thread(target=deliver, args=(destination,)) for destination in delivered]
    for thread in threads:
        thread.start()
    for number in range(300):
        spool.writer.append("outcomes" if number % 2 else "failures", b"own %d" % number)
        if number % 10 == 0:
            other = make_spool("outcomes", "sentry")
            other.writer.append("failures", b"left %d" % number)
            crash(other)
            spool.adopt()
    done.set()
    for thread in threads:
        thread.join(60)
    expected = sorted([b"own %d" % n for n in range(300)] + [b"left %d" % n for n in range(0, 300, 10)])
    for destination, frames in delivered.items():
        assert sorted(frames + drain(spool, destination)) == expected
    spool.close()
    assert list(root.iterdir()) == []
    assert problems == []
