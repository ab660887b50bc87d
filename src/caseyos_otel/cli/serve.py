"""`caseyos-otel serve`: the gateway that services in other languages and OpenTelemetry Collectors write to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from caseyos_otel.errors import CaseyosOtelError


def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen on; beyond loopback it wants both tokens.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of OTLP/HTTP.", min=1, max=65535)] = 4318,
    grpc_port: Annotated[int, typer.Option(help="Port of OTLP/gRPC; 0: none.", min=0, max=65535)] = 4317,
    workers: Annotated[int, typer.Option(help="Processes.", min=1)] = 1,
    ssl_certfile: Annotated[Path | None, typer.Option(help="Certificate chain in PEM, for both protocols.")] = None,
    ssl_keyfile: Annotated[Path | None, typer.Option(help="Its private key.")] = None,
    ssl_client_ca: Annotated[Path | None, typer.Option(help="Ask clients for a certificate of this authority.")] = None,
) -> None:
    """Take OTLP over HTTP and gRPC; what is acknowledged is stored once. Ends on SIGTERM within ten seconds."""
    try:
        from caseyos_otel.gateway.server import Listening
        from caseyos_otel.gateway.server import serve as run
    except ImportError as error:
        typer.echo(f"serve needs the extra gateway: pip install 'caseyos-otel[gateway]' ({error})", err=True)
        raise typer.Exit(1) from None
    listening = Listening(host, port, grpc_port, workers, ssl_certfile, ssl_keyfile, ssl_client_ca)
    try:
        code = run(listening)
    except CaseyosOtelError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    raise typer.Exit(code)
