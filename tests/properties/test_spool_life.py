"""Appending, reading, committing, crashing and adopting in any order: every destination gets every frame, in order."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from caseyos_otel.spool.problem import Problem
from caseyos_otel.spool.spool import Spool

DESTINATIONS = ("outcomes", "sentry")
SERIES = ("outcomes", "failures")


class SpoolLife(RuleBasedStateMachine):
    """Two processes share a spool; `process` says whose turn it is."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.problems: list[Problem] = []
        self.spools = [self.started(), self.started()]
        self.appended: list[bytes] = []
        self.delivered: dict[str, list[bytes]] = {name: [] for name in DESTINATIONS}

    def started(self) -> Spool:
        spool = Spool(self.root, on_problem=self.problems.append, segment_bytes=120)
        for name in DESTINATIONS:
            spool.reader(name)
        return spool

    process = st.integers(0, 1)

    @rule(process=process, series=st.sampled_from(SERIES), size=st.integers(0, 150))
    def append(self, process: int, series: str, size: int) -> None:
        frame = b"%s %d %s" % (series.encode(), len(self.appended), b"x" * size)
        self.spools[process].writer.append(series, frame)
        self.appended.append(frame)

    @rule(
        process=process, destination=st.sampled_from(DESTINATIONS), records=st.integers(1, 4), size=st.integers(1, 300)
    )
    def deliver(self, process: int, destination: str, records: int, size: int) -> None:
        reader = self.spools[process].reader(destination)
        batch = reader.read(records, size)
        self.delivered[destination] += batch.frames
        reader.commit(batch)

    @rule(process=process, destination=st.sampled_from(DESTINATIONS))
    def read_only(self, process: int, destination: str) -> None:
        self.spools[process].reader(destination).read(3)

    @rule(process=process)
    def sync(self, process: int) -> None:
        self.spools[process].writer.sync()
        assert self.spools[process].writer.unsynced_age == 0.0

    @rule(process=process)
    def adopt(self, process: int) -> None:
        self.spools[process].adopt()

    @rule(process=process)
    def crash(self, process: int) -> None:
        self.spools[process].after_fork_in_child()  # drops every descriptor, tidies nothing
        self.spools[process] = self.started()

    @rule(process=process)
    def restart(self, process: int) -> None:
        self.spools[process].close()
        self.spools[process] = self.started()

    @invariant()
    def nothing_is_a_problem(self) -> None:
        assert self.problems == []

    def teardown(self) -> None:
        for spool in self.spools:
            spool.close()
        last = self.started()
        last.adopt()
        for destination in DESTINATIONS:
            reader = last.reader(destination)
            while batch := reader.read(3):
                self.delivered[destination] += batch.frames
                reader.commit(batch)
            assert sorted(self.delivered[destination]) == sorted(self.appended), "each once: every export was committed"
        last.adopt()
        last.close()
        assert list(self.root.iterdir()) == []
        shutil.rmtree(self.root)


SpoolLife.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_spool_life = SpoolLife.TestCase
