from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from caseyos_otel.spool.directory import SegmentDirectory
from caseyos_otel.spool.problem import Problem
from caseyos_otel.spool.segment import HEADER_SIZE, VERSION, encode_header
from caseyos_otel.spool.spool import Spool
from tests.descriptors import descriptors

MakeSpool = Callable[..., Spool]
Drain = Callable[..., list[bytes]]
Crash = Callable[[Spool], None]


@pytest.fixture
def left(make_spool: MakeSpool, crash: Crash) -> Callable[..., None]:
    """A dead process that had these destinations and delivered nothing."""

    def leave(*destinations: str, frame: bytes = b"frame") -> None:
        spool = make_spool(*destinations)
        spool.writer.append("failures", frame)
        crash(spool)

    return leave


def make_old(root: Path) -> None:
    """As if all of it had been left an hour ago."""
    then = time.time() - 3600
    for path in root.rglob("*"):
        os.utime(path, (then, then))


def look_around(spool: Spool, deliver: Callable[[], object] = lambda: None) -> None:
    """Look until nothing more is taken, and deliver after each look."""
    more = True
    while more:
        taken = spool.adopt()
        deliver()
        more = bool(taken) or spool.adoption.may_go_on()


def test_what_dead_processes_left_is_delivered_to_every_destination_and_removed(
    make_spool: MakeSpool, drain: Drain, left: Callable[..., None], root: Path
) -> None:
    for number in range(3):
        left("outcomes", "sentry", frame=b"%d" % number)
    spool = make_spool("outcomes", "sentry")
    assert spool.adopt() == 3
    assert spool.reader("sentry").wait(10), "adoption wakes the delivery threads"
    assert sorted(drain(spool, "outcomes")) == sorted(drain(spool, "sentry")) == [b"0", b"1", b"2"]
    assert spool.adopt() == 0
    assert list(root.iterdir()) == []


def test_a_living_process_keeps_its_directory(make_spool: MakeSpool) -> None:
    living, other = make_spool("outcomes"), make_spool("outcomes")
    living.writer.append("outcomes", b"mine")
    assert other.adopt() == 0
    assert not other.reader("outcomes").read()
    assert living.reader("outcomes").read().frames == [b"mine"]


def test_a_gateway_adopts_what_gateways_and_replays_left_and_a_service_what_anybody_left(
    make_spool: MakeSpool, crash: Crash
) -> None:
    for role in ("", "gateway", "replay"):
        dead = make_spool("outcomes", role=role)
        dead.writer.append("outcomes", b"frame")
        crash(dead)
    gateway, service = make_spool("outcomes", role="gateway"), make_spool("outcomes")
    assert gateway.adopt() == 2
    assert {d.path.name.rpartition("-")[0] for d in gateway.directories()} == {"gateway", "replay"}
    assert service.adopt() == 1
    gateway.close()
    assert service.adopt() == 2


def test_what_is_adopted_and_not_delivered_is_left_for_the_next(
    make_spool: MakeSpool, drain: Drain, left: Callable[..., None]
) -> None:
    left("outcomes")
    first, second = make_spool("outcomes"), make_spool("outcomes")
    assert (first.adopt(), second.adopt()) == (1, 0)
    first.close()
    assert second.adopt() == 1
    assert drain(second, "outcomes") == [b"frame"]


def test_a_segment_waits_for_a_destination_that_only_another_process_knows(
    make_spool: MakeSpool, drain: Drain, left: Callable[..., None], root: Path
) -> None:
    left("outcomes", "sentry")
    without_sentry = make_spool("outcomes")
    without_sentry.adopt()
    assert drain(without_sentry, "outcomes") == [b"frame"]
    without_sentry.adopt()  # nothing left for it here: lets it go
    with_sentry = make_spool("outcomes", "sentry")
    assert with_sentry.adopt() == 1
    assert drain(with_sentry, "sentry") == [b"frame"]
    assert drain(with_sentry, "outcomes") == []
    with_sentry.adopt()
    assert list(root.iterdir()) == []


