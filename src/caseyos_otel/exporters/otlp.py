"""OTLP as a destination of events: our own encoding over the stock exporter's transport; over gRPC the stock exporter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from caseyos_otel import _otel
from caseyos_otel.errors import Rejected, Unavailable
from caseyos_otel.events.record import EventRecord
from caseyos_otel.otlp.encode import RequestEncoder
from caseyos_otel.processors.writable import WritableEvent

_POISON = frozenset({400, 413, 422})
"""What a receiver answers to the records themselves. A wrong address or token (401, 403, 404) is mended, and they wait."""


class OtlpDestination:
    """Sends events with the endpoint, headers, TLS, compression and retries of OpenTelemetry's own variables.

    `resource` gives the attributes of this process; a record adopted from another process brings its own.
    """

    def __init__(
        self,
        protocol: str,
        resource: Callable[[], Mapping[str, Any]],
        scope: InstrumentationScope,
        disclose: Callable[[EventRecord], Mapping[str, Any]],
        disclose_exception: Callable[[EventRecord], Mapping[str, str]],
    ) -> None:
        self._grpc = protocol == "grpc"
        self._resource = resource
        self._scope = scope
        self._disclose = disclose
        self._disclose_exception = disclose_exception
        self._exporter: Any = None
        self._may_retry = True

    def export(self, records: Sequence[EventRecord]) -> None:
        """Send records, one request a resource.

        Raises:
            Unavailable: nobody answered, or asked to try again.
            Rejected: the receiver refused the request.
        """
        self.prepare()
        for resource, group in _by_resource(records, self._resource()):
            (self._send_grpc if self._grpc else self._send_http)(resource, group)

    def prepare(self) -> None:
        """Import the stock exporter: what takes its time, but waits for nobody."""
        if self._exporter is None:
            self._exporter = self._connect()
            self.let_retry(self._may_retry)

    def let_retry(self, allowed: bool) -> None:
        """Whether a request that failed is tried again before `export` raises Unavailable."""
        self._may_retry = allowed
        _otel.let_retry(self._exporter, allowed)

    def close(self) -> None:
        """Give up a request that is being retried: the process ends, and what is durable is in the spool."""
        if self._exporter is not None:
            self._exporter.shutdown()

    def after_fork(self) -> None:
        """A child opens connections of its own."""
        self._exporter = None

    def _connect(self) -> Any:
        if self._grpc:
            from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcExporter

            return GrpcExporter()
        from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter

        return OTLPLogExporter()

    def _send_http(self, resource: Mapping[str, Any], records: Sequence[EventRecord]) -> None:
        scope = self._scope
        encoder = RequestEncoder(resource, scope.name, scope.version or "", scope.schema_url or "")
        post(self._exporter, encoder.encode(records, self._disclose, self._disclose_exception))

    def _send_grpc(self, resource: Mapping[str, Any], records: Sequence[EventRecord]) -> None:
        from opentelemetry.sdk._logs.export import LogRecordExportResult

        for record in records:
            record.disclose, record.disclose_exception = self._disclose, self._disclose_exception
        writable = [WritableEvent(record, Resource(resource), self._scope) for record in records]
        if self._exporter.export(writable) is not LogRecordExportResult.SUCCESS:
            raise Unavailable("the gRPC exporter did not deliver")


def post(exporter: Any, request: bytes) -> None:
    """Send a request with a stock HTTP exporter's endpoint and rules.

    Raises:
        Unavailable: nobody answered, or asked to try again.
        Rejected: the receiver refused the request for what it is.
    """
    delivered, status = _otel.post_otlp(exporter, request)
    if delivered:
        return
    if status in _POISON:
        raise Rejected(f"HTTP {status}")
    raise Unavailable("no answer" if status is None else f"HTTP {status}")


def _by_resource(
    records: Sequence[EventRecord], own: Mapping[str, Any]
) -> list[tuple[Mapping[str, Any], list[EventRecord]]]:
    groups: list[tuple[Mapping[str, Any], list[EventRecord]]] = []
    for record in records:
        resource = own if record.resource is None else record.resource
        if groups and groups[-1][0] == resource:
            groups[-1][1].append(record)
        else:
            groups.append((resource, [record]))
    return groups
