"""`caseyos-otel retention run`: what is old goes, addresses in old outcomes become hashes."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from caseyos_otel import settings
from caseyos_otel.errors import CaseyosOtelError, StorageError
from caseyos_otel.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from caseyos_otel.privacy.retention import Policy, Report

app = typer.Typer(no_args_is_help=True, help="How long what is kept.")
Url = Annotated[
    str | None,
    typer.Option(
        "--url", help="Database URL; default: CASEYOS_OTEL_MIGRATION_DATABASE_URL, CASEYOS_OTEL_DATABASE_URL."
    ),
]


@app.callback()
def _retention() -> None:
    """A command with one verb keeps its verb."""


@app.command()
def run(
    url: Url = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Delete what is older than it may get, and make old outcomes anonymous. Run it daily; running it again does no harm.

    Exits 1 if something could not be done.
    """
    in_force = settings.load()
    now = datetime.now(UTC)
    undeclared = _load_declarations(in_force)
    report = _database(in_force, url or in_force.owner_database_url, now, dry_run)
    report.failures[:0] = undeclared
    _forget(in_force, now, report, dry_run)
    if as_json:
        typer.echo(json.dumps({"dry_run": dry_run, **asdict(report)}))
    else:
        typer.echo(_text(report, dry_run))
        for failure in report.failures:
            typer.echo(failure, err=True)
    raise typer.Exit(1 if report.failures else 0)


def _load_declarations(in_force: Settings) -> list[str]:
    """Which fields are personal, as the service has it; what is wrong with a file, whose events are then undeclared."""
    from caseyos_otel.events import declared
    from caseyos_otel.events.registry import registry

    registry.load_entry_points()
    return declared.load_each(in_force.hooks, registry)


def _database(in_force: Settings, url: str, now: datetime, dry_run: bool) -> Report:
    from caseyos_otel.privacy.retention import Policy, Report

    policy = Policy.of(in_force.event_retention_days, in_force.outcome_retention_days, now)
    try:
        return _run(in_force, _opened(url), policy, dry_run)
    except CaseyosOtelError as error:
        return Report(failures=[str(error)])


def _opened(url: str) -> Engine:
    from caseyos_otel.privacy import retention
    from caseyos_otel.storage import engine, schema

    opened = retention.in_utc(engine.create(engine.parse_url(url)))
    if opened.dialect.name == "sqlite":
        schema.upgrade(opened)
    elif not schema.is_current(opened):
        raise StorageError("the tables are not up to date: run `caseyos-otel db upgrade`")
    return opened


def _run(in_force: Settings, opened: Engine, policy: Policy, dry_run: bool) -> Report:
    from caseyos_otel.privacy import retention
    from caseyos_otel.redaction.pseudonyms import Pseudonyms, load_key

    if dry_run:
        return retention.due(opened, policy)
    pseudonyms = Pseudonyms(load_key(in_force.pii_key, in_force.state_dir / "pii.key"))
    if not sys.stderr.isatty():
        return retention.run(opened, policy, pseudonyms.of)
    with typer.progressbar(length=retention.due(opened, policy).rows, label="retention", file=sys.stderr) as bar:
        return retention.run(opened, policy, pseudonyms.of, bar.update)


def _forget(in_force: Settings, now: datetime, report: Report, dry_run: bool) -> None:
    """What was set aside on this host has addresses in plain, too."""
    from caseyos_otel.pipeline import set_aside
    from caseyos_otel.privacy.retention import PLAIN_FOR

    work = set_aside.expired if dry_run else set_aside.forget
    for spool in _spools(in_force):
        try:
            report.set_aside_deleted += work(spool, (now - PLAIN_FOR).timestamp())
        except OSError as error:
            report.failures.append(f"{spool}: what is set aside cannot be removed: {error.strerror}")


def _spools(in_force: Settings) -> list[Path]:
    """Without a directory of its own, each service has one in the state directory."""
    beside = in_force.spool_path.parent
    return [in_force.spool_dir] if in_force.spool_dir else [path for path in sorted(beside.glob("*")) if path.is_dir()]


def _text(report: Report, dry_run: bool) -> str:
    would = "would be " if dry_run else ""
    months = f", {len(report.partitions_dropped)} whole months" if report.partitions_dropped else ""
    return "\n".join(
        [
            f"Events: {report.events_deleted} {would}deleted{months}.",
            f"Outcomes: {report.outcomes_deleted} {would}deleted, {report.outcomes_anonymised} {would}anonymised.",
            f"Set aside on this host: {report.set_aside_deleted} {would}deleted.",
            *report.remarks,
        ]
    )