def test_a_destination_that_nobody_knows_any_more_is_given_up_after_a_while_and_reported(
    make_spool: MakeSpool, drain: Drain, left: Callable[..., None], root: Path, problems: list[Problem]
) -> None:
    left("outcomes", "sentry")
    (segment,) = root.rglob("*.seg")
    make_old(root)
    spool = make_spool("outcomes", "otlp", abandon_after=1800.0)
    spool.adopt()
    spool.reader("otlp").commit(spool.reader("otlp").read())
    assert segment.exists(), "it still waits for outcomes, which is known, however old it is"
    assert drain(spool, "outcomes") == [b"frame"]
    spool.adopt()
    assert list(root.iterdir()) == []
    (problem,) = problems
    assert (problem.kind, problem.path) == ("abandoned", segment)
    assert "sentry" in problem.detail


def test_a_destination_that_is_new_gets_what_was_left(
    make_spool: MakeSpool, drain: Drain, left: Callable[..., None]
) -> None:
    left("outcomes")
    spool = make_spool("outcomes", "otlp")
    spool.adopt()
    assert drain(spool, "outcomes") == drain(spool, "otlp") == [b"frame"]


def test_a_destination_that_comes_after_adoption_is_waited_for_too(
    make_spool: MakeSpool, drain: Drain, left: Callable[..., None]
) -> None:
    left("outcomes")
    spool = make_spool("outcomes")
    spool.adopt()
    spool.reader("otlp")
    assert drain(spool, "outcomes") == [b"frame"]
    spool.adopt()
    assert drain(spool, "otlp") == [b"frame"]


def test_a_process_without_destinations_throws_nothing_away(
    make_spool: MakeSpool, drain: Drain, left: Callable[..., None]
) -> None:
    left()
    nobody = make_spool()
    nobody.adopt()
    nobody.close()
    spool = make_spool("outcomes")
    assert spool.adopt() == 1
    assert drain(spool, "outcomes") == [b"frame"]


def test_a_directory_without_its_lock_may_be_in_use_and_is_reported_once(
    make_spool: MakeSpool, left: Callable[..., None], root: Path, problems: list[Problem]
) -> None:
    left("outcomes")
    (directory,) = root.iterdir()
    (directory / "lock").unlink()
    spool = make_spool("outcomes")
    assert spool.adopt() == spool.adopt() == 0
    assert [problem.kind for problem in problems] == ["lock_missing"]
    (directory / "lock").touch()
    assert spool.adopt() == 1


