"""What a gateway process counts."""

from __future__ import annotations

from pathlib import Path

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource

from caseyos_otel.gateway import exposition
from caseyos_otel.gateway.reading import Request
from caseyos_otel.gateway.refusal import Reason
from caseyos_otel.pipeline import announcement
from caseyos_otel.pipeline.destinations import Destinations
from caseyos_otel.pipeline.gauges import observe_database, observe_spool


class Instruments:
    """Counters in a meter provider of their own, which nothing exports. `shared`: where siblings leave theirs."""

    def __init__(self, shared: Path | None = None) -> None:
        self._shared = shared
        self._reader = InMemoryMetricReader()
        provider = MeterProvider([self._reader], resource=Resource.get_empty(), shutdown_on_exit=False)
        self.meter = provider.get_meter(announcement.SCOPE, announcement.version())
        self._requests = self.meter.create_counter(
            "caseyos.otel.gateway.requests", "{request}", "Requests by what became of them."
        )
        self._records = self.meter.create_counter(
            "caseyos.otel.gateway.records", "{record}", "Log records, span events and spans that were acknowledged."
        )

    def watch(self, destinations: Destinations) -> None:
        """Show the spool and the database too."""
        observe_spool(self.meter, destinations.spooling.health)
        observe_database(self.meter, destinations.database_health)

    def accepted(self, signal: str, request: Request) -> None:
        """Count a request that was acknowledged."""
        self._requests.add(1, {"signal": signal, "result": "accepted"})
        counts = {"event": request.names.total(), "other": request.others, "rejected": request.rejected}
        for kind, n in counts.items():
            if n:
                self._records.add(n, {"signal": signal, "kind": kind})

    def refused(self, signal: str, reason: Reason) -> None:
        """Count a request that was not taken."""
        self._requests.add(1, {"signal": signal, "result": reason.name})

    def leave(self) -> None:
        """Leave the counts for siblings, where there are any."""
        if self._shared is not None:
            exposition.leave(self._shared, self._own())

    def text(self) -> str:
        """Everything in Prometheus' text format, siblings included."""
        own = self._own()
        if self._shared is None:
            return exposition.text(own)
        return exposition.text(exposition.together([own, *exposition.left_by_siblings(self._shared)]))

    def _own(self) -> list[exposition.Family]:
        return exposition.families(self._reader.get_metrics_data())
