"""`db` and `events`: each command does one thing, says what, and exits 1 where it could not."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from caseyos_otel.events.registry import SPECIFIED
from tests.unit.cli.conftest import Run


def tables(path: Path) -> set[str]:
    with sqlite3.connect(path) as connection:
        return {name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")}


def test_check_says_what_to_run_and_upgrade_makes_the_tables_and_may_be_repeated(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    url = ("--url", f"sqlite:///{path}")
    before = run("db", "check", *url)
    assert (before.exit_code, "caseyos-otel db upgrade" in before.stdout) == (1, True)
    for _ in range(2):
        assert run("db", "upgrade", *url).exit_code == 0
    assert tables(path) >= {"outcome_events", "events"}
    after = run("db", "check", *url)
    assert (after.exit_code, after.stdout) == (0, "The tables are up to date.\n")


def test_the_database_of_the_environment_is_the_default(run: Run, tmp_path: Path, state: Path) -> None:
    assert run("db", "upgrade").exit_code == 0
    assert "outcome_events" in tables(state / "caseyos.db")
    other = tmp_path / "other.db"
    assert run("db", "upgrade", CASEYOS_OTEL_DATABASE_URL=f"sqlite:///{other}").exit_code == 0
    assert "outcome_events" in tables(other)


@pytest.mark.parametrize("command", ["upgrade", "check"])
@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://casey:hunter2@db/app", "accepted are sqlite"),
        ("nonsense", "accepted are sqlite"),
        ("postgresql://casey:hunter2@127.0.0.1:1/app", "127.0.0.1"),
    ],
)
def test_a_database_that_cannot_be_used_is_one_sentence_and_exit_1(command: str, url: str, said: str, run: Run) -> None:
    ran = run("db", command, "--url", url)
    assert (ran.exit_code, ran.stdout) == (1, "")
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr
    assert "hunter2" not in ran.stderr


def test_the_sixteen_are_listed_with_both_names(run: Run) -> None:
    listed = run("events", "list", "--json").json
    names = {event.declaration.name: event.declaration for event in SPECIFIED}
    found = {entry["name"]: entry for entry in listed}
    assert found.keys() >= names.keys()
    assert all(
        (found[name]["otel_name"], found[name]["outcome"]) == (d.otel_name, d.outcome) for name, d in names.items()
    )
    text = run("events", "list").stdout
    assert "outcome_reply_received           caseyos.outcome.reply_received" in text
    assert len(text.splitlines()) == len(listed)


def test_one_event_is_shown_with_its_fields_by_either_name(run: Run) -> None:
    shown = run("events", "show", "outcome_reply_received").stdout
    assert shown == run("events", "show", "caseyos.outcome.reply_received").stdout
    for text in ("recipient", "email", "reply_sentiment", "positive", "time_to_reply_hours"):
        assert text in shown


def test_schemas_are_json_of_one_or_of_all(run: Run) -> None:
    one = run("events", "schema", "signal_received").json
    assert "signal_id" in one["properties"]
    everything = run("events", "schema").json
    assert everything["signal_received"] == one
    assert run("events", "show", "signal_received", "--json").json == one
    assert everything.keys() >= {event.declaration.name for event in SPECIFIED}


@pytest.mark.parametrize("command", ["show", "schema"])
def test_an_event_that_nobody_declared_is_exit_1_with_the_nearest_name(command: str, run: Run) -> None:
    ran = run("events", command, "signal_recieved")
    assert (ran.exit_code, ran.stdout) == (1, "")
    assert "did you mean 'signal_received'?" in ran.stderr


def test_the_command_is_installed_and_helps() -> None:
    command = Path(sys.executable).with_name("caseyos-otel")
    done = subprocess.run([command, "--help"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0
    assert all(noun in done.stdout for noun in ("doctor", "db", "events"))
