"""What is in force in this process, read from the environment. Nobody else reads it; `environment_variables` is the table."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from urllib.parse import quote

from caseyos_otel.environment_variables import (
    EXPORTERS,
    VARIABLE_BY_ATTRIBUTE,
    VARIABLES,
    Variable,
    as_text,
)

GOING_ON = " Going on without it"
"""How the sentence of a problem ends, before its default."""


@dataclass(frozen=True, slots=True)
class Destination:
    """Whether a destination is on, and what decided it: a variable's name, or a rule in words."""

    name: str
    on: bool
    why: str


def _file_name(text: str) -> str:
    """A service's name as the name of a directory: never one that leads elsewhere, nor to another service's."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", text).lstrip(".")[:100]
    if plain == text:
        return plain
    return f"{plain[:91]}-{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:8]}"


def _sqlite_url(file: Path) -> str:
    """The URL of a file; as SQLite's own URI where the name would begin a query, which only a URI can quote."""
    return f"sqlite:///file:{quote(os.fsencode(file))}?uri=true" if "?" in str(file) else f"sqlite:///{file}"


def _state_dir() -> Path:
    """The per-user state directory; where no home is known, a directory of this user below the temporary one."""
    return _state_dir_at_home() or Path(_temporary_dir(), f"caseyos-otel-{os.geteuid()}")


def _state_dir_at_home() -> Path | None:
    from platformdirs import user_state_path

    try:
        found = user_state_path("caseyos-otel")
    except RuntimeError:  # neither HOME nor an entry for the user id
        return None
    return found if found.is_absolute() else None  # older releases of platformdirs leave the `~`


def _temporary_dir() -> str:
    try:
        return tempfile.gettempdir()
    except OSError:  # none can be written: whoever writes there says so
        return "/tmp"  # noqa: S108  # only a name: nothing is made here


