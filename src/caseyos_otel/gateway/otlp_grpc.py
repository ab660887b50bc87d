"""OTLP/gRPC (OTLP specification, "OTLP/gRPC"): the same gateway behind grpc's asyncio server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import unquote

import grpc  # type: ignore[import-untyped]  # grpc has no types of its own
from google.protobuf.any_pb2 import Any as AnyMessage  # type: ignore[import-untyped]  # nor has this
from google.rpc.error_details_pb2 import RetryInfo  # type: ignore[import-untyped]  # nor has this
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]  # nor has this
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from caseyos_otel.gateway.auth import Bearer
from caseyos_otel.gateway.gateway import Gateway
from caseyos_otel.gateway.reading import Request as Read
from caseyos_otel.gateway.refusal import Refused

_SERVICES: Final = {"logs": "logs.v1.LogsService", "traces": "trace.v1.TraceService"}
_DETAILS: Final = "grpc-status-details-bin"
_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}
GRACE_S: Final = 1.5


def create_server(gateway: Gateway, address: str, credentials: Any = None) -> grpc.aio.Server:
    """A server for both signals that listens on `address` when started. Raises RuntimeError where it cannot."""
    limit = gateway.settings.gateway_max_bytes
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", limit),  # grpc stops inflating there, too
            # a sender beyond it waits; `maximum_concurrent_rpcs` would refuse for good what should come again
            ("grpc.max_concurrent_streams", gateway.settings.gateway_concurrency),
            # a sender that pings to keep its connection is not sent away
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.so_reuseport", 1),  # several workers listen on one port
        ]
    )
    for signal, service in _SERVICES.items():
        export = grpc.unary_unary_rpc_method_handler(_handler(gateway, signal))
        name = f"opentelemetry.proto.collector.{service}"
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {"Export": export}),))
    if credentials is None:
        server.add_insecure_port(address)
    else:
        server.add_secure_port(address, credentials)
    return server


def _handler(gateway: Gateway, signal: str) -> Callable[[bytes, Any], Awaitable[bytes]]:
    ingest = Bearer(gateway.settings.ingest_token)
    take = gateway.logs if signal == "logs" else gateway.traces

    async def export(body: bytes, context: Any) -> bytes:
        metadata = dict(context.invocation_metadata() or ())
        try:
            gateway.rate.take(_client(context.peer()))
            ingest.check(metadata.get("authorization"))
            return _answer(signal, take(body))
        except Refused as refused:
            gateway.instruments.refused(signal, refused.reason)
            code = _CODES[refused.reason.code]
            await context.abort(code, str(refused), ((_DETAILS, _details(refused)),))
            raise

    return export


def _client(peer: str) -> str:
    """The address in `ipv4:10.0.0.1:51234` or `ipv6:%5B::1%5D:51234`: a client is a host, whatever it speaks."""
    return unquote(peer.partition(":")[2].rpartition(":")[0]).strip("[]")


def _answer(signal: str, read: Read) -> bytes:
    if signal == "traces":
        return bytes(ExportTraceServiceResponse().SerializeToString())
    answer = ExportLogsServiceResponse()
    if read.rejected:
        answer.partial_success.rejected_log_records = read.rejected
        answer.partial_success.error_message = read.why
    return bytes(answer.SerializeToString())


def _details(refused: Refused) -> bytes:
    """RetryInfo is what lets a sender try again after RESOURCE_EXHAUSTED, and says when after UNAVAILABLE."""
    status = Status(code=refused.reason.code, message=str(refused))
    if refused.retry_after_s is not None:
        retry = RetryInfo()
        retry.retry_delay.seconds = refused.retry_after_s
        packed = AnyMessage()
        packed.Pack(retry)
        status.details.append(packed)
    return bytes(status.SerializeToString())
