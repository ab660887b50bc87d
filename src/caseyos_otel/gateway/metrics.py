"""What a gateway process counts, and how Prometheus reads it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, Metric, NumberDataPoint, Sum
from opentelemetry.sdk.resources import Resource

from caseyos_otel.gateway.reading import Request
from caseyos_otel.gateway.refusal import Reason
from caseyos_otel.pipeline import announcement
from caseyos_otel.pipeline.destinations import Destinations
from caseyos_otel.pipeline.gauges import observe_database, observe_spool

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_NO_NAME: Final = re.compile(r"[^a-zA-Z0-9_]+")
_UNITS: Final = {"s": "seconds", "ms": "milliseconds", "h": "hours", "By": "bytes"}


class Instruments:
    """Counters of a gateway process in a meter provider of their own: no exporter, read by `exposition`."""

    def __init__(self) -> None:
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
        observe_spool(self.meter, destinations.spool_health)
        observe_database(self.meter, destinations.database_health)

    def accepted(self, signal: str, request: Request) -> None:
        """Count a request that was acknowledged."""
        self._requests.add(1, {"signal": signal, "result": "accepted"})
        if events := request.names.total():
            self._records.add(events, {"signal": signal, "kind": "event"})
        if request.others:
            self._records.add(request.others, {"signal": signal, "kind": "other"})
        if request.rejected:
            self._records.add(request.rejected, {"signal": signal, "kind": "rejected"})

    def refused(self, signal: str, reason: Reason) -> None:
        """Count a request that was not taken."""
        self._requests.add(1, {"signal": signal, "result": reason.name})

    def exposition(self) -> str:
        """Everything in Prometheus' text format."""
        data: Any = self._reader.get_metrics_data()
        scopes = (scope for resource in (data.resource_metrics if data else ()) for scope in resource.scope_metrics)
        return "".join(f"{line}\n" for scope in scopes for metric in scope.metrics for line in _lines(metric))


def _lines(metric: Metric) -> Iterator[str]:
    data: Any = metric.data
    counter = isinstance(data, Sum) and data.is_monotonic
    base = _name(metric)
    name = f"{base}_total" if counter else base
    points = list(data.data_points)
    histogram = bool(points) and isinstance(points[0], HistogramDataPoint)
    yield f"# HELP {name} {(metric.description or name).replace(chr(92), chr(92) * 2).replace(chr(10), ' ')}"
    yield f"# TYPE {name} {'histogram' if histogram else 'counter' if counter else 'gauge'}"
    for point in points:
        yield from _histogram(base, point) if isinstance(point, HistogramDataPoint) else _number(name, point)


def _name(metric: Metric) -> str:
    unit = _UNITS.get(metric.unit or "", "")
    plain = _NO_NAME.sub("_", metric.name)
    return f"{plain}_{unit}" if unit and not plain.endswith(unit) else plain


def _number(name: str, point: NumberDataPoint) -> Iterator[str]:
    yield f"{name}{_labels((point.attributes or {}).items())} {point.value}"


def _histogram(name: str, point: HistogramDataPoint) -> Iterator[str]:
    attributes = list((point.attributes or {}).items())
    so_far = 0
    for bound, count in zip([*point.explicit_bounds, "+Inf"], point.bucket_counts, strict=True):
        so_far += count
        yield f"{name}_bucket{_labels([*attributes, ('le', bound)])} {so_far}"
    yield f"{name}_sum{_labels(attributes)} {point.sum}"
    yield f"{name}_count{_labels(attributes)} {point.count}"


def _labels(attributes: Iterable[tuple[str, Any]]) -> str:
    pairs = [f'{_NO_NAME.sub("_", key)}="{_escaped(str(value))}"' for key, value in attributes]
    return f"{{{','.join(pairs)}}}" if pairs else ""


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