def test_a_directory_that_gets_its_lock_and_a_segment_while_it_is_looked_at_is_not_reported(
    make_spool: MakeSpool,
    left: Callable[..., None],
    root: Path,
    problems: list[Problem],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left("outcomes")
    (directory,) = root.iterdir()
    (directory / "lock").rename(directory / "not yet")
    iterdir = Path.iterdir

    def makes_it_meanwhile(path: Path) -> Iterator[Path]:
        if path == directory and (directory / "not yet").exists():
            (directory / "not yet").rename(directory / "lock")
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", makes_it_meanwhile)
    spool = make_spool("outcomes")
    assert spool.adopt() == 0
    assert spool.adopt() == 1
    assert problems == []


def test_what_a_process_left_that_died_while_it_made_its_directory_is_removed(
    make_spool: MakeSpool, root: Path
) -> None:
    (root / ("gateway-" + "0" * 32)).mkdir(parents=True)
    (root / ("a" * 32)).mkdir()
    (root / "begun").mkdir()
    (root / "begun" / "lock").touch()
    (root / "a file of somebody").touch()
    (root / "an empty directory of somebody").mkdir()
    make_spool("outcomes").adopt()
    assert sorted(path.name for path in root.iterdir()) == ["a file of somebody", "an empty directory of somebody"]


def test_of_very_many_directories_some_are_taken_at_a_time_and_leave_the_host_its_descriptors(
    make_spool: MakeSpool, drain: Drain, left: Callable[..., None], root: Path
) -> None:
    for _ in range(150):
        left("outcomes")
    spool = make_spool("outcomes")
    assert 0 < spool.adopt() <= 64
    assert len(descriptors(root)) <= 64
    frames = drain(spool, "outcomes")
    while spool.adopt():
        frames += drain(spool, "outcomes")
    assert len(frames) == 150
    spool.adopt()
    assert not list(root.iterdir())


def test_a_destination_that_is_away_holds_up_no_other_one_however_many_processes_died_meanwhile(
    make_spool: MakeSpool, drain: Drain, left: Callable[..., None], root: Path
) -> None:
    for number in range(200):
        left("outcomes", "sentry", frame=b"%d" % number)
    spool = make_spool("outcomes", "sentry")
    delivered: list[bytes] = []

    def deliver() -> None:
        assert len(descriptors(root)) <= 2 * 64
        delivered.extend(drain(spool, "sentry"))

    look_around(spool, deliver)
    assert sorted(map(int, delivered)) == list(range(200)), "while outcomes took nothing"
    delivered = drain(spool, "outcomes")
    while spool.adopt():
        delivered += drain(spool, "outcomes")
    assert sorted(map(int, delivered)) == list(range(200))
    spool.adopt()
    assert not list(root.iterdir())


def test_what_a_destination_that_is_away_waits_in_is_not_looked_at_again_until_it_is_back(
    make_spool: MakeSpool, left: Callable[..., None], drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(200):
        left("outcomes", "sentry")
    spool = make_spool("outcomes", "sentry")
    look_around(spool, lambda: drain(spool, "sentry"))
    looked: list[Path] = []
    take = SegmentDirectory.take
    monkeypatch.setattr(SegmentDirectory, "take", lambda path, tell: looked.append(path) or take(path, tell))
    assert spool.adopt() == 0
    assert looked == []
    drain(spool, "outcomes")
    assert spool.adopt() == len(looked) > 0


def test_a_destination_that_gets_room_is_woken_though_nothing_new_is_taken(
    make_spool: MakeSpool, left: Callable[..., None], drain: Drain, root: Path
) -> None:
    for _ in range(100):
        left("outcomes", "sentry")
    spool = make_spool("outcomes", "sentry")
    spool.adopt()
    assert len(drain(spool, "sentry")) == 64
    spool.adopt()  # 36 more, for sentry alone
    outcomes = spool.reader("outcomes")
    outcomes.wait(0)
    assert len(drain(spool, "outcomes")) == 64
    assert not outcomes.wait(0)
    assert spool.adopt() == 0
    assert outcomes.wait(0)
    assert len(drain(spool, "outcomes")) == 36
    drain(spool, "sentry")
    spool.adopt()
    assert not list(root.iterdir())


def test_nobody_gives_up_what_a_living_process_passed_over_for_a_destination_that_it_knows(
    make_spool: MakeSpool, left: Callable[..., None], drain: Drain, root: Path, problems: list[Problem]
) -> None:
    for _ in range(100):
        left("outcomes", "sentry")
    make_old(root)
    spool, sibling = make_spool("outcomes", "sentry"), make_spool("sentry", abandon_after=1800.0)
    look_around(spool, lambda: drain(spool, "sentry"))
    look_around(sibling, lambda: drain(sibling, "sentry"))
    assert problems == []
    assert len(list(root.glob("*/*.seg"))) == 100


def test_a_destination_that_is_slow_gets_nothing_twice_whoever_else_adopts_meanwhile(
    make_spool: MakeSpool, left: Callable[..., None], drain: Drain
) -> None:
    for number in range(150):
        left("outcomes", "sentry", frame=b"%d" % number)
    one, other = make_spool("outcomes", "sentry"), make_spool("outcomes", "sentry")
    one.adopt()
    drain(one, "sentry")
    on_its_way = one.reader("outcomes").read()
    look_around(one, lambda: drain(one, "sentry"))
    delivered: list[bytes] = []
    look_around(other, lambda: delivered.extend(drain(other, "outcomes")))
    delivered += on_its_way.frames
    one.reader("outcomes").commit(on_its_way)
    look_around(one, lambda: delivered.extend(drain(one, "outcomes")))
    assert sorted(map(int, delivered)) == list(range(150))


def test_a_destination_that_comes_later_gets_what_was_passed_over_before(
    make_spool: MakeSpool, left: Callable[..., None], drain: Drain
) -> None:
    for _ in range(100):
        left("outcomes")
    spool = make_spool("outcomes")
    look_around(spool)
    spool.reader("otlp")
    delivered: list[bytes] = []
    look_around(spool, lambda: delivered.extend(drain(spool, "otlp")))
    assert len(delivered) == 100


def test_what_cannot_be_read_takes_nobodys_room(
    make_spool: MakeSpool, left: Callable[..., None], drain: Drain, root: Path
) -> None:
    for number in range(140):
        left("outcomes")
        if number == 70:
            for segment in root.glob("*/*.seg"):
                segment.unlink()
                segment.mkdir()
    spool = make_spool("outcomes")
    delivered: list[bytes] = []
    look_around(spool, lambda: delivered.extend(drain(spool, "outcomes")))
    assert len(delivered) == 69


def test_a_look_that_has_no_time_takes_one_and_goes_on(
    make_spool: MakeSpool, left: Callable[..., None], drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where thousands are listed on a slow disk."""
    monkeypatch.setattr("caseyos_otel.spool.adopt._LOOK_S", -1.0)
    for _ in range(5):
        left("outcomes")
    spool = make_spool("outcomes")
    assert spool.adopt() == 1
    delivered: list[bytes] = []
    look_around(spool, lambda: delivered.extend(drain(spool, "outcomes")))
    assert len(delivered) == 5


def test_a_segment_that_cannot_be_read_withholds_no_other(
    make_spool: MakeSpool, left: Callable[..., None], drain: Drain, root: Path
) -> None:
    left("outcomes")
    [segment] = root.glob("*/*.seg")
    segment.with_name("outcomes-00000001.seg").mkdir()
    spool = make_spool("outcomes")
    spool.adopt()
    assert drain(spool, "outcomes") == [b"frame"]


def test_destinations_that_a_power_cut_made_zeros_cost_nothing(
    make_spool: MakeSpool, left: Callable[..., None], drain: Drain, root: Path
) -> None:
    left("outcomes")
    [named] = root.glob("*/destinations")
    named.write_bytes(bytes(20))
    spool = make_spool("outcomes")
    assert spool.adopt() == 1
    assert drain(spool, "outcomes") == [b"frame"]
    spool.adopt()
    assert not list(root.iterdir())


def test_destinations_that_cannot_be_read_now_are_not_forgotten(
    make_spool: MakeSpool, left: Callable[..., None], drain: Drain, root: Path
) -> None:
    left("outcomes", "sentry")
    [named] = root.glob("*/destinations")
    named.rename(named.with_name("kept"))
    named.mkdir()  # any error but that it is not there
    spool = make_spool("outcomes")
    assert spool.adopt() == 0
    assert not descriptors(root)
    named.rmdir()
    named.with_name("kept").rename(named)
    assert spool.adopt() == 1
    assert drain(spool, "outcomes") == [b"frame"]
    other = make_spool("sentry")
    spool.close()
    other.adopt()
    assert drain(other, "sentry") == [b"frame"]


@pytest.mark.parametrize("own", [False, True])
def test_nobody_gives_up_what_a_process_waited_for_until_it_died(
    make_spool: MakeSpool, left: Callable[..., None], drain: Drain, crash: Crash, root: Path, own: bool
) -> None:
    spool = make_spool("outcomes", "sentry")
    if own:
        spool.writer.append("failures", b"frame")
        make_old(root)
        spool.writer.look_around()
    else:
        left("outcomes", "sentry")
        make_old(root)
        assert spool.adopt() == 1
        spool.adopt()
    assert drain(spool, "sentry") == [b"frame"]
    crash(spool)
    sibling = make_spool("sentry", abandon_after=1800.0)
    sibling.adopt()
    sibling.close()
    assert len(list(root.glob("*/*.seg"))) == 1


def test_what_could_not_be_read_for_a_moment_is_read_again(make_spool: MakeSpool) -> None:
    spool = make_spool("outcomes")
    spool.writer.append("outcomes", b"frame")
    assert spool.reader("outcomes").wait(0)
    spool.adopt()
    assert spool.reader("outcomes").wait(0)


def test_what_was_let_go_while_a_batch_of_it_was_on_its_way_belongs_to_its_next_owner(
    make_spool: MakeSpool, left: Callable[..., None], drain: Drain, crash: Crash, root: Path
) -> None:
    left("outcomes")
    first, second = make_spool("outcomes"), make_spool("outcomes", "otlp")
    first.adopt()
    on_its_way = first.reader("outcomes").read()
    first.close()
    second.adopt()
    assert drain(second, "outcomes") == [b"frame"]
    first.reader("outcomes").commit(on_its_way)
    second.adopt()
    assert list(root.glob("*/*.seg")), "first does not know that it waits for otlp"
    assert drain(second, "otlp") == [b"frame"]
    second.adopt()
    assert not list(root.iterdir())


@pytest.mark.parametrize("let_go_again", [False, True])
def test_a_late_commit_does_not_move_the_next_owners_cursor_back(
    make_spool: MakeSpool, crash: Crash, let_go_again: bool
) -> None:
    dead = make_spool("outcomes")
    for number in range(3):
        dead.writer.append("outcomes", b"%d" % number)
    crash(dead)
    first, second = make_spool("outcomes"), make_spool("outcomes")
    first.adopt()
    one = first.reader("outcomes").read(1)
    first.close()
    second.adopt()
    two = second.reader("outcomes").read(2)
    second.reader("outcomes").commit(two)
    if let_go_again:
        second.close()
    first.reader("outcomes").commit(one)
    second.close()
    third = make_spool("outcomes")
    third.adopt()
    assert third.reader("outcomes").read().frames == [b"2"]


def test_a_host_without_descriptors_left_is_none_the_worse_for_adoption(
    make_spool: MakeSpool, drain: Drain, left: Callable[..., None], root: Path
) -> None:
    for _ in range(30):
        left("outcomes")
    spool = make_spool("outcomes")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Path("/dev/null").open() as lowest:  # every number below is taken
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest.fileno() + 1, hard))
    try:
        spool.adopt()
        os.close(os.open("/dev/null", os.O_RDONLY))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    spool.adopt()
    frames = drain(spool, "outcomes")
    following = make_spool("outcomes")  # what could not be looked at is left to others for a minute
    following.adopt()
    assert len(frames + drain(following, "outcomes")) == 30


def test_a_segment_of_another_version_is_reported_once_however_often_it_is_found(
    make_spool: MakeSpool,
    left: Callable[..., None],
    root: Path,
    problems: list[Problem],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left("outcomes")
    [segment] = root.glob("*/*.seg")
    segment.write_bytes(encode_header(VERSION + 1) + segment.read_bytes()[HEADER_SIZE:])
    spool = make_spool("outcomes")
    started = time.monotonic()
    for minute in range(3):
        monkeypatch.setattr("caseyos_otel.spool.adopt.time.monotonic", partial(float, started + 61 * minute))
        spool.adopt()
    assert [(problem.kind, problem.path) for problem in problems] == [("other_version", segment)]


def test_a_strange_file_keeps_its_directory(
    make_spool: MakeSpool, drain: Drain, left: Callable[..., None], root: Path
) -> None:
    left("outcomes")
    (directory,) = root.iterdir()
    (directory / "erase.order").touch()
    spool = make_spool("outcomes")
    spool.adopt()
    assert drain(spool, "outcomes") == [b"frame"]
    spool.adopt()
    assert {"erase.order", "lock"} <= {path.name for path in directory.iterdir()}


@pytest.mark.parametrize("name", ["", "../x", "a b", "x.tmp"])
def test_a_destination_needs_a_name_that_is_a_file_name(make_spool: MakeSpool, name: str) -> None:
    with pytest.raises(ValueError, match="accepted are lower-case names"):
        make_spool(name)
