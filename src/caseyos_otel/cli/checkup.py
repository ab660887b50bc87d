"""The examination behind `doctor`: reads the configuration, tries each destination, reads the status of running processes."""

from __future__ import annotations

import os
import tempfile
import urllib.error
import urllib.request
from datetime import UTC, datetime
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final, TypedDict

from caseyos_otel import settings
from caseyos_otel.environment_variables import VARIABLES, Variable
from caseyos_otel.errors import CaseyosOtelError, Rejected, Unavailable
from caseyos_otel.pipeline import announcement, status
from caseyos_otel.settings import Settings

_TIMEOUT_S: Final = 5.0


class Result(TypedDict):
    """Outcome of trying a destination: `ok`, `broken` or `off`; what was seen; how to mend it."""

    state: str
    detail: str
    mend: str


class Report(TypedDict):
    """What `doctor --json` prints."""

    version: str
    configuration: list[dict[str, str]]
    destinations: list[dict[str, Any]]
    opentelemetry: list[str]
    processes: list[dict[str, Any]]
    broken: list[str]


def examine() -> Report:
    """Examine this environment as a service started in it would find it."""
    in_force = settings.load()
    destinations: list[dict[str, Any]] = [
        {"name": d.name, "on": d.on, "why": d.why, "result": _try(d.name, in_force) if d.on else _off()}
        for d in in_force.destinations()
    ]
    if any(d["name"] == "outcomes" and d["result"]["state"] == "ok" for d in destinations):
        kept = f"events {in_force.event_retention_days}, outcomes {in_force.outcome_retention_days} days"
        destinations.append({"name": "retention", "on": True, "why": kept, "result": _retention(in_force)})
    spool = _spool(in_force)
    destinations.append({"name": "spool", "on": True, "why": "durable events", "result": spool})
    broken = [*in_force.problems]
    broken += [f"{d['name']}: {d['result']['detail']}" for d in destinations if d["result"]["state"] == "broken"]
    return {
        "version": announcement.version(),
        "configuration": [_row(variable, in_force) for variable in VARIABLES],
        "destinations": destinations,
        "opentelemetry": _opentelemetry(in_force),
        "processes": [_process(seen) for seen in status.read_all(in_force.state_dir)],
        "broken": broken,
    }


def _row(variable: Variable, in_force: Settings) -> dict[str, str]:
    value = getattr(in_force, variable.attribute)
    if value is not None and (variable.secret or variable.accepted.endswith("URL")):
        value = _masked(str(value), variable.secret)
    if value is None and variable.attribute == "database_url":
        value = in_force.effective_database_url
    elif value is None and variable.attribute == "spool_dir":
        value = in_force.spool_path
    elif isinstance(value, tuple):
        value = ",".join(value) or None
    source = in_force.sources.get(variable.name, "default")
    return {"name": variable.name, "value": "-" if value is None else str(value), "source": source}


