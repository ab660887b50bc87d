"""What the gateway answers over HTTP, as an OpenAPI 3.1 description: `create_app().openapi()`. It is not served."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]  # protobuf has no types of its own
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from caseyos_otel.gateway.json_schema import schemas
from caseyos_otel.gateway.otlp_http import JSON, PROTOBUF
from caseyos_otel.settings import Settings

_SIGNALS: Final[Mapping[str, tuple[Any, Any]]] = {
    "logs": (ExportLogsServiceRequest, ExportLogsServiceResponse),
    "traces": (ExportTraceServiceRequest, ExportTraceServiceResponse),
}
_REFUSALS: Final = {
    400: "malformed: it can never be read, do not send it again",
    401: "no token, or another one",
    413: "larger than CASEYOS_OTEL_GATEWAY_MAX_BYTES, or too many records",
    415: "another Content-Type or Content-Encoding",
    429: "this client sends too much: send it again after `Retry-After`",
    503: "nothing can be taken now: send it again after `Retry-After`",
}
_HEADERS: Final[Mapping[int, dict[str, Any]]] = {
    401: {"WWW-Authenticate": {"schema": {"type": "string", "const": "Bearer"}, "required": True}},
    429: {"Retry-After": {"schema": {"type": "string", "pattern": "^[0-9]+$"}, "required": True}},
    503: {"Retry-After": {"schema": {"type": "string", "pattern": "^[0-9]+$"}, "required": True}},
}


def describe(in_force: Settings) -> dict[str, Any]:
    """The description of a gateway with these settings: an operation asks for a token where one is set."""
    messages = [message.DESCRIPTOR for pair in _SIGNALS.values() for message in pair]
    return {
        "openapi": "3.1.0",
        "info": {"title": "caseyos-otel", "version": "1", "summary": "OTLP/HTTP for logs and traces"},
        "paths": {
            **{f"/v1/{signal}": {"post": _export(signal, in_force.ingest_token)} for signal in _SIGNALS},
            "/healthz": {"get": _look("healthz", "alive")},
            "/readyz": {"get": _look("readyz", "requests are taken", {503: "no request is taken now: why"})},
            "/metrics": {"get": _metrics(in_force.admin_token)},
        },
        "components": {
            "schemas": schemas([*messages, Status.DESCRIPTOR]),
            "securitySchemes": {name: {"type": "http", "scheme": "bearer"} for name in ("ingest", "admin")},
        },
    }


def _export(signal: str, token: str | None) -> dict[str, Any]:
    request, response = _SIGNALS[signal]
    refused = {
        str(status): {"description": said, "headers": _HEADERS.get(status, {}), "content": _either(Status)}
        for status, said in _REFUSALS.items()
    }
    taken = "in the spool; what of it cannot be used is counted in `partialSuccess`"
    return {
        "operationId": signal,
        "parameters": [_encoding()],
        "requestBody": {"content": _either(request), "required": True},
        "responses": {"200": {"description": taken, "content": _either(response)}, **refused},
        **_secured("ingest", token),
    }


def _either(message: Any) -> dict[str, Any]:
    """A message in both encodings of OTLP/HTTP; an answer comes in the one of its request."""
    as_json = {"$ref": f"#/components/schemas/{message.DESCRIPTOR.name}"}
    return {PROTOBUF: {"schema": {"type": "string", "format": "binary"}}, JSON: {"schema": as_json}}


def _encoding() -> dict[str, Any]:
    accepted = {"type": "string", "enum": ["identity", "gzip", "deflate", "zstd"]}
    return {"name": "Content-Encoding", "in": "header", "required": False, "schema": accepted}


def _look(name: str, said: str, others: Mapping[int, str] | None = None) -> dict[str, Any]:
    text = {"text/plain": {"schema": {"type": "string"}}}
    found = {200: said, **(others or {})}
    return {
        "operationId": name,
        "responses": {str(status): {"description": why, "content": text} for status, why in found.items()},
    }


def _metrics(token: str | None) -> dict[str, Any]:
    made = _look("metrics", "the metrics of all processes, as Prometheus reads them")
    detail = {"type": "object", "properties": {"detail": {"type": "string"}}, "required": ["detail"]}
    made["responses"]["401"] = {
        "description": _REFUSALS[401],
        "headers": _HEADERS[401],
        "content": {JSON: {"schema": detail}},
    }
    return {**made, **_secured("admin", token)}


def _secured(name: str, token: str | None) -> dict[str, Iterable[Any]]:
    return {} if token is None else {"security": [{name: []}]}
