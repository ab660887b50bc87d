"""What is forced to disk, and when its descriptors are closed."""

from __future__ import annotations

from pathlib import Path

import pytest

from caseyos_otel.spool.problem import Problem
from caseyos_otel.spool.unsynced import Unsynced
from tests.descriptors import descriptors


@pytest.fixture
def unsynced(problems: list[Problem]) -> Unsynced:
    return Unsynced(problems.append)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "outcomes-00000001.seg"
    made.touch()
    return made


def test_there_is_an_age_from_a_change_to_the_next_sync(unsynced: Unsynced, path: Path) -> None:
    assert unsynced.age(appended=False) == 0.0
    unsynced.add(path.parent)
    assert unsynced.age(appended=False) > 0.0
    unsynced.sync({})
    assert unsynced.age(appended=False) == 0.0
    assert unsynced.age(appended=True) > 0.0


def test_a_segment_is_opened_once_and_closed_by_the_sync_after_its_end(unsynced: Unsynced, path: Path) -> None:
    unsynced.sync({path: False})
    assert descriptors(path) == {}
    for appended in (True, True, False):
        unsynced.sync({path: appended})
        assert len(descriptors(path)) == 1
    unsynced.sync({})
    assert descriptors(path) == {}


def test_closing_and_letting_go_close_what_was_opened(unsynced: Unsynced, path: Path) -> None:
    unsynced.sync({path: True})
    unsynced.close()
    assert descriptors(path) == {}
    unsynced.sync({path: True})
    unsynced.let_go()
    assert descriptors(path) == {}


def test_what_is_gone_is_no_problem_and_what_cannot_be_opened_is_told(
    unsynced: Unsynced, path: Path, problems: list[Problem]
) -> None:
    unsynced.add(path.parent / "delivered and unlinked")
    unsynced.sync({})
    assert problems == []
    unsynced.add(path / "below a file")
    unsynced.sync({})
    assert [problem.kind for problem in problems] == ["not_synced"]
