"""The structured log: one JSON object a line, whatever the values and wherever it is written."""

from __future__ import annotations

import io
import json
import math
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from caseyos_otel import diagnostics
from caseyos_otel.diagnostics import drops
from caseyos_otel.events.record import EventRecord
from caseyos_otel.exporters.structured_log import StructuredLog, line, rfc3339_of
from caseyos_otel.redaction.disclosure import minimise
from tests.records import NOON, event

ENVELOPE = {"event", "timestamp", "event_id", "trace_id", "span_id", "service"}


def strict_json(text: str) -> dict[str, Any]:
    def refuse(constant: str) -> Any:
        raise AssertionError(f"{constant} is no JSON")

    parsed: dict[str, Any] = json.loads(text, parse_constant=refuse)
    return parsed


def rendered(record: EventRecord) -> dict[str, Any]:
    minimise(record)
    text = line(record, record.values, "api")
    assert text.isascii()
    assert "\n" not in text
    return strict_json(text)


def lost() -> int:
    return sum(n for (reason, to, _), n in drops.snapshot().items() if (reason, to) == ("rejected", "log"))


# -- one line --------------------------------------------------------------------------------------------------------


def test_a_line_has_every_declared_field_by_its_flat_name_and_the_envelope() -> None:
    record = event("recommendation_accepted", recommendation_id="r1", action_type="send_email", user_id="casey")
    assert rendered(record) == {
        "event": "recommendation_accepted",
        "recommendation_id": "r1",
        "queue_item_id": None,
        "aps_score": None,
        "action_type": "send_email",
        "user_id": "casey",
        "time_to_decision_seconds": None,
        "timestamp": "2026-01-23T12:00:00.123456Z",
        "event_id": record.event_id,
        "trace_id": None,
        "span_id": None,
        "service": "api",
    }


def test_ids_of_trace_and_span_are_w3c_s_hexadecimal_of_full_length() -> None:
    shown = rendered(event("signal_received", _trace_id=0xABC, _span_id=0xDEF))
    assert (shown["trace_id"], shown["span_id"]) == (f"{0xABC:032x}", f"{0xDEF:016x}")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two\nlines\r\nand a \t tab", "two\nlines\r\nand a \t tab"),
        ('"quoted" \\ back', '"quoted" \\ back'),
        ("\ud800 alone \udfff", "\ufffd alone \ufffd"),
        ("nul \x00", "nul \ufffd"),
        ("\u2028 \u2029 \x85 \x1e", "\u2028 \u2029 \x85 \x1e"),
        ("ünï ☃ 😀", "ünï ☃ 😀"),
        ("", ""),
    ],
)
def test_any_text_is_one_line_of_valid_json(text: str, shown: str) -> None:
    found = rendered(event("recommendation_generated", recommendation_id="r", aps_score=1, action_type=text))
    assert found["action_type"] == shown


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 10**400, "87.5", b"87", True, object()])
def test_a_value_that_is_no_number_is_null_and_named(number: Any) -> None:
    found = rendered(event("recommendation_generated", recommendation_id="r", aps_score=number, action_type="a"))
    assert found["aps_score"] is None
    assert found["invalid_fields"] == ["aps_score"]


@pytest.mark.parametrize("number", [2**63 - 1, -(2**63), 0, 0.1, 1e308, 5e-324, -0.0])
def test_a_number_comes_back_exactly(number: float) -> None:
    found = rendered(event("recommendation_generated", recommendation_id="r", aps_score=number, action_type="a"))
    assert repr(found["aps_score"]) == repr(number)


def test_a_number_that_somebody_s_processor_made_nan_is_refused_rather_than_written() -> None:
    record = event("recommendation_generated", recommendation_id="r", aps_score=1.5, action_type="a")
    record.values["aps_score"] = math.nan
    with pytest.raises(ValueError, match="JSON"):
        line(record, record.values, "api")


def test_moments_are_utc_with_a_z_and_booleans_are_json_s() -> None:
    moment = datetime.fromisoformat("2026-01-24T16:00:00.5+02:00")
    found = rendered(event("outcome_meeting_booked", attendee="a@b.example", meeting_time=moment))
    assert found["meeting_time"] == "2026-01-24T14:00:00.500000Z"
    assert rendered(event("outcome_deliverable_shipped", deliverable_id="d", on_time=False))["on_time"] is False


def test_nested_fields_stand_inside_their_group_which_is_null_where_it_is_empty() -> None:
    common = {"action_id": "a1", "action_type": "send_email", "execution_mode": "automated", "success": True}
    metadata = {"recipient": "john@acmecorp.com", "body": "a secret message", "gmail_message_id": "m1"}
    found = rendered(event("action_executed", **common, metadata=metadata))
    assert found["metadata"] == {"recipient": "john@acmecorp.com", "gmail_message_id": "m1"}
    assert rendered(event("action_executed", **common))["metadata"] is None


def test_a_circuit_breaker_s_own_service_stays_and_the_emitting_one_is_service_name() -> None:
    found = rendered(event("circuit_breaker_opened", service="hubspot", failure_count=5))
    assert (found["service"], found["service_name"]) == ("hubspot", "api")
    other = rendered(event("signal_received"))
    assert other["service"] == "api"
    assert "service_name" not in other
    assert set(other) >= ENVELOPE


