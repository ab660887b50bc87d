"""`opentelemetry-instrument` as a user types it: what leaves with no setting, with the stock distro, with other settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.service import STOCK_DISTRO, cli, environment, rows, run

PROGRAM = """
from opentelemetry import trace
from caseyos_otel import track, bind

tracer = trace.get_tracer("service")
with tracer.start_as_current_span("request"), bind(recommendation_id="r1"):
    track("recommendation_accepted", action_type="send_email", user_id="casey", aps_score=87.5)
    track("outcome_reply_received", recipient="john@acmecorp.com", reply_sentiment="positive")
    track("action_failed", action_id="a1", action_type="send_email", error_type="api_error", retryable=False,
          error_message="Gmail API refused john@acmecorp.com, token=abc123secret")
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def test_with_no_setting_events_are_json_lines_and_rows(program: Path, state: Path) -> None:
    done = run(program, environment(state))
    assert done.returncode == 0, done.stderr
    assert [line["event"] for line in done.lines] == [
        "recommendation_accepted",
        "outcome_reply_received",
        "action_failed",
    ]
    assert len(done.stdout.splitlines()) == 3
    accepted = done.lines[0]
    assert list(accepted) == [
        "event", "recommendation_id", "queue_item_id", "aps_score", "action_type", "user_id", "time_to_decision_seconds",
        "timestamp", "event_id", "trace_id", "span_id", "service",
    ]  # fmt: skip
    assert accepted["service"] == "under-test"
    assert accepted["recommendation_id"] == "r1"
    assert len({line["trace_id"] for line in done.lines}) == 1
    assert rows(state, "select event, recommendation_id, contact_email, trace_id from outcome_events") == [
        ("outcome_reply_received", "r1", "john@acmecorp.com", accepted["trace_id"])
    ]
    assert rows(state, "select event from events order by event_id") == [
        ("recommendation_accepted",),
        ("action_failed",),
    ]


def test_addresses_and_secrets_are_not_in_the_log(program: Path, state: Path) -> None:
    done = run(program, environment(state))
    assert "john@acmecorp.com" not in done.stdout
    assert "abc123secret" not in done.stdout
    assert done.lines[1]["recipient"].startswith("h_")
    assert done.lines[1]["recipient"] in done.lines[2]["error_message"]


def test_the_start_up_line_says_what_is_on_and_why(program: Path, state: Path) -> None:
    done = run(program, environment(state))
    (line,) = done.stderr.splitlines()
    assert "on: log (default), outcomes (default)" in line
    assert "sentry (SENTRY_DSN is not set)" in line
    assert "otlp (no OTLP endpoint is set)" in line


@pytest.mark.parametrize("exporter", ["otlp", "none"])
def test_otel_logs_exporter_never_switches_ours_off(exporter: str, program: Path, state: Path) -> None:
    done = run(program, environment(state, OTEL_LOGS_EXPORTER=exporter, OTEL_EXPORTER_OTLP_TIMEOUT="1"))
    assert len(done.lines) == 3, done.stderr
    assert len(rows(state, "select 1 from outcome_events")) == 1


def test_caseyos_names_in_otel_logs_exporter_choose_destinations(program: Path, state: Path) -> None:
    done = run(program, environment(state, OTEL_LOGS_EXPORTER="caseyos_outcomes"))
    assert done.lines == []
    assert len(rows(state, "select 1 from outcome_events")) == 1
    assert "outcomes (OTEL_LOGS_EXPORTER)" in done.stderr


def test_beside_the_stock_distro_everything_works_and_the_start_up_line_names_the_variable(
    program: Path, state: Path
) -> None:
    assert (STOCK_DISTRO / "opentelemetry").is_dir(), (
        f"pip install --no-deps --target {STOCK_DISTRO} opentelemetry-distro"
    )
    env = environment(
        state, PYTHONPATH=str(STOCK_DISTRO), OTEL_TRACES_EXPORTER="console", OTEL_METRICS_EXPORTER="none",
        OTEL_LOGS_EXPORTER="none",
    )  # fmt: skip
    done = run(program, env)
    assert len(done.lines) == 3, done.stderr
    assert "OTEL_PYTHON_DISTRO=caseyos chooses ours" in done.stderr
    assert len(rows(state, "select 1 from outcome_events")) == 1
    # the failed trace is kept by our sampling, though the processor was made by the stock distro
    assert '"caseyos.sampling.reason": "error"' in done.stdout
    chosen = run(program, {**env, "OTEL_PYTHON_DISTRO": "caseyos"})
    assert "OTEL_PYTHON_DISTRO" not in chosen.stderr


