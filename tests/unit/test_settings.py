"""Settings: the table, what is refused and how it is said, files, overrides, destinations."""

from __future__ import annotations

import dataclasses
import os
import pwd
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from caseyos_otel.environment_variables import VARIABLE_BY_ATTRIBUTE, VARIABLES, Variable
from caseyos_otel.settings import Settings, load

DSN = "https://public@sentry.example/1"
FROM_THE_PROCESS = {"sources", "problems", "platform"}
each_variable = pytest.mark.parametrize("variable", VARIABLES, ids=[variable.name for variable in VARIABLES])

GOOD: dict[str, tuple[str, object]] = {
    "CASEYOS_OTEL_EXPORTERS": (" Log, sentry ", ("log", "sentry")),
    "CASEYOS_OTEL_LOG": ("STDERR", "stderr"),
    "CASEYOS_OTEL_STATE_DIR": ("/state", Path("/state")),
    "CASEYOS_OTEL_DATABASE_URL": ("postgresql://a:b@db/c", "postgresql://a:b@db/c"),
    "CASEYOS_OTEL_EVENT_STORE": ("Outcomes", "outcomes"),
    "CASEYOS_OTEL_MIGRATION_DATABASE_URL": ("postgresql://owner:p@h/d", "postgresql://owner:p@h/d"),
    "CASEYOS_OTEL_EVENT_RETENTION_DAYS": ("30", 30),
    "CASEYOS_OTEL_OUTCOME_RETENTION_DAYS": ("0", 0),
    "CASEYOS_OTEL_SPOOL_DIR": ("/spool", Path("/spool")),
    "CASEYOS_OTEL_SPOOL_MAX_BYTES": ("1048576", 1048576),
    "CASEYOS_OTEL_SPOOL_SYNC": ("none", "none"),
    "CASEYOS_OTEL_SAMPLING": ("collector", "collector"),
    "CASEYOS_OTEL_SUCCESS_RATIO": ("0.25", 0.25),
    "CASEYOS_OTEL_SAMPLING_SLOW_MS": ("1500", 1500.0),
    "CASEYOS_OTEL_SAMPLING_MAX_TRACES": ("7", 7),
    "CASEYOS_OTEL_SAMPLING_MAX_ITEMS": ("8", 8),
    "CASEYOS_OTEL_SAMPLING_MAX_TRACE_ITEMS": ("9", 9),
    "CASEYOS_OTEL_SAMPLING_MAX_AGE_S": ("2.5", 2.5),
    "CASEYOS_OTEL_OTLP_EVENTS": ("kept", "kept"),
    "CASEYOS_OTEL_EVENT_MODE": ("both", "both"),
    "CASEYOS_OTEL_EMIT": ("inline", "inline"),
    "CASEYOS_OTEL_FLUSH_INTERVAL_MS": ("250", 250),
    "CASEYOS_OTEL_STRICT": ("1", True),
    "CASEYOS_OTEL_PII_KEY": ("k1", "k1"),
    "CASEYOS_OTEL_PII_PLAIN": ("database,otlp", ("database", "otlp")),
    "CASEYOS_OTEL_PROPAGATE": ("yes", True),
    "CASEYOS_OTEL_HOOKS": ("/a.yaml, /b.yaml", ("/a.yaml", "/b.yaml")),
    "CASEYOS_OTEL_INGEST_TOKEN": ("t0123456789abcdef", "t0123456789abcdef"),
    "CASEYOS_OTEL_ADMIN_TOKEN": ("a0123456789abcdef", "a0123456789abcdef"),
    "CASEYOS_OTEL_GATEWAY_MAX_BYTES": ("1024", 1024),
    "CASEYOS_OTEL_GATEWAY_CONCURRENCY": ("3", 3),
    "CASEYOS_OTEL_GATEWAY_RATE": ("0", 0),
    "CASEYOS_OTEL_DISABLED": ("true", True),
    "SENTRY_DSN": (DSN, DSN),
    "SENTRY_ENVIRONMENT": ("staging", "staging"),
    "SENTRY_RELEASE": ("1.2", "1.2"),
    "OTEL_SDK_DISABLED": ("TRUE", True),
    "OTEL_LOGS_EXPORTER": ("otlp,caseyos_log", ("otlp", "caseyos_log")),
    "OTEL_TRACES_EXPORTER": ("console", ("console",)),
    "OTEL_METRICS_EXPORTER": ("none", ("none",)),
    "OTEL_TRACES_SAMPLER": ("always_on", "always_on"),
    "OTEL_PYTHON_DISTRO": ("caseyos", "caseyos"),
    "OTEL_SERVICE_NAME": ("api", "api"),
    "OTEL_RESOURCE_ATTRIBUTES": ("service.name=api", "service.name=api"),
    "OTEL_CONFIG_FILE": ("/otel.yaml", "/otel.yaml"),
    "OTEL_EXPORTER_OTLP_ENDPOINT": ("http://c:4318", "http://c:4318"),
    "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": ("http://c:4318/v1/logs", "http://c:4318/v1/logs"),
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": ("http://c:4318/v1/traces", "http://c:4318/v1/traces"),
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": ("http://c:4318/v1/metrics", "http://c:4318/v1/metrics"),
    "OTEL_EXPORTER_OTLP_PROTOCOL": ("grpc", "grpc"),
    "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL": ("http/protobuf", "http/protobuf"),
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": ("http/protobuf", "http/protobuf"),
}
BAD: dict[str, list[str]] = {
    "CASEYOS_OTEL_EXPORTERS": ["log,kafka", ",", "none,log"],
    "CASEYOS_OTEL_DATABASE_URL": ["mysql://user:hunter2@db/name", "hunter2"],
    "CASEYOS_OTEL_MIGRATION_DATABASE_URL": ["mysql://user:hunter2@db/name"],
    "CASEYOS_OTEL_EVENT_RETENTION_DAYS": ["-1", "90d"],
    "CASEYOS_OTEL_OUTCOME_RETENTION_DAYS": ["-1", "a year"],
    "CASEYOS_OTEL_EVENT_STORE": ["some"],
    "CASEYOS_OTEL_SPOOL_MAX_BYTES": ["1048575", "1 GB", "0"],
    "CASEYOS_OTEL_SPOOL_SYNC": ["always"],
    "CASEYOS_OTEL_INGEST_TOKEN": ["short", "with a space in it", "with\u00fcml\u00e4ut-and-length"],
    "CASEYOS_OTEL_ADMIN_TOKEN": ["short"],
    "CASEYOS_OTEL_GATEWAY_MAX_BYTES": ["1023", "16777216", "1 MB"],
    "CASEYOS_OTEL_GATEWAY_CONCURRENCY": ["0", "few"],
    "CASEYOS_OTEL_GATEWAY_RATE": ["-1", "1.5"],
    "CASEYOS_OTEL_SAMPLING": ["maybe"],
    "CASEYOS_OTEL_SUCCESS_RATIO": ["10%", "1.01", "-0.1", "nan", "10"],
    "CASEYOS_OTEL_SAMPLING_SLOW_MS": ["0", "-1", "inf", "nan", "2s"],
    "CASEYOS_OTEL_SAMPLING_MAX_TRACES": ["0", "1.5", "many"],
    "CASEYOS_OTEL_SAMPLING_MAX_ITEMS": ["0", "-5"],
    "CASEYOS_OTEL_SAMPLING_MAX_TRACE_ITEMS": ["0", "9" * 5000],
    "CASEYOS_OTEL_SAMPLING_MAX_AGE_S": ["0", "inf"],
    "CASEYOS_OTEL_OTLP_EVENTS": ["none"],
    "CASEYOS_OTEL_EVENT_MODE": ["span"],
    "CASEYOS_OTEL_EMIT": ["now"],
    "CASEYOS_OTEL_FLUSH_INTERVAL_MS": ["0", "0.5"],
    "CASEYOS_OTEL_STRICT": ["2", "ja"],
    "CASEYOS_OTEL_PII_PLAIN": ["everywhere", "database,stdout", ","],
    "CASEYOS_OTEL_PROPAGATE": ["maybe"],
    "CASEYOS_OTEL_DISABLED": ["maybe"],
    "OTEL_SDK_DISABLED": ["1", "yes"],
    "OTEL_EXPORTER_OTLP_PROTOCOL": ["http/json", "udp"],
    "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL": ["udp"],
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": ["udp"],
}


