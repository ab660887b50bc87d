"""OTLP request bytes on their way, by the stock exporters' own connections: HTTP or gRPC."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

from caseyos_otel import _otel, diagnostics
from caseyos_otel.diagnostics import drops
from caseyos_otel.errors import Rejected, Unavailable

Signal = Literal["logs", "traces"]
_POISON: Final = frozenset({400, 413, 422})
"""What a receiver answers to the records themselves. A wrong address or token (401, 403, 404) is mended, and they wait."""
_POISON_CODES: Final = frozenset({"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"})
"""The same over gRPC. RESOURCE_EXHAUSTED is a size unless RetryInfo comes with it (OTLP specification, "OTLP/gRPC Response")."""


class OtlpTransport:
    """Sends requests of one signal with the endpoint, headers, TLS and compression of OpenTelemetry's own variables.

    `protocol` is `http/protobuf` or `grpc`. Made in the thread that sends: it imports the stock exporter, and raises
    Unavailable where one of the variables is nothing that this takes: events wait until it is mended.
    """

    def __init__(self, signal: Signal, protocol: str, destination: str) -> None:
        """`destination`: under which name what is rejected counts."""
        self._grpc = protocol == "grpc"
        self._signal = signal
        self._destination = destination
        self._closed = False
        self._exporter = self._connect()
        self._answer: Callable[[], bytes] = bytes if self._grpc else _otel.answers_of(self._exporter)

    def _connect(self) -> Any:
        try:
            return _grpc_exporter(self._signal) if self._grpc else _http_exporter(self._signal)
        except Exception as error:
            named = f"{type(error).__name__}: {error}"
            raise Unavailable(
                f"OpenTelemetry's exporter refuses a setting ({named}); mend OTEL_EXPORTER_OTLP_*"
            ) from error

    def send(self, request: bytes) -> None:
        """Send one request; requests joined one behind the other are one.

        Raises:
            Unavailable: nobody answered, or asked to try again.
            Rejected: the receiver refused the request for what it is.
        """
        (self._call if self._grpc else self._post)(request)

    def let_retry(self, allowed: bool) -> None:
        """Whether a request that failed is tried again before `send` raises Unavailable; over gRPC none is."""
        if not self._grpc:
            _otel.let_retry(self._exporter, allowed)

    def close(self) -> None:
        """Give up a request that is on its way."""
        self._closed = True
        self._exporter.shutdown()

    def _post(self, request: bytes) -> None:
        delivered, status = _otel.post_otlp(self._exporter, request)
        if delivered:
            self._count_rejected(self._answer())
            return
        if status in _POISON:
            raise Rejected(f"HTTP {status}")
        raise Unavailable("no answer" if status is None else f"HTTP {status}")

    def _call(self, request: bytes) -> None:
        delivered, code, answer = _otel.call_otlp(self._exporter, self._signal, request)
        if delivered:
            self._count_rejected(answer)
            return
        retry_after_s = _retry_after(answer)
        if code in _POISON_CODES and retry_after_s is None:
            raise Rejected(f"gRPC {code}")
        if code == "UNAVAILABLE" and not self._closed:
            # as the stock exporter does: a channel waits up to two minutes before it looks for its receiver again
            before, self._exporter = self._exporter, self._connect()
            before.shutdown()
            if self._closed:  # meanwhile: `close` has seen the one before
                self._exporter.shutdown()
        raise Unavailable(f"gRPC {code}", retry_after_s)

    def _count_rejected(self, answer: bytes) -> None:
        """A receiver may take a request and reject a part of it, which is not sent again (OTLP, "Partial Success")."""
        rejected, why = _partial_success(answer)
        if rejected > 0:
            drops.count("rejected", rejected, destination=self._destination)
            diagnostics.warn(
                f"{self._destination} has rejected {rejected}: {why[:200] or 'no reason'}",
                key=f"{self._destination} rejects",
            )


def _partial_success(answer: bytes) -> tuple[int, str]:
    """How many records of a request were rejected, and why. In the answer for spans the fields have the same numbers."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # protobuf has no types of its own
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

    try:
        partial = ExportLogsServiceResponse.FromString(answer).partial_success
    except DecodeError:  # a receiver's mistake
        return 0, ""
    return partial.rejected_log_records, partial.error_message


def _retry_after(details: bytes) -> float | None:
    """Seconds of the RetryInfo in an error's `google.rpc.Status`."""
    from google.protobuf.message import DecodeError
    from google.rpc.error_details_pb2 import RetryInfo  # type: ignore[import-untyped]  # nor has this
    from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]  # nor has this

    retry = RetryInfo()
    try:
        if any(detail.Unpack(retry) for detail in Status.FromString(details).details):
            return float(retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9)
    except DecodeError:  # a receiver's mistake
        pass
    return None


def _http_exporter(signal: Signal) -> Any:
    if signal == "logs":
        from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter

        return OTLPLogExporter()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()


def _grpc_exporter(signal: Signal) -> Any:
    if signal == "logs":
        from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter

        return OTLPLogExporter()
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()