def test_declarative_configuration_ends_in_the_same_seam(program: Path, state: Path, tmp_path: Path) -> None:
    config = tmp_path / "otel.yaml"
    config.write_text(
        "file_format: '1.0'\ntracer_provider:\n  processors:\n    - simple:\n        exporter:\n          console: {}\n"
    )
    done = run(program, environment(state, OTEL_CONFIG_FILE=str(config)))
    assert len(done.lines) == 3, done.stderr
    assert '"caseyos.sampling.reason": "error"' in done.stdout
    assert len(rows(state, "select 1 from outcome_events")) == 1


def test_a_disabled_sdk_stops_spans_not_the_log_nor_outcomes(program: Path, state: Path) -> None:
    done = run(program, environment(state, OTEL_SDK_DISABLED="true"))
    assert len(done.lines) == 3, done.stderr
    assert len(rows(state, "select 1 from outcome_events")) == 1


def test_disabled_nothing_of_ours_runs(program: Path, state: Path) -> None:
    done = run(program, environment(state, CASEYOS_OTEL_DISABLED="1"))
    assert (done.returncode, done.stdout) == (0, "")
    assert not state.exists()


def test_bad_values_are_said_once_with_name_and_accepted_values_and_stop_nothing(program: Path, state: Path) -> None:
    done = run(
        program, environment(state, CASEYOS_OTEL_SUCCESS_RATIO="lots", CASEYOS_OTEL_DATABASE_URL="mysql://u:p@h/d")
    )
    assert len(done.lines) == 3
    said = "CASEYOS_OTEL_SUCCESS_RATIO: 'lots' is not accepted; CASEYOS_OTEL_SUCCESS_RATIO takes a number from 0 to 1"
    assert done.stderr.count(said) == 1
    assert done.stderr.count("CASEYOS_OTEL_DATABASE_URL: its value is not accepted") == 1
    assert "u:p" not in done.stderr


def test_outcomes_wait_for_a_database_url_that_is_not_accepted_instead_of_going_elsewhere(
    tmp_path: Path, state: Path
) -> None:
    path = tmp_path / "program.py"
    path.write_text("from caseyos_otel import track, flush\ntrack('outcome_deal_advanced', deal_id='d1')\nflush(1)\n")
    done = run(path, environment(state, CASEYOS_OTEL_DATABASE_URL="postgress://u:p@h/d"))
    assert (done.returncode, not (state / "caseyos.db").exists()) == (0, True)
    assert "Outcomes wait until it is mended." in done.stderr
    cli(environment(state), "spool", "drain")
    assert rows(state, "select deal_id from outcome_events") == [("d1",)]


def test_an_instrumentor_that_fails_does_not_stop_the_others(program: Path, state: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    info = site / "broken_instrumentor-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-instrumentor\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[opentelemetry_instrumentor]\nbroken = broken_instrumentor:Broken\n")
    (site / "broken_instrumentor.py").write_text(
        "class Broken:\n    def instrument(self, **_):\n        raise RuntimeError('broken on purpose')\n"
    )
    probe = tmp_path / "probe.py"
    asked = "import httpx\nprint('instrumented', hasattr(httpx.HTTPTransport.handle_request, '__wrapped__'))\n"
    probe.write_text(f"{PROGRAM}\n{asked}")
    done = run(probe, environment(state, PYTHONPATH=str(site)))
    assert "broken on purpose" in done.stderr
    assert "instrumented True" in done.stdout
    assert len(done.lines) == 3


def test_without_our_package_configured_events_are_counted_and_said_once(program: Path, state: Path) -> None:
    done = run(program, environment(state), instrument=False)
    assert done.returncode == 0
    assert done.stderr == (
        "caseyos-otel: 3 events went nowhere: start the program with opentelemetry-instrument,"
        " or call caseyos_otel.configure()\n"
    )


def test_configure_serves_a_program_that_nobody_instruments(state: Path, tmp_path: Path) -> None:
    path = tmp_path / "configured.py"
    path.write_text(
        "import caseyos_otel\ncaseyos_otel.track('signal_received', signal_id='before', source='gmail', signal_type='x')\n"
        "caseyos_otel.configure(log='stderr')\ncaseyos_otel.configure()\n"
        "caseyos_otel.track('outcome_deal_advanced', deal_id='d1')\nprint(caseyos_otel.flush(5))\n"
    )
    done = run(path, environment(state), instrument=False)
    assert done.stdout == "True\n", done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert [line["event"] for line in lines] == ["signal_received", "outcome_deal_advanced"]
    assert rows(state, "select deal_id from outcome_events") == [("d1",)]