def takes_any_text(variable: Variable) -> bool:
    """Whether nothing can be wrong with a value."""
    try:
        variable.parse("\0 no value, not even a word of any list =")
    except ValueError:
        return False
    return True


def states(settings: Settings) -> dict[str, tuple[bool, str]]:
    """Destinations by name."""
    return {destination.name: (destination.on, destination.why) for destination in settings.destinations()}


class TestTable:
    """The table and the dataclass are two views of the same."""

    def test_every_variable_is_an_attribute_and_the_other_way_round(self) -> None:
        attributes = {field.name for field in dataclasses.fields(Settings)} - FROM_THE_PROCESS

        assert attributes == VARIABLE_BY_ATTRIBUTE.keys()
        assert len({variable.name for variable in VARIABLES}) == len(VARIABLES) == len(VARIABLE_BY_ATTRIBUTE)

    @each_variable
    def test_defaults_agree(self, variable: Variable) -> None:
        default = getattr(load({}), variable.attribute)

        if variable.attribute == "state_dir":  # found out at run time
            assert default.name == "caseyos-otel"
            assert default.is_absolute()
        else:
            assert default == getattr(Settings(), variable.attribute) == variable.default

    @each_variable
    def test_every_variable_is_described(self, variable: Variable) -> None:
        assert variable.doc.endswith(".")
        assert variable.accepted
        assert variable.name.startswith(("CASEYOS_OTEL_", "OTEL_", "SENTRY_"))

    @each_variable
    def test_a_good_value_is_taken(self, variable: Variable) -> None:
        text, value = GOOD[variable.name]

        settings = load({variable.name: text})

        assert getattr(settings, variable.attribute) == value
        assert settings.problems == ()
        assert settings.sources == {variable.name: "environment"}

    @each_variable
    def test_an_empty_value_is_no_value(self, variable: Variable) -> None:
        assert load({variable.name: "  "}) == load({})

    def test_a_default_is_shown_as_a_person_would_write_it(self) -> None:
        shown = {variable.attribute: variable.shown_default for variable in VARIABLES}

        assert shown["strict"] == "0"
        assert shown["pii_plain"] == "database"
        assert shown["success_ratio"] == "0.1"
        assert shown["sentry_dsn"] == shown["exporters"] == shown["otel_logs_exporter"] == "none"

    def test_the_process_environment_is_read_when_no_other_is_given(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CASEYOS_OTEL_EMIT", "inline")

        assert load().emit == "inline"

    def test_nothing_changes_settings_afterwards(self) -> None:
        settings = load({})

        with pytest.raises(dataclasses.FrozenInstanceError):
            settings.emit = "inline"  # type: ignore[misc]

    def test_paths_follow_from_the_state_directory(self) -> None:
        assert load({"CASEYOS_OTEL_STATE_DIR": "/s"}).spool_path == Path("/s/spool/unknown_service")
        assert load({"CASEYOS_OTEL_STATE_DIR": "/s"}).effective_database_url == "sqlite:////s/caseyos.db"
        assert load({"CASEYOS_OTEL_SPOOL_DIR": "/t"}).spool_path == Path("/t")
        assert load({"CASEYOS_OTEL_DATABASE_URL": "postgresql://db/c"}).effective_database_url == "postgresql://db/c"

    @pytest.mark.parametrize(
        ("name", "platform"),
        [
            ("RAILWAY_ENVIRONMENT", "railway"),
            ("RAILWAY_PROJECT_ID", "railway"),
            ("KUBERNETES_SERVICE_HOST", "kubernetes"),
        ],
    )
    def test_the_platform_is_recognised(self, name: str, platform: str) -> None:
        assert load({name: "x"}).platform == platform
        assert load({}).platform is None

    def test_settings_need_nothing_heavy(self) -> None:
        program = "import sys, caseyos_otel.settings as s; s.load({}); print(*sys.modules)"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)

        assert {"sqlalchemy", "sentry_sdk", "opentelemetry.sdk"}.isdisjoint(done.stdout.split())


