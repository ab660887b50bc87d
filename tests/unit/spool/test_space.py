"""The bound: failures make room, the oldest first; outcomes never do."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from caseyos_otel.spool import quarantine
from caseyos_otel.spool.problem import Problem, SpoolFull, SpoolUnavailable
from caseyos_otel.spool.space import used
from caseyos_otel.spool.spool import Spool

MakeSpool = Callable[..., Spool]
Drain = Callable[..., list[bytes]]
BOUND = 100_000


def frames(spool: Spool, series: str, count: int, first: int = 0) -> list[bytes]:
    """Append numbered frames of some 1,000 bytes until one is refused; those that were taken."""
    taken = []
    for number in range(first, first + count):
        frame = f"{series} {number} ".encode().ljust(1000, b".")
        try:
            spool.writer.append(series, frame)
        except SpoolFull:
            break
        taken.append(frame)
    return taken


def test_the_oldest_failures_make_room_for_newer_ones_and_are_counted_for_whom_they_waited(
    make_spool: MakeSpool, root: Path, drain: Drain, problems: list[Problem]
) -> None:
    spool = make_spool("outcomes", "sentry", max_bytes=BOUND)
    taken = frames(spool, "failures", 50)
    reader = spool.reader("outcomes")
    while batch := reader.read():
        reader.commit(batch)
    taken += frames(spool, "failures", 250, first=50)
    assert len(taken) == 300
    assert used(root) <= BOUND * 9 // 10
    left = drain(spool, "sentry")
    assert left == taken[-len(left) :]
    lost = {name: sum(p.records for p in problems if p.destination == name) for name in ("outcomes", "sentry")}
    assert {problem.kind for problem in problems} == {"spool_full"}
    assert lost["sentry"] == 300 - len(left)
    assert lost["outcomes"] == lost["sentry"] - 50, "it had the first fifty"


def test_outcomes_take_the_place_of_failures_and_are_refused_only_when_none_are_left(
    make_spool: MakeSpool, root: Path, drain: Drain, problems: list[Problem]
) -> None:
    spool = make_spool("outcomes", max_bytes=BOUND)
    frames(spool, "failures", 80)
    outcomes = frames(spool, "outcomes", 200)
    assert BOUND * 9 // 10 < used(root) <= BOUND
    assert sum(problem.records for problem in problems) == 80
    with pytest.raises(SpoolFull, match=rf"{root} holds \d+ bytes, its bound is {BOUND};.*SPOOL_MAX_BYTES"):
        spool.writer.append("outcomes", bytes(1000))
    with pytest.raises(SpoolUnavailable):
        spool.writer.append("failures", bytes(1000))
    assert drain(spool, "outcomes") == outcomes


@pytest.mark.parametrize("size", range(900, 1100, 19))
def test_the_bound_holds_to_the_byte_between_two_looks_at_what_is_there(
    make_spool: MakeSpool, root: Path, size: int
) -> None:
    spool = make_spool("outcomes", max_bytes=BOUND)
    spool.space.look()
    with pytest.raises(SpoolFull):
        for number in range(BOUND):
            spool.writer.append("failures" if number < 80 else "outcomes", bytes(size))
            assert used(root) <= BOUND
    spool.close()
    assert spool.space.used == used(root)


def test_a_full_spool_takes_outcomes_again_when_its_destination_has_them(make_spool: MakeSpool, drain: Drain) -> None:
    spool = make_spool("outcomes", max_bytes=BOUND)
    before = frames(spool, "outcomes", 200)
    assert drain(spool, "outcomes") == before
    spool.relieve()
    again = frames(spool, "outcomes", 20, first=1000)
    assert len(again) == 20
    assert drain(spool, "outcomes") == again


def test_failures_of_one_process_leave_room_for_the_outcomes_of_another(
    make_spool: MakeSpool, root: Path, drain: Drain
) -> None:
    one, other = make_spool("outcomes", max_bytes=BOUND), make_spool("outcomes", max_bytes=BOUND)
    assert len(frames(one, "failures", 200)) == 200
    taken = []
    for first in range(0, 60, 5):  # a tenth of the bound is theirs at once, the rest as the other one's ticks make room
        taken += frames(other, "outcomes", 5, first)
        one.relieve()
        other.relieve()
    assert len(taken) == 60
    assert drain(other, "outcomes") == taken
    assert used(root) <= BOUND


def test_adopted_failures_make_room_too(
    make_spool: MakeSpool, crash: Callable[[Spool], None], drain: Drain, problems: list[Problem]
) -> None:
    dead = make_spool("outcomes", max_bytes=BOUND)
    frames(dead, "failures", 80)
    crash(dead)
    living = make_spool("outcomes", max_bytes=BOUND)
    assert living.adopt() == 1
    kept = frames(living, "outcomes", 50)
    assert len(kept) == 50
    assert [frame for frame in drain(living, "outcomes") if frame.startswith(b"outcomes")] == kept
    assert sum(problem.records for problem in problems) > 0


def test_zeros_that_went_with_their_segment_are_not_counted_as_freed_once_more(
    make_spool: MakeSpool, root: Path
) -> None:
    spool = make_spool("outcomes", max_bytes=2**30)
    spool.writer.append("failures", b"failure")
    held = spool.writer._written.current["failures"]  # as another thread does in the middle of an append
    spool.writer.end_segment("failures")
    del held
    spool._evict_failures(1)
    spool.writer.append("outcomes", b"outcome")
    assert 0 <= used(root) - spool.space.used <= 100, "but for the headers"


def test_the_quarantine_is_bounded_and_what_does_not_fit_is_reported(
    make_spool: MakeSpool, root: Path, drain: Drain, problems: list[Problem], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "MOST_BYTES", 2500)
    spool = make_spool("outcomes")
    taken = frames(spool, "outcomes", 6)
    (segment,) = root.glob("*/*.seg")
    content = bytearray(segment.read_bytes())
    for number in (0, 2, 4):  # a record between two damaged ones, or they are one stretch
        content[content.index(f"outcomes {number} ".encode())] ^= 1
    segment.write_bytes(content)
    assert drain(spool, "outcomes") == [taken[1], taken[3], taken[5]]
    assert [problem.kind for problem in problems] == ["corrupt_record", "corrupt_record", "not_quarantined"]
    assert sum(path.stat().st_size for path in quarantine.files(root)) <= 2500


def test_the_age_of_the_oldest_record_is_that_of_the_first_that_was_not_passed(
    make_spool: MakeSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = make_spool("outcomes", "sentry")
    assert spool.oldest_age("outcomes") == 0.0
    with monkeypatch.context() as patched:
        patched.setattr("caseyos_otel.spool.writer.time_ns", lambda: time.time_ns() - 60 * 10**9)
        spool.writer.append("outcomes", b"first")
    reader = spool.reader("outcomes")
    reader.commit(reader.read())
    spool.writer.look_around()
    spool.writer.append("outcomes", b"second")
    assert 0.0 < spool.oldest_age("outcomes") < 60.0 <= spool.oldest_age("sentry")
    reader.commit(reader.read())
    assert spool.oldest_age("outcomes") == 0.0


def test_the_age_of_what_a_power_cut_would_cost_begins_at_the_first_append_after_a_sync(make_spool: MakeSpool) -> None:
    writer = make_spool("outcomes").writer
    assert writer.unsynced_age == 0.0
    writer.append("outcomes", b"first")
    first = writer.unsynced_age
    writer.append("outcomes", b"second")
    assert writer.unsynced_age > first > 0.0
    writer.sync()
    assert writer.unsynced_age == 0.0
