"""Loopback receivers for the end-to-end tests: OTLP of all signals over HTTP and gRPC, Sentry with its OTLP endpoint."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self

import grpc
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from caseyos_otel.otlp.decode import python_value
from tests.integration.sentry_receiver import SentryReceiver


class Span(NamedTuple):
    """One span. Ids are spelled as in log lines; `parent` is empty for a root."""

    name: str
    trace_id: str
    span_id: str
    parent: str
    attributes: dict[str, Any]
    trace_state: str
    resource: dict[str, Any]


class Record(NamedTuple):
    """One log record with what it stood in."""

    event_name: str
    trace_id: str
    attributes: dict[str, Any]
    resource: dict[str, Any]
    scope: str
    schema_url: str


class Received:
    """What has arrived. `sums` and `histograms` hold the last value of each series, as the sender's totals."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.records: list[Record] = []
        self.sums: dict[tuple[str, frozenset[tuple[str, Any]]], float] = {}
        self.histograms: dict[tuple[str, frozenset[tuple[str, Any]]], int] = {}

    @property
    def traces(self) -> dict[str, list[Span]]:
        """Spans by trace id."""
        found: dict[str, list[Span]] = {}
        for span in self.spans:
            found.setdefault(span.trace_id, []).append(span)
        return found

    def total(self, metric: str, **attributes: Any) -> float:
        """A counter's total over the series that have these attributes (dots spelled as `__`)."""
        wanted = {(name.replace("__", "."), value) for name, value in attributes.items()}
        return sum(value for (name, series), value in self.sums.items() if name == metric and wanted <= series)

    def take_traces(self, request: Any) -> None:
        for resource_spans in request.resource_spans:
            resource = _attributes(resource_spans.resource)
            for scope_spans in resource_spans.scope_spans:
                self.spans += [_span(span, resource) for span in scope_spans.spans]

    def take_logs(self, request: Any) -> None:
        for resource_logs in request.resource_logs:
            resource = _attributes(resource_logs.resource)
            for scope_logs in resource_logs.scope_logs:
                self.records += [
                    Record(
                        record.event_name, record.trace_id.hex(), _attributes(record), resource, scope_logs.scope.name,
                        scope_logs.schema_url,
                    )
                    for record in scope_logs.log_records
                ]  # fmt: skip

    def take_metrics(self, request: Any) -> None:
        for resource_metrics in request.resource_metrics:
            for scope_metrics in resource_metrics.scope_metrics:
                for metric in scope_metrics.metrics:
                    for point in metric.sum.data_points:
                        self.sums[_series(metric, point)] = point.as_int or point.as_double
                    for point in metric.histogram.data_points:
                        self.histograms[_series(metric, point)] = point.count


def _span(span: Any, resource: dict[str, Any]) -> Span:
    return Span(
        span.name, span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex(), _attributes(span),
        span.trace_state, resource,
    )  # fmt: skip


def _attributes(holder: Any) -> dict[str, Any]:
    return {attribute.key: python_value(attribute.value) for attribute in holder.attributes}


def _series(metric: Any, point: Any) -> tuple[str, frozenset[tuple[str, Any]]]:
    return metric.name, frozenset(_attributes(point).items())


class OtlpReceiver(Received):
    """OTLP over HTTP, all three signals. Use as a context manager; `endpoint` leads to it.

    Every GET is answered too, and its headers kept in `requests`: so it also stands for a service that ours calls.
    """

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Mapping[str, str]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.take(self.path, gzip.decompress(body) if self.headers["Content-Encoding"] == "gzip" else body)
                self._answer()

            def do_GET(self) -> None:
                receiver.requests.append({name.lower(): value for name, value in self.headers.items()})
                self._answer()

            def _answer(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
                """Keep quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def endpoint(self) -> str:
        """For OTEL_EXPORTER_OTLP_ENDPOINT."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def take(self, path: str, body: bytes) -> None:
        if path == "/v1/traces":
            self.take_traces(ExportTraceServiceRequest.FromString(body))
        elif path == "/v1/logs":
            self.take_logs(ExportLogsServiceRequest.FromString(body))
        elif path == "/v1/metrics":
            self.take_metrics(ExportMetricsServiceRequest.FromString(body))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class GrpcReceiver(Received):
    """OTLP over gRPC, all three signals; `metadata` is what came with each request."""

    def __init__(self, credentials: Any = None) -> None:
        super().__init__()
        self.metadata: list[dict[str, Any]] = []
        self._server = grpc.server(ThreadPoolExecutor(3))
        for signal, method, answer in (
            ("trace.v1.Trace", self._traces, ExportTraceServiceResponse()),
            ("logs.v1.Logs", self._logs, ExportLogsServiceResponse()),
            ("metrics.v1.Metrics", self._metrics, ExportMetricsServiceResponse()),
        ):
            handler = grpc.unary_unary_rpc_method_handler(self._answering(method, answer.SerializeToString()))
            service = f"opentelemetry.proto.collector.{signal}Service"
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": handler}),))
        self._scheme = "https" if credentials else "http"
        if credentials:
            self._port = self._server.add_secure_port("127.0.0.1:0", credentials)
        else:
            self._port = self._server.add_insecure_port("127.0.0.1:0")

    @property
    def endpoint(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._port}"

    def _answering(self, take: Callable[[bytes], None], answer: bytes) -> Callable[[bytes, Any], bytes]:
        def handle(body: bytes, context: Any) -> bytes:
            self.metadata.append(dict(context.invocation_metadata()))
            take(body)
            return answer

        return handle

    def _traces(self, body: bytes) -> None:
        self.take_traces(ExportTraceServiceRequest.FromString(body))

    def _logs(self, body: bytes) -> None:
        self.take_logs(ExportLogsServiceRequest.FromString(body))

    def _metrics(self, body: bytes) -> None:
        self.take_metrics(ExportMetricsServiceRequest.FromString(body))

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait(5)


class Sentry(SentryReceiver):
    """Sentry with the endpoint that takes traces; `spans` holds them."""

    def __init__(self) -> None:
        super().__init__()
        self._received = Received()

    @property
    def spans(self) -> list[Span]:
        return self._received.spans

    def _receive(self, handler: BaseHTTPRequestHandler) -> None:
        if not handler.path.endswith("/integration/otlp/v1/traces/"):
            super()._receive(handler)
            return
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        if handler.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self._received.take_traces(ExportTraceServiceRequest.FromString(body))
        handler.send_response(200)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
