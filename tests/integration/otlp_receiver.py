"""A loopback receiver of OTLP, over HTTP and over gRPC: keeps what arrives, answers what it is told to."""

from __future__ import annotations

import gzip
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self

import grpc
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc import (
    LogsServiceServicer,
    add_LogsServiceServicer_to_server,
)

from caseyos_otel.otlp.decode import python_value


class Received(NamedTuple):
    """One log record with what it stood in."""

    event_name: str
    attributes: dict[str, Any]
    resource: dict[str, Any]
    scope: tuple[str, str]
    schema_url: str
    record: Any


class Request(NamedTuple):
    """One HTTP request, its headers by their lower-case names."""

    path: str
    headers: dict[str, str]
    body: bytes


class OtlpReceiver:
    """Use as a context manager; `endpoint` leads to it. Answers 200 unless `answers` holds a status to give.

    What it answered with another status is in `requests` alone, not in `records`.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.records: list[Received] = []
        self.answers: deque[int] = deque()
        self.refuse: str | None = None
        self.answer = ExportLogsServiceResponse()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1

            def do_POST(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                status = receiver._receive(self.path, headers, self.rfile.read(int(headers["content-length"])))
                self.send_response(status)
                answer = receiver.answer.SerializeToString() if status == 200 else b""
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
                """Keep quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def endpoint(self) -> str:
        """For OTEL_EXPORTER_OTLP_ENDPOINT."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def names(self) -> list[str]:
        """Event names of what was accepted, in the order of arrival."""
        return [received.event_name for received in self.records]

    def _receive(self, path: str, headers: dict[str, str], body: bytes) -> int:
        self.requests.append(Request(path, headers, body))
        if headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        request = ExportLogsServiceRequest.FromString(body)
        if self.answers:
            return self.answers.popleft()
        received = unpacked(request)
        if self.refuse is not None and any(self.refuse in str(one.attributes) for one in received):
            return 400
        self.records += received
        return 200

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class GrpcReceiver(LogsServiceServicer):  # type: ignore[misc]  # generated code without types
    """The same over gRPC; `answers` holds status codes, with the seconds of a RetryInfo. It takes no more than 64 KiB."""

    def __init__(self, port: int = 0) -> None:
        self.records: list[Received] = []
        self.metadata: list[dict[str, Any]] = []
        self.answers: deque[tuple[grpc.StatusCode, float | None]] = deque()
        self.refuse: str | None = None
        self.answer = ExportLogsServiceResponse()
        options = [("grpc.max_receive_message_length", 64 * 1024), ("grpc.so_reuseport", 0)]
        self._server = grpc.server(ThreadPoolExecutor(2), options=options)
        add_LogsServiceServicer_to_server(self, self._server)
        self._port = self._server.add_insecure_port(f"127.0.0.1:{port}")

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802  # gRPC's name
        self.metadata.append(dict(context.invocation_metadata()))
        if self.answers:
            _abort(context, *self.answers.popleft())
        received = unpacked(request)
        if self.refuse is not None and any(self.refuse in str(one.attributes) for one in received):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "refused")
        self.records += received
        return self.answer

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait(5)


def _abort(context: Any, code: grpc.StatusCode, retry_after_s: float | None) -> None:
    status = Status(code=code.value[0])
    if retry_after_s is not None:
        status.details.add().Pack(RetryInfo(retry_delay={"nanos": int(retry_after_s * 1e9)}))
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(code, "as told")


def unpacked(request: Any) -> list[Received]:
    """The records of a parsed request, flat."""
    return [
        Received(
            record.event_name,
            {a.key: python_value(a.value) for a in record.attributes},
            {a.key: python_value(a.value) for a in resource_logs.resource.attributes},
            (scope_logs.scope.name, scope_logs.scope.version),
            scope_logs.schema_url,
            record,
        )
        for resource_logs in request.resource_logs
        for scope_logs in resource_logs.scope_logs
        for record in scope_logs.log_records
    ]
