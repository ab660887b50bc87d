"""`caseyos-otel`: the command and its nouns."""

from __future__ import annotations

import sys

import typer

from caseyos_otel.cli import db, doctor, events, retention, serve, spool
from caseyos_otel.errors import CaseyosOtelError

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__, pretty_exceptions_enable=False)
app.command("doctor")(doctor.doctor)
app.command("serve")(serve.serve)
app.add_typer(db.app, name="db")
app.add_typer(events.app, name="events")
app.add_typer(retention.app, name="retention")
app.add_typer(spool.app, name="spool")


def main() -> None:
    """Entry point of the console script."""
    try:
        app()
    except (CaseyosOtelError, PermissionError) as error:
        typer.echo(f"caseyos-otel: {error}", err=True)
        sys.exit(1)