@dataclass(frozen=True, slots=True)
class Settings:
    """What is in force in this process. Made by `load`; nothing changes it afterwards.

    `sources` tells where each value came from that is not a default (`environment`, `file`, `configure()`), by name of
    the variable; `problems` what was refused, one sentence each, with the variable's name and what it accepts.
    Secrets are in neither, nor in the repr.
    """

    exporters: tuple[str, ...] | None = None
    log: str = "stdout"
    state_dir: Path = field(default_factory=_state_dir)
    database_url: str | None = field(default=None, repr=False)
    migration_database_url: str | None = field(default=None, repr=False)
    event_store: str = "all"
    event_retention_days: int = 90
    outcome_retention_days: int = 365
    spool_dir: Path | None = None
    spool_max_bytes: int = 512 * 2**20
    spool_sync: str = "interval"
    sampling: str = "process"
    success_ratio: float = 0.1
    slow_ms: float | None = None
    max_traces: int = 10_000
    max_items: int = 50_000
    max_trace_items: int = 2_000
    max_age_s: float = 30.0
    otlp_events: str = "all"
    event_mode: str = "log"
    emit: str = "deferred"
    flush_interval_ms: int = 100
    strict: bool = False
    pii_key: str | None = field(default=None, repr=False)
    pii_plain: tuple[str, ...] = ("database",)
    propagate: bool = False
    hooks: tuple[str, ...] = ()
    ingest_token: str | None = field(default=None, repr=False)
    admin_token: str | None = field(default=None, repr=False)
    gateway_max_bytes: int = 4 * 2**20
    gateway_concurrency: int = 64
    gateway_rate: int = 1000
    disabled: bool = False
    sentry_dsn: str | None = field(default=None, repr=False)
    sentry_environment: str | None = None
    sentry_release: str | None = None
    otel_sdk_disabled: bool = False
    otel_logs_exporter: tuple[str, ...] = ()
    otel_traces_exporter: tuple[str, ...] = ()
    otel_metrics_exporter: tuple[str, ...] = ()
    otel_traces_sampler: str | None = None
    otel_python_distro: str | None = None
    service_name: str | None = None
    resource_attributes: str | None = None
    otel_config_file: str | None = None
    otlp_endpoint: str | None = None
    otlp_logs_endpoint: str | None = None
    otlp_traces_endpoint: str | None = None
    otlp_metrics_endpoint: str | None = None
    otlp_protocol: str = "http/protobuf"
    otlp_logs_protocol: str | None = None
    otlp_traces_protocol: str | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    platform: str | None = None

    @property
    def spool_path(self) -> Path:
        """Directory of the spool: by default one a service, so that none delivers another's events to its own database."""
        return self.spool_dir or self.state_dir / "spool" / _file_name(self.service_name or self._named_in_resource())

    def _named_in_resource(self) -> str:
        pairs = (pair.partition("=") for pair in (self.resource_attributes or "").split(","))
        named = {key.strip(): value.strip() for key, _, value in pairs}
        return named.get("service.name") or "unknown_service"

    @property
    def effective_database_url(self) -> str:
        """The database as the user wrote it, or the SQLite file in the state directory."""
        return self.database_url or _sqlite_url(self.state_dir / "caseyos.db")

    @property
    def owner_database_url(self) -> str:
        """The database as the role that owns our tables sees it."""
        return self.migration_database_url or self.effective_database_url

    @property
    def logs_endpoint(self) -> str | None:
        """Where events leave by OTLP, or None."""
        return self.otlp_logs_endpoint or self.otlp_endpoint

    @property
    def logs_protocol(self) -> str:
        """Protocol by which events leave."""
        return self.otlp_logs_protocol or self.otlp_protocol

    @property
    def traces_protocol(self) -> str:
        """Protocol by which spans leave."""
        return self.otlp_traces_protocol or self.otlp_protocol

    def wants_otlp_by_default(self, signal: str) -> bool:
        """Whether `trace`, `metric` or `log` leaves by OTLP although no variable names an exporter for it."""
        named = {
            "trace": (self.otel_traces_exporter, self.otlp_traces_endpoint),
            "metric": (self.otel_metrics_exporter, self.otlp_metrics_endpoint),
            "log": (self.otel_logs_exporter, self.otlp_logs_endpoint),
        }
        exporter, endpoint = named[signal]
        return not exporter and bool(endpoint or self.otlp_endpoint)

    def destinations(self) -> tuple[Destination, ...]:
        """Which destinations are on and what decided it (DESIGN section 6)."""
        return (*(self._ours(name) for name in EXPORTERS), self._otlp())

    def is_on(self, name: str) -> bool:
        """Whether the destination `log`, `outcomes`, `sentry` or `otlp` is on."""
        return any(destination.on for destination in self.destinations() if destination.name == name)

    def _ours(self, name: str) -> Destination:
        if self.disabled:
            return Destination(name, False, "CASEYOS_OTEL_DISABLED")
        if self.exporters is not None:
            on, why = name in self.exporters, "CASEYOS_OTEL_EXPORTERS"
        elif named := [n for n in self.otel_logs_exporter if n.startswith("caseyos_")]:
            on, why = f"caseyos_{name}" in named, "OTEL_LOGS_EXPORTER"
        elif name == "sentry":
            on, why = bool(self.sentry_dsn), "SENTRY_DSN is set" if self.sentry_dsn else "SENTRY_DSN is not set"
        else:
            on, why = True, "default"
        if on and name == "sentry" and not self.sentry_dsn:
            return Destination(name, False, f"{why} asks for it, but SENTRY_DSN is not set")
        return Destination(name, on, why)

    def _otlp(self) -> Destination:
        if self.disabled:
            return Destination("otlp", False, "CASEYOS_OTEL_DISABLED")
        if self.otel_sdk_disabled:
            return Destination("otlp", False, "OTEL_SDK_DISABLED")
        if "none" in self.otel_logs_exporter:
            return Destination("otlp", False, "OTEL_LOGS_EXPORTER=none")
        if self.otlp_logs_endpoint:
            return Destination("otlp", True, "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT")
        if self.otlp_endpoint:
            return Destination("otlp", True, "OTEL_EXPORTER_OTLP_ENDPOINT")
        return Destination("otlp", False, "no OTLP endpoint is set")


