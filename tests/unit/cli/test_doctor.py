"""`doctor`: what is in force and why, each destination tried for real, and how to mend what is broken."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from caseyos_otel.cli import checkup
from caseyos_otel.environment_variables import VARIABLES
from caseyos_otel.pipeline import status
from caseyos_otel.spool.directory import prepare
from caseyos_otel.spool.problem import SpoolUnavailable
from tests.integration.otlp_receiver import GrpcReceiver, OtlpReceiver
from tests.integration.sentry_receiver import SentryReceiver
from tests.unit.cli.conftest import Ran, Run

GONE = "127.0.0.1:1"
"""Nobody listens there."""


@pytest.fixture(autouse=True)
def _quick_and_quiet(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(checkup, "_TIMEOUT_S", 0.5)
    caplog.set_level(logging.CRITICAL)


@pytest.fixture
def otlp() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as made:
        yield made


@pytest.fixture
def sentry() -> Iterator[SentryReceiver]:
    with SentryReceiver() as made:
        yield made


def result(ran: Ran, name: str) -> dict[str, Any]:
    [destination] = [d for d in ran.json["destinations"] if d["name"] == name]
    return destination


def row(ran: Ran, name: str) -> dict[str, str]:
    [found] = [row for row in ran.json["configuration"] if row["name"] == name]
    return found


def test_with_no_setting_everything_works_and_the_exit_is_0(run: Run, state: Path) -> None:
    ran = run("doctor", "--json")
    assert ran.exit_code == 0
    assert ran.json["broken"] == []
    states = {d["name"]: (d["on"], d["result"]["state"]) for d in ran.json["destinations"]}
    assert (
        states.items()
        >= {
            "log": (True, "ok"),
            "outcomes": (True, "ok"),
            "sentry": (False, "off"),
            "otlp": (False, "off"),
            "spool": (True, "ok"),
        }.items()
    )
    assert result(ran, "sentry")["why"] == "SENTRY_DSN is not set"
    assert str(state / "caseyos.db") in result(ran, "outcomes")["result"]["detail"]
    assert [row["name"] for row in ran.json["configuration"]] == [variable.name for variable in VARIABLES]


def test_each_value_comes_with_its_source(run: Run, tmp_path: Path) -> None:
    secret = tmp_path / "key"
    secret.write_text("s3cret")
    ran = run("doctor", "--json", CASEYOS_OTEL_SUCCESS_RATIO="0.5", CASEYOS_OTEL_PII_KEY_FILE=str(secret))
    ratio, log, key = (row(ran, f"CASEYOS_OTEL_{name}") for name in ("SUCCESS_RATIO", "LOG", "PII_KEY"))
    assert (ratio["value"], ratio["source"]) == ("0.5", "environment")
    assert (log["value"], log["source"]) == ("stdout", "default")
    assert (key["value"], key["source"]) == ("***", "file")


def test_secrets_are_in_neither_form_of_the_report(run: Run, sentry: SentryReceiver) -> None:
    environ = {
        "CASEYOS_OTEL_PII_KEY": "hunter2-key",
        "CASEYOS_OTEL_DATABASE_URL": f"postgresql://casey:hunter2-a@{GONE}/app?password=hunter2-b&user=u",
        "SENTRY_DSN": sentry.dsn.replace("0123456789abcdef0123456789abcdef", "hunter2c0123"),
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://casey:hunter2-d@{GONE}?token=hunter2-e",
    }
    for form in ([], ["--json"]):
        ran = run("doctor", *form, **environ)
        assert "hunter2" not in ran.stdout + ran.stderr
        assert GONE in ran.stdout
    assert row(ran, "CASEYOS_OTEL_DATABASE_URL")["value"] == f"postgresql://***@{GONE}/app?password=***&user=***"
    assert row(ran, "OTEL_EXPORTER_OTLP_ENDPOINT")["value"] == f"http://***@{GONE}?token=***"


def test_a_value_that_is_not_accepted_is_broken_and_told_with_what_is(run: Run) -> None:
    ran = run("doctor", CASEYOS_OTEL_SAMPLING="sometimes")
    assert ran.exit_code == 1
    assert "! CASEYOS_OTEL_SAMPLING: 'sometimes' is not accepted; CASEYOS_OTEL_SAMPLING takes process" in ran.stdout


@pytest.mark.parametrize("name", ["log", "outcomes", "spool"])
def test_a_place_that_cannot_be_written_is_broken_and_the_variable_that_mends_it_is_named(
    name: str, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    below = tmp_path / "file" / "below"
    variable, value = {
        "log": ("CASEYOS_OTEL_LOG", str(below)),
        "outcomes": ("CASEYOS_OTEL_DATABASE_URL", f"sqlite:///{below}"),
        "spool": ("CASEYOS_OTEL_SPOOL_DIR", str(below)),
    }[name]
    ran = run("doctor", "--json", **{variable: value})
    assert ran.exit_code == 1
    found = result(ran, name)["result"]
    assert found["state"] == "broken"
    assert str(below) in found["detail"]
    assert variable in found["mend"]
    assert [text.partition(":")[0] for text in ran.json["broken"]] == [name]


def test_doctor_makes_no_database_and_leaves_one_that_is_there_as_it_is(run: Run, state: Path, tmp_path: Path) -> None:
    assert run("doctor").exit_code == 0
    assert not (state / "caseyos.db").exists()
    path = tmp_path / "theirs.db"
    run_sql(path, "CREATE TABLE t (a)")
    before = path.read_bytes()
    assert run("doctor", CASEYOS_OTEL_DATABASE_URL=f"sqlite:///{path}").exit_code == 0
    assert path.read_bytes() == before


def run_sql(path: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


@pytest.mark.parametrize("name", ["events", "outcome_events"])
def test_a_database_with_a_table_of_our_name_that_is_not_ours_is_broken(name: str, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "theirs.db"
    run_sql(path, f"CREATE TABLE {name} (a)")
    ran = run("doctor", "--json", CASEYOS_OTEL_DATABASE_URL=f"sqlite:///{path}")
    found = result(ran, "outcomes")["result"]
    assert (ran.exit_code, found["state"]) == (1, "broken")
    assert f"a table '{name}' that is not ours" in found["detail"]
    assert "another database" in found["mend"]


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        (
            "ALTER TABLE outcome_events DROP COLUMN reply_sentiment",
            "the column reply_sentiment of outcome_events is missing",
        ),
        ("ALTER TABLE events DROP COLUMN failure", "the column failure of events is missing"),
        ("DROP TABLE events", "the table events is missing"),
    ],
)
def test_a_database_that_lacks_what_rows_fill_is_broken(statement: str, said: str, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "caseyos.db"
    url = f"sqlite:///{path}"
    assert run("db", "upgrade", "--url", url).exit_code == 0
    assert run("doctor", CASEYOS_OTEL_DATABASE_URL=url).exit_code == 0
    run_sql(path, statement)
    ran = run("doctor", "--json", CASEYOS_OTEL_DATABASE_URL=url)
    found = result(ran, "outcomes")["result"]
    assert (ran.exit_code, found["state"], "db check" in found["mend"]) == (1, "broken", True)
    assert said in found["detail"]


def test_a_table_that_is_not_written_may_be_missing(run: Run, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'caseyos.db'}"
    assert run("db", "upgrade", "--url", url).exit_code == 0
    run_sql(tmp_path / "caseyos.db", "ALTER TABLE events DROP COLUMN failure")
    found = run("doctor", "--json", CASEYOS_OTEL_DATABASE_URL=url, CASEYOS_OTEL_EVENT_STORE="outcomes")
    assert result(found, "outcomes")["result"]["state"] == "ok"


@pytest.mark.parametrize(
    ("place", "said"), [("caseyos.db", "may not be written"), (".", "no file can be made beside it")]
)
def test_a_database_file_that_cannot_be_written_is_broken(
    place: str, said: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "caseyos.db").touch()
    # root may write anything: what the system says to others is what is tested
    monkeypatch.setattr(os, "access", lambda asked, _: Path(asked) != tmp_path / place)
    ran = run("doctor", "--json", CASEYOS_OTEL_DATABASE_URL=f"sqlite:///{tmp_path / 'caseyos.db'}")
    found = result(ran, "outcomes")["result"]
    assert (ran.exit_code, found["state"]) == (1, "broken")
    assert said in found["detail"]
    assert "CASEYOS_OTEL_DATABASE_URL" in found["mend"]


def test_looking_makes_nothing_that_would_be_in_the_way_of_the_service_s_user(
    run: Run, state: Path, tmp_path: Path
) -> None:
    ran = run("doctor", "--json", CASEYOS_OTEL_LOG=str(tmp_path / "logs" / "events.jsonl"))
    assert (ran.exit_code, list(tmp_path.iterdir())) == (0, [])
    assert f"{state / 'caseyos.db'} (will be made)" in result(ran, "outcomes")["result"]["detail"]
    assert result(ran, "retention")["result"]["detail"] == "nothing is stored yet"


def test_looking_at_a_spool_that_is_not_there_yet_does_not_make_it(run: Run, state: Path, tmp_path: Path) -> None:
    state.mkdir()
    for spool in (tmp_path / "deep" / "spool", state / "spool" / "unknown_service"):
        found = result(run("doctor", "--json", CASEYOS_OTEL_SPOOL_DIR=str(spool)), "spool")["result"]
        assert found["state"] == "ok"
        assert found["detail"].startswith(f"{spool} (will be made)")
    assert not (tmp_path / "deep").exists()
    assert list(state.iterdir()) == []


def test_a_spool_that_is_there_is_left_as_it_was(run: Run, tmp_path: Path) -> None:
    found = result(run("doctor", "--json", CASEYOS_OTEL_SPOOL_DIR=str(tmp_path)), "spool")["result"]
    assert (found["state"], found["detail"].startswith(f"{tmp_path}"), "made" in found["detail"]) == ("ok", True, False)
    assert not [path for path in tmp_path.iterdir() if path.name != "state"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_spool_of_another_user_is_broken_in_the_words_of_the_service(run: Run, tmp_path: Path) -> None:
    os.chown(tmp_path, 4711, -1)
    with pytest.raises(SpoolUnavailable) as refused:
        prepare(tmp_path)
    ran = run("doctor", "--json", CASEYOS_OTEL_SPOOL_DIR=str(tmp_path))
    assert (ran.exit_code, result(ran, "spool")["result"]["state"]) == (1, "broken")
    assert ran.json["broken"] == [f"spool: {result(ran, 'spool')['result']['detail']}"] == [str(refused.value)]
    assert "belongs to user id 4711" in str(refused.value)


@pytest.mark.parametrize("below", ["", "not/there/yet"])
@pytest.mark.parametrize("name", ["log", "outcomes", "spool"])
def test_a_place_where_nothing_can_be_made_is_broken(name: str, below: str, run: Run) -> None:
    """Where not even root can."""
    place = str(Path("/proc/sys") / below / ("" if name == "spool" else "file"))
    variable, value = {
        "log": ("CASEYOS_OTEL_LOG", place),
        "outcomes": ("CASEYOS_OTEL_DATABASE_URL", f"sqlite:///{place}"),
        "spool": ("CASEYOS_OTEL_SPOOL_DIR", place),
    }[name]
    found = result(run("doctor", "--json", **{variable: value}), name)["result"]
    assert found["state"] == "broken"
    assert variable in found["mend"]


def test_a_log_file_and_stderr_work(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "logs" / "events.jsonl"
    assert str(path) in result(run("doctor", "--json", CASEYOS_OTEL_LOG=str(path)), "log")["result"]["detail"]
    assert "stderr" in result(run("doctor", "--json", CASEYOS_OTEL_LOG="stderr"), "log")["result"]["detail"]


@pytest.mark.parametrize("host", [GONE, "no.such.host.invalid"])
def test_a_database_that_does_not_answer_is_broken(host: str, run: Run) -> None:
    ran = run("doctor", "--json", CASEYOS_OTEL_DATABASE_URL=f"postgresql://casey:hunter2@{host}/app")
    found = result(ran, "outcomes")["result"]
    assert (ran.exit_code, found["state"]) == (1, "broken")
    assert host.partition(":")[0] in found["detail"]
    assert "CASEYOS_OTEL_DATABASE_URL" in found["mend"]
    assert "hunter2" not in ran.stdout


def test_sentry_is_asked_for_real(run: Run, sentry: SentryReceiver) -> None:
    ran = run("doctor", "--json", SENTRY_DSN=sentry.dsn)
    assert (ran.exit_code, result(ran, "sentry")["result"]["state"]) == (0, "ok")
    [(path, headers)] = sentry.requests
    assert path == "/api/7/envelope/"
    assert "sentry_key=0123456789abcdef0123456789abcdef" in {k.lower(): v for k, v in headers.items()}["x-sentry-auth"]
    assert sentry.items == []  # nothing was reported
    sentry.answers.append((403, {}))
    refused = result(run("doctor", "--json", SENTRY_DSN=sentry.dsn), "sentry")["result"]
    assert (refused["state"], refused["detail"]) == ("broken", "Sentry answered 403")
    assert "SENTRY_DSN" in refused["mend"]


@pytest.mark.parametrize(
    ("dsn", "said"),
    [("not a dsn", "is not a DSN"), (f"http://key@{GONE}/7", "does not answer"), ("http://key@h", "DSN")],
)
def test_a_dsn_that_is_wrong_or_leads_nowhere_is_broken(dsn: str, said: str, run: Run) -> None:
    ran = run("doctor", "--json", SENTRY_DSN=dsn)
    found = result(ran, "sentry")["result"]
    assert (ran.exit_code, found["state"]) == (1, "broken")
    assert said in found["detail"]
    assert found["mend"]


def test_otlp_is_asked_for_real(run: Run, otlp: OtlpReceiver) -> None:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": otlp.endpoint, "OTEL_EXPORTER_OTLP_HEADERS": "x-key=k"}
    ran = run("doctor", "--json", **environ)
    assert (ran.exit_code, result(ran, "otlp")["result"]["state"]) == (0, "ok")
    [request] = otlp.requests
    assert (request.path, request.headers["x-key"], request.body) == ("/v1/logs", "k", b"")
    otlp.answers.append(401)
    refused = result(run("doctor", "--json", **environ), "otlp")["result"]
    assert refused["detail"] == f"{otlp.endpoint}: HTTP 401"
    assert "_HEADERS" in refused["mend"]


def test_an_otlp_endpoint_where_nobody_is_is_broken(run: Run) -> None:
    ran = run("doctor", "--json", OTEL_EXPORTER_OTLP_ENDPOINT=f"http://{GONE}")
    found = result(ran, "otlp")["result"]
    assert (ran.exit_code, found["state"], found["detail"]) == (1, "broken", f"http://{GONE}: no answer")


def test_a_setting_that_the_exporter_refuses_is_named(run: Run) -> None:
    over_grpc = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{GONE}", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    ran = run("doctor", "--json", OTEL_EXPORTER_OTLP_COMPRESSION="brotli", **over_grpc)
    found = result(ran, "otlp")["result"]
    assert (ran.exit_code, found["state"]) == (1, "broken")
    assert '"brotli"' in found["detail"]


def test_otlp_over_grpc_is_asked_for_real(run: Run) -> None:
    with GrpcReceiver() as receiver:
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
        ran = run("doctor", "--json", **environ)
        assert (ran.exit_code, result(ran, "otlp")["result"]["state"]) == (0, "ok")
        assert len(receiver.metadata) == 1
    found = result(run("doctor", "--json", **environ), "otlp")["result"]
    assert (found["state"], "_PROTOCOL" in found["mend"]) == ("broken", True)
    assert found["detail"] == f"{receiver.endpoint}: gRPC UNAVAILABLE"


def test_what_stands_before_the_100_percent_is_told(run: Run) -> None:
    plain = run("doctor", "--json").json["opentelemetry"]
    chosen = run("doctor", "--json", OTEL_TRACES_SAMPLER="always_off", OTEL_PYTHON_DISTRO="distro").json[
        "opentelemetry"
    ]
    assert any("no failure is lost" in line for line in plain)
    assert any("OTEL_TRACES_SAMPLER=always_off stands before" in line for line in chosen)
    assert any("OTEL_PYTHON_DISTRO=caseyos chooses ours" in line for line in chosen)


def test_processes_of_this_hour_are_shown_with_what_they_dropped_and_what_an_operator_should_know(
    run: Run, state: Path
) -> None:
    dropped = [
        {"reason": "sampled", "destination": "sentry", "event": "signal_received", "n": 3},
        {"reason": "sampled", "destination": "otlp", "event": "signal_received", "n": 4},
    ]
    notes = ["the sampler TraceIdRatioBased{0.5} was chosen: it stands before the 100 % for failures"]
    status.write(state, {"pid": 4711, "role": "", "queued": 2, "destinations": {}, "dropped": dropped, "notes": notes})
    [process] = run("doctor", "--json").json["processes"]
    assert (process["pid"], process["queued"], process["dropped"]) == (4711, 2, {"sampled": 7})
    assert f"pid 4711: queued 2, dropped {{'sampled': 7}}\n    {notes[0]}" in run("doctor").stdout


def test_the_text_says_what_the_json_says(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    environ = {"CASEYOS_OTEL_LOG": str(tmp_path / "file" / "x"), "CASEYOS_OTEL_SUCCESS_RATIO": "0.5"}
    text, report = run("doctor", **environ), run("doctor", "--json", **environ).json
    assert text.exit_code == 1
    for row_ in report["configuration"]:
        assert row_["name"] in text.stdout
    for destination in report["destinations"]:
        assert destination["why"] in text.stdout
        assert destination["result"]["mend"] in text.stdout
    assert [line for line in text.stdout.splitlines() if line.startswith("! ")] == [f"! {b}" for b in report["broken"]]
    assert "0.5   [environment]" in text.stdout
    json.dumps(report)
