"""Spans to Sentry: its OTLP endpoint, derived from the DSN."""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from sentry_sdk.utils import Dsn

from caseyos_otel import _otel, diagnostics


def otlp_endpoint(dsn: str) -> tuple[str, dict[str, str]]:
    """URL and headers of a project's OTLP traces endpoint.

    Raises:
        sentry_sdk.utils.BadDsn: it is not a DSN.
    """
    parsed = Dsn(dsn)
    url = f"{parsed.scheme}://{parsed.netloc}{parsed.path}api/{parsed.project_id}/integration/otlp/v1/traces/"
    return url, {"X-Sentry-Auth": f"Sentry sentry_key={parsed.public_key}, sentry_version=7"}


class SentrySpanExporter(SpanExporter):
    """Sends kept traces to Sentry. A compatible server without the endpoint is told of once, then left alone."""

    def __init__(self, dsn: str) -> None:
        endpoint, headers = otlp_endpoint(dsn)
        self.otlp = OTLPSpanExporter(endpoint=endpoint, headers=headers)
        """Sends what this one is given."""
        self._supported = True

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch."""
        if not self._supported:
            diagnostics.drops.count("not_applicable", len(spans), destination="sentry-traces")
            return SpanExportResult.SUCCESS
        delivered, status = _otel.post_otlp(self.otlp, encode_spans(spans).SerializeToString())
        if delivered:
            return SpanExportResult.SUCCESS
        if status == 404:
            self._supported = False
            diagnostics.warn("this Sentry has no OTLP endpoint for traces (404): traces are not sent to it")
        return SpanExportResult.FAILURE

    def shutdown(self) -> None:
        """Close the connection."""
        self.otlp.shutdown()  # type: ignore[no-untyped-call]  # the exporter leaves it untyped

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Nothing is buffered here."""
        return True