def _masked(text: str, secret: bool = False) -> str:
    """A URL without what stands before its host, and without the values of a query; anything else that is secret: `***`."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        return "***" if secret else text
    where, question_mark, query = rest.partition("?")
    if "@" in where:
        where = f"***@{where.rpartition('@')[2]}"
    names = "&".join(f"{pair.partition('=')[0]}=***" for pair in query.split("&"))
    return f"{scheme}://{where}{question_mark}{names if question_mark else ''}"


def _endpoint(in_force: Settings) -> str:
    return _masked(in_force.logs_endpoint or "")


def _off() -> Result:
    return {"state": "off", "detail": "", "mend": ""}


def _ok(detail: str) -> Result:
    return {"state": "ok", "detail": detail, "mend": ""}


def _broken(detail: str, mend: str) -> Result:
    return {"state": "broken", "detail": detail, "mend": mend}


def _try(name: str, in_force: Settings) -> Result:
    return {"log": _log, "outcomes": _outcomes, "sentry": _sentry, "otlp": _otlp}[name](in_force)


def _log(in_force: Settings) -> Result:
    if in_force.log in ("stdout", "stderr"):
        return _ok(f"JSON lines on {in_force.log}")
    path = Path(in_force.log)
    try:
        _try_to_write(path)
        return _ok(f"JSON lines in {_to_be_made(path)}")
    except OSError as error:
        return _broken(f"{path}: {error.strerror}", "set CASEYOS_OTEL_LOG to stdout, stderr or a writable path")


def _try_to_write(path: Path) -> None:
    """Write to a file or directory, or beside where it will be. Raises OSError.

    What is not there stays so: made by root, say, it would be in the way of the service's own user.
    """
    nearest = next(place for place in (path, *path.parents) if os.path.lexists(place))
    if nearest == path and not path.is_dir():
        path.open("a").close()
        return
    with tempfile.TemporaryFile(dir=nearest):
        pass


def _to_be_made(path: Path) -> str:
    return f"{path}{'' if os.path.lexists(path) else ' (will be made)'}"


def _outcomes(in_force: Settings) -> Result:
    from caseyos_otel.cli import storable
    from caseyos_otel.storage import engine, health, schema

    try:
        url = engine.parse_url(in_force.effective_database_url)
        shown = _masked(url.render_as_string())
        if (found := storable.hindrance(url, in_force.event_store)) is not None:
            return _broken(f"{shown}: {found[0]}", found[1])
        if (file := engine.file_of(url)) is not None and not os.path.exists(file):  # noqa: PTH110  # never raises
            return _at_first_use(file, shown)
        opened = storable.opened(url)
        if not schema.is_current(opened):
            if opened.dialect.name == "sqlite":  # made, and migrated, at first use
                return _ok(shown)
            return _broken(f"{shown}: our tables are missing or old", "run `caseyos-otel db upgrade`")
        if astray := health.read(opened).default_rows:
            return _broken(
                f"{shown}: {astray} rows of events are in the default partition",
                "run `caseyos-otel db upgrade` with a role that may make tables; what stays has an id from a wrong clock",
            )
        return _ok(shown)
    except Unavailable as error:
        return _broken(str(error), "start the database, or mend CASEYOS_OTEL_DATABASE_URL")
    except CaseyosOtelError as error:
        return _broken(str(error), "set CASEYOS_OTEL_DATABASE_URL to a SQLite or PostgreSQL database")


def _at_first_use(file: Path, shown: str) -> Result:
    """SQLite's file is made by the service, not by looking for it."""
    try:
        _try_to_write(file)
    except OSError as error:
        mend = "make its directory writable, or set CASEYOS_OTEL_DATABASE_URL or CASEYOS_OTEL_STATE_DIR"
        return _broken(f"the database file {file} cannot be made: {error.strerror}", mend)
    return _ok(f"{shown} (will be made)")


def _retention(in_force: Settings) -> Result:
    """Only asked where the database answers."""
    from caseyos_otel.cli import storable
    from caseyos_otel.privacy import retention
    from caseyos_otel.storage import engine, health, schema

    url = engine.parse_url(in_force.effective_database_url)
    opened = storable.opened(url)
    if ((file := engine.file_of(url)) is not None and not file.exists()) or not schema.is_current(opened):
        return _ok("nothing is stored yet")
    now = datetime.now(UTC)
    policy = retention.Policy.of(in_force.event_retention_days, in_force.outcome_retention_days, now)
    said = health.read(opened)
    last = "never" if said.last_retention is None else f"{(now - said.last_retention).total_seconds() / 3600:.0f} h ago"
    if (waiting := retention.late(opened, policy, said, now)) is not None:
        return _broken(
            f"last run: {last}; rows are {waiting.days} days over their time", "run `caseyos-otel retention run` daily"
        )
    return _ok(f"last run: {last}")


def _sentry(in_force: Settings) -> Result:
    from sentry_sdk.envelope import Envelope
    from sentry_sdk.utils import BadDsn, Dsn

    try:
        auth = Dsn(in_force.sentry_dsn or "").to_auth("caseyos-otel")
    except BadDsn as error:
        return _broken(f"SENTRY_DSN is not a DSN: {error}", "copy it from the project's settings, Client Keys (DSN)")
    headers = {"X-Sentry-Auth": auth.to_header(), "Content-Type": "application/x-sentry-envelope"}
    answer = _post(auth.get_api_url(), Envelope().serialize(), headers)
    if isinstance(answer, str):
        return _broken(f"Sentry does not answer: {answer}", "check the host in SENTRY_DSN and the network")
    if answer in (401, 403, 404):
        return _broken(f"Sentry answered {answer}", "check SENTRY_DSN: its key or project is not known there")
    return _ok(f"Sentry at {auth.host} answers")


