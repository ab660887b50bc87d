"""`spool status|drain|replay` and `events where`, over a spool that a process left."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from caseyos_otel import settings
from caseyos_otel.events.record import EventRecord
from caseyos_otel.events.registry import registry
from caseyos_otel.otlp.encode import RequestEncoder
from caseyos_otel.pipeline import set_aside
from caseyos_otel.pipeline.set_aside import SetAside
from caseyos_otel.spool.segment import HEADER_SIZE, encode_record
from caseyos_otel.spool.writer import SpoolWriter
from tests.records import event
from tests.unit.cli.conftest import Run

ENCODER = RequestEncoder({"service.name": "api"}, "scope", "1", "")
Left = Callable[..., None]
GONE = "postgresql://nobody@127.0.0.1:1/nothing"


def encode(record: EventRecord) -> bytes:
    return ENCODER.encode([record])


@pytest.fixture
def root(state: Path) -> Path:
    return settings.load({"CASEYOS_OTEL_STATE_DIR": str(state)}).spool_path


@pytest.fixture
def left(root: Path) -> Left:
    """`left(record, …)`: a dead process's spool."""

    def leave(*records: EventRecord, destinations: tuple[str, ...] = ("outcomes",)) -> None:
        writer = SpoolWriter(root, on_problem=print)
        writer.wait_for(destinations)
        for record in records:
            writer.append("outcomes" if record.outcome else "failures", encode(record))
        writer.close()

    return leave


def stored(state: Path) -> list[tuple[str, str]]:
    with sqlite3.connect(state / "caseyos.db") as connection:
        return connection.execute("select event, deal_id from outcome_events order by deal_id").fetchall()


def test_what_waits_is_shown_for_whom_and_by_whom(run: Run, root: Path, left: Left) -> None:
    left(event("outcome_deal_advanced", deal_id="d1"), event("action_failed", action_id="a1"))
    living = SpoolWriter(root, on_problem=print)
    living.wait_for(["outcomes"])
    living.append("outcomes", encode(event("outcome_deal_advanced", deal_id="d2")))
    ran = run("spool", "status", "--json")
    assert (ran.exit_code, ran.json["directory"], ran.json["full"]) == (0, str(root), False)
    assert ran.json["pending"]["outcomes"]["records"] == 3
    assert ran.json["pending"]["outcomes"]["oldest_age"] > 0
    assert sorted(folder["owner"] for folder in ran.json["directories"]) == ["alive", "dead"]
    text = run("spool", "status").stdout
    assert re.search(r"outcomes: 3 waiting, the oldest for [0-9]+ s\n", text)
    assert "2 processes left something, 1 of them alive" in text


def test_a_full_spool_is_broken_for_status_and_doctor(run: Run, root: Path, left: Left) -> None:
    left(*(event("outcome_deal_advanced", deal_id="d" * 3000) for _ in range(330)))
    bound = {"CASEYOS_OTEL_SPOOL_MAX_BYTES": str(2**20)}
    ran = run("spool", "status", **bound)
    assert (ran.exit_code, "bytes, FULL" in ran.stdout) == (1, True)
    doctor = run("doctor", "--json", **bound)
    [problem] = doctor.json["broken"]
    assert doctor.exit_code == 1
    assert problem.startswith(f"spool: {root} is full: ")
    assert run("doctor").exit_code == 0, "by the default bound it is not"


def test_drain_delivers_everything_and_says_how_much(run: Run, state: Path, left: Left) -> None:
    left(*(event("outcome_deal_advanced", deal_id=f"d{n}") for n in range(3)))
    left(event("outcome_deal_advanced", deal_id="d3"))
    ran = run("spool", "drain", "--json")
    assert (ran.exit_code, ran.json["delivered"], ran.json["left"]) == (0, {"outcomes": 4}, {"outcomes": 0})
    assert stored(state) == [("outcome_deal_advanced", f"d{n}") for n in range(4)]
    again = run("spool", "drain")
    assert (again.exit_code, again.stdout) == (0, "outcomes: 0 delivered\n")


def test_what_waits_behind_a_damaged_record_or_for_nobody_by_name_is_seen_and_drained(
    run: Run, root: Path, state: Path, left: Left
) -> None:
    waiting = [event("outcome_deal_advanced", deal_id=f"d{n}") for n in range(5)]
    left(*waiting)
    [segment] = root.glob("*/*.seg")
    content = bytearray(segment.read_bytes())
    content[HEADER_SIZE + 1] ^= 0x80  # the first length: it leads nowhere
    segment.write_bytes(content)
    (segment.parent / "destinations").write_bytes(b"")  # as a power cut may leave it
    assert run("spool", "status", "--json").json["pending"]["outcomes"]["records"] == 5
    [found] = run("events", "where", waiting[4].event_id, "--json").json["found"]
    assert (found["state"], found["destination"]) == ("pending", "outcomes")
    ran = run("spool", "drain", "--json")
    assert (ran.exit_code, ran.json["left"]) == (0, {"outcomes": 0})
    assert stored(state) == [("outcome_deal_advanced", f"d{n}") for n in range(1, 5)]
    assert run("spool", "status", "--json").json["quarantined"] == 1


