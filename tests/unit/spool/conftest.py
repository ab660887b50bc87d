from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from caseyos_otel.spool.problem import Problem
from caseyos_otel.spool.spool import Spool


@pytest.fixture
def problems() -> list[Problem]:
    return []


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def make_spool(root: Path, problems: list[Problem]) -> Iterator[Callable[..., Spool]]:
    """Spools over one root, each as if in a process of its own; closed at the end."""
    made: list[Spool] = []

    def make(*destinations: str, **options: float) -> Spool:
        spool = Spool(root, on_problem=problems.append, **options)  # type: ignore[arg-type]
        for destination in destinations:
            spool.reader(destination)
        made.append(spool)
        return spool

    yield make
    for spool in made:
        spool.close()


@pytest.fixture
def crash() -> Callable[[Spool], None]:
    """What the kernel does when a process dies: its descriptors, and so its locks, are gone; nothing is tidied."""
    return Spool.after_fork_in_child


@pytest.fixture
def drain() -> Callable[..., list[bytes]]:
    def drained(spool: Spool, destination: str, max_records: int = 500) -> list[bytes]:
        reader = spool.reader(destination)
        frames: list[bytes] = []
        while batch := reader.read(max_records):
            frames += batch.frames
            reader.commit(batch)
        return frames

    return drained
