"""`caseyos-otel db upgrade|check`: the tables of outcomes and events."""

from __future__ import annotations

from typing import Annotated

import typer

from caseyos_otel import settings
from caseyos_otel.errors import CaseyosOtelError

app = typer.Typer(no_args_is_help=True, help="The tables of outcomes and events.")
Url = Annotated[str | None, typer.Option("--url", help="Database URL; default: CASEYOS_OTEL_DATABASE_URL.")]


@app.command()
def upgrade(url: Url = None) -> None:
    """Create our tables or bring them up to date."""
    from caseyos_otel.storage import engine, schema

    try:
        schema.upgrade(engine.create(engine.parse_url(_url(url))))
    except CaseyosOtelError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    typer.echo("The tables are up to date.")


@app.command()
def check(url: Url = None) -> None:
    """Exit 1 if our tables are missing or not up to date."""
    from caseyos_otel.storage import engine, schema

    try:
        current = schema.is_current(engine.create(engine.parse_url(_url(url))))
    except CaseyosOtelError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    typer.echo(
        "The tables are up to date." if current else "The tables are not up to date: run `caseyos-otel db upgrade`."
    )
    raise typer.Exit(0 if current else 1)


def _url(given: str | None) -> str:
    return given or settings.load().effective_database_url
