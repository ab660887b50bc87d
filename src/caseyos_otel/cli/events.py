"""`caseyos-otel events list|show|schema`: what is declared."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from caseyos_otel.errors import UnknownEventError
from caseyos_otel.events import schema as schemas
from caseyos_otel.events.model import Declaration
from caseyos_otel.events.registry import registry

app = typer.Typer(no_args_is_help=True, help="Declared events.")
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_events(as_json: AsJson = False) -> None:
    """Names of all declared events; failure twins follow from them."""
    declared = [d for d in registry if not d.derived]
    if as_json:
        typer.echo(json.dumps([{"name": d.name, "otel_name": d.otel_name, "outcome": d.outcome} for d in declared]))
        return
    for declaration in declared:
        typer.echo(f"{declaration.name:32} {declaration.otel_name}")


@app.command()
def show(name: str, as_json: AsJson = False) -> None:
    """One event: its fields, their types, privacy classes and attributes."""
    declaration = _declared(name)
    if as_json:
        typer.echo(json.dumps(schemas.json_schema(declaration)))
        return
    typer.echo(schemas.markdown([declaration]))


@app.command()
def schema(name: Annotated[str | None, typer.Argument()] = None) -> None:
    """JSON Schema of one event, or of all."""
    chosen = [_declared(name)] if name else [d for d in registry if not d.derived]
    documents = {d.name: schemas.json_schema(d) for d in chosen}
    typer.echo(json.dumps(documents[chosen[0].name] if name else documents, indent=2))


def _declared(name: str) -> Declaration:
    try:
        return registry.require(name)
    except UnknownEventError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