def _otlp(in_force: Settings) -> Result:
    from caseyos_otel.exporters.otlp_transport import OtlpTransport

    try:
        transport = OtlpTransport("logs", in_force.logs_protocol, "otlp")
        transport.let_retry(False)
        transport.send(b"")
    except (Rejected, Unavailable) as error:
        return _broken(f"{_endpoint(in_force)}: {error}", "check OTEL_EXPORTER_OTLP_ENDPOINT, _HEADERS and _PROTOCOL")
    transport.close()
    return _ok(f"{_endpoint(in_force)} accepts logs over {in_force.logs_protocol}")


def _spool(in_force: Settings) -> Result:
    from caseyos_otel.spool import disk
    from caseyos_otel.spool.problem import SpoolUnavailable
    from caseyos_otel.spool.space import Space, used

    path = in_force.spool_path
    try:
        _try_spool(path)
    except SpoolUnavailable as error:
        mend = "set CASEYOS_OTEL_SPOOL_DIR or CASEYOS_OTEL_STATE_DIR to a writable directory"
        return _broken(str(error).removeprefix("spool: "), f"{mend}; durable events stay in memory until then")
    waiting = _waiting(path, in_force)
    if (held := used(path)) > Space(path, in_force.spool_max_bytes).for_failures:
        mend = "bring its destinations back, or raise CASEYOS_OTEL_SPOOL_MAX_BYTES"
        return _broken(f"{path} is full: {held} of {in_force.spool_max_bytes} bytes{waiting}", mend)
    kind = disk.type_of(path)
    lasts = (
        f" on {kind}, which does not outlive its container: use a volume, or session="
        if disk.is_ephemeral(kind)
        else ""
    )
    return _ok(f"{_to_be_made(path)}{lasts}{waiting}")


def _try_spool(path: Path) -> None:
    """Go through what a process of the service goes through, without making the directory. Raises `SpoolUnavailable`."""
    from caseyos_otel.spool.directory import prepare
    from caseyos_otel.spool.problem import unavailable

    if os.path.lexists(path):
        prepare(path)
    try:
        _try_to_write(path)
    except OSError as error:
        raise unavailable("use the directory", path, error) from error


def _waiting(path: Path, in_force: Settings) -> str:
    from caseyos_otel.spool.status import pending

    found = {d.name: pending(path, d.name) for d in in_force.destinations() if d.on}
    told = [
        f"{waits.records} for {name}, the oldest for {waits.oldest_age or 0:.0f} s"
        for name, waits in found.items()
        if waits.records
    ]
    return f"; waiting: {'; '.join(told)}" if told else ""


def _post(url: str, body: bytes, headers: dict[str, str]) -> int | str:
    """HTTP status, or why there was none."""
    if not url.startswith(("http://", "https://")):
        return f"{url} is no HTTP address"
    request = urllib.request.Request(url, data=body, headers=headers, method="POST")  # noqa: S310  # checked just before
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:  # noqa: S310  # same
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError as error:
        return str(error)


def _opentelemetry(in_force: Settings) -> list[str]:
    lines = []
    distros = [entry_point.name for entry_point in entry_points(group="opentelemetry_distro")]
    chosen = in_force.otel_python_distro or (distros[0] if distros else "none")
    lines.append(f"distro: {chosen} (installed: {', '.join(distros) or 'none'})")
    if chosen != "caseyos":
        lines.append("our instrumentor attaches to it; OTEL_PYTHON_DISTRO=caseyos chooses ours")
    if in_force.otel_traces_sampler == "always_on":
        lines.append("sampler: always_on, as chosen: every span is recorded and no failure is lost")
    elif in_force.otel_traces_sampler:
        lines.append(
            f"OTEL_TRACES_SAMPLER={in_force.otel_traces_sampler} stands before the 100 % for failures; unset it"
        )
    else:
        lines.append("sampler: default, wrapped so that every span is recorded and no failure is lost")
        lines.append("(where OTEL_CONFIG_FILE or the service's code chose another one, its processes say so below)")
    if os.sep == "\\":
        lines.append("this operating system has no fork and no flock: the spool is not supported")
    return lines


def _process(seen: dict[str, Any]) -> dict[str, Any]:
    totals: dict[str, int] = {}
    for drop in seen.get("dropped", []):
        totals[drop["reason"]] = totals.get(drop["reason"], 0) + drop["n"]
    return {
        "pid": seen.get("pid"),
        "role": seen.get("role", ""),
        "queued": seen.get("queued"),
        "destinations": seen.get("destinations"),
        "dropped": totals,
        "notes": seen.get("notes", []),
    }
