"""OTLP/HTTP (OTLP specification, "OTLP/HTTP"): from a request's bytes to an answer in the encoding it came in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

from google.protobuf import json_format  # type: ignore[import-untyped]  # protobuf has no types of its own
from google.protobuf.message import Message  # type: ignore[import-untyped]  # nor has this
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]  # nor has this
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from caseyos_otel.gateway import otlp_json
from caseyos_otel.gateway.auth import Bearer
from caseyos_otel.gateway.gateway import Gateway
from caseyos_otel.gateway.inflate import inflate
from caseyos_otel.gateway.reading import Request as Read
from caseyos_otel.gateway.refusal import TOO_LARGE, UNAVAILABLE, UNSUPPORTED, Refused

PROTOBUF: Final = "application/x-protobuf"
JSON: Final = "application/json"
READ_TIMEOUT_S: Final = 30.0
"""How long a body may take: who sends slowly holds one of the places."""


class Endpoint:
    """One signal's path, as an ASGI application."""

    def __init__(self, gateway: Gateway, signal: str) -> None:
        self._gateway = gateway
        self._signal = signal
        self._ingest = Bearer(gateway.settings.ingest_token)
        self._take: Callable[[bytes], Read] = gateway.logs if signal == "logs" else gateway.traces
        self._request: Any = ExportLogsServiceRequest if signal == "logs" else ExportTraceServiceRequest

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        answer_as = JSON if kind == JSON else PROTOBUF
        try:
            response = _answered(await self._taken(request, kind), self._signal, answer_as)
        except Refused as refused:
            self._gateway.instruments.refused(self._signal, refused.reason)
            response = _refused(refused, answer_as)
        except ClientDisconnect:
            return
        await response(scope, receive, send)

    async def _taken(self, request: Request, kind: str) -> Read:
        self._gateway.rate.take(request.client.host if request.client else "")
        self._ingest.check(request.headers.get("authorization"))
        if kind not in (PROTOBUF, JSON):
            raise Refused(UNSUPPORTED, f"Content-Type: accepted are {PROTOBUF} and {JSON}")
        with self._gateway.concurrency.one():
            limit = self._gateway.settings.gateway_max_bytes
            body = await _body(request, limit)
            body = inflate(body, request.headers.get("content-encoding", ""), limit)
            if kind == JSON:
                body = await run_in_threadpool(self._as_protobuf, body)  # a hundred times as slow
            if self._gateway.destinations is None:  # mounted, this is the first request
                await run_in_threadpool(self._gateway.start)
            return self._take(body)

    def _as_protobuf(self, body: bytes) -> bytes:
        return bytes(otlp_json.parse(body, self._request()).SerializeToString())


async def _body(request: Request, limit: int) -> bytes:
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated) > limit:
        raise _too_large(limit)
    chunks, size = [], 0
    try:
        async with asyncio.timeout(READ_TIMEOUT_S):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit:
                    raise _too_large(limit)
                chunks.append(chunk)
    except TimeoutError:
        raise Refused(UNAVAILABLE, f"the body did not arrive within {READ_TIMEOUT_S:.0f} s", 1) from None
    return b"".join(chunks)


def _too_large(limit: int) -> Refused:
    return Refused(TOO_LARGE, f"the body is larger than {limit} bytes (CASEYOS_OTEL_GATEWAY_MAX_BYTES)")


def _answered(read: Read, signal: str, kind: str) -> Response:
    if signal == "logs":
        logs = ExportLogsServiceResponse()
        if read.rejected:
            logs.partial_success.rejected_log_records = read.rejected
            logs.partial_success.error_message = read.why
        return _response(logs, 200, kind)
    return _response(ExportTraceServiceResponse(), 200, kind)


def _refused(refused: Refused, kind: str) -> Response:
    headers = {}
    if refused.retry_after_s is not None:
        headers["Retry-After"] = str(refused.retry_after_s)
    if refused.reason.http == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return _response(Status(code=refused.reason.code, message=str(refused)), refused.reason.http, kind, headers)


def _response(message: Message, status: int, kind: str, headers: Mapping[str, str] | None = None) -> Response:
    as_json = kind == JSON
    content = json_format.MessageToJson(message, indent=None) if as_json else message.SerializeToString()
    return Response(content, status, headers, media_type=kind)
