"""`caseyos_sentry` of the traces group: spans to the Sentry of SENTRY_DSN."""

from __future__ import annotations

from typing import Any

from caseyos_otel import settings
from caseyos_otel.errors import ConfigurationError
from caseyos_otel.exporters.sentry import spans


class SentrySpanExporter(spans.SentrySpanExporter):
    """For OTEL_TRACES_EXPORTER and declarative configuration.

    Raises:
        ConfigurationError: SENTRY_DSN is not set.
    """

    def __init__(self, **_: Any) -> None:
        dsn = settings.load().sentry_dsn
        if dsn is None:
            raise ConfigurationError("OTEL_TRACES_EXPORTER names caseyos_sentry, but SENTRY_DSN is not set")
        super().__init__(dsn)
