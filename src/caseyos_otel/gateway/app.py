"""The gateway as an ASGI application: by itself under `caseyos-otel serve`, or mounted in a service of yours."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from fastapi import FastAPI
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from caseyos_otel import settings
from caseyos_otel.events import declared
from caseyos_otel.events.registry import Registry
from caseyos_otel.gateway.auth import Bearer, check_tokens
from caseyos_otel.gateway.exposition import CONTENT_TYPE
from caseyos_otel.gateway.gateway import Gateway
from caseyos_otel.gateway.openapi import describe
from caseyos_otel.gateway.otlp_http import Endpoint
from caseyos_otel.gateway.refusal import Refused
from caseyos_otel.pipeline import announcement
from caseyos_otel.settings import Settings

_SILENT: Final[Any] = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}
"""FastAPI's own telemetry (0.165; an earlier one ignores it): spans of requests that bring spans would have no end."""
_FASTAPI: Final[type[FastAPI]] = next(
    (each for each in FastAPI.__mro__ if each.__module__ == "fastapi.applications"), FastAPI
)
"""Under `opentelemetry-instrument`, `fastapi.FastAPI` is a subclass whose spans hold the addresses of senders."""
DRAIN_S: Final = 3.5
"""How long the end of a gateway waits for destinations; what they did not take stays in the spool."""


def create_app(in_force: Settings | None = None, *, shared: Path | None = None) -> FastAPI:
    """The application. Its gateway is in `app.state.gateway`; it starts with the application, or mounted, with its first request.

    Args:
        in_force: settings; default: the environment's.
        shared: folder in which several processes of one gateway leave their metrics for each other.

    Raises:
        ConfigurationError: the tokens protect nothing, or a declaration is wrong.

    Example:
        >>> from fastapi import FastAPI
        >>> service = FastAPI()
        >>> service.mount("/telemetry", create_app())  # senders then use http://…/telemetry/v1/logs
    """
    in_force = in_force or settings.load()
    check_tokens(in_force)
    declared.load(in_force.hooks, Registry())  # said here, not at the first request
    announcement.prepare(in_force)
    gateway = Gateway(in_force, shared)
    app = _FASTAPI(
        title="caseyos-otel", lifespan=_lifespan, docs_url=None, redoc_url=None, openapi_url=None, telemetry=_SILENT
    )
    app.state.gateway = gateway
    app.openapi = partial(describe, in_force)  # type: ignore[method-assign]  # FastAPI's documented way
    for signal in ("logs", "traces"):
        app.add_route(f"/v1/{signal}", Endpoint(gateway, signal), methods=["POST"])  # type: ignore[arg-type]  # an ASGI app
    _add_operations(app, gateway)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    gateway: Gateway = app.state.gateway
    await run_in_threadpool(gateway.start)
    try:
        yield
    finally:
        await run_in_threadpool(gateway.stop, DRAIN_S)


def _unready(gateway: Gateway) -> str:
    try:
        gateway.start()  # mounted, nobody else may have asked yet
    except Refused as refused:
        return str(refused)
    return gateway.unready()


def _add_operations(app: FastAPI, gateway: Gateway) -> None:
    """What an operator's machines ask: alive, ready, metrics."""
    admin = Bearer(gateway.settings.admin_token)

    @app.get("/healthz")
    async def healthz() -> PlainTextResponse:
        return PlainTextResponse("ok\n")

    @app.get("/readyz")
    async def readyz() -> PlainTextResponse:
        reason = await run_in_threadpool(_unready, gateway)
        return PlainTextResponse(f"{reason or 'ready'}\n", 503 if reason else 200)

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        admin.check(request.headers.get("authorization"))
        return PlainTextResponse(gateway.instruments.text(), media_type=CONTENT_TYPE)

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> JSONResponse:
        headers = {"WWW-Authenticate": "Bearer"} if error.reason.http == 401 else None
        return JSONResponse({"detail": str(error)}, error.reason.http, headers)
