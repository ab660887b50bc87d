from __future__ import annotations

import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from caseyos_otel.spool import unsynced, written
from caseyos_otel.spool.directory import SegmentDirectory
from caseyos_otel.spool.problem import FrameRefused, Problem, SpoolUnavailable
from caseyos_otel.spool.segment import HEADER_SIZE, MAX_PAYLOAD, RECORD_OVERHEAD, intact
from caseyos_otel.spool.spool import Spool
from caseyos_otel.spool.wakeup import Wakeup

MakeSpool = Callable[..., Spool]
Drain = Callable[..., list[bytes]]


def test_a_process_that_appends_nothing_leaves_nothing(make_spool: MakeSpool, root: Path) -> None:
    spool = make_spool("outcomes")
    spool.adopt()
    spool.writer.sync()
    spool.close()
    assert not root.exists()


def test_a_frame_is_on_disk_when_append_returns(make_spool: MakeSpool, root: Path) -> None:
    spool = make_spool("outcomes")
    spool.writer.append("outcomes", b"frame")
    (segment,) = root.glob("*/outcomes-00000001.seg")
    assert [record.payload for record in intact(segment.read_bytes(), HEADER_SIZE)] == [b"frame"]


def test_a_quiet_process_fills_little_ahead_and_nothing_stays_of_it(make_spool: MakeSpool, root: Path) -> None:
    spool = make_spool("outcomes")
    spool.writer.append("outcomes", b"frame")
    (segment,) = root.glob("*/outcomes-00000001.seg")
    assert spool.space.used == segment.stat().st_size == 2**14
    spool.close()
    assert segment.stat().st_size == HEADER_SIZE + RECORD_OVERHEAD + len(b"frame")
    spool.relieve()
    assert spool.space.used == HEADER_SIZE + RECORD_OVERHEAD + len(b"frame")


@pytest.mark.parametrize("year", [1900, 2261, 2300, 9999])
def test_a_clock_that_is_far_off_costs_no_record(
    make_spool: MakeSpool, drain: Drain, monkeypatch: pytest.MonkeyPatch, year: int
) -> None:
    """As tests of a host set it, which freeze the time."""
    seconds = (datetime(year, 1, 1, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()
    monkeypatch.setattr("caseyos_otel.spool.writer.time_ns", lambda: int(seconds) * 10**9)
    spool = make_spool("outcomes")
    spool.writer.append("outcomes", b"frame")
    assert spool.pending("outcomes").oldest_age is not None
    assert drain(spool, "outcomes") == [b"frame"]


def test_directories_and_files_are_for_the_owner_only(make_spool: MakeSpool, root: Path) -> None:
    make_spool("outcomes").writer.append("outcomes", b"frame")
    assert {path.stat().st_mode & 0o077 for path in (root, *root.rglob("*"))} == {0}


def test_each_series_has_segments_of_its_own_and_rolls_at_the_size(make_spool: MakeSpool, root: Path) -> None:
    writer = make_spool("outcomes", segment_bytes=200).writer
    for _ in range(3):
        writer.append("outcomes", bytes(100))
    writer.append("failures", bytes(1000))
    sizes = {path.name: path.stat().st_size for path in root.rglob("*.seg")}
    assert sorted(sizes) == [f"{name}.seg" for name in ("failures-00000001", *(f"outcomes-0000000{n}" for n in "123"))]
    assert sizes["failures-00000001.seg"] > 1000, "a frame larger than a segment gets one for itself"


@pytest.mark.parametrize("frame", [b"", bytes(MAX_PAYLOAD + 1)], ids=["empty", "too large"])
def test_a_frame_that_no_record_can_hold_is_refused(make_spool: MakeSpool, frame: bytes, root: Path) -> None:
    with pytest.raises(FrameRefused, match=f"{len(frame)} bytes; accepted are 1 to {MAX_PAYLOAD}"):
        make_spool("outcomes").writer.append("outcomes", frame)
    assert not root.exists()


def test_a_series_cannot_lead_out_of_the_directory(make_spool: MakeSpool) -> None:
    with pytest.raises(FrameRefused, match=r"series '\.\./x'"):
        make_spool("outcomes").writer.append("../x", b"frame")


def test_a_file_in_the_way_is_named_with_its_remedy_and_can_be_mended(
    make_spool: MakeSpool, root: Path, drain: Drain
) -> None:
    root.write_text("not a directory")
    spool = make_spool("outcomes")
    with pytest.raises(SpoolUnavailable, match=rf"{root}.*a file stands where.*CASEYOS_OTEL_SPOOL_DIR"):
        spool.writer.append("outcomes", b"lost")
    root.unlink()
    spool.writer.append("outcomes", b"kept")
    assert drain(spool, "outcomes") == [b"kept"]


FULL = """
    import resource, sys
    from pathlib import Path
    from caseyos_otel.spool.problem import SpoolUnavailable
    from caseyos_otel.spool.writer import SpoolWriter
    writer = SpoolWriter(Path(sys.argv[1]), on_problem=print)
    writer.wait_for(["outcomes"])
    if sys.argv[2] == "filled before":
        writer.append("outcomes", b"0" * 300)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    if sys.argv[2] == "while it is filled":
        writer.append("outcomes", b"0" * 300)
    for number in range(1, 9):
        try:
            writer.append("outcomes", str(number).encode() * 300)
        except SpoolUnavailable as error:
            print(number, error)
    writer.append("outcomes", b"x" * 10)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    writer.append("outcomes", b"9" * 300)
"""


@pytest.mark.parametrize(
    ("full", "refused"), [("filled before", "378"), ("while it is filled", "345678")], ids=["before", "meanwhile"]
)
def test_a_full_disk_leaves_no_half_record(
    root: Path, make_spool: MakeSpool, drain: Drain, problems: list[Problem], full: str, refused: str
) -> None:
    """The kernel writes up to the file size limit and reports a short write, as it does on a full disk; it refuses what
    is written over zeros beyond it as well, as a copy-on-write file system does. Then another file is begun.
    """
    command = [sys.executable, "-c", textwrap.dedent(FULL), str(root), full]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert [line.split()[0] for line in output.splitlines()] == list(refused)
    assert "raise the file size limit" in output
    assert str(root) in output
    spool = make_spool("outcomes")
    assert spool.adopt() == 1
    kept = [number for number in "012345678x9" if number not in refused]
    assert [frame[:1].decode() for frame in drain(spool, "outcomes")] == kept
    assert problems == []


def test_half_a_record_is_no_damage_while_its_segment_is_written(
    make_spool: MakeSpool, drain: Drain, problems: list[Problem]
) -> None:
    """It was refused, and is kept elsewhere: nobody lost it."""
    spool = make_spool("outcomes")
    spool.writer.append("outcomes", b"0" * 300)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, before[1]))
    try:
        with pytest.raises(SpoolUnavailable, match="bytes written"):
            spool.writer.append("outcomes", b"1" * 300)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert drain(spool, "outcomes") == [b"0" * 300]
    spool.writer.append("outcomes", b"2" * 300)
    assert drain(spool, "outcomes") == [b"2" * 300]
    assert problems == []


