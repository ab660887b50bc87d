"""The processes of `caseyos-otel serve`: sockets, workers, signals, both protocols, an end within ten seconds."""

from __future__ import annotations

import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import uvicorn
from fastapi import FastAPI
from uvicorn.supervisors import Multiprocess

from caseyos_otel import settings
from caseyos_otel.diagnostics import logger
from caseyos_otel.errors import ConfigurationError
from caseyos_otel.gateway import app as application
from caseyos_otel.gateway.auth import check_listening, check_tokens
from caseyos_otel.gateway.otlp_grpc import GRACE_S, create_server
from caseyos_otel.pipeline import announcement

STOP_S: Final = 3
"""What requests in progress get to finish; with gRPC's grace and the drain the end comes within ten seconds."""


@dataclass(frozen=True, slots=True)
class Listening:
    """Where and how. `grpc_port` 0: no gRPC."""

    host: str = "127.0.0.1"
    port: int = 4318
    grpc_port: int = 4317
    workers: int = 1
    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None
    overrides: dict[str, Any] = field(default_factory=dict)


def serve(listening: Listening) -> int:
    """Serve until a signal ends it; the exit code.

    Raises:
        ConfigurationError: it would listen unprotected, or where something else listens already.
    """
    in_force = settings.load(**listening.overrides)
    announcement.prepare(in_force)
    check_tokens(in_force)
    check_listening(listening.host, in_force)
    opened = _bind(listening.host, listening.port)
    config = uvicorn.Config(
        partial(create_app, listening),
        factory=True,
        host=listening.host,
        port=listening.port,
        workers=listening.workers,
        log_level="warning",
        access_log=False,  # it would write the addresses of clients
        server_header=False,
        timeout_graceful_shutdown=STOP_S,
        ssl_certfile=listening.certificate,
        ssl_keyfile=listening.key,
        ssl_ca_certs=None if listening.client_ca is None else str(listening.client_ca),
        ssl_cert_reqs=2 if listening.client_ca else 0,  # ssl.CERT_REQUIRED, ssl.CERT_NONE
    )
    logger.info("gateway on %s port %d, gRPC port %d", listening.host, listening.port, listening.grpc_port)
    announcement.say(in_force, ())
    if listening.workers > 1:
        Multiprocess(config, sockets=[opened]).run()
        return 0
    # uvicorn raises the signal again when it has ended well; then it has done its work
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, lambda *_: None)
    server = uvicorn.Server(config)
    server.run(sockets=[opened])
    return 0 if server.started else 3


def create_app(listening: Listening) -> FastAPI:
    """The application of one worker, with the gRPC server in its life."""
    app = application.create_app(settings.load(**listening.overrides))
    if listening.grpc_port:
        app.router.lifespan_context = partial(_with_grpc, listening, app.router.lifespan_context)
    return app


@asynccontextmanager
async def _with_grpc(listening: Listening, inner: Any, app: FastAPI) -> AsyncIterator[None]:
    async with inner(app):
        server = create_server(
            app.state.gateway, f"{_in_brackets(listening.host)}:{listening.grpc_port}", _credentials(listening)
        )
        await server.start()
        try:
            yield
        finally:
            await server.stop(GRACE_S)


def _credentials(listening: Listening) -> Any:
    if listening.certificate is None or listening.key is None:
        return None
    import grpc  # type: ignore[import-untyped]  # grpc has no types of its own

    pair = (listening.key.read_bytes(), listening.certificate.read_bytes())
    ca = None if listening.client_ca is None else listening.client_ca.read_bytes()
    return grpc.ssl_server_credentials([pair], ca, require_client_auth=ca is not None)


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((host.strip("[]"), port))
    except OSError as error:
        opened.close()
        raise ConfigurationError(f"the gateway cannot listen on {host} port {port}: {error.strerror}") from None
    opened.set_inheritable(True)
    return opened


def _in_brackets(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
