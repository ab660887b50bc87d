"""Every environment variable: one table with name, type, default and meaning."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

PREFIX = "CASEYOS_OTEL_"
EXPORTERS = ("log", "outcomes", "sentry")


@dataclass(frozen=True, slots=True)
class Variable:
    """One environment variable: how it is read, and what a person should know about it.

    `parse` raises ValueError for a value that is not accepted; `accepted` says in words what is.
    """

    name: str
    attribute: str
    parse: Callable[[str], object]
    default: object
    accepted: str
    doc: str
    secret: bool = False
    refused: object = None
    """What is in force instead of a value that is not accepted, where the default would be worse than none."""

    @property
    def also_as_file(self) -> bool:
        """Whether the value may stand in a file that `<name>_FILE` names: secrets and URLs (DESIGN section 6).

        Not for OpenTelemetry's own variables: its exporters read the plain ones, and would go elsewhere.
        """
        return self.secret and not self.name.startswith("OTEL_")

    @property
    def shown_default(self) -> str:
        """The default as a person would write it into the variable."""
        if self.default in (None, "", ()):
            return "none"
        return str(int(self.default)) if isinstance(self.default, bool) else as_text(self.default)


def as_text(value: object) -> str:
    """A value as a person would write it into a variable. Raises ValueError for what nobody could write there."""
    if isinstance(value, Mapping):
        return ",".join(f"{key}={item}" for key, item in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return ",".join(str(item) for item in value) or "none"
    if isinstance(value, str | Path | int | float):
        return str(value).strip()
    raise ValueError("neither text, path, number nor a collection")


def _choice(*accepted: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in accepted:
            raise ValueError(text)
        return text.lower()

    return parse


def _flag(text: str) -> bool:
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("0", "false", "no", "off"):
        return False
    raise ValueError(text)


def _ratio(text: str) -> float:
    value = float(text)
    if not 0.0 <= value <= 1.0:
        raise ValueError(text)
    return value


def _count(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text)
        if value < least:
            raise ValueError(text)
        return value

    return parse


def _between(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text)
        if not least <= value <= most:
            raise ValueError(text)
        return value

    return parse


def _token(text: str) -> str:
    """A secret in a header: visible ASCII, long enough not to be guessed."""
    if not re.fullmatch(r"[!-~]{16,}", text):
        raise ValueError(text)
    return text


def _paths(text: str) -> tuple[str, ...]:
    return tuple(_absolute(part) for part in (piece.strip() for piece in text.split(",")) if part)


def _positive(text: str) -> float:
    value = float(text)
    if not 0.0 < value < 1e12:
        raise ValueError(text)
    return value


def _some_of(*accepted: str) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        names = _names(text)
        if names == ("none",):
            return ()
        if not names or not set(names) <= set(accepted):
            raise ValueError(text)
        return names

    return parse


def _stream_or_path(text: str) -> str:
    return text.lower() if text.lower() in ("stdout", "stderr") else _absolute(text)


def _directory(text: str) -> Path:
    return Path(_absolute(text))


def _absolute(text: str) -> str:
    """A path that stays where it is when the service changes its directory; a leading `~` is the home, if one is known."""
    try:
        return os.path.abspath(os.path.expanduser(text))  # noqa: PTH100, PTH111  # keeps links, and an unknown home
    except OSError as error:  # the working directory is gone
        raise ValueError(text) from error


def _otel_boolean(text: str) -> bool:
    # OpenTelemetry itself takes "true" alone; what it does not take as true must not be true here
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


def _database(text: str) -> str:
    text = text.strip("\"'")  # platforms whose variables are written in quotes hand the quotes on
    kind = text.partition("://")[0].partition("+")[0].lower()
    if kind not in ("sqlite", "postgres", "postgresql"):
        raise ValueError(text)
    return _absolute_sqlite(text) if kind == "sqlite" else text


def _absolute_sqlite(text: str) -> str:
    """The URL of a relative file with the file's absolute path; any other as it is."""
    start, _, place = text.partition(":///")
    path, mark, query = place.partition("?")
    if not path or path.startswith(("/", ":memory:", "file:")):
        return text
    absolute = _absolute(f"./{path}")  # a `~` is a name here, as for everyone else who reads the URL
    return text if "?" in absolute else f"{start}:///{absolute}{mark}{query}"


def _names(text: str) -> tuple[str, ...]:
    return tuple(part for part in (piece.strip().lower() for piece in text.split(",")) if part)


NOT_A_DATABASE = "not-accepted://"
"""A URL that no storage takes, so that outcomes wait for a mend instead of going to a file that nobody looks into."""