class TestOtlpByDefault:
    """Which signals leave by OTLP although no variable names an exporter for them."""

    @pytest.mark.parametrize("signal", ["trace", "metric", "log"])
    def test_an_endpoint_is_enough(self, signal: str) -> None:
        plural = {"trace": "TRACES", "metric": "METRICS", "log": "LOGS"}[signal]

        assert not load({}).wants_otlp_by_default(signal)
        assert load({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c"}).wants_otlp_by_default(signal)
        assert load({f"OTEL_EXPORTER_OTLP_{plural}_ENDPOINT": "http://c"}).wants_otlp_by_default(signal)
        named = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", f"OTEL_{plural}_EXPORTER": "none"}
        assert not load(named).wants_otlp_by_default(signal)

    def test_the_endpoint_of_one_signal_is_not_that_of_another(self) -> None:
        settings = load({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c"})

        assert [settings.wants_otlp_by_default(signal) for signal in ("trace", "metric", "log")] == [True, False, False]

    def test_events_leave_by_the_protocol_for_logs(self) -> None:
        assert load({}).logs_protocol == "http/protobuf"
        assert load({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}).logs_protocol == "grpc"
        both = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL": "http/protobuf"}
        assert load(both).logs_protocol == "http/protobuf"
        assert load(both).traces_protocol == "grpc"


class TestProblems:
    """A bad value costs itself, and is told."""

    @pytest.mark.parametrize(
        ("name", "text"), [(name, text) for name, texts in BAD.items() for text in texts], ids=repr
    )
    def test_a_bad_value_is_told_and_the_default_stays(self, name: str, text: str) -> None:
        variable = next(variable for variable in VARIABLES if variable.name == name)

        settings = load({name: text})

        assert getattr(settings, variable.attribute) == variable.default
        (problem,) = settings.problems
        assert problem.startswith(f"{name}: {'its value' if variable.secret else repr(text)}"[:100])
        assert "hunter2" not in problem
        assert problem.endswith(f"Going on without it (default: {variable.shown_default}).")
        assert f"is not accepted; {name} takes {variable.accepted}." in problem
        assert len(problem) < 500
        assert settings.sources == {}

    def test_every_variable_that_refuses_anything_is_tried(self) -> None:
        refusing = {v.name for v in VARIABLES if not takes_any_text(v)}

        assert refusing == BAD.keys()

    def test_one_bad_value_does_not_cost_the_others(self) -> None:
        settings = load({"CASEYOS_OTEL_EMIT": "now", "CASEYOS_OTEL_SAMPLING": "off", "CASEYOS_OTEL_STRICT": "2"})

        assert (settings.sampling, settings.emit, settings.strict) == ("off", "deferred", False)
        assert [problem.partition(":")[0] for problem in settings.problems] == [
            "CASEYOS_OTEL_EMIT",
            "CASEYOS_OTEL_STRICT",
        ]


class TestFiles:
    """Secrets and URLs may stand in files, as orchestrators mount them."""

    @pytest.mark.parametrize("variable", [v for v in VARIABLES if v.also_as_file], ids=lambda v: v.name)
    def test_a_value_is_read_from_the_file(self, variable: Variable, tmp_path: Path) -> None:
        text, value = GOOD[variable.name]
        (tmp_path / "value").write_text(f"{text}\n", "utf-8")

        settings = load({f"{variable.name}_FILE": str(tmp_path / "value")})

        assert getattr(settings, variable.attribute) == value
        assert settings.sources == {variable.name: "file"}

    def test_which_variables_may(self) -> None:
        assert {v.name for v in VARIABLES if v.also_as_file} == {
            "CASEYOS_OTEL_DATABASE_URL",
            "CASEYOS_OTEL_PII_KEY",
            "SENTRY_DSN",
            "CASEYOS_OTEL_MIGRATION_DATABASE_URL",
            "CASEYOS_OTEL_INGEST_TOKEN",
            "CASEYOS_OTEL_ADMIN_TOKEN",
        }

    def test_the_variable_itself_wins(self, tmp_path: Path) -> None:
        (tmp_path / "key").write_text("from file", "utf-8")

        settings = load({"CASEYOS_OTEL_PII_KEY": "given", "CASEYOS_OTEL_PII_KEY_FILE": str(tmp_path / "key")})

        assert (settings.pii_key, settings.sources) == ("given", {"CASEYOS_OTEL_PII_KEY": "environment"})

    @pytest.mark.parametrize(
        ("content", "reason"), [(None, "No such file"), (b"\xff\xfe", "not UTF-8 text"), (b" \n", "is empty")]
    )
    def test_a_file_that_cannot_be_used_is_told(self, content: bytes | None, reason: str, tmp_path: Path) -> None:
        path = tmp_path / "dsn"
        if content is not None:
            path.write_bytes(content)

        settings = load({"SENTRY_DSN_FILE": str(path)})

        assert settings.sentry_dsn is None
        (problem,) = settings.problems
        assert problem.startswith(f"SENTRY_DSN_FILE: {str(path)!r} ")
        assert reason in problem

    def test_other_variables_have_no_file(self, tmp_path: Path) -> None:
        (tmp_path / "x").write_text("inline", "utf-8")

        assert load({"CASEYOS_OTEL_EMIT_FILE": str(tmp_path / "x")}) == load({})


class TestSecrets:
    """What is secret is in no sentence and no repr."""

    @pytest.mark.parametrize("variable", [v for v in VARIABLES if v.secret], ids=lambda v: v.name)
    def test_a_secret_is_not_shown(self, variable: Variable) -> None:
        secret = GOOD[variable.name][0]

        settings = load({variable.name: secret})
        refused = load({}, **{variable.attribute: secret.encode()})

        assert getattr(settings, variable.attribute) == secret
        assert secret not in repr(settings) + repr(refused)
        (problem,) = refused.problems
        assert problem.startswith(
            f"configure({variable.attribute}=…): its value is not accepted; {variable.name} takes"
        )

    def test_what_is_secret(self) -> None:
        assert {v.attribute for v in VARIABLES if v.secret} == {
            "database_url",
            "migration_database_url",
            "pii_key",
            "sentry_dsn",
            "ingest_token",
            "admin_token",
        }


class TestOverrides:
    """The arguments of `configure()`."""

    def test_they_win_over_the_environment(self) -> None:
        settings = load({"CASEYOS_OTEL_EMIT": "inline", "CASEYOS_OTEL_STRICT": "1"}, emit="deferred")

        assert (settings.emit, settings.strict) == ("deferred", True)
        assert settings.sources == {"CASEYOS_OTEL_EMIT": "configure()", "CASEYOS_OTEL_STRICT": "environment"}

    @each_variable
    def test_text_is_taken_as_from_the_environment(self, variable: Variable) -> None:
        text, value = GOOD[variable.name]

        settings = load({}, **{variable.attribute: text})

        assert (getattr(settings, variable.attribute), settings.problems) == (value, ())

    @each_variable
    def test_a_value_of_the_settings_own_type_is_taken(self, variable: Variable) -> None:
        _, value = GOOD[variable.name]

        settings = load({}, **{variable.attribute: value})

        assert (getattr(settings, variable.attribute), settings.problems) == (value, ())

    @each_variable
    def test_none_is_the_default_whatever_the_environment_says(self, variable: Variable) -> None:
        settings = load({variable.name: GOOD[variable.name][0]}, **{variable.attribute: None})

        assert getattr(settings, variable.attribute) == getattr(load({}), variable.attribute)
        assert settings.problems == ()

    @pytest.mark.parametrize(
        ("attribute", "given", "value"),
        [
            ("exporters", ["log"], ("log",)),
            ("exporters", (), ()),
            ("exporters", "none", ()),
            ("pii_plain", [], ()),
            ("state_dir", "/s", Path("/s")),
            ("log", Path("/x.log"), "/x.log"),
            ("success_ratio", 1, 1.0),
            ("strict", 1, True),
            ("strict", True, True),
        ],
    )
    def test_python_values_are_taken(self, attribute: str, given: Any, value: Any) -> None:
        settings = load({}, **{attribute: given})

        assert (getattr(settings, attribute), settings.problems) == (value, ())
        assert type(getattr(settings, attribute)) is type(value)

    @pytest.mark.parametrize(
        ("attribute", "given"),
        [
            ("success_ratio", 5),
            ("success_ratio", float("nan")),
            ("max_traces", True),
            ("max_traces", 0),
            ("emit", "now"),
            ("emit", ["inline"] * 2),
            ("exporters", ["kafka"]),
            ("strict", object()),
        ],
    )
    def test_a_bad_override_is_told_and_the_environment_stays(self, attribute: str, given: Any) -> None:
        variable = VARIABLE_BY_ATTRIBUTE[attribute]
        environ = {variable.name: GOOD[variable.name][0]}

        settings = load(environ, **{attribute: given})

        assert getattr(settings, attribute) == GOOD[variable.name][1]
        (problem,) = settings.problems
        assert problem.startswith(f"configure({attribute}=…): {given!r} is not accepted; {variable.name} takes")
        assert settings.sources == {variable.name: "environment"}

    def test_an_unknown_setting_is_an_error_of_the_program(self) -> None:
        with pytest.raises(
            TypeError, match=re.escape("configure() has no setting 'emitt'; it accepts exporters, log,")
        ):
            load({}, emitt="inline")


class TestDestinations:
    """Which destinations are on, and what decided (DESIGN section 6)."""

    def test_nothing_set(self) -> None:
        assert states(load({})) == {
            "log": (True, "default"),
            "outcomes": (True, "default"),
            "sentry": (False, "SENTRY_DSN is not set"),
            "otlp": (False, "no OTLP endpoint is set"),
        }

    def test_a_dsn_turns_sentry_on(self) -> None:
        assert states(load({"SENTRY_DSN": DSN}))["sentry"] == (True, "SENTRY_DSN is set")

    def test_our_variable_decides_over_everything(self) -> None:
        settings = load(
            {
                "CASEYOS_OTEL_EXPORTERS": "log",
                "OTEL_LOGS_EXPORTER": "caseyos_outcomes,caseyos_sentry",
                "SENTRY_DSN": DSN,
            }
        )

        assert states(settings) == {
            "log": (True, "CASEYOS_OTEL_EXPORTERS"),
            "outcomes": (False, "CASEYOS_OTEL_EXPORTERS"),
            "sentry": (False, "CASEYOS_OTEL_EXPORTERS"),
            "otlp": (False, "no OTLP endpoint is set"),
        }

    def test_none_turns_all_of_ours_off_but_not_otlp(self) -> None:
        settings = load(
            {"CASEYOS_OTEL_EXPORTERS": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "SENTRY_DSN": DSN}
        )

        assert {name: on for name, (on, _) in states(settings).items()} == {
            "log": False,
            "outcomes": False,
            "sentry": False,
            "otlp": True,
        }

    def test_our_names_in_opentelemetrys_variable_decide_next(self) -> None:
        settings = load({"OTEL_LOGS_EXPORTER": "console,caseyos_outcomes", "SENTRY_DSN": DSN})

        assert {name: states(settings)[name] for name in ("log", "outcomes", "sentry")} == {
            "log": (False, "OTEL_LOGS_EXPORTER"),
            "outcomes": (True, "OTEL_LOGS_EXPORTER"),
            "sentry": (False, "OTEL_LOGS_EXPORTER"),
        }

    @pytest.mark.parametrize("others", ["otlp", "none", "console", "otlp,console"])
    def test_other_names_there_never_switch_ours_off(self, others: str) -> None:
        settings = load({"OTEL_LOGS_EXPORTER": others, "SENTRY_DSN": DSN})

        assert all(settings.is_on(name) for name in ("log", "outcomes", "sentry"))

    @pytest.mark.parametrize("variable", ["CASEYOS_OTEL_EXPORTERS", "OTEL_LOGS_EXPORTER"])
    def test_sentry_without_a_dsn_is_off_whoever_asks_for_it(self, variable: str) -> None:
        value = "sentry" if variable.startswith("CASEYOS") else "caseyos_sentry"

        assert states(load({variable: value}))["sentry"] == (
            False,
            f"{variable} asks for it, but SENTRY_DSN is not set",
        )

    @pytest.mark.parametrize("variable", ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT"])
    def test_an_endpoint_turns_otlp_on(self, variable: str) -> None:
        settings = load({variable: "http://c:4318"})

        assert states(settings)["otlp"] == (True, variable)
        assert settings.logs_endpoint == "http://c:4318"

    def test_the_endpoint_for_logs_wins_and_those_of_other_signals_do_not_count(self) -> None:
        both = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://logs"}

        assert load(both).logs_endpoint == "http://logs"
        assert not load({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c"}).is_on("otlp")

    def test_a_protocol_or_an_exporters_name_alone_makes_no_connection(self) -> None:
        assert not load({"OTEL_LOGS_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}).is_on("otlp")

    @pytest.mark.parametrize(
        ("environ", "why"),
        [
            ({"OTEL_LOGS_EXPORTER": "none"}, "OTEL_LOGS_EXPORTER=none"),
            ({"OTEL_SDK_DISABLED": "true"}, "OTEL_SDK_DISABLED"),
        ],
    )
    def test_opentelemetrys_own_switches_stop_otlp_alone(self, environ: dict[str, str], why: str) -> None:
        settings = load({**environ, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "SENTRY_DSN": DSN})

        assert states(settings)["otlp"] == (False, why)
        assert all(settings.is_on(name) for name in ("log", "outcomes", "sentry"))

    def test_disabled_means_nothing_of_ours(self) -> None:
        settings = load({"CASEYOS_OTEL_DISABLED": "1", "SENTRY_DSN": DSN, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c"})

        assert set(states(settings).values()) == {(False, "CASEYOS_OTEL_DISABLED")}

    def test_an_unknown_destination_is_not_on(self) -> None:
        assert not load({}).is_on("kafka")


def test_each_service_has_a_spool_of_its_own_and_no_name_leads_elsewhere(tmp_path: Path) -> None:
    def spool(**environ: str) -> Path:
        return load({"CASEYOS_OTEL_STATE_DIR": str(tmp_path), **environ}).spool_path.relative_to(tmp_path)

    assert spool() == Path("spool/unknown_service")
    assert spool(OTEL_SERVICE_NAME="api") == Path("spool/api")
    assert spool(OTEL_RESOURCE_ATTRIBUTES="a=b, service.name=worker") == Path("spool/worker")
    assert spool(OTEL_SERVICE_NAME="../../etc/passwd") == Path("spool/_.._etc_passwd-3754d6cb")
    chosen = load({"CASEYOS_OTEL_SPOOL_DIR": "/spool", "OTEL_SERVICE_NAME": "api"})
    assert chosen.spool_path == Path("/spool")


def test_names_that_differ_have_spools_that_differ_however_they_are_written_and_however_long_they_are() -> None:
    names = (
        "магазин",
        "платежи",
        "shop/api",
        "shop api",
        "shop_api",
        "api",
        ".api",
        "x" * 100,
        "x" * 300,
        "x" * 301,
        ".",
    )

    folders = [load({"OTEL_SERVICE_NAME": name}).spool_path.name for name in names]

    assert len(set(folders)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}", folder) for folder in folders)
    assert [name for name in names if name in folders] == ["shop_api", "api", "x" * 100]
    assert folders == [load({"OTEL_SERVICE_NAME": name}).spool_path.name for name in names]


def test_a_name_that_is_no_utf_8_has_a_spool_too() -> None:
    assert load({"OTEL_SERVICE_NAME": os.fsdecode(b"shop\xff")}).spool_path.name.startswith("shop_-")


class TestPlaces:
    """Where things lie is settled when the settings are read."""

    @pytest.fixture(autouse=True)
    def _home_and_here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.chdir(tmp_path)

    @pytest.mark.parametrize(
        ("given", "place"), [("here", "here"), ("./a/../b", "b"), ("~/there", "home/there"), ("~", "home")]
    )
    @pytest.mark.parametrize("attribute", ["state_dir", "spool_dir", "log"])
    def test_a_path_is_absolute_whoever_gives_it(self, attribute: str, given: str, place: str, tmp_path: Path) -> None:
        named = load({VARIABLE_BY_ATTRIBUTE[attribute].name: given})
        overridden = load({}, **{attribute: Path(given)})

        assert str(getattr(named, attribute)) == str(getattr(overridden, attribute)) == str(tmp_path / place)

    def test_every_file_of_declarations_is_absolute(self, tmp_path: Path) -> None:
        settings = load({"CASEYOS_OTEL_HOOKS": "a.yaml, ~/b.yaml"})

        assert settings.hooks == (str(tmp_path / "a.yaml"), str(tmp_path / "home" / "b.yaml"))

    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ("sqlite:///a.db", "sqlite:///{here}/a.db"),
            ("sqlite+aiosqlite:///./d/a.db?timeout=1", "sqlite+aiosqlite:///{here}/d/a.db?timeout=1"),
            ("sqlite:////a.db", "sqlite:////a.db"),
            ("sqlite://", "sqlite://"),
            ("sqlite:///:memory:", "sqlite:///:memory:"),
            ("sqlite:///file:a.db?uri=true", "sqlite:///file:a.db?uri=true"),
        ],
    )
    def test_so_is_the_file_of_a_database(self, given: str, expected: str, tmp_path: Path) -> None:
        assert load({"CASEYOS_OTEL_DATABASE_URL": given}).database_url == expected.format(here=tmp_path)

    def test_a_link_stays_a_link(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(tmp_path / "home")

        assert load({"CASEYOS_OTEL_STATE_DIR": "link"}).state_dir == tmp_path / "link"

    def test_a_relative_path_from_a_directory_that_is_gone_is_told(self, tmp_path: Path) -> None:
        gone = tmp_path / "gone"
        gone.mkdir()
        os.chdir(gone)
        gone.rmdir()

        settings = load({"CASEYOS_OTEL_SPOOL_DIR": "here", "CASEYOS_OTEL_DATABASE_URL": "sqlite:///a.db"})

        assert (settings.spool_dir, settings.database_url) == (None, None)
        assert [problem.partition(":")[0] for problem in settings.problems] == [
            "CASEYOS_OTEL_DATABASE_URL",
            "CASEYOS_OTEL_SPOOL_DIR",
        ]


class TestWithoutAHome:
    """A user id that nobody has a home for, as containers run with."""

    @pytest.fixture(autouse=True)
    def _no_home(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        def unknown(uid: int) -> None:
            raise KeyError(uid)

        for name in ("HOME", "XDG_STATE_HOME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(pwd, "getpwuid", unknown)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def test_the_state_is_below_the_temporary_directory_and_it_is_told_once(self, tmp_path: Path) -> None:
        settings = load({})

        assert settings.state_dir == Settings().state_dir == tmp_path / f"caseyos-otel-{os.geteuid()}"
        (problem,) = settings.problems
        assert problem.startswith("CASEYOS_OTEL_STATE_DIR is not set, and no home directory is known")
        assert str(settings.state_dir) in problem

    def test_a_directory_that_is_named_is_taken_and_nothing_is_told(self, tmp_path: Path) -> None:
        assert load({"CASEYOS_OTEL_STATE_DIR": "/state"}).problems == ()
        assert load({}, state_dir=tmp_path).problems == ()

    def test_a_home_that_is_not_known_is_not_expanded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)

        assert load({"CASEYOS_OTEL_STATE_DIR": "~/state"}).state_dir == tmp_path / "~" / "state"

    def test_where_there_is_no_temporary_directory_either_loading_still_ends_well(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def nowhere() -> str:
            raise FileNotFoundError(2, "No usable temporary directory found")

        monkeypatch.setattr(tempfile, "gettempdir", nowhere)

        assert load({}).state_dir == Path(f"/tmp/caseyos-otel-{os.geteuid()}")
