"""OTLP as a destination of events: our own encoding over the stock exporters' connections."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from caseyos_otel.events.record import EventRecord
from caseyos_otel.exporters.otlp_transport import OtlpTransport
from caseyos_otel.otlp.encode import RequestEncoder


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
        self._protocol = protocol
        self._resource = resource
        self._scope = scope
        self._disclose = disclose
        self._disclose_exception = disclose_exception
        self._transport: OtlpTransport | None = None
        self._may_retry = True

    def export(self, records: Sequence[EventRecord]) -> None:
        """Send records, one request a resource.

        Raises:
            Unavailable: nobody answered, or asked to try again.
            Rejected: the receiver refused the request.
        """
        transport = self._connected()
        for resource, group in _by_resource(records, self._resource()):
            encoder = RequestEncoder(
                resource, self._scope.name, self._scope.version or "", self._scope.schema_url or ""
            )
            transport.send(encoder.encode(group, self._disclose, self._disclose_exception))

    def prepare(self) -> None:
        """Import the stock exporter: what takes its time, but waits for nobody."""
        self._connected()

    def let_retry(self, allowed: bool) -> None:
        """Whether a request that failed is tried again before `export` raises Unavailable."""
        self._may_retry = allowed
        if self._transport is not None:
            self._transport.let_retry(allowed)

    def close(self) -> None:
        """Give up a request that is being retried: the process ends, and what is durable is in the spool."""
        if self._transport is not None:
            self._transport.close()

    def after_fork(self) -> None:
        """A child opens connections of its own."""
        self._transport = None

    def _connected(self) -> OtlpTransport:
        if self._transport is None:
            self._transport = OtlpTransport("logs", self._protocol, "otlp")
            self._transport.let_retry(self._may_retry)
        return self._transport


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