class KeptError(Exception):
    """A time limit that its catcher keeps, and so the frames it came through."""


class Raising(Wakeup):
    def set(self) -> None:
        raise KeptError


def kept(spool: Spool, series: str) -> KeptError:
    """What an append raised after its write."""
    readers = spool.writer._waiting
    spool.writer._waiting = (Raising(),)
    try:
        spool.writer.append(series, b"kept")
    except KeptError as error:
        return error
    finally:
        spool.writer._waiting = readers
    raise AssertionError


def test_an_append_whose_frame_somebody_keeps_is_synced_all_the_same(
    make_spool: MakeSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool, synced = make_spool("outcomes"), list[int]()
    spool.writer.append("outcomes", b"first")
    spool.writer.sync()
    error = kept(spool, "outcomes")
    spool.writer.end_segment("outcomes")
    assert spool.writer.unsynced_age > 0.0
    monkeypatch.setattr(unsynced, "_fdatasync", synced.append)
    spool.writer.sync()
    assert (len(synced), spool.writer.unsynced_age) == (1, 0.0)
    del error


def test_an_append_whose_frame_somebody_keeps_is_waited_for_once(
    make_spool: MakeSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool, waits = make_spool("outcomes"), list[float]()
    spool.writer.append("outcomes", b"first")
    error = kept(spool, "outcomes")
    spool.writer.end_segment("outcomes")
    monkeypatch.setattr(written.time, "sleep", waits.append)
    spool.writer.end_segment("outcomes")  # at the bound, each append asks for this
    assert waits == []
    del error


def test_threads_append_whole_records_each_in_its_order(make_spool: MakeSpool, drain: Drain) -> None:
    spool = make_spool("outcomes", segment_bytes=10_000)

    def append(thread: int) -> None:
        for number in range(300):
            spool.writer.append("outcomes", f"{thread} {number}".encode())

    threads = [threading.Thread(target=append, args=(thread,)) for thread in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    frames = [frame.decode().split() for frame in drain(spool, "outcomes")]
    assert len(frames) == 1800
    for thread in range(6):
        assert [int(number) for name, number in frames if name == str(thread)] == list(range(300))


def test_threads_append_while_others_end_sync_read_and_remove_their_segments(
    make_spool: MakeSpool, drain: Drain, problems: list[Problem], root: Path
) -> None:
    spool = make_spool("outcomes", segment_bytes=1000)
    frames: list[bytes] = []

    def append(thread: int) -> None:
        for number in range(800):
            spool.writer.append("outcomes", f"{thread} {number}".encode())

    def end() -> None:
        spool.writer.end_segment("outcomes")
        spool.writer.sync()

    def read() -> None:
        frames.extend(drain(spool, "outcomes", 20))

    def repeat(work: Callable[[], None]) -> None:
        while any(thread.is_alive() for thread in appending):
            work()

    appending = [threading.Thread(target=append, args=(thread,)) for thread in range(4)]
    others = [threading.Thread(target=repeat, args=(work,)) for work in (end, read)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in (*appending, *others):
            thread.start()
        for thread in (*appending, *others):
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    read()
    assert Counter(frames) == Counter(f"{thread} {n}".encode() for thread in range(4) for n in range(800))
    assert problems == []
    spool.close()
    assert list(root.rglob("*.seg")) == []


def test_a_reader_beside_a_busy_writer_sees_whole_records_only(
    make_spool: MakeSpool, drain: Drain, problems: list[Problem]
) -> None:
    spool = make_spool("outcomes", segment_bytes=50_000)
    writing = threading.Thread(
        target=lambda: [spool.writer.append("outcomes", b"%d " % n + bytes(n % 5000)) for n in range(3000)]
    )
    writing.start()
    frames: list[bytes] = []
    while writing.is_alive():
        frames += drain(spool, "outcomes")
    frames += drain(spool, "outcomes")
    assert [int(frame.split(b" ")[0]) for frame in frames] == list(range(3000))
    assert problems == []


def test_a_signal_handler_may_append_in_the_middle_of_an_append(make_spool: MakeSpool, drain: Drain) -> None:
    spool = make_spool("outcomes", segment_bytes=20_000)
    handled = 0

    def handler(signum: int, frame: object) -> None:
        nonlocal handled
        spool.writer.append("failures", b"handler")
        handled += 1

    before = signal.signal(signal.SIGALRM, handler)
    count = 0
    try:
        for shot in range(50):
            signal.setitimer(signal.ITIMER_REAL, 0.0001 * (shot % 7 + 1))
            while handled <= shot:
                spool.writer.append("failures", b"main")
                count += 1
    finally:
        signal.signal(signal.SIGALRM, before)
    frames = drain(spool, "outcomes")
    assert (frames.count(b"main"), frames.count(b"handler")) == (count, handled)


def test_an_exception_in_the_middle_of_an_append_neither_loses_nor_cuts_a_record(
    make_spool: MakeSpool, drain: Drain, problems: list[Problem]
) -> None:
    """Ctrl-C, a task's time limit: the handler raises, perhaps between the write and its counting."""
    spool = make_spool("outcomes", segment_bytes=20_000)

    class TimeLimitError(Exception):
        pass

    def handler(signum: int, frame: object) -> None:
        raise TimeLimitError

    spool.writer.append("outcomes", b"first: making the directory takes longer than the time limit")
    returned, interrupted, frames = 1, 0, drain(spool, "outcomes")
    before = signal.signal(signal.SIGALRM, handler)
    try:
        for shot in range(200):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0005 + 0.0001 * (shot % 7))
                while True:
                    spool.writer.append("outcomes", b"f" * (returned % 50 + 1))
                    returned += 1
            except TimeLimitError:
                interrupted += 1
            frames += drain(spool, "outcomes")
    finally:
        signal.signal(signal.SIGALRM, before)
    spool.writer.append("outcomes", b"frame")
    frames += drain(spool, "outcomes")
    assert returned > interrupted == 200
    assert returned + 1 <= len(frames) <= returned + 1 + interrupted
    assert problems == []


CLOSING = """
    import signal, sys
    from pathlib import Path
    from caseyos_otel.spool.writer import SpoolWriter
    writer, closed = SpoolWriter(Path(sys.argv[1]), on_problem=print), 0
    writer.wait_for(["outcomes"])

    def handler(signum, frame):
        global closed
        writer.close()
        closed += 1

    signal.signal(signal.SIGALRM, handler)
    number = 0
    for shot in range(60):
        signal.setitimer(signal.ITIMER_REAL, 0.0003 + 0.0001 * (shot % 7))
        while closed <= shot:
            number += 1
            writer.append("outcomes", b"%d" % number)
    print(number)
"""


def test_a_signal_handler_may_close_in_the_middle_of_an_append(
    root: Path, make_spool: MakeSpool, drain: Drain, problems: list[Problem]
) -> None:
    """As one of SIGTERM does that shuts down: what returned is there, and nothing is twice."""
    command = [sys.executable, "-c", textwrap.dedent(CLOSING), str(root)]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    following = make_spool("outcomes")
    following.adopt()
    delivered = sorted(int(frame) for frame in drain(following, "outcomes"))
    assert delivered == list(range(1, int(output.stdout) + 1))
    assert (problems, output.stderr) == ([], "")


def test_segments_end_while_others_are_synced_in_the_background(
    make_spool: MakeSpool, drain: Drain, problems: list[Problem]
) -> None:
    spool = make_spool("outcomes", segment_bytes=500)
    done = threading.Event()

    def sync() -> None:
        while not done.is_set():
            spool.writer.sync()

    syncing = threading.Thread(target=sync)
    syncing.start()
    for number in range(300):
        spool.writer.append("outcomes", b"%d" % number)
    done.set()
    syncing.join(60)
    spool.writer.sync()
    assert spool.writer.unsynced_age == 0.0
    assert [int(frame) for frame in drain(spool, "outcomes")] == list(range(300))
    assert problems == []


def test_a_directory_that_was_removed_is_noticed_and_the_next_append_makes_another(
    make_spool: MakeSpool, root: Path, problems: list[Problem], drain: Drain
) -> None:
    spool = make_spool("outcomes")
    spool.writer.append("outcomes", b"removed by somebody")
    shutil.rmtree(root)
    spool.writer.look_around()
    spool.writer.append("outcomes", b"after")
    spool.writer.look_around()
    assert drain(spool, "outcomes") == [b"after"]
    assert [problem.kind for problem in problems] == ["directory_vanished"]


def test_a_segment_that_was_removed_is_noticed_and_the_next_append_begins_another(
    make_spool: MakeSpool, root: Path, problems: list[Problem], drain: Drain
) -> None:
    """As somebody does who cleans up by hand, or a cleaner of old files; the other series goes on."""
    spool = make_spool("outcomes")
    spool.writer.append("failures", b"kept")
    spool.writer.append("outcomes", b"removed by somebody")
    [segment] = root.glob("*/outcomes-*.seg")
    segment.unlink()
    spool.writer.look_around()
    spool.writer.append("outcomes", b"after")
    spool.writer.append("failures", b"kept too")
    spool.writer.look_around()
    assert sorted(drain(spool, "outcomes")) == [b"after", b"kept", b"kept too"]
    assert [(problem.kind, problem.path) for problem in problems] == [("directory_vanished", segment)]
    spool.writer.sync()
    assert spool.writer.unsynced_age == 0.0
    spool.relieve()
    assert spool.space.used == sum(path.stat().st_size for path in root.rglob("*.seg"))


def test_a_lock_that_was_removed_is_made_anew_and_the_directory_stays_ours_and_then_the_next_one_s(
    make_spool: MakeSpool, root: Path, problems: list[Problem], drain: Drain, crash: Callable[[Spool], None]
) -> None:
    """A cleaner of old files finds it, and the destinations, as old as the process; the segment is not."""
    spool, other = make_spool("outcomes"), make_spool("outcomes")
    spool.writer.append("outcomes", b"frame")
    [directory] = root.iterdir()
    (directory / "lock").unlink()
    (directory / "destinations").unlink()
    spool.writer.look_around()
    assert other.adopt() == 0
    crash(spool)
    assert other.adopt() == 1
    assert drain(other, "outcomes") == [b"frame"]
    assert problems == []


def test_an_append_after_close_is_left_for_the_next_process(
    make_spool: MakeSpool, drain: Drain, crash: Callable[[Spool], None]
) -> None:
    spool = make_spool("outcomes")
    spool.writer.append("outcomes", b"one")
    spool.close()
    spool.writer.append("outcomes", b"at the very end")
    crash(spool)
    following = make_spool("outcomes")
    assert following.adopt() == 2
    assert sorted(drain(following, "outcomes")) == [b"at the very end", b"one"]


def test_a_directory_of_another_user_is_refused(
    root: Path, make_spool: MakeSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    root.mkdir()
    owner = root.stat().st_uid
    monkeypatch.setattr("os.geteuid", lambda: owner + 12345)
    if owner == 0:  # root's directories serve everybody; only then can the owner be changed, too
        shutil.chown(root, owner + 1)
    with pytest.raises(SpoolUnavailable, match=r"belongs to user id \d+.*chown.*CASEYOS_OTEL_SPOOL_DIR"):
        make_spool("outcomes").writer.append("outcomes", b"frame")


def test_the_lock_of_a_living_writer_cannot_be_taken(make_spool: MakeSpool, problems: list[Problem]) -> None:
    spool = make_spool("outcomes")
    spool.writer.append("outcomes", b"frame")
    assert spool.writer.own is not None
    assert SegmentDirectory.take(spool.writer.own.path, problems.append) is None
