"""What cannot be delivered as it is: kept in a private file until somebody mends it."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from caseyos_otel.diagnostics import drops
from caseyos_otel.errors import Unavailable
from caseyos_otel.events.registry import registry
from caseyos_otel.otlp.decode import decode
from caseyos_otel.otlp.encode import RequestEncoder
from caseyos_otel.pipeline import set_aside
from caseyos_otel.pipeline.set_aside import SetAside
from tests.limits import limited
from tests.records import event

ENCODER = RequestEncoder({}, "scope", "1", "")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "set-aside.jsonl"


def kept_at(path: Path) -> SetAside:
    return SetAside(path.parent, lambda record: ENCODER.encode([record]))


def entries(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_undeclared_event_is_kept_with_its_fields_and_only_its_owner_may_read_it(path: Path) -> None:
    kept = kept_at(path)
    kept.undeclared("contract_signed", {"contract_id": "c1", "signer": "john@acmecorp.com", "when": object()})
    kept.undeclared("contract\nsigned \ud800", {"text": "\ud800\n"})
    first, second = entries(path)
    assert (first["reason"], first["event"], first["fields"]["contract_id"]) == ("undeclared", "contract_signed", "c1")
    assert first["fields"]["when"].startswith("<object")
    assert first["set_aside_at"] > 1_700_000_000
    assert second["event"] == "contract\nsigned \ud800"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_frame_of_another_release_can_be_delivered_later_from_what_is_kept(path: Path) -> None:
    frame = ENCODER.encode([event("outcome_deal_advanced", deal_id="d1")])
    before = drops.snapshot().get(("undeclared", "", "outcome_deal_advanced"), 0)
    kept_at(path).undeclared_frame("outcome_deal_advanced", frame)
    assert drops.snapshot()["undeclared", "", "outcome_deal_advanced"] == before + 1
    [entry] = entries(path)
    assert decode(base64.b64decode(entry["otlp"]), registry)[0].values["deal_id"] == "d1"


def test_a_refused_record_is_kept_with_its_reason_in_the_specification_s_shape(path: Path) -> None:
    record = event("action_executed", action_id="a1", metadata={"recipient": "john@acmecorp.com"})
    kept_at(path).rejected(record, "outcomes: the database refuses a row", "outcomes")
    [entry] = entries(path)
    assert (entry["reason"], entry["event"]) == ("outcomes: the database refuses a row", "action_executed")
    assert (entry["event_id"], entry["destination"]) == (record.event_id, "outcomes")
    assert entry["timestamp"] == "2026-01-23T12:00:00.123456Z"
    assert entry["fields"]["metadata"] == {"recipient": "john@acmecorp.com"}
    [again] = decode(base64.b64decode(entry["otlp"]), registry)
    assert (again.event_id, again.values) == (record.event_id, record.values)


def test_the_file_is_bounded_even_by_one_entry(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(set_aside, "MOST_BYTES", 2000)
    kept = kept_at(path)
    kept.undeclared("big", {"text": "x" * 5000})
    assert path.stat().st_size == 0
    for _ in range(100):
        kept.undeclared("small", {"text": "x" * 50})
    assert 1500 < path.stat().st_size <= 2000
    assert {entry["event"] for entry in entries(path)} == {"small"}


def test_a_refused_record_is_never_dropped_for_want_of_room(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody's constraint refuses every outcome: what has no room here stays in the spool, and that is said."""
    monkeypatch.setattr(set_aside, "MOST_BYTES", 5000)
    kept, record = kept_at(path), event("outcome_deal_advanced", deal_id="d1")
    with pytest.raises(
        Unavailable, match=r"a check constraint, and .*set-aside.jsonl is full: `caseyos-otel spool replay`"
    ):
        for _ in range(100):
            kept.rejected(record, "outcomes: a check constraint", "outcomes")
    assert len(entries(path)) > 3


def test_half_a_line_on_a_full_disk_is_taken_back_and_the_record_waits(path: Path) -> None:
    kept, record = kept_at(path), event("outcome_deal_advanced", deal_id="d1")
    kept.rejected(record, "outcomes: no", "outcomes")
    with limited(path.stat().st_size + 10), pytest.raises(Unavailable, match="cannot be set aside"):
        kept.rejected(record, "outcomes: no", "outcomes")
    assert len(entries(path)) == 1


@pytest.mark.swallows
def test_a_place_that_cannot_be_written_reaches_nobody_and_is_counted(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    before = drops.by_reason().get("internal_error", 0)
    kept_at(tmp_path / "file" / "set-aside.jsonl").undeclared("contract_signed", {})
    assert drops.by_reason()["internal_error"] == before + 1


def old_and_young(path: Path) -> None:
    path.parent.mkdir(parents=True)
    ages = [("old", 100.0), ("young", 200.0)]
    lines = [json.dumps({"set_aside_at": at, "reason": "undeclared", "event": name}) for name, at in ages]
    path.write_text("\n".join([lines[0], "torn by a full disk", lines[1]]) + "\n")


def test_what_was_set_aside_too_long_ago_is_forgotten_with_what_was_torn_then(path: Path) -> None:
    old_and_young(path)
    assert set_aside.expired(path.parent, 150.0) == 2
    assert set_aside.forget(path.parent, 150.0) == 2
    [left] = set_aside.files(path.parent)
    assert [entry["event"] for entry in entries(left)] == ["young"]
    assert left.stat().st_mode & 0o777 == 0o600
    assert set_aside.forget(path.parent, 150.0) == 0


def test_where_nothing_is_old_no_file_is_touched_and_none_is_made(path: Path) -> None:
    assert set_aside.forget(path.parent, 150.0) == 0
    assert not path.parent.exists()
    old_and_young(path)
    before = path.stat()
    assert set_aside.forget(path.parent, 50.0) == 0
    assert path.stat() == before


def test_what_a_replay_has_in_hand_is_not_forgotten_under_it(path: Path) -> None:
    old_and_young(path)
    with set_aside.claimed(path.parent) as [claimed]:
        assert set_aside.forget(path.parent, 150.0) == 0
        assert len(claimed.read_bytes().splitlines()) == 3
    assert set_aside.forget(path.parent, 150.0) == 2
