"""What a metrics backend learns of sampling."""

from __future__ import annotations

from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.trace import StatusCode

from caseyos_otel.sampling.gauges import observe_table


def collected(reader: InMemoryMetricReader) -> dict[str, dict[tuple[Any, ...], Any]]:
    data = reader.get_metrics_data()
    assert data is not None
    return {
        metric.name.removeprefix("caseyos.otel.sampling."): {
            tuple((point.attributes or {}).values()): getattr(point, "value", None) or point
            for point in metric.data.data_points
        }
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def test_decisions_bounds_and_lateness_are_measured(sampling: Any) -> None:
    service, reader = sampling(max_traces=2), InMemoryMetricReader()
    observe_table(MeterProvider([reader]).get_meter("tests"), service.table)
    root = service.tracer.start_span("dropped")
    root.end()
    service.pass_time(1)
    service.tracer.start_span("late", trace.set_span_in_context(root)).end()
    service.will_be_kept(True)
    failing = service.tracer.start_span("failing")
    failing.set_status(StatusCode.ERROR)
    failing.end()
    for _ in range(3):
        service.tracer.start_span("open")
    service.tracer.start_span("held", trace.set_span_in_context(service.tracer.start_span("its root"))).end()
    service.now += 2
    service.table.tick()

    found = collected(reader)
    assert found["decisions"] == {(False, "probability"): 1, (True, "error"): 1, (True, "overflow"): 2}
    assert found["evictions"] == {("traces",): 2}
    assert found["late_items"] == {(False,): 1}
    assert found["traces"] == {(): 2}
    assert found["items"] == {(): 1}
    time_to_decision = found["decision_time"][()]
    assert time_to_decision.count == 4
    assert time_to_decision.max == 1.0
