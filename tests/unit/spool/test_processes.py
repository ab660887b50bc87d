"""Real processes: killed, forked, racing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from caseyos_otel.spool.find import find
from caseyos_otel.spool.problem import Problem
from caseyos_otel.spool.spool import Spool
from caseyos_otel.spool.status import oldest_age, pending
from caseyos_otel.spool.writer import SEGMENT_BYTES

MakeSpool = Callable[..., Spool]
Drain = Callable[..., list[bytes]]

PRELUDE = """
import os, signal, sys, time
from pathlib import Path
from caseyos_otel.spool.spool import Spool
segment_bytes = int(sys.argv[2])
spool = Spool(Path(sys.argv[1]), on_problem=lambda problem: sys.exit(str(problem)), segment_bytes=segment_bytes)
spool.reader("outcomes")
"""


@contextmanager
def process(program: str, root: Path, segment_bytes: int = 2000) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", PRELUDE + textwrap.dedent(program), str(root), str(segment_bytes)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with child:
        try:
            yield child
        finally:
            child.kill()


def line(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def go(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    child.stdin.write("go\n")
    child.stdin.flush()


@pytest.mark.parametrize("segment_bytes", [2000, SEGMENT_BYTES])
@pytest.mark.parametrize("after", [1, 2, 50, 333])
def test_every_append_that_returned_survives_kill_9(
    root: Path, make_spool: MakeSpool, drain: Drain, problems: list[Problem], after: int, segment_bytes: int
) -> None:
    """Also where a payload ends in zeros, as the file behind the last record does."""
    program = """
        for number in range(1_000_000):
            spool.writer.append("outcomes", b"%d" % number + b"\\n" + bytes(number % 50))
            os.write(1, b"%d\\n" % number)
    """
    with process(program, root, segment_bytes) as child:
        for _ in range(after):
            line(child)
        child.kill()
        returned = after + len(child.stdout.read().splitlines() if child.stdout else [])
    spool = make_spool("outcomes")
    spool.adopt()
    frames = [frame.split(b"\n") for frame in drain(spool, "outcomes")]
    assert [(int(number), len(zeros)) for number, zeros in frames] == [(n, n % 50) for n in range(len(frames))]
    assert returned <= len(frames) <= returned + 1
    spool.adopt()
    assert list(root.iterdir()) == [], "the zeros behind the last record keep nothing"
    assert problems == []


def test_another_process_looks_at_a_segment_while_it_is_written(root: Path) -> None:
    program = """
        for number in range(1_000_000):
            spool.writer.append("outcomes", b"needle %d" % number + bytes(number % 50))
            os.write(1, b"%d\\n" % number)
    """
    with process(program, root, SEGMENT_BYTES) as child:
        for _ in range(20):
            returned = int(line(child)) + 1
            seen, found = pending(root, "outcomes"), list(find(root, b"needle"))
            assert returned <= seen.records <= len(found)
            assert [int(place.payload.split(b"\0")[0].split()[1]) for place in found] == list(range(len(found)))
            assert {place.waiting for place in found} == {("outcomes",)}
            assert 0.0 <= oldest_age(next(root.iterdir()), "outcomes") < 600.0


def test_a_reader_killed_between_export_and_commit_repeats_only_that_batch(
    root: Path, make_spool: MakeSpool, drain: Drain
) -> None:
    program = """
        reader = spool.reader("outcomes")
        for number in range(10):
            spool.writer.append("outcomes", b"%d" % number)
        reader.commit(reader.read(4))
        print([frame.decode() for frame in reader.read(4).frames], flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    with process(program, root) as child:
        assert line(child) == "['4', '5', '6', '7']"
        assert child.wait(60) == -signal.SIGKILL
    spool = make_spool("outcomes")
    spool.adopt()
    assert drain(spool, "outcomes") == [b"%d" % number for number in range(4, 10)]


def test_of_processes_that_adopt_at_once_each_directory_goes_to_one(root: Path, make_spool: MakeSpool) -> None:
    leave = """
        spool.writer.append("outcomes", b"frame")
        print("left", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    for _ in range(8):
        with process(leave, root) as child:
            assert line(child) == "left"
    adopt = """
        print("ready", flush=True)
        sys.stdin.readline()
        print(spool.adopt(), len(spool.reader("outcomes").read().frames), flush=True)
        sys.stdin.readline()
    """
    with process(adopt, root) as one, process(adopt, root) as other:
        assert (line(one), line(other)) == ("ready", "ready")
        go(one)
        go(other)
        taken = [line(child).split() for child in (one, other)]
        go(one)
        go(other)
    assert sum(int(count) for count, _ in taken) == 8
    assert all(count == frames for count, frames in taken)
    assert make_spool("outcomes").adopt() == 8, "nothing was delivered, so both left everything"


FORK = """
spool.writer.append("outcomes", b"parent")
if os.fork() == 0:
    spool.after_fork_in_child()
    spool.writer.append("outcomes", b"child")
    print(os.getpid(), flush=True)
    sys.stdin.readline()
    os._exit(0)
"""


def test_a_forked_child_has_a_directory_of_its_own_and_takes_nothing_from_its_parent(
    root: Path, make_spool: MakeSpool, drain: Drain
) -> None:
    program = """
        os.wait()
        spool.writer.append("outcomes", b"parent again")
        print([frame.decode() for frame in spool.reader("outcomes").read().frames], flush=True)
        sys.stdin.readline()
    """
    with process(FORK + textwrap.dedent(program), root) as parent:
        line(parent)
        go(parent)  # read by the child, which ends
        assert line(parent) == "['parent', 'parent again']"
        spool = make_spool("outcomes")
        assert spool.adopt() == 1, "the child's; the parent's is locked still"
        assert drain(spool, "outcomes") == [b"child"]
    spool.adopt()
    assert drain(spool, "outcomes") == [b"parent", b"parent again"]


def test_a_forked_child_does_not_hold_the_lock_of_a_parent_that_died(
    root: Path, make_spool: MakeSpool, drain: Drain
) -> None:
    with process(FORK + "\nos.wait()", root) as parent:
        child = int(line(parent))
        parent.kill()
        parent.wait(60)
        try:
            spool = make_spool("outcomes")
            assert spool.adopt() == 1
            assert drain(spool, "outcomes") == [b"parent"]
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_forked_child_does_not_keep_what_its_parent_adopted(root: Path, make_spool: MakeSpool, drain: Drain) -> None:
    with process('spool.writer.append("outcomes", b"left"); print(flush=True); time.sleep(60)', root) as dead:
        line(dead)
    with process("print(spool.adopt(), flush=True)" + FORK + "\nos.wait()", root) as parent:
        assert line(parent) == "1"
        child = int(line(parent))
        parent.kill()
        parent.wait(60)
        try:
            spool = make_spool("outcomes")
            assert spool.adopt() == 2
            assert sorted(drain(spool, "outcomes")) == [b"left", b"parent"]
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_child_forked_while_its_parent_looks_holds_none_of_the_locks(
    root: Path, make_spool: MakeSpool, drain: Drain, crash: Callable[[Spool], None]
) -> None:
    """What a look only passes over is locked for a moment."""
    program = """
        import threading
        spool.reader("sentry")
        def look():
            while True:
                spool.adopt()
                spool.adoption.close()
        threading.Thread(target=look, daemon=True).start()
        for _ in range(60):
            time.sleep(0.003)
            if os.fork() == 0:
                spool.after_fork_in_child()
                sys.stdin.read()
                os._exit(0)
        print(flush=True)
        sys.stdin.read()
    """
    for _ in range(100):
        dead = make_spool("outcomes")
        dead.writer.append("outcomes", b"frame")
        crash(dead)
    with process(program, root) as parent:
        line(parent)
        parent.kill()
        parent.wait(60)
        spool = make_spool("outcomes")
        frames: list[bytes] = []
        while spool.adopt():
            frames += drain(spool, "outcomes")
        assert len(frames) == 100, "while the children live"


def test_processes_that_live_and_die_together_lose_and_double_nothing(
    root: Path, make_spool: MakeSpool, drain: Drain
) -> None:
    """Six processes write, adopt from each other, export to a file each, and end without a word."""
    program = """
        reader = spool.reader("outcomes")
        for number in range(200):
            spool.writer.append("outcomes", b"%d.%d" % (os.getpid(), number))
            if number % 20 == 0:
                spool.adopt()
                batch = reader.read(7)
                for frame in batch.frames:
                    print("exported", frame.decode(), flush=True)
                reader.commit(batch)
        print("wrote", os.getpid(), flush=True)
        os._exit(0)
    """
    exported: list[str] = []
    wrote: list[str] = []
    for _ in range(3):
        with process(program, root) as one, process(program, root) as other:
            for child in (one, other):
                assert child.stdout is not None
                for word, what in map(str.split, child.stdout):
                    (exported if word == "exported" else wrote).append(what)
                assert child.wait(60) == 0
    spool = make_spool("outcomes")
    spool.adopt()
    exported += [frame.decode() for frame in drain(spool, "outcomes")]
    assert sorted(exported) == sorted(f"{pid}.{number}" for pid in wrote for number in range(200))
