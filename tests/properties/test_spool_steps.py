"""What is true of appending though something else happens between any two of its steps (opcodes of Python).

In the same thread: a signal handler or a finalizer appends, syncs, closes there, forks or raises. In another one: the
interpreter lets threads take turns there. Asserted on what readers got, once this process is gone.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from caseyos_otel.spool import writer
from caseyos_otel.spool.problem import Problem, SpoolUnavailable
from caseyos_otel.spool.spool import Spool
from tests.descriptors import descriptors
from tests.steps import interrupted

SPOOL = "/caseyos_otel/spool/"
SEGMENT_BYTES = 20_000
EVERY = 37
"""How many steps are passed over from one interruption to the next: 1 tries all of them."""


class RaisedError(Exception):
    """A time limit, Ctrl-C."""


class Process:
    """A spool with `before` bytes in its segment."""

    def __init__(self, root: Path, before: int) -> None:
        self.root = root
        self.problems: list[Problem] = []
        self.numbers = itertools.count()
        self.returned: list[int] = []
        self.delivered: list[int] = []
        self.spool = self.started()
        if before:
            self.append(size=before)

    def started(self) -> Spool:
        spool = Spool(self.root, on_problem=self.problems.append, segment_bytes=SEGMENT_BYTES)
        spool.reader("outcomes")
        return spool

    def append(self, series: str = "outcomes", size: int = 100) -> None:
        number = next(self.numbers)
        self.spool.writer.append(series, (b"%d " % number).ljust(size, b"x"))
        self.returned.append(number)

    def sync(self) -> None:
        """What is done each second."""
        self.spool.writer.look_around()
        self.spool.writer.sync()

    def deliver(self) -> None:
        """As a delivery thread does, then what no one waits for is unlinked."""
        reader = self.spool.reader("outcomes")
        while batch := reader.read(3):
            self.delivered += [int(frame.split()[0]) for frame in batch.frames]
            reader.commit(batch)

    def die(self) -> list[str]:
        """The kernel closes what this process leaves open (the names of that), and the next one delivers what is left."""
        self.spool.after_fork_in_child()
        left_open = descriptors(self.root)
        for fd in left_open:
            os.close(fd)
        self.spool = self.started()
        self.spool.adopt()
        self.deliver()
        self.spool.close()
        return [path.name for path in left_open.values()]


Work = Callable[[Process], object]
LARGE = 2**15
INTERRUPTED: dict[str, tuple[int, Work]] = {
    "the first append": (0, Process.append),
    "an append": (100, Process.append),
    "one that needs zeros": (16_300, Process.append),
    "one that begins a segment": (19_900, Process.append),
    "a large one": (100, lambda process: process.append(size=LARGE)),
    "a sync": (100, Process.sync),
    "the end of a segment": (100, lambda process: process.spool.writer.end_segment("outcomes")),
    "a close": (100, lambda process: process.spool.writer.close()),
    "a delivery": (19_900, lambda process: (process.append(), process.deliver())),
}
BETWEEN: dict[str, Work] = {
    "an append": Process.append,
    "one that fills a segment": lambda process: process.append(size=SEGMENT_BYTES),
    "one that fills a segment, and a delivery": lambda process: (process.append(size=SEGMENT_BYTES), process.deliver()),
    "some of another series": lambda process: [process.append("failures", SEGMENT_BYTES // 2) for _ in range(3)],
    "a sync": Process.sync,
    "the end of a segment": lambda process: process.spool.writer.end_segment("outcomes"),
    "a close": lambda process: process.spool.writer.close(),
}


TOGETHER = [
    (what, between)
    for what, between in itertools.product(INTERRUPTED, BETWEEN)
    if "delivery" not in what or "delivery" not in between  # one thread reads for a destination
]


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Process]:
    """Makes processes, each with a directory of its own."""
    monkeypatch.setattr(writer, "_IN_FLIGHT_S", 0.001)
    numbers = itertools.count()
    return lambda before: Process(tmp_path / str(next(numbers)), before)


@pytest.mark.parametrize("elsewhere", [False, True], ids=["in the same thread", "in another one"])
@pytest.mark.parametrize(("what", "between"), TOGETHER)
def test_what_happens_between_two_steps_loses_nothing(
    process: Callable[[int], Process], what: str, between: str, elsewhere: bool
) -> None:
    before, work = INTERRUPTED[what]
    for at in itertools.count(0, EVERY):
        here = process(before)
        other = threading.Thread(target=BETWEEN[between], args=[here])

        def meanwhile(here: Process = here, other: threading.Thread = other) -> None:
            if elsewhere:
                other.start()
                other.join(0.002)  # it goes on as soon as a lock that is held here is free
            else:
                BETWEEN[between](here)

        reached = interrupted(SPOOL, partial(work, here), at, meanwhile)
        if elsewhere and reached:
            other.join()
        here.append()
        assert set(here.die()) <= {"lock"}
        assert Counter(here.delivered) == Counter(here.returned), at
        assert here.problems == []
        if not reached:
            break


@pytest.mark.parametrize("what", INTERRUPTED)
def test_what_raises_between_two_steps_is_raised_and_loses_nothing(
    process: Callable[[int], Process], what: str
) -> None:
    before, work = INTERRUPTED[what]

    def raises() -> None:
        raise RaisedError

    for at in itertools.count(0, EVERY // 9):
        here, reached = process(before), True
        try:
            reached = interrupted(SPOOL, partial(work, here), at, raises)
            assert not reached, "it is not swallowed"
        except RaisedError:
            pass
        here.append()
        here.die()
        returned, delivered = Counter(here.returned), Counter(here.delivered)
        assert returned <= delivered, at
        if what != "a delivery":  # its receiver knows the ids of what it has
            assert set((delivered - returned).values()) <= {1}, "the one that was interrupted may be there, once"
        assert here.problems == []
        if not reached:
            break


def appends_elsewhere(child: Process, inherited: set[Path]) -> bool:
    """Whether a forked child has a directory of its own, and segments that take what it appends."""
    try:
        for _ in range(3):
            child.append()
    except SpoolUnavailable:
        return False
    return child.spool.writer.own is not None and child.spool.writer.own.path not in inherited


@pytest.mark.parametrize("what", list(INTERRUPTED)[:5])
def test_a_fork_between_two_steps_leaves_the_parent_what_is_its_own(
    process: Callable[[int], Process], what: str
) -> None:
    """The child goes on with what it was in the middle of: that may be there twice, and is there once at least."""
    before, work = INTERRUPTED[what]
    for at in itertools.count(0, EVERY):
        here, reached = process(before), True
        interrupting: list[int] = []
        inherited: set[Path] = set()

        def forks(
            here: Process = here, interrupting: list[int] = interrupting, inherited: set[Path] = inherited
        ) -> None:
            inherited.update(here.root.iterdir() if here.root.exists() else ())
            interrupting.append(os.fork())
            if interrupting == [0]:
                here.spool.after_fork_in_child()

        try:
            reached = interrupted(SPOOL, partial(work, here), at, forks)
        except SpoolUnavailable:
            assert interrupting == [0]
        finally:
            if interrupting == [0]:
                os._exit(not appends_elsewhere(here, inherited))
        if reached:
            assert os.waitpid(interrupting[0], 0)[1] == 0
        here.append()
        here.die()
        returned, delivered = Counter(here.returned), Counter(here.delivered)
        assert returned <= delivered, at
        assert set((delivered - returned).values()) <= {1}
        # both may be in the middle of writing the same list of destinations
        assert {problem.kind for problem in here.problems} <= {"cursor_not_written"}
        if not reached:
            break


@pytest.mark.parametrize("what", list(INTERRUPTED)[:5])
def test_a_close_between_two_steps_leaves_no_segment_of_the_old_directory(
    process: Callable[[int], Process], what: str
) -> None:
    before, work = INTERRUPTED[what]
    for at in itertools.count(0, EVERY):
        here = process(before)
        reached = interrupted(SPOOL, partial(work, here), at, here.spool.writer.close)
        here.append()
        assert here.spool.writer.own is not None, at
        here.die()
        if not reached:
            break
