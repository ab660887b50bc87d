"""What is no event goes on as it came: spans, and log records without an event name, to an OTLP receiver if there is one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Final

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from caseyos_otel.exporters.otlp import post
from caseyos_otel.gateway.reading import spans_in
from caseyos_otel.settings import Settings

FORWARD: Final = "forward"


class Passing:
    """Bytes of a request on their way. A delivery knows it by an id, and counts it under a name."""

    def __init__(self, signal: str, request: bytes) -> None:
        self.signal = signal
        self.request = request
        self.event_id = hashlib.blake2b(request, digest_size=16).hexdigest()
        self.declaration = SimpleNamespace(name=signal)


class Forwarding:
    """Sends with the endpoint, headers, TLS and compression of OpenTelemetry's own variables, over HTTP."""

    def __init__(self, settings: Settings) -> None:
        self.logs = goes_on(settings, "log")
        self.traces = goes_on(settings, "trace")
        self._exporters: dict[str, Any] = {}

    @property
    def on(self) -> bool:
        """Whether anything goes anywhere."""
        return self.logs or self.traces

    def read(self, frame: bytes) -> list[Passing]:
        """What of a frame goes on."""
        spans = spans_in(frame)
        if spans is not None:
            return [Passing("traces", spans)] if self.traces else []
        others = without_events(frame) if self.logs else b""
        return [Passing("logs", others)] if others else []

    def export(self, passing: Sequence[Passing]) -> None:
        """Send; requests of one signal are joined to one.

        Raises:
            Unavailable: nobody answered, or asked to try again.
            Rejected: the receiver refused a request.
        """
        for signal in ("logs", "traces"):
            if requests := [each.request for each in passing if each.signal == signal]:
                post(self._exporter(signal), b"".join(requests))

    def close(self) -> None:
        """Give up a request that is being retried."""
        for exporter in self._exporters.values():
            exporter.shutdown()

    def _exporter(self, signal: str) -> Any:
        if signal not in self._exporters:
            self._exporters[signal] = _connect(signal)
        return self._exporters[signal]


def goes_on(settings: Settings, signal: str) -> bool:
    """Whether `log` or `trace` has an endpoint that is reached over HTTP, and no variable says `none`."""
    chosen, endpoint, protocol = {
        "log": (settings.otel_logs_exporter, settings.logs_endpoint, settings.logs_protocol),
        "trace": (
            settings.otel_traces_exporter,
            settings.otlp_traces_endpoint or settings.otlp_endpoint,
            settings.otlp_protocol,
        ),
    }[signal]
    off = settings.disabled or settings.otel_sdk_disabled or "none" in chosen
    return bool(endpoint) and protocol != "grpc" and not off


def without_events(frame: bytes) -> bytes:
    """The request without the records that have an event name; empty if nothing is left."""
    request = ExportLogsServiceRequest.FromString(frame)
    scopes = [scope_logs for resource_logs in request.resource_logs for scope_logs in resource_logs.scope_logs]
    others = [[record for record in scope_logs.log_records if not record.event_name] for scope_logs in scopes]
    if not any(others):
        return b""
    if all(len(kept) == len(scope_logs.log_records) for kept, scope_logs in zip(others, scopes, strict=True)):
        return frame
    for kept, scope_logs in zip(others, scopes, strict=True):
        copies = [LogRecord.FromString(record.SerializeToString()) for record in kept]
        del scope_logs.log_records[:]
        scope_logs.log_records.extend(copies)
    return bytes(request.SerializeToString())


def _connect(signal: str) -> Any:
    if signal == "logs":
        from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter

        return OTLPLogExporter()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()
