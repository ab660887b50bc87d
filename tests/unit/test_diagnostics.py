"""Diagnostics: counts of what was dropped, warnings that do not flood, and a guard round our own code."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator

import pytest

from caseyos_otel import diagnostics
from caseyos_otel.diagnostics import Drops, fault, guard, guarded, swallowed, warn


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[Drops]:
    """Counts and rate limits of this test alone."""
    counts = Drops()
    monkeypatch.setattr(diagnostics, "drops", counts)
    monkeypatch.setattr(diagnostics, "_said", {})
    monkeypatch.setattr(diagnostics, "reraise", False)
    yield counts


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def count_often(drops: Drops) -> None:
    for _ in range(5000):
        drops.count("sampled")


class TestDrops:
    """Every drop has a reason."""

    def test_counts_by_reason_destination_and_event(self) -> None:
        drops = Drops()
        drops.count("sampled", destination="sentry", event="signal_received")
        drops.count("sampled", 2, destination="sentry", event="signal_received")
        drops.count("sampled", destination="otlp", event="signal_received")
        drops.count("queue_full")

        assert drops.snapshot() == {
            ("sampled", "sentry", "signal_received"): 3,
            ("sampled", "otlp", "signal_received"): 1,
            ("queue_full", "", ""): 1,
        }
        assert drops.by_reason() == {"sampled": 4, "queue_full": 1}

    def test_a_snapshot_stays_as_it_was(self) -> None:
        drops = Drops()
        drops.count("sampled")
        snapshot = drops.snapshot()
        drops.count("sampled")

        assert snapshot == {("sampled", "", ""): 1}

    def test_threads_lose_no_count(self) -> None:
        drops = Drops()
        threads = [threading.Thread(target=count_often, args=(drops,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert drops.by_reason() == {"sampled": 20_000}

    def test_a_child_counts_anew_even_if_the_lock_was_held_at_the_fork(self) -> None:
        drops = Drops()
        drops.count("sampled", 5)
        with drops._lock:
            child = os.fork()
            if child == 0:
                drops.after_fork()
                drops.count("rejected")
                os._exit(0 if drops.by_reason() == {"rejected": 1} else 1)
        _, status = os.waitpid(child, 0)

        assert os.waitstatus_to_exitcode(status) == 0
        assert drops.by_reason() == {"sampled": 5}


class TestWarnings:
    """Said once a minute, to our own logger."""

    def test_the_same_warning_is_said_once_a_minute(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = iter([1000.0, 1001.0, 1059.9, 1060.0, 1061.0])
        monkeypatch.setattr(time, "monotonic", lambda: next(clock))
        for _ in range(5):
            warn("the disk is full")

        assert said(caplog) == [("WARNING", "the disk is full")] * 2

    def test_warnings_of_one_key_are_the_same(self, caplog: pytest.LogCaptureFixture) -> None:
        warn("3 events refused", key="refused")
        warn("4 events refused", key="refused")
        warn("5 events refused", key="another")

        assert [message for _, message in said(caplog)] == ["3 events refused", "5 events refused"]

    def test_the_first_warning_is_said_however_young_the_machine_is(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(time, "monotonic", lambda: 0.5)

        warn("just booted")

        assert len(caplog.records) == 1

    def test_what_was_said_is_remembered_within_a_bound(self) -> None:
        for number in range(5000):
            warn(f"warning {number}")

        assert len(diagnostics._said) <= 1001

    def test_an_error_comes_with_its_traceback(self, caplog: pytest.LogCaptureFixture) -> None:
        error = ZeroDivisionError("nothing to divide by")

        fault("cannot divide", error)

        assert said(caplog) == [("ERROR", "cannot divide")]
        assert "ZeroDivisionError: nothing to divide by" in caplog.text

    def test_the_root_logger_is_left_alone_and_ours_is_silent_without_handlers(
        self, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(logging.getLogger(), "handlers", [])

        warn("nobody listens")

        assert logging.getLogger().handlers == []
        assert capfd.readouterr() == ("", "")


class TestGuard:
    """Our exceptions do not reach the service."""

    def test_an_exception_is_counted_said_and_swallowed(self, fresh: Drops, caplog: pytest.LogCaptureFixture) -> None:
        with guard("rendering a line"):
            raise KeyError("x")
        guarded("rendering a line", lambda: 1 / 0)

        assert fresh.by_reason() == {"internal_error": 2}
        assert said(caplog) == [
            ("ERROR", "caseyos-otel failed while rendering a line: KeyError"),
            ("ERROR", "caseyos-otel failed while rendering a line: ZeroDivisionError"),
        ]

    def test_many_of_one_kind_are_all_counted_and_said_once(
        self, fresh: Drops, caplog: pytest.LogCaptureFixture
    ) -> None:
        for number in range(10):
            swallowed("exporting", ValueError(number))

        assert fresh.by_reason() == {"internal_error": 10}
        assert len(caplog.records) == 1

    @pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
    def test_what_ends_a_program_passes(self, kind: type[BaseException], fresh: Drops) -> None:
        with pytest.raises(kind), guard("doing anything"):
            raise kind

        assert fresh.by_reason() == {}

    def test_without_an_exception_nothing_is_counted(self, fresh: Drops) -> None:
        done = []
        guarded("appending", lambda: done.append(1))

        assert (done, fresh.by_reason()) == ([1], {})

    def test_tests_may_have_the_exception_itself(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(diagnostics, "reraise", True)
        error = ValueError("seen")

        with pytest.raises(ValueError, match="seen") as caught, guard("doing anything"):
            raise error

        assert caught.value is error


def test_names_without_end_are_counted_together_from_some_number_on() -> None:
    drops = diagnostics.Drops()
    for n in range(5000):
        drops.count("undeclared", event=f"name {n}")
    drops.count("undeclared", event="name 1")
    counts = drops.snapshot()
    assert len(counts) <= 1002
    assert sum(counts.values()) == 5001
    assert counts["undeclared", "", "name 1"] == 2
    assert counts["undeclared", "", "other"] > 3000
