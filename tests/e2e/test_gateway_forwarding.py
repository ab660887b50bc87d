"""What is no event goes on over gRPC where OpenTelemetry's variables say so, through a real receiver's eyes."""

from __future__ import annotations

import re
from pathlib import Path

import grpc
import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from tests.e2e.gateway import REPLY, Gateway, reply, request_of, serving
from tests.e2e.receiver import GrpcReceiver, OtlpReceiver
from tests.e2e.service import INSTRUMENT, wait_for

SPANS = 5
OVER_GRPC = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=acme"}


def send(gateway: Gateway) -> str:
    """An event, a plain record and spans; the trace id of the spans."""
    provider = TracerProvider(resource=Resource({"service.name": "billing"}), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(endpoint=f"{gateway.http}/v1/traces")))
    tracer = provider.get_tracer("billing")
    with tracer.start_as_current_span("request") as root:
        for _ in range(SPANS - 1):
            tracer.start_span("step").end()
    body = request_of({"note": "plain"}, {**reply(1), "caseyos.outcome.recipient": "ann@acmecorp.com"})
    assert gateway.post("/v1/logs", body.SerializeToString()).status == 200
    return f"{root.get_span_context().trace_id:032x}"


def check(receiver: GrpcReceiver, trace_id: str) -> None:
    wait_for(lambda: len(receiver.records) == 2 and len(receiver.spans) == SPANS, "did not go on:")
    by_name = {record.event_name: record for record in receiver.records}
    assert by_name[""].attributes == {"note": "plain"}
    assert by_name[REPLY].attributes["caseyos.outcome.recipient"].startswith("h_")
    assert {(span.trace_id, span.resource["service.name"]) for span in receiver.spans} == {(trace_id, "billing")}
    assert {metadata["x-tenant"] for metadata in receiver.metadata} == {"acme"}


def test_in_plain_to_the_common_endpoint(tmp_path: Path) -> None:
    with (
        GrpcReceiver() as receiver,
        serving(tmp_path / "state", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint, **OVER_GRPC) as gateway,
    ):
        check(receiver, send(gateway))


def test_compressed_and_over_tls(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    made, key = certificate
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), made.read_bytes())])
    with GrpcReceiver(credentials) as receiver:
        variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
            "OTEL_EXPORTER_OTLP_CERTIFICATE": str(made),
            "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        }
        with serving(tmp_path / "state", **variables, **OVER_GRPC) as gateway:
            check(receiver, send(gateway))


@pytest.mark.parametrize("over_grpc", ["LOGS", "TRACES"])
def test_each_signal_has_its_own_protocol_and_endpoint(tmp_path: Path, over_grpc: str) -> None:
    with GrpcReceiver() as by_grpc, OtlpReceiver() as by_http:
        variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": by_http.endpoint,
            f"OTEL_EXPORTER_OTLP_{over_grpc}_ENDPOINT": by_grpc.endpoint,
            f"OTEL_EXPORTER_OTLP_{over_grpc}_PROTOCOL": "grpc",
        }
        with serving(tmp_path / "state", **variables) as gateway:
            send(gateway)
            logs, spans = (by_grpc, by_http) if over_grpc == "LOGS" else (by_http, by_grpc)
            wait_for(
                lambda: len(logs.records) == 2 and len(spans.spans) == SPANS, "did not go on:", gateway.log.read_text
            )
        assert (logs.spans, spans.records) == ([], [])


def test_what_no_receiver_takes_goes_on_when_one_comes(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with serving(state, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1", **OVER_GRPC) as gateway:
        trace_id = send(gateway)
        wait_for(
            lambda: re.search("forward-traces is away.*UNAVAILABLE", gateway.log.read_text()), "it does not say so"
        )
        assert gateway.stop() == 0
    with (
        GrpcReceiver() as receiver,
        serving(state, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint, **OVER_GRPC),
    ):
        check(receiver, trace_id)


def test_a_receiver_of_spans_that_is_away_delays_and_repeats_no_log_record(tmp_path: Path) -> None:
    away = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"}
    with (
        OtlpReceiver() as receiver,
        serving(tmp_path / "state", OTEL_EXPORTER_OTLP_LOGS_ENDPOINT=f"{receiver.endpoint}/v1/logs", **away) as gateway,
    ):
        send(gateway)
        wait_for(lambda: receiver.records, "did not go on:", gateway.log.read_text)
        send(gateway)
        wait_for(lambda: len(receiver.records) >= 4, "did not go on:", gateway.log.read_text)
        wait_for(lambda: "forward-traces is away" in gateway.log.read_text(), "it does not say so")
        assert gateway.stop() == 0
    assert len(receiver.records) == 4


def test_instrumented_it_makes_no_spans_of_the_requests_it_takes(tmp_path: Path) -> None:
    with OtlpReceiver() as receiver:
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "CASEYOS_OTEL_SUCCESS_RATIO": "1.0"}
        gateway = Gateway(tmp_path / "state", **variables)
        gateway.before = (INSTRUMENT,)
        try:
            gateway.start()
            send(gateway)
            wait_for(lambda: len(receiver.spans) == SPANS, "did not go on:", gateway.log.read_text)
            assert gateway.get("/nothing/john@acme.com").status == 404
            assert gateway.stop() == 0
        finally:
            gateway.kill()
        assert {span.resource["service.name"] for span in receiver.spans} == {"billing"}
        assert len(receiver.spans) == SPANS
    assert "john@acme.com" not in gateway.log.read_text()
