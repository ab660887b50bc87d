"""`caseyos-otel`: the command and its nouns."""

from __future__ import annotations

import typer

from caseyos_otel.cli import db, doctor, events, retention, serve, spool

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__, pretty_exceptions_enable=False)
app.command("doctor")(doctor.doctor)
app.command("serve")(serve.serve)
app.add_typer(db.app, name="db")
app.add_typer(events.app, name="events")
app.add_typer(retention.app, name="retention")
app.add_typer(spool.app, name="spool")


def main() -> None:
    """Entry point of the console script."""
    app()