AS_SOMEBODY_ELSE = """
import os, sys
import caseyos_otel.pipeline.replay, caseyos_otel.pipeline.draining
from caseyos_otel.cli.app import main
command, sys.argv = sys.argv[1], ["caseyos-otel", "spool", "status"]
try:
    main()  # as its owner, who imports all of it
except SystemExit as end:
    assert end.code == 0
sys.argv[2] = command
os.setgroups([])
os.setuid(65534)
main()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can look as somebody else: run the tests as root")
@pytest.mark.parametrize("command", ["status", "drain", "replay"])
def test_a_spool_that_another_user_may_not_look_at_is_no_empty_one(root: Path, left: Left, command: str) -> None:
    """`drain` before a container stops must not say that nothing waits."""
    left(event("outcome_deal_advanced", deal_id="d1"))
    root.chmod(0o700)
    ran = subprocess.run(
        [sys.executable, "-c", AS_SOMEBODY_ELSE, command],
        env={"CASEYOS_OTEL_SPOOL_DIR": str(root), "CASEYOS_OTEL_STATE_DIR": str(root.parent.parent)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 1, ran.stdout
    assert "Permission denied" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_drain_tells_what_is_left_at_its_deadline_and_why(run: Run, left: Left, root: Path) -> None:
    left(event("outcome_deal_advanced", deal_id="d1"))
    ran = run("spool", "drain", "--timeout", "0.5", CASEYOS_OTEL_DATABASE_URL=GONE)
    assert ran.exit_code == 1
    assert ran.stdout.startswith("outcomes: 0 delivered, 1 left: ")
    assert len(list(root.glob("*/outcomes-*.seg"))) == 1
    assert run("spool", "drain").exit_code == 0, "the next one delivers it"


def test_an_undeclared_event_goes_back_when_somebody_has_declared_it(
    run: Run, root: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = SetAside(root, encode)
    kept.undeclared("outcome_deal_advanced", {"deal_id": "d1", "timestamp": "2026-01-23T12:00:00.5Z", "secret": "s"})
    kept.undeclared_frame("outcome_deal_advanced", encode(event("outcome_deal_advanced", deal_id="d2")))
    kept.undeclared("contract_signed", {"contract_id": "c1"})
    dry = run("spool", "replay", "--dry-run", "--json")
    assert dry.json == {"dry_run": True, "back": 2, "kept": {"undeclared": 1}}
    ran = run("spool", "replay")
    assert (ran.exit_code, ran.stdout.splitlines()[0]) == (
        0,
        "2 events went back into the spool. Still set aside: 1 undeclared.",
    )
    assert run("spool", "drain").exit_code == 0
    assert stored(state) == [("outcome_deal_advanced", "d1"), ("outcome_deal_advanced", "d2")]
    with sqlite3.connect(state / "caseyos.db") as connection:
        [row] = connection.execute("select occurred_at, properties from outcome_events where deal_id = 'd1'")
    assert row[0].startswith("2026-01-23 12:00:00.5")
    assert "secret" not in row[1]
    left_over = [entry["event"] for path in set_aside.files(root) for entry in set_aside.entries(path)]
    assert left_over == ["contract_signed"]
    assert run("spool", "replay", "--json").json == {"dry_run": False, "back": 0, "kept": {"undeclared": 1}}


def test_a_refused_record_goes_back_to_the_destination_that_refused_it_alone(run: Run, root: Path, state: Path) -> None:
    record = event("outcome_deal_advanced", deal_id="d1")
    SetAside(root, encode).rejected(record, "outcomes: a check constraint", "outcomes")
    sentry = {"SENTRY_DSN": "http://key@127.0.0.1:1/1"}
    assert run("spool", "replay", "--json", **sentry).json["back"] == 1
    pending = run("spool", "status", "--json", **sentry).json["pending"]
    assert {name: waits["records"] for name, waits in pending.items()} == {"outcomes": 1, "sentry": 0}
    assert run("spool", "drain").exit_code == 0
    assert stored(state) == [("outcome_deal_advanced", "d1")]
    assert not list(root.iterdir())


def test_a_replay_that_was_interrupted_is_repeated_and_stores_nothing_twice(run: Run, root: Path, state: Path) -> None:
    SetAside(root, encode).undeclared("outcome_deal_advanced", {"deal_id": "d1"})
    before = (root / set_aside.NAME).read_bytes()
    assert run("spool", "replay", "--json").json["back"] == 1
    (root / "set-aside.claimed.jsonl").write_bytes(before)  # killed before it could forget what it had put back
    assert run("spool", "replay", "--json").json["back"] == 1
    assert run("spool", "drain").exit_code == 0
    assert stored(state) == [("outcome_deal_advanced", "d1")]


def test_a_mended_piece_of_the_quarantine_goes_back_and_a_damaged_one_stays(run: Run, root: Path, state: Path) -> None:
    folder = root / "quarantine"
    folder.mkdir(parents=True)
    sound = encode_record(encode(event("outcome_deal_advanced", deal_id="d1")), 1)
    (folder / "x.outcomes-00000001.seg.16").write_bytes(sound)
    (folder / "x.outcomes-00000001.seg.99").write_bytes(sound[:-3])
    assert run("spool", "replay", "--json").json == {"dry_run": False, "back": 1, "kept": {"damaged": 1}}
    assert [path.name for path in folder.iterdir()] == ["x.outcomes-00000001.seg.99"]
    assert run("spool", "drain").exit_code == 0
    assert stored(state) == [("outcome_deal_advanced", "d1")]


def test_where_follows_an_event_through_its_life(run: Run, root: Path, left: Left) -> None:
    outcome, failure = event("outcome_deal_advanced", deal_id="d1"), event("action_failed", action_id="a1")
    left(outcome, failure, destinations=("outcomes", "sentry"))

    def states(record: EventRecord) -> set[tuple[str, str | None]]:
        ran = run("events", "where", record.event_id, "--json")
        assert ran.exit_code == 0
        return {(found["state"], found.get("destination")) for found in ran.json["found"]}

    assert states(outcome) == {("pending", "outcomes")}, "an outcome is no issue"
    assert states(failure) == {("pending", "outcomes"), ("pending", "sentry")}
    assert run("spool", "drain").exit_code == 0
    assert states(failure) == {("delivered", "outcomes"), ("pending", "sentry"), ("stored", None)}
    text = run("events", "where", outcome.event_id).stdout
    assert "state=stored where=table outcome_events event=outcome_deal_advanced" in text


def test_where_takes_no_other_field_for_the_id_of_an_event(run: Run, left: Left) -> None:
    action = "0190a5d2-6c1e-7b3a-9f51-2f6d1c8e4a10"
    left(event("action_failed", action_id=action))
    ran = run("events", "where", action)
    assert (ran.exit_code, ran.stdout) == (1, f"{action} is unknown here.\n")


def test_where_knows_what_is_set_aside_with_its_reason_and_what_is_quarantined(run: Run, root: Path) -> None:
    refused, unknown, damaged = (event("outcome_deal_advanced", deal_id=f"d{n}") for n in range(3))
    kept = SetAside(root, encode)
    kept.rejected(refused, "outcomes: too long", "outcomes")
    kept.undeclared_frame("contract_signed", encode(unknown))
    (root / "quarantine").mkdir()
    (root / "quarantine" / "x.outcomes-00000001.seg.16").write_bytes(encode(damaged))
    [found] = run("events", "where", refused.event_id.upper(), "--json").json["found"]
    assert (found["state"], found["reason"], found["destination"]) == ("set_aside", "outcomes: too long", "outcomes")
    [found] = run("events", "where", unknown.event_id, "--json").json["found"]
    assert (found["state"], found["reason"]) == ("set_aside", "undeclared")
    [found] = run("events", "where", damaged.event_id, "--json").json["found"]
    assert found["state"] == "quarantined"


def test_where_says_that_an_event_is_unknown_here_and_looks_without_making_a_database(run: Run, state: Path) -> None:
    unknown = "0190a5d2-6c1e-7b3a-9f51-2f6d1c8e4a10"
    ran = run("events", "where", unknown)
    assert (ran.exit_code, ran.stdout) == (1, f"{unknown} is unknown here.\n")
    assert not (state / "caseyos.db").exists()
    away = run("events", "where", unknown, "--json", CASEYOS_OTEL_DATABASE_URL=GONE)
    assert (away.exit_code, len(away.json["unseen"])) == (1, 1)
    wrong = run("events", "where", "d1")
    assert (wrong.exit_code, "32 hexadecimal digits" in wrong.stderr) == (2, True)


def test_entries_are_written_while_a_replay_reads(root: Path) -> None:
    kept = SetAside(root, encode)
    kept.undeclared("contract_signed", {"n": 1})
    with set_aside.claimed(root) as [mine]:
        kept.undeclared("contract_signed", {"n": 2})
        with set_aside.claimed(root) as others:
            assert mine not in others, "one replay at a time reads a file"
            assert len(others) == 1
        set_aside.rewrite(mine, [])
    left_over = [json.loads(line) for path in set_aside.files(root) for line in path.read_text().splitlines()]
    assert [entry["fields"]["n"] for entry in left_over] == [2]
    assert registry.get("contract_signed") is None
