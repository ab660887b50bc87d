"""The destination `sentry`: failures as issues with a known result, successes as logs."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import Context, ContextVar
from typing import Any, Final

import sentry_sdk
from opentelemetry.trace import format_span_id, format_trace_id
from sentry_sdk import logger as sentry_logger
from sentry_sdk.integrations.dedupe import DedupeIntegration
from sentry_sdk.scope import Scope
from sentry_sdk.utils import event_from_exception

from caseyos_otel.context import TrailEntry
from caseyos_otel.diagnostics import drops
from caseyos_otel.events.record import EventRecord
from caseyos_otel.exporters.sentry import payloads, scope, sdk, surroundings
from caseyos_otel.exporters.sentry.scope import FailureScope, FailureScopes, HostErrors, Render
from caseyos_otel.exporters.sentry.stacktrace import MECHANISM
from caseyos_otel.exporters.sentry.transport import DESTINATION, SynchronousTransport, parse_dsn

_DELIVERED_REMEMBERED: Final = 1024
_LOGS: Final[Mapping[str, Callable[..., None]]] = {
    "info": sentry_logger.info,
    "warning": sentry_logger.warning,
    "error": sentry_logger.error,
}
_emitting: ContextVar[EventRecord | None] = ContextVar("caseyos_otel_sentry_log", default=None)


class SentryDestination:
    """Failures become issues, successes logs, and the service's own errors get the trail's breadcrumbs.

    sentry-sdk is initialised if the service has not done it; if it does later, its options count from then on. Issues
    and logs leave by a client of our own, made with the service's options and a transport whose result is known, so
    neither its sampling of errors nor `enable_logs` concerns them. `disclose(record)` and `disclose_text` say what
    Sentry may see.

    Raises:
        ConfigurationError: the DSN is not one.
    """

    def __init__(
        self,
        dsn: str,
        *,
        disclose: Render,
        disclose_text: Callable[[str], str],
        failures: FailureScopes | None = None,
        current_trail: Callable[[], Iterable[TrailEntry] | None] = tuple,
        environment: str | None = None,
        release: str | None = None,
    ) -> None:
        self._dsn = dsn
        self._parsed_dsn = parse_dsn(dsn)
        self._disclose = disclose
        self._disclose_text = disclose_text
        self.failures = failures or FailureScopes()
        self._delivered: OrderedDict[str, None] = OrderedDict()
        self._changing = threading.Lock()
        self._initialised = sdk.initialise(dsn, environment, release)
        self._retired: list[Any] = []
        self._follow(sentry_sdk.get_global_scope().client)
        scope.install(HostErrors(current_trail, disclose))

    def export(self, records: Sequence[EventRecord]) -> None:
        """Deliver failures as issues, one envelope each; returns when all have arrived.

        Repeating a batch is harmless: what was delivered is skipped, and after a crash the equal `event_id` absorbs it.

        Raises:
            Unavailable: Sentry is away or limits us; try again, after its `retry_after_s`.
            Rejected: Sentry refuses an issue for what it is.
        """
        for record in records:
            if record.event_id not in self._delivered:
                self._capture(record)
                self._arrived(record.event_id)

    def emit_log(self, record: EventRecord, sampling: Mapping[str, Any] | None = None) -> None:
        """Hand a success to sentry-sdk's log buffer, with the record's own time and trace. Best effort; never waits.

        `sampling` says with which probability such a record is sent.
        """
        body, level, attributes = payloads.log(record, self._disclose(record))
        attributes.update(sampling or {})
        client = self._client()
        token = _emitting.set(record)
        try:
            with sentry_sdk.new_scope() as current:
                current.set_client(client)
                _LOGS[level](body, attributes=attributes)
        finally:
            _emitting.reset(token)

    def flush(self, timeout_s: float) -> None:
        """Send buffered logs in the calling thread, and what the client that we initialised still holds."""
        self._client().flush(timeout=timeout_s)
        while self._retired:
            self._retired.pop().close(timeout=timeout_s)
        if self._initialised is not None:
            self._initialised.flush(timeout=timeout_s)

    def give_up(self, *, away: bool) -> None:
        """The process ends: logs that have not been sent are counted as `shutdown`. If Sentry is `away`, sentry-sdk's own
        atexit does not wait for it either, unless the service has initialised it.
        """
        for client in (*self._retired, self._issues):
            client.transport.give_up()
            client.flush(timeout=0)
        if away and self._initialised is not None:
            self._initialised.options["shutdown_timeout"] = 0

    def close(self, timeout_s: float = 2.0) -> None:
        """Flush, and leave the service's sentry-sdk as if we were not there; one that we initialised stays."""
        self.flush(timeout_s)
        scope.install(None)
        self._issues.close(timeout=timeout_s)

    def after_fork(self) -> None:
        """In the child: what the parent remembers is the parent's, and so are its connections."""
        self._changing = threading.Lock()
        self.failures.clear()
        self._transport.reconnect()

    def _capture(self, record: EventRecord) -> None:
        remembered = self.failures.get(record.event_id)
        event = self._issue(record, remembered)
        hint: dict[str, Any] = {scope.OURS: record.event_id}
        context = Context() if remembered is None else remembered.context.copy()
        if remembered is not None and (error := remembered.exception) is not None:
            rich, exc_hint = event_from_exception(error, self._exception_options(), dict(MECHANISM))
            event["exception"] = _disclosed(rich["exception"], self._disclose_text)
            event.pop("logentry", None)
            hint.update(exc_hint)
        if context.run(self._send, event, hint, remembered) is None:
            # before_send, ignore_errors or an event processor of the service does not want it
            drops.count("rejected", destination=DESTINATION, event=record.declaration.name)

    def _issue(self, record: EventRecord, remembered: FailureScope | None) -> dict[str, Any]:
        itself = (record.timestamp, record.declaration)
        trail = [] if remembered is None else [entry for entry in remembered.trail if entry[:2] != itself]
        crumbs = scope.breadcrumbs(trail, self._disclose)
        return payloads.issue(record, self._disclose(record), self._disclose_text, crumbs)

    def _send(self, event: dict[str, Any], hint: dict[str, Any], remembered: FailureScope | None) -> str | None:
        """Capture in the failing caller's context, where event processors of its request find what they look for."""
        # The service may have captured the exception before us, as its own issue; the failure is one all the same.
        DedupeIntegration.reset_last_seen()
        merged = Scope()
        if user := event.pop("user", None):
            merged.set_user(user)
        if remembered is not None:
            merged.update_from_scope(remembered.scope)
        merged.set_level(event["level"])
        merged.set_tags(event["tags"])
        sent: str | None = self._client().capture_event(event, hint, scope=merged)
        return sent

    def _arrived(self, event_id: str) -> None:
        self.failures.forget(event_id)
        self._delivered[event_id] = None
        if len(self._delivered) > _DELIVERED_REMEMBERED:
            self._delivered.popitem(last=False)

    def _exception_options(self) -> dict[str, Any]:
        return {**self._issues.options, "include_local_variables": False}

    def _client(self) -> Any:
        """Our client, made anew when the service has called `sentry_sdk.init()` since."""
        host = sentry_sdk.get_global_scope().client
        if host is not self._host and host.is_active():
            with self._changing:
                if host is not self._host:
                    self._retired.append(self._issues)
                    self._follow(host)
        return self._issues

    def _follow(self, host: Any) -> None:
        self._transport = SynchronousTransport(self._parsed_dsn, host.options)
        self._issues = sdk.own_client(self._dsn, self._transport, host.options, self._minimised, _as_recorded)
        self._host = host

    def _minimised(self, then: sdk.Hook | None) -> sdk.Hook:
        """A `before_send` that minimises what was added to an issue; the service's own hook runs after it."""

        def before_send(event: Any, hint: Any) -> Any:
            event = surroundings.minimised(event, self._disclose_text)
            return event if then is None else then(event, hint)

        return before_send


def _as_recorded(then: sdk.Hook | None) -> sdk.Hook:
    """A `before_send_log` that gives a log its record's time, trace and span; the service's own hook runs after it."""

    def before_send_log(log: Any, hint: Any) -> Any:
        if (record := _emitting.get()) is not None:
            log["time_unix_nano"] = record.timestamp
            log["trace_id"] = format_trace_id(record.trace_id) if record.trace_id else None
            log["span_id"] = format_span_id(record.span_id) if record.span_id else None
        return log if then is None else _unless_refused(then, log, hint)

    return before_send_log


def _unless_refused(then: sdk.Hook, log: Any, hint: Any) -> Any:
    kept = None
    try:
        kept = then(log, hint)
    finally:  # a hook that raises loses the log too
        if kept is None:
            drops.count("rejected", destination=DESTINATION, event=log["attributes"]["event"])
    return kept


def _disclosed(exception: Any, disclose_text: Callable[[str], str]) -> Any:
    for value in exception["values"]:
        value["value"] = disclose_text(value.get("value") or "")
    return exception
