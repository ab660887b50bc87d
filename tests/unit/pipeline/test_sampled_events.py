"""What sampling tells about events that leave by OTLP, and what a span may say."""

from __future__ import annotations

import random
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

from caseyos_otel import track
from tests.integration.otlp_receiver import OtlpReceiver
from tests.unit.pipeline.conftest import MakePipeline

SIGNAL = {"signal_id": "s1", "source": "gmail", "signal_type": "reply"}
LOW_BITS = {"kept": (1 << 56) - 1, "dropped": 1}


class Ids(RandomIdGenerator):
    def __init__(self) -> None:
        self.low_bits = 0

    def generate_trace_id(self) -> int:
        return random.getrandbits(64) << 64 | 1 << 63 | self.low_bits


def events(receiver: OtlpReceiver) -> list[tuple[str, Any, Any]]:
    """(event, caseyos.sampling.kept, sampling.threshold) of everything that was received."""
    found = []
    for each in receiver.requests:
        for logs in ExportLogsServiceRequest.FromString(each.body).resource_logs:
            for record in (record for scope in logs.scope_logs for record in scope.log_records):
                told = {pair.key: pair.value for pair in record.attributes}
                kept, threshold = told.get("caseyos.sampling.kept"), told.get("sampling.threshold")
                found.append((
                    record.event_name.removeprefix("caseyos."),
                    kept and kept.bool_value,
                    threshold and threshold.string_value,
                ))  # fmt: skip
    return sorted(found, key=str)


def run(make_pipeline: MakePipeline, monkeypatch: pytest.MonkeyPatch, receiver: OtlpReceiver, otlp_events: str) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
    ids = Ids()
    provider = TracerProvider(id_generator=ids, shutdown_on_exit=False)
    pipeline = make_pipeline(
        traces=provider,
        OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
        OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
        CASEYOS_OTEL_OTLP_EVENTS=otlp_events,
    )
    tracer = provider.get_tracer("service")
    for low_bits in LOW_BITS.values():
        ids.low_bits = low_bits
        root = tracer.start_span("root")
        root.end()
        pipeline.table.flush()
        from opentelemetry import trace

        with trace.use_span(root):
            track("signal_received", **SIGNAL)
    with tracer.start_as_current_span("failing"):
        track("circuit_breaker_opened", service="hubspot", failure_count=5, threshold=5)
    track("outcome_deal_advanced", deal_id="d1")
    assert pipeline.flush(10)


def test_every_event_leaves_and_tells_the_verdict_that_is_known(
    make_pipeline: MakePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    with OtlpReceiver() as receiver:
        run(make_pipeline, monkeypatch, receiver, "all")
    assert events(receiver) == [
        ("circuit_breaker.opened", True, None),
        ("outcome.deal_advanced", None, None),
        ("signal.received", False, None),
        ("signal.received", True, None),
    ]


def test_kept_sends_events_by_the_verdict_with_their_threshold(
    make_pipeline: MakePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    with OtlpReceiver() as receiver:
        run(make_pipeline, monkeypatch, receiver, "kept")
    assert events(receiver) == [
        ("circuit_breaker.opened", True, None),
        ("outcome.deal_advanced", None, None),
        ("signal.received", True, "e6666666666666"),
    ]


def test_texts_of_spans_are_redacted_as_their_destinations_may_see_them(make_pipeline: MakePipeline) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    pipeline = make_pipeline(traces=provider)
    with provider.get_tracer("service").start_as_current_span("call") as span:
        span.set_attribute(
            "url.full", "https://api.acme.com/contacts/john@acmecorp.com?api_key=sk_live_4242424242424242"
        )
        span.set_attribute("db.query.text", "select * from contacts where email = 'john@acmecorp.com'")
        span.set_attribute("http.response.status_code", 500)
        span.record_exception(ValueError("no such person: john@acmecorp.com"))
    assert pipeline.flush(10)
    [left] = exporter.get_finished_spans()
    shown = f"{left.attributes} {[dict(event.attributes or {}) for event in left.events]}"
    assert "john@acmecorp.com" not in shown
    assert "sk_live_4242424242424242" not in shown
    assert left.attributes is not None
    assert left.attributes["http.response.status_code"] == 500
    assert str(left.attributes["db.query.text"]).startswith("select * from contacts where email = 'h_")
    assert span.attributes["db.query.text"].endswith("'john@acmecorp.com'")  # the service's own is untouched
