"""`caseyos-otel db upgrade|check`: the tables of outcomes and events."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from caseyos_otel import settings
from caseyos_otel.errors import CaseyosOtelError

app = typer.Typer(no_args_is_help=True, help="The tables of outcomes and events.")
Url = Annotated[
    str | None,
    typer.Option(
        "--url", help="Database URL; default: CASEYOS_OTEL_MIGRATION_DATABASE_URL, CASEYOS_OTEL_DATABASE_URL."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def upgrade(url: Url = None) -> None:
    """Create our tables or bring them up to date."""
    from caseyos_otel.storage import drift, engine, schema

    try:
        opened = engine.create(engine.parse_url(_url(url)))
        schema.upgrade(opened)
        left = drift.differences(opened)
    except CaseyosOtelError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    # what somebody changed by hand no migration mends, and it need not keep a deployment from going on
    typer.echo("\n".join(_sentences(True, left)), err=bool(left))


@app.command()
def check(url: Url = None, as_json: AsJson = False) -> None:
    """Tell what differs from what `db upgrade` makes: tables, columns, indexes, partitions. Exits 1 if anything does."""
    from caseyos_otel.storage import drift, engine, schema

    try:
        opened = engine.create(engine.parse_url(_url(url)))
        revision, current, found = schema.current(opened), schema.is_current(opened), drift.differences(opened)
    except CaseyosOtelError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    if as_json:
        typer.echo(json.dumps({"revision": revision, "current": current, "differences": found}))
    else:
        typer.echo("\n".join(_sentences(current, found)))
    raise typer.Exit(0 if current and not found else 1)


def _sentences(current: bool, found: list[str]) -> list[str]:
    if not current:
        return ["The tables are not up to date: run `caseyos-otel db upgrade`.", *found]
    return [f"The tables differ from revision {_head()}:", *found] if found else ["The tables are up to date."]


def _head() -> str:
    from caseyos_otel.storage import schema

    return schema.head()


def _url(given: str | None) -> str:
    return given or settings.load().owner_database_url
