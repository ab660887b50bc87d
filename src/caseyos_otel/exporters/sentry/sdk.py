"""Clients of sentry-sdk: the service's, made if it has none, and our own beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import sentry_sdk
from sentry_sdk.client import SDK_INFO
from sentry_sdk.integrations.logging import ignore_logger
from sentry_sdk.transport import HttpTransport

from caseyos_otel import _otel

if TYPE_CHECKING:
    from sentry_sdk.transport import Transport

Hook = Callable[[Any, Any], Any]
"""A `before_send` or `before_send_log`: the event or log and a hint, to itself or None."""

_CARRIED_OVER: Final = (
    "ca_certs",
    "cert_file",
    "custom_repr",
    "dist",
    "environment",
    "event_scrubber",
    "http_proxy",
    "https_proxy",
    "ignore_errors",
    "in_app_exclude",
    "in_app_include",
    "include_source_context",
    "key_file",
    "max_breadcrumbs",
    "max_value_length",
    "project_root",
    "proxy_headers",
    "release",
    "server_name",
)
"""Options of the service's client that hold for our issues too."""


_TELEMETRY_LOGGERS: Final = ("caseyos_otel", "opentelemetry.exporter.otlp.*")
"""Trouble of telemetry is said in the log, never as an issue of the service."""


class QuietTransport(HttpTransport):
    """sentry-sdk's transport, whose requests make no spans: what telemetry sends is never sampled input."""

    def _send_request(self, *args: Any, **kwargs: Any) -> None:
        # sentry-sdk's name; where another version has another one, its requests are traced and nothing else changes
        with _otel.suppressed_instrumentation():
            super()._send_request(*args, **kwargs)


def initialise(dsn: str, environment: str | None, release: str | None) -> Any:
    """Initialise sentry-sdk if the service has not; the client, or None where it was there already."""
    for name in _TELEMETRY_LOGGERS:
        ignore_logger(name)
    if sentry_sdk.is_initialized():
        return None
    sentry_sdk.init(
        dsn=dsn,
        environment=environment,
        release=release,
        include_local_variables=False,
        max_request_body_size="never",
        transport=QuietTransport,
        integrations=_trace_link(),
    )
    return sentry_sdk.get_global_scope().client


def own_client(
    dsn: str,
    transport: Transport,
    options: Mapping[str, Any],
    before_send: Callable[[Hook | None], Hook],
    before_send_log: Callable[[Hook | None], Hook],
) -> sentry_sdk.Client:
    """A client with the service's `options`, that sends everything by `transport` and has no integration of its own.

    `before_send` and `before_send_log` are given the service's hook of that name, and return the one to use.
    """
    carried = {name: options[name] for name in _CARRIED_OVER if options.get(name) is not None}
    sdk_name = SDK_INFO["name"]
    try:
        return sentry_sdk.Client(
            dsn=dsn,
            transport=transport,
            default_integrations=False,
            auto_enabling_integrations=False,
            enable_backpressure_handling=False,
            spotlight=False,
            enable_logs=True,
            before_send=before_send(options.get("before_send")),
            before_send_log=before_send_log(_before_send_log(options)),
            include_local_variables=False,
            **carried,
        )
    finally:
        SDK_INFO["name"] = sdk_name  # a client without integrations renames the SDK for the whole process


def _trace_link() -> list[Any]:
    """What gives the service's own errors OpenTelemetry's trace id, without its exporter and propagator."""
    try:
        from sentry_sdk.integrations.otlp import OTLPIntegration
    except Exception:  # it needs OpenTelemetry's OTLP exporter, and raises DidNotEnable without
        return []
    return [OTLPIntegration(setup_otlp_traces_exporter=False, setup_propagator=False)]


def _before_send_log(options: Mapping[str, Any]) -> Hook | None:
    found: Hook | None = options.get("before_send_log") or (options.get("_experiments") or {}).get("before_send_log")
    return found
