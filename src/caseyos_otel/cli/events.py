"""`caseyos-otel events list|show|schema|where`: what is declared, and where one event is."""

from __future__ import annotations

import json
from typing import Annotated
from uuid import UUID

import typer

from caseyos_otel import settings
from caseyos_otel.errors import ConfigurationError, UnknownEventError
from caseyos_otel.events import declared
from caseyos_otel.events import schema as schemas
from caseyos_otel.events.model import Declaration
from caseyos_otel.events.registry import registry

app = typer.Typer(no_args_is_help=True, help="Declared events, and where one of them is.")
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback()
def _events() -> None:
    try:
        declared.load(settings.load().hooks, registry)
    except ConfigurationError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None


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


@app.command()
def where(event_id: str, as_json: AsJson = False) -> None:
    """Where one event is: pending in a spool, delivered, stored, set aside, or unknown here. Exits 1 where it is nowhere."""
    from caseyos_otel.cli.where import places

    wanted = _event_id(event_id)
    registry.load_entry_points()
    found, unseen = places(settings.load(), wanted)
    if as_json:
        typer.echo(json.dumps({"event_id": wanted, "found": found, "unseen": unseen}))
    else:
        lines = [" ".join(f"{key}={value}" for key, value in place.items()) for place in found]
        typer.echo("\n".join(lines) or f"{wanted} is unknown here.")
        for reason in unseen:
            typer.echo(f"Not looked at: {reason}", err=True)
    raise typer.Exit(0 if found else 1)


def _event_id(text: str) -> str:
    try:
        return str(UUID(text))
    except ValueError:
        typer.echo(f"{text!r} is not an event id: it has 32 hexadecimal digits, like those in the log", err=True)
        raise typer.Exit(2) from None


def _declared(name: str) -> Declaration:
    try:
        return registry.require(name)
    except UnknownEventError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
