"""`caseyos-otel retention run`: what is old goes, addresses in old outcomes become hashes."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from caseyos_otel import settings
from caseyos_otel.errors import CaseyosOtelError, StorageError
from caseyos_otel.settings import Settings

if TYPE_CHECKING:
    from caseyos_otel.privacy.retention import Report

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
    try:
        report = _run(in_force, url or in_force.owner_database_url, dry_run)
    except CaseyosOtelError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    typer.echo(json.dumps({"dry_run": dry_run, **asdict(report)}) if as_json else _text(report, dry_run))
    raise typer.Exit(1 if report.failures else 0)


def _run(in_force: Settings, url: str, dry_run: bool) -> Report:
    undeclared = _load_declarations(in_force)
    report = _report(in_force, url, dry_run)
    report.failures[:0] = undeclared
    return report


def _load_declarations(in_force: Settings) -> list[str]:
    """Which fields are personal, as the service has it; what is wrong with a file, whose events are then undeclared."""
    from caseyos_otel.events import declared
    from caseyos_otel.events.registry import registry

    registry.load_entry_points()
    problems = []
    for path in in_force.hooks:
        try:
            declared.load([path], registry)
        except CaseyosOtelError as error:
            problems.append(str(error))
    return problems


def _report(in_force: Settings, url: str, dry_run: bool) -> Report:
    from caseyos_otel.privacy import retention
    from caseyos_otel.redaction.pseudonyms import Pseudonyms, load_key
    from caseyos_otel.storage import engine, schema

    opened = retention.in_utc(engine.create(engine.parse_url(url)))
    if opened.dialect.name == "sqlite":
        schema.upgrade(opened)
    elif not schema.is_current(opened):
        raise StorageError("the tables are not up to date: run `caseyos-otel db upgrade`")
    policy = retention.Policy.of(in_force.event_retention_days, in_force.outcome_retention_days, datetime.now(UTC))
    if dry_run:
        return retention.due(opened, policy)
    pseudonyms = Pseudonyms(load_key(in_force.pii_key, in_force.state_dir / "pii.key"))
    if not sys.stderr.isatty():
        return retention.run(opened, policy, pseudonyms.of)
    with typer.progressbar(length=retention.due(opened, policy).rows, label="retention", file=sys.stderr) as bar:
        return retention.run(opened, policy, pseudonyms.of, bar.update)


def _text(report: Report, dry_run: bool) -> str:
    would = "would be " if dry_run else ""
    months = f", {len(report.partitions_dropped)} whole months" if report.partitions_dropped else ""
    return "\n".join(
        [
            f"Events: {report.events_deleted} {would}deleted{months}.",
            f"Outcomes: {report.outcomes_deleted} {would}deleted, {report.outcomes_anonymised} {would}anonymised.",
            *report.remarks,
        ]
    )