def load(environ: Mapping[str, str] | None = None, /, **overrides: object) -> Settings:
    """Read the environment (and `NAME_FILE` for secrets and URLs); `overrides` are `configure()`'s arguments and win.

    Never raises for a bad value: it is ignored (an override's leaves what the environment says, a variable's leaves the
    default) and the sentence is in `problems`.

    Raises:
        TypeError: an override is not the name of a setting.
    """
    source = os.environ if environ is None else environ
    if unknown := sorted(set(overrides) - VARIABLE_BY_ATTRIBUTE.keys()):
        raise TypeError(f"configure() has no setting {unknown[0]!r}; it accepts {', '.join(VARIABLE_BY_ATTRIBUTE)}")
    values: dict[str, object] = {}
    sources: dict[str, str] = {}
    problems: list[str] = []
    for variable in VARIABLES:
        text, origin = _text(variable, source, problems)
        if text is not None:
            _take(variable, text, origin, values, sources, problems)
    for attribute, value in overrides.items():
        _override(VARIABLE_BY_ATTRIBUTE[attribute], value, values, sources, problems)
    if "state_dir" not in values and _state_dir_at_home() is None:
        problems.append(_homeless())
    return Settings(
        sources=MappingProxyType(sources),
        platform=_platform(source),
        problems=tuple(problems),
        **values,  # type: ignore[arg-type]  # the table and the dataclass agree: tests/unit/test_settings.py
    )


def _homeless() -> str:
    return (
        f"CASEYOS_OTEL_STATE_DIR is not set, and no home directory is known for user id {os.geteuid()}."
        f" Going on in {_state_dir()}; set it to a directory that lasts."
    )


def _take(
    variable: Variable, text: str, origin: str, values: dict[str, object], sources: dict[str, str], problems: list[str]
) -> None:
    try:
        values[variable.attribute] = variable.parse(text)
        sources[variable.name] = origin
    except ValueError:
        problems.append(_refusal(variable, variable.name, text))


def _override(
    variable: Variable, value: object, values: dict[str, object], sources: dict[str, str], problems: list[str]
) -> None:
    try:
        plain = value is None or value == variable.default
        values[variable.attribute] = variable.default if plain else variable.parse(as_text(value))
    except Exception:
        # not accepted, or a value whose own methods raise: what the environment says stays in force
        problems.append(_refusal(variable, f"configure({variable.attribute}=…)", value))
        return
    if variable.attribute == "state_dir" and value is None:
        del values["state_dir"]  # its default is found out, not written in the table
    sources[variable.name] = "configure()"


def _refusal(variable: Variable, where: str, value: object) -> str:
    shown = "its value" if variable.secret else _shown(value)
    return (
        f"{where}: {shown} is not accepted; {variable.name} takes {variable.accepted}."
        f"{GOING_ON} (default: {variable.shown_default})."
    )


def _shown(value: object) -> str:
    try:
        return repr(value)[:200]
    except Exception:
        return f"a {type(value).__name__}"


def _text(variable: Variable, source: Mapping[str, str], problems: list[str]) -> tuple[str | None, str]:
    if text := source.get(variable.name, "").strip():
        return text, "environment"
    if variable.also_as_file and (path := source.get(f"{variable.name}_FILE", "").strip()):
        try:
            if text := Path(path).read_text("utf-8").strip():
                return text, "file"
            problems.append(f"{variable.name}_FILE: {path!r} is empty.{GOING_ON}.")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            problems.append(f"{variable.name}_FILE: {path!r} cannot be read ({reason}).{GOING_ON}.")
    return None, "default"


def _platform(source: Mapping[str, str]) -> str | None:
    if "RAILWAY_ENVIRONMENT" in source or "RAILWAY_PROJECT_ID" in source:
        return "railway"
    return "kubernetes" if "KUBERNETES_SERVICE_HOST" in source else None
