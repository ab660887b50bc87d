"""What is forced to disk, and when its descriptors are closed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from caseyos_otel.spool.open_segment import OpenSegment
from caseyos_otel.spool.problem import Problem
from caseyos_otel.spool.segment import encode_record
from caseyos_otel.spool.unsynced import Unsynced

RECORD = encode_record(b"frame", 1)


@pytest.fixture
def unsynced(problems: list[Problem]) -> Unsynced:
    return Unsynced(problems.append)


@pytest.fixture
def segment(tmp_path: Path) -> OpenSegment:
    made = OpenSegment(tmp_path / "outcomes-00000001.seg")
    made.fill(2**14)
    return made


def descriptors(path: Path) -> int:
    """How often this process has a file open."""
    links = [Path(entry) for entry in os.scandir("/proc/self/fd")]
    return sum(link.is_symlink() and str(link.readlink()).startswith(str(path)) for link in links)


def test_a_segment_has_an_age_from_an_append_to_the_next_sync(unsynced: Unsynced, segment: OpenSegment) -> None:
    unsynced.add(segment.path.parent)
    unsynced.sync((segment,))
    assert unsynced.age([segment]) == 0.0
    segment.append(RECORD)
    assert unsynced.age([segment]) > 0.0
    unsynced.sync((segment,))
    assert unsynced.age([segment]) == 0.0
    segment.close()
    unsynced.close()


def test_a_segment_is_opened_once_and_closed_by_the_sync_after_its_end(
    unsynced: Unsynced, segment: OpenSegment
) -> None:
    for _ in range(3):
        segment.append(RECORD)
        unsynced.sync((segment,))
        assert descriptors(segment.path) == 2
    segment.close()
    assert descriptors(segment.path) == 1
    unsynced.sync(())
    assert descriptors(segment.path) == 0


def test_closing_and_letting_go_close_what_was_opened(unsynced: Unsynced, segment: OpenSegment) -> None:
    segment.append(RECORD)
    unsynced.sync((segment,))
    unsynced.close()
    assert descriptors(segment.path) == 1
    segment.append(RECORD)
    unsynced.sync((segment,))
    unsynced.let_go()
    assert descriptors(segment.path) == 1
    segment.close()


def test_what_is_gone_is_no_problem_and_what_cannot_be_opened_is_told(
    unsynced: Unsynced, segment: OpenSegment, problems: list[Problem]
) -> None:
    unsynced.add(segment.path.parent / "delivered and unlinked")
    unsynced.sync(())
    assert problems == []
    unsynced.add(segment.path / "below a file")
    unsynced.sync(())
    assert [problem.kind for problem in problems] == ["not_synced"]
    segment.close()
