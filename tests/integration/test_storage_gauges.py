"""What an operator sees of the database in OpenTelemetry metrics."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from caseyos_otel.events.record import EventRecord
from caseyos_otel.events.registry import registry
from caseyos_otel.exporters.outcomes import OutcomesDestination
from caseyos_otel.pipeline.gauges import DEFAULT_ROWS, RETENTION_AGE, observe_database
from caseyos_otel.privacy import retention
from caseyos_otel.storage import schema
from caseyos_otel.storage.engine import create, parse_url


def test_rows_in_the_default_partition_and_the_age_of_the_last_retention_are_gauges(
    postgresql_url: str, record_of: Callable[..., EventRecord]
) -> None:
    engine = create(parse_url(postgresql_url))
    schema.upgrade(engine)
    retention.run(engine, retention.Policy.of(90, 365, datetime.now(UTC)), str)
    destination = OutcomesDestination(postgresql_url, "all", lambda record: record.values, str)
    reader = InMemoryMetricReader()
    meter = MeterProvider(metric_readers=[reader], shutdown_on_exit=False).get_meter("test")
    observe_database(meter, lambda: destination.health)
    assert _gauges(reader) == {}
    astray = "00bcdefa-0000-7000-8000-000000000000"
    destination.export([record_of(registry.require("recommendation_dismissed"), event_id=astray)])
    gauges = _gauges(reader)
    assert gauges[DEFAULT_ROWS] == 1
    assert 0 < gauges[RETENTION_AGE] < 600
    destination.idle()
    engine.dispose()


def _gauges(reader: InMemoryMetricReader) -> dict[str, float]:
    data = reader.get_metrics_data()
    scopes = [scope for resource in (data.resource_metrics if data else []) for scope in resource.scope_metrics]
    return {metric.name: metric.data.data_points[0].value for scope in scopes for metric in scope.metrics}
