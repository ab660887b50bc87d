"""Metrics of events by a real MeterProvider: exact counts and durations, attributes that stay bounded."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from caseyos_otel.diagnostics import drops
from caseyos_otel.processors.measure import DROPPED, EVENTS, Measure
from tests.records import event


class Meter:
    """A meter provider, our measure step, and what a reader collects."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.provider = MeterProvider([self._reader], shutdown_on_exit=False)
        self.measure = Measure(self.provider.get_meter("caseyos_otel"))

    def metric(self, name: str) -> Any:
        data = self._reader.get_metrics_data()
        found = [
            metric
            for resource in (data.resource_metrics if data else [])
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
        ]
        assert len(found) == 1, name
        return found[0]

    def points(self, name: str) -> list[Any]:
        return list(self.metric(name).data.data_points)

    def counts(self, name: str = EVENTS) -> dict[tuple[Any, ...], int]:
        """Values by sorted attribute values, the event's name first."""
        return {
            (p.attributes["event.name"], *(v for k, v in sorted(p.attributes.items()) if k != "event.name")): p.value
            for p in self.points(name)
        }


@pytest.fixture
def meter() -> Iterator[Meter]:
    made = Meter()
    yield made
    made.provider.shutdown()


def test_each_event_is_counted_by_name_and_declared_dimensions(meter: Meter) -> None:
    for source in ("hubspot", "hubspot", "gmail", None):
        record = event("signal_received", signal_id="s1", source=source, signal_type="form_submitted")
        assert meter.measure(record) is record
    meter.measure(event("outcome_deal_advanced", deal_id="d1"))
    assert meter.counts() == {
        ("caseyos.signal.received", "hubspot", "form_submitted"): 2,
        ("caseyos.signal.received", "gmail", "form_submitted"): 1,
        ("caseyos.signal.received", "form_submitted"): 1,
        ("caseyos.outcome.deal_advanced",): 1,
    }
    assert meter.metric(EVENTS).unit == "{event}"
    assert meter.metric(EVENTS).data.is_monotonic


def test_counting_goes_on_from_collection_to_collection(meter: Meter) -> None:
    for expected in (1, 2, 3):
        meter.measure(event("outcome_deal_advanced", deal_id="d1"))
        assert meter.counts() == {("caseyos.outcome.deal_advanced",): expected}


def test_a_duration_has_a_histogram_in_its_own_unit_with_the_same_attributes(meter: Meter) -> None:
    call = {"integration": "hubspot", "endpoint": "/crm/contacts/17", "method": "GET", "status_code": 200}
    for duration in (120.5, 79.5, None):
        meter.measure(event("integration_call_success", **call, duration_ms=duration))
    [point] = meter.points("caseyos.integration.duration_ms")
    assert (point.count, point.sum, point.min, point.max) == (2, 200.0, 79.5, 120.5)
    assert meter.metric("caseyos.integration.duration_ms").unit == "ms"
    assert dict(point.attributes) == {
        "event.name": "caseyos.integration.call_success",
        "caseyos.integration.name": "hubspot",
        "http.request.method": "GET",
        "http.response.status_code": 200,
    }
    assert sum(meter.counts().values()) == 3


def test_events_that_share_a_duration_share_its_histogram(meter: Meter) -> None:
    meter.measure(event("integration_call_success", integration="gmail", duration_ms=1))
    meter.measure(event("integration_call_failed", integration="gmail", duration_ms=3))
    points = meter.points("caseyos.integration.duration_ms")
    assert sorted(point.attributes["event.name"] for point in points) == [
        "caseyos.integration.call_failed",
        "caseyos.integration.call_success",
    ]


def test_ids_and_persons_are_no_attributes(meter: Meter) -> None:
    meter.measure(
        event(
            "action_executed",
            action_id="a-17",
            action_type="send_email",
            execution_mode="manual",
            success=True,
            duration_ms=5,
            metadata={"recipient": "john@acmecorp.com", "subject": "hello john"},
        )
    )
    shown = str(meter.points(EVENTS)) + str(meter.points("caseyos.action.duration_ms"))
    assert "send_email" in shown
    assert "a-17" not in shown
    assert "john" not in shown


def test_attributes_stay_bounded_whatever_a_service_sends_and_no_event_goes_uncounted(meter: Meter) -> None:
    meter.measure(event("recommendation_dismissed", action_type="x" * 65))
    for number in range(1000):
        meter.measure(event("recommendation_dismissed", action_type=f"type {number}"))
    counts = meter.counts()
    assert len(counts) == 101
    assert ("caseyos.recommendation.dismissed", "x" * 65) not in counts
    assert counts["caseyos.recommendation.dismissed", "other"] == 901
    assert counts["caseyos.recommendation.dismissed", "type 0"] == 1
    assert sum(counts.values()) == 1001


def test_counts_are_exact_whichever_threads_emit(meter: Meter) -> None:
    def work() -> None:
        for _ in range(500):
            meter.measure(event("outcome_deal_advanced", deal_id="d1"))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert meter.counts() == {("caseyos.outcome.deal_advanced",): 2000}


def test_drops_are_observed_by_reason_destination_and_event(meter: Meter) -> None:
    before = drops.snapshot().get(("queue_full", "sentry", "signal_received"), 0)
    drops.count("queue_full", 3, destination="sentry", event="signal_received")
    wanted = {"reason": "queue_full", "destination": "sentry", "event.name": "signal_received"}
    [point] = [p for p in meter.points(DROPPED) if dict(p.attributes) == wanted]
    assert point.value == before + 3
    assert meter.metric(DROPPED).unit == "{record}"
