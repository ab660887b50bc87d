"""What is no event goes on as it came: spans, and log records without an event name, to an OTLP receiver if there is one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Final

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from caseyos_otel.exporters.otlp_transport import OtlpTransport, Signal
from caseyos_otel.gateway.reading import spans_in
from caseyos_otel.settings import Settings

SIGNALS: Final[tuple[Signal, ...]] = ("logs", "traces")


class Passing:
    """Bytes of a request on their way. A delivery knows it by an id, and counts it under a name."""

    def __init__(self, signal: Signal, request: bytes) -> None:
        self.request = request
        self.event_id = hashlib.blake2b(request, digest_size=16).hexdigest()
        self.declaration = SimpleNamespace(name=signal)


class Forwarding:
    """One signal on its way, with the protocol, endpoint, headers, TLS and compression of OpenTelemetry's own variables.

    Each signal has a delivery of its own: a receiver of spans that is away delays no log record, and repeats none.
    """

    def __init__(self, signal: Signal, settings: Settings) -> None:
        self.on = goes_on(settings, signal)
        self.name = f"forward-{signal}"
        self._signal = signal
        self._protocol = settings.logs_protocol if signal == "logs" else settings.traces_protocol
        self._transport: OtlpTransport | None = None

    def read(self, frame: bytes) -> list[Passing]:
        """What of a frame goes on."""
        spans = spans_in(frame)
        if self._signal == "traces":
            return [Passing("traces", spans)] if spans else []
        others = without_events(frame) if spans is None else b""
        return [Passing("logs", others)] if others else []

    def export(self, passing: Sequence[Passing]) -> None:
        """Send, all as one request.

        Raises:
            Unavailable: nobody answered, or asked to try again.
            Rejected: the receiver refused a request.
        """
        if self._transport is None:
            self._transport = OtlpTransport(self._signal, self._protocol, self.name)
        self._transport.send(b"".join(each.request for each in passing))

    def close(self) -> None:
        """Give up a request that is being retried."""
        if self._transport is not None:
            self._transport.close()


def goes_on(settings: Settings, signal: Signal) -> bool:
    """Whether a signal has an endpoint, and no variable says `none`."""
    chosen, endpoint = {
        "logs": (settings.otel_logs_exporter, settings.logs_endpoint),
        "traces": (settings.otel_traces_exporter, settings.otlp_traces_endpoint or settings.otlp_endpoint),
    }[signal]
    off = settings.disabled or settings.otel_sdk_disabled or "none" in chosen
    return bool(endpoint) and not off


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