@pytest.mark.parametrize(
    ("nanoseconds", "shown"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (NOON, "2026-01-23T12:00:00.123456Z"),
        (NOON - NOON % 10**9, "2026-01-23T12:00:00Z"),
        (1000, "1970-01-01T00:00:00.000001Z"),
        (-1_000_000, "1969-12-31T23:59:59.999000Z"),
        (2**63 - 1, "2262-04-11T23:47:16.854775Z"),
    ],
)
def test_timestamps_are_rfc_3339_in_microseconds(nanoseconds: int, shown: str) -> None:
    assert rfc3339_of(nanoseconds) == shown
    assert datetime.fromisoformat(shown).tzinfo == UTC


# -- where lines go --------------------------------------------------------------------------------------------------

Make = Callable[[str], StructuredLog]


@pytest.fixture
def make() -> Make:
    return lambda target: StructuredLog(target, lambda: "api", lambda record: record.values)


def test_lines_go_to_a_path_whose_folder_is_made_and_which_may_be_rotated_away(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "logs" / "events.jsonl"
    log = make(str(path))
    log(event("signal_received", signal_id="s1"))
    assert not path.exists()
    log.flush()
    path.rename(tmp_path / "logs" / "events.jsonl.1")
    log(event("signal_received", signal_id="s2"))
    log.flush()
    log.flush()
    found = [strict_json(p.read_text())["signal_id"] for p in (path.with_name("events.jsonl.1"), path)]
    assert found == ["s1", "s2"]
    assert path.read_text().endswith("}\n")


def test_lines_are_added_to_what_is_there(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text("there before\n")
    log = make(str(path))
    for number in range(3):
        log(event("signal_received", signal_id=f"s{number}"))
    log.flush()
    assert [text[:6] for text in path.read_text().splitlines()] == ["there ", '{"even', '{"even', '{"even']


@pytest.mark.parametrize("target", ["stdout", "stderr"])
def test_lines_go_to_what_the_stream_is_at_that_moment(
    target: str, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, first, second = make(target), io.StringIO(), io.StringIO()
    for stream in (first, second):
        monkeypatch.setattr(sys, target, stream)
        log(event("signal_received"))
        log.flush()
    assert [len(stream.getvalue().splitlines()) for stream in (first, second)] == [1, 1]


class Broken:
    """What a service put in the place of stdout."""

    def write(self, text: str) -> int:
        raise RuntimeError("no writing here")


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("stream", [None, Broken(), closed()])
def test_a_stream_that_takes_nothing_costs_its_lines_which_are_counted(
    stream: Any, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnostics, "_said", {})
    log, before = make("stdout"), lost()
    monkeypatch.setattr(sys, "stdout", stream)
    log(event("signal_received"))
    log(event("signal_processed"))
    log.flush()
    assert lost() == before + 2
    monkeypatch.setattr(sys, "stdout", kept := io.StringIO())
    log(event("signal_received", signal_id="later"))
    log.flush()
    assert strict_json(kept.getvalue())["signal_id"] == "later"


def test_an_unwritable_path_is_counted_by_event_and_said_once(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(diagnostics, "_said", {})
    monkeypatch.setattr(diagnostics.logger, "propagate", True)
    (tmp_path / "file").write_text("")
    target = str(tmp_path / "file" / "events.jsonl")
    log, before = make(target), drops.snapshot().get(("rejected", "log", "signal_received"), 0)
    for _ in range(3):
        log(event("signal_received"))
        log.flush()
    assert drops.snapshot()["rejected", "log", "signal_received"] == before + 3
    assert [(r.levelname, target in r.getMessage()) for r in caplog.records] == [("WARNING", True)]


def test_the_service_is_asked_for_once_a_batch() -> None:
    names = iter(["first", "second"])
    log = StructuredLog("stdout", lambda: next(names), lambda record: record.values)
    for _ in range(2):
        log(event("signal_received"))
    assert [strict_json(text)["service"] for _, text in log._lines] == ["first", "first"]


def test_what_is_disclosed_is_what_is_written(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = StructuredLog(str(path), lambda: "api", lambda record: {**record.values, "recipient": "h_1"})
    log(event("outcome_reply_received", recipient="john@acmecorp.com"))
    log.flush()
    assert "john" not in path.read_text()
    assert strict_json(path.read_text())["recipient"] == "h_1"


def test_a_child_does_not_write_what_its_parent_has_rendered(make: Make, tmp_path: Path) -> None:
    log = make(str(tmp_path / "events.jsonl"))
    log(event("signal_received"))
    log.after_fork()
    log.flush()
    assert not (tmp_path / "events.jsonl").exists()


@pytest.fixture
def _often_switched() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_often_switched")
def test_threads_that_render_and_flush_at_once_lose_and_double_nothing(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = make(str(path))

    def work(first: int) -> None:
        for number in range(first, first + 200):
            log(event("signal_received", signal_id=str(number)))
            log.flush()

    threads = [threading.Thread(target=work, args=(n * 200,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [int(strict_json(text)["signal_id"]) for text in path.read_text().splitlines()]
    assert sorted(found) == list(range(800))
