"""The processes of `caseyos-otel serve`: sockets, workers, signals, both protocols, an end within ten seconds."""

from __future__ import annotations

import os
import signal
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import uvicorn
from fastapi import FastAPI
from uvicorn.supervisors import Multiprocess

from caseyos_otel import settings
from caseyos_otel.diagnostics import logger
from caseyos_otel.errors import ConfigurationError
from caseyos_otel.events import declared
from caseyos_otel.events.registry import Registry
from caseyos_otel.gateway import app as application
from caseyos_otel.gateway.auth import check_destinations, check_listening, check_tokens
from caseyos_otel.gateway.otlp_grpc import GRACE_S, create_server
from caseyos_otel.gateway.timers import Timer, Work
from caseyos_otel.gateway.tls import check_tls, grpc_credentials
from caseyos_otel.pipeline import announcement

STOP_S: Final = 3
"""What requests in progress get to finish; with gRPC's grace and the drain the end comes within ten seconds."""
KEEP_ALIVE_S: Final = 120
"""Longer than a Collector keeps a connection (90 s): who sends closes it, and never finds it just closed."""
NOT_STARTED: Final = 3
"""Exit code where a process could not start; uvicorn's."""


@dataclass(frozen=True, slots=True)
class Listening:
    """Where and how. `grpc_port` 0: no gRPC. `shared`: see `create_app` of the application."""

    host: str = "127.0.0.1"
    port: int = 4318
    grpc_port: int = 4317
    workers: int = 1
    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None
    shared: Path | None = None


def serve(listening: Listening) -> int:
    """Serve until a signal ends it; the exit code.

    Raises:
        ConfigurationError: it would listen unprotected or where something else listens, or a file is wrong.
    """
    in_force = settings.load()
    check_tokens(in_force)  # before the configuration's problems are said, which the service would go on with
    announcement.prepare(in_force)
    check_destinations(in_force)
    check_listening(listening.host, in_force)
    check_tls(listening.certificate, listening.key, listening.client_ca)
    declared.load(in_force.hooks, Registry())  # what no worker would start with is said once, here
    if listening.port == listening.grpc_port:
        raise ConfigurationError(
            f"--port and --grpc-port are both {listening.port}; give each protocol a port of its own"
        )
    opened = _bind(listening.host, listening.port)
    if listening.grpc_port:  # each worker opens it for itself; what stands in the way is said here
        _bind(listening.host, listening.grpc_port).close()
    where = f"{_bracketed(listening.host)}, HTTP port {listening.port}, gRPC port {listening.grpc_port or 'none'}"
    logger.info("gateway on %s, %d process(es)", where, listening.workers)
    announcement.say(in_force, ())
    if listening.workers == 1:
        return _serve_alone(_config(listening), opened)
    with TemporaryDirectory(prefix="caseyos-otel-") as shared:
        workers = Multiprocess(_config(replace(listening, shared=Path(shared))), sockets=[opened])
        workers.run()
    return NOT_STARTED if any(process.exitcode == NOT_STARTED for process in workers.processes) else 0


def _serve_alone(config: uvicorn.Config, opened: socket.socket) -> int:
    # uvicorn raises the signal again when it has ended well; then it has done its work
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, lambda *_: None)
    server = uvicorn.Server(config)
    try:
        server.run(sockets=[opened])
    except SystemExit:  # it has said why
        return NOT_STARTED
    return 0


def _config(listening: Listening) -> uvicorn.Config:
    return uvicorn.Config(
        partial(create_app, listening, os.getpid()),
        factory=True,
        host=listening.host,
        port=listening.port,
        workers=listening.workers,
        log_level="warning",
        access_log=False,  # it would write the addresses of clients
        server_header=False,
        timeout_graceful_shutdown=STOP_S,
        timeout_keep_alive=KEEP_ALIVE_S,
        ssl_certfile=listening.certificate,
        ssl_keyfile=listening.key,
        ssl_ca_certs=None if listening.client_ca is None else str(listening.client_ca),
        ssl_cert_reqs=ssl.CERT_NONE if listening.client_ca is None else ssl.CERT_REQUIRED,
    )


def create_app(listening: Listening, parent: int) -> FastAPI:
    """The application of one process, with the gRPC server in its life. `parent`: the process that made it, or itself."""
    said_already = replace(settings.load(), problems=())
    app = application.create_app(said_already, shared=listening.shared)
    if listening.grpc_port:
        app.router.lifespan_context = partial(_with_grpc, listening, app.router.lifespan_context)
    if parent != os.getpid():
        Timer("parent", [Work("looking for the parent", 1.0, partial(_end_without, parent))]).start()
    return app


def _end_without(parent: int) -> None:
    """A worker whose parent was killed would hold the port against the next one."""
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


@asynccontextmanager
async def _with_grpc(listening: Listening, inner: Any, app: FastAPI) -> AsyncIterator[None]:
    async with inner(app):
        address = f"{_bracketed(listening.host)}:{listening.grpc_port}"
        credentials = grpc_credentials(listening.certificate, listening.key, listening.client_ca)
        server = create_server(app.state.gateway, address, credentials)
        await server.start()
        try:
            yield
        finally:
            await server.stop(GRACE_S)


def _bind(host: str, port: int) -> socket.socket:
    opened = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((host.strip("[]"), port))
    except OSError as error:
        opened.close()
        raise ConfigurationError(f"the gateway cannot listen on {host} port {port}: {error.strerror}") from None
    opened.set_inheritable(True)
    return opened


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