_ANY = "any text"
# ruff: noqa: E501  # one line a variable, so that the table reads as one
VARIABLES: tuple[Variable, ...] = (
    Variable(
        "CASEYOS_OTEL_EXPORTERS",
        "exporters",
        _some_of(*EXPORTERS),
        None,
        "a comma-separated list of log, outcomes, sentry; or none",
        "Our destinations. Unset: the caseyos_* names in OTEL_LOGS_EXPORTER if any, else log,outcomes, and sentry if SENTRY_DSN is set.",
    ),
    Variable("CASEYOS_OTEL_LOG", "log", _stream_or_path, "stdout", "stdout, stderr or a path", "Where the structured log is written."),
    Variable("CASEYOS_OTEL_STATE_DIR", "state_dir", _directory, None, "a directory", "Spool, default database, status files, generated key. Default: the per-user state directory; without a home, caseyos-otel-<user id> in the temporary directory."),
    Variable(
        "CASEYOS_OTEL_DATABASE_URL",
        "database_url",
        _database,
        None,
        "a SQLite or PostgreSQL URL, like postgresql://user:password@host/name",
        "Where outcomes and events are stored. Default: caseyos.db in the state directory. With a value that is not accepted they wait in the spool.",
        secret=True,
        refused=NOT_A_DATABASE,
    ),
    Variable("CASEYOS_OTEL_MIGRATION_DATABASE_URL", "migration_database_url", _database, None, "a SQLite or PostgreSQL URL", "The same database as a role that may make and drop tables: for `db upgrade` and `retention run`. Default: CASEYOS_OTEL_DATABASE_URL.", secret=True),
    Variable("CASEYOS_OTEL_EVENT_STORE", "event_store", _choice("all", "outcomes"), "all", "all, outcomes", "all: a 90-day table `events` beside `outcome_events`; outcomes: only the latter."),
    Variable("CASEYOS_OTEL_EVENT_RETENTION_DAYS", "event_retention_days", _count(0), 90, "days as a whole number; 0: keep", "Age at which `retention run` deletes rows of `events`."),
    Variable("CASEYOS_OTEL_OUTCOME_RETENTION_DAYS", "outcome_retention_days", _count(0), 365, "days as a whole number; 0: keep", "Age at which it deletes rows of `outcome_events`; addresses in them become hashes at 90 days."),
    Variable("CASEYOS_OTEL_SPOOL_DIR", "spool_dir", _directory, None, "a directory", "Where durable events wait for their destinations. Default: spool in the state directory."),
    Variable("CASEYOS_OTEL_SPOOL_MAX_BYTES", "spool_max_bytes", _count(2**20), 512 * 2**20, "bytes as a whole number, at least 1048576", "Bound of the spool. Failures may fill nine tenths, then the oldest go; outcomes are never removed: at the bound new ones stay in memory, an error."),
    Variable("CASEYOS_OTEL_SPOOL_SYNC", "spool_sync", _choice("none", "interval"), "interval", "none, interval", "Whether the spool is synced against power loss, in the background."),
    Variable("CASEYOS_OTEL_SAMPLING", "sampling", _choice("process", "collector", "off"), "process", "process, collector, off", "Who drops traces: this process, a Collector behind it (spans are annotated), or nobody."),
    Variable("CASEYOS_OTEL_SUCCESS_RATIO", "success_ratio", _ratio, 0.1, "a number from 0 to 1", "Share of failure-free traces that is kept, and of success events sent to Sentry."),
    Variable("CASEYOS_OTEL_SAMPLING_SLOW_MS", "slow_ms", _positive, None, "milliseconds above 0", "Keep traces that took longer."),
    Variable("CASEYOS_OTEL_SAMPLING_MAX_TRACES", "max_traces", _count(1), 10_000, "a whole number above 0", "Undecided traces held at once."),
    Variable("CASEYOS_OTEL_SAMPLING_MAX_ITEMS", "max_items", _count(1), 50_000, "a whole number above 0", "Undecided spans and records held at once."),
    Variable("CASEYOS_OTEL_SAMPLING_MAX_TRACE_ITEMS", "max_trace_items", _count(1), 2_000, "a whole number above 0", "Undecided spans and records of one trace."),
    Variable("CASEYOS_OTEL_SAMPLING_MAX_AGE_S", "max_age_s", _positive, 30.0, "seconds above 0", "A trace is decided at this age even if it has not ended."),
    Variable("CASEYOS_OTEL_OTLP_EVENTS", "otlp_events", _choice("all", "kept"), "all", "all, kept", "Whether OTLP gets every event or only those of kept traces."),
    Variable("CASEYOS_OTEL_EVENT_MODE", "event_mode", _choice("log", "both"), "log", "log, both", "both: a copy of each event is added to the current span."),
    Variable("CASEYOS_OTEL_EMIT", "emit", _choice("deferred", "inline"), "deferred", "deferred, inline", "inline: everything happens in the caller."),
    Variable("CASEYOS_OTEL_FLUSH_INTERVAL_MS", "flush_interval_ms", _count(1), 100, "a whole number above 0", "How long an event may wait in memory."),
    Variable("CASEYOS_OTEL_STRICT", "strict", _flag, False, "0 or 1", "1: an invalid event raises at the call."),
    Variable("CASEYOS_OTEL_PII_KEY", "pii_key", str, None, _ANY, "Key of the keyed hash; several hosts must share it. Default: generated once in the state directory.", secret=True),
    Variable("CASEYOS_OTEL_PII_PLAIN", "pii_plain", _some_of("database", "log", "otlp", "sentry"), ("database",), "a comma-separated list of database, log, otlp, sentry; or none", "Where addresses, names and companies may appear in plain."),
    Variable("CASEYOS_OTEL_PROPAGATE", "propagate", _flag, False, "0 or 1", "1: bind() also travels to other services, in baggage."),
    Variable("CASEYOS_OTEL_HOOKS", "hooks", _paths, (), "paths of YAML files, comma-separated", "Declarations of own events, for events that come from other languages (docs/own-events.md)."),
    Variable("CASEYOS_OTEL_INGEST_TOKEN", "ingest_token", _token, None, "at least 16 visible ASCII characters", "The gateway takes OTLP only with this bearer token. Beyond loopback it does not start without.", secret=True),
    Variable("CASEYOS_OTEL_ADMIN_TOKEN", "admin_token", _token, None, "at least 16 visible ASCII characters", "The gateway shows `/metrics` only with this bearer token; it must differ from the ingest token.", secret=True),
    Variable("CASEYOS_OTEL_GATEWAY_MAX_BYTES", "gateway_max_bytes", _between(1024, 2**24 - 1), 4 * 2**20, "bytes as a whole number, 1024 to 16777215", "Size of a request that the gateway takes, as it comes and inflated."),
    Variable("CASEYOS_OTEL_GATEWAY_CONCURRENCY", "gateway_concurrency", _count(1), 64, "a whole number above 0", "Requests that a gateway process reads at once; beyond, it answers 503."),
    Variable("CASEYOS_OTEL_GATEWAY_RATE", "gateway_rate", _count(0), 1000, "a whole number; 0: no limit", "Requests a second that a gateway process takes of one client; beyond, it answers 429."),
    Variable("CASEYOS_OTEL_DISABLED", "disabled", _flag, False, "0 or 1", "1: nothing of ours runs."),
    Variable("SENTRY_DSN", "sentry_dsn", str, None, "a Sentry DSN", "Turns the Sentry destination on.", secret=True),
    Variable("SENTRY_ENVIRONMENT", "sentry_environment", str, None, _ANY, "Environment of this deployment."),
    Variable("SENTRY_RELEASE", "sentry_release", str, None, _ANY, "Release of this deployment."),
    Variable("OTEL_SDK_DISABLED", "otel_sdk_disabled", _otel_boolean, False, "true or false", "Stops spans, OTLP and metrics; not the log, outcomes and issues."),
    Variable("OTEL_LOGS_EXPORTER", "otel_logs_exporter", _names, (), "exporter names", "OpenTelemetry's own; governs OTLP alone unless it names a caseyos_* exporter."),
    Variable("OTEL_TRACES_EXPORTER", "otel_traces_exporter", _names, (), "exporter names", "OpenTelemetry's own. Unset: OTLP over HTTP where an endpoint is set."),
    Variable("OTEL_METRICS_EXPORTER", "otel_metrics_exporter", _names, (), "exporter names", "OpenTelemetry's own. Unset: OTLP over HTTP where an endpoint is set."),
    Variable("OTEL_TRACES_SAMPLER", "otel_traces_sampler", str, None, "a sampler's name", "A head sampler; stands before the 100 % for failures."),
    Variable("OTEL_PYTHON_DISTRO", "otel_python_distro", str, None, "a distro's name", "Which distro opentelemetry-instrument takes."),
    Variable("OTEL_SERVICE_NAME", "service_name", str, None, "a name", "Name of the service; its spool is a directory of this name. Other characters than A-Z a-z 0-9 . _ - become _ there, and a hash of the name is added."),
    Variable("OTEL_RESOURCE_ATTRIBUTES", "resource_attributes", str, None, "key=value, comma-separated", "Resource of the service; service.name here counts where OTEL_SERVICE_NAME is not set."),
    Variable("OTEL_CONFIG_FILE", "otel_config_file", str, None, "a path", "OpenTelemetry's declarative configuration."),
    Variable("OTEL_EXPORTER_OTLP_ENDPOINT", "otlp_endpoint", str, None, "a URL", "Turns OTLP on for every signal."),
    Variable("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "otlp_logs_endpoint", str, None, "a URL", "Turns OTLP on for logs (events)."),
    Variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "otlp_traces_endpoint", str, None, "a URL", "Turns OTLP on for traces."),
    Variable("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "otlp_metrics_endpoint", str, None, "a URL", "Turns OTLP on for metrics."),
    Variable("OTEL_EXPORTER_OTLP_PROTOCOL", "otlp_protocol", _choice("http/protobuf", "grpc"), "http/protobuf", "http/protobuf, grpc", "Protocol of OTLP."),
    Variable("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "otlp_logs_protocol", _choice("http/protobuf", "grpc"), None, "http/protobuf, grpc", "Protocol of OTLP for logs."),
    Variable("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "otlp_traces_protocol", _choice("http/protobuf", "grpc"), None, "http/protobuf, grpc", "Protocol of OTLP for traces."),
)  # fmt: skip
VARIABLE_BY_ATTRIBUTE: Mapping[str, Variable] = MappingProxyType({v.attribute: v for v in VARIABLES})
