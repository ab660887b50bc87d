"""OTLP as a destination: what a receiver gets over HTTP and over gRPC, parsed with OpenTelemetry's own messages."""

from __future__ import annotations

import gzip
import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

import grpc
import pytest
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from caseyos_otel.diagnostics import drops
from caseyos_otel.errors import Rejected, Unavailable
from caseyos_otel.events.record import EventRecord
from caseyos_otel.exporters.delivery import Delivery
from caseyos_otel.exporters.otlp import OtlpDestination
from caseyos_otel.otlp.decode import decode
from caseyos_otel.otlp.encode import RequestEncoder
from caseyos_otel.redaction.disclosure import Disclosure, minimise
from caseyos_otel.redaction.pseudonyms import Pseudonyms
from tests.integration.otlp_receiver import GrpcReceiver, OtlpReceiver
from tests.ports import free_port
from tests.records import NOON, event

RESOURCE = {"service.name": "api", "telemetry.distro.name": "caseyos-otel"}
SCOPE = InstrumentationScope("caseyos_otel", "1.2", "https://opentelemetry.io/schemas/1.37.0")
PSEUDONYMS = Pseudonyms(b"a key")


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.5")  # shorter than the exporter's first pause
    caplog.set_level(logging.CRITICAL)


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as made:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", made.endpoint)
        yield made


@pytest.fixture
def grpc_receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[GrpcReceiver]:
    with GrpcReceiver() as made:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", made.endpoint)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "10")
        yield made


def destination(protocol: str = "http/protobuf", plain: frozenset[str] = frozenset()) -> OtlpDestination:
    disclosure = Disclosure(PSEUDONYMS, plain)
    return OtlpDestination(
        protocol,
        lambda: RESOURCE,
        SCOPE,
        lambda record: disclosure.values(record, "otlp"),
        lambda record: disclosure.exception(record, "otlp"),
    )


def failure(**more: Any) -> EventRecord:
    record = event(
        "action_failed",
        action_id="a1",
        action_type="send_email",
        error_type="api_error",
        error_message="john@acmecorp.com refused",
        _trace_id=0xABC,
        _span_id=0xDEF,
        _exception_attributes={"exception.type": "ApiError", "exception.message": "to john@acmecorp.com"},
        **more,
    )
    minimise(record)
    return record


def test_every_event_arrives_once_in_order_with_resource_scope_and_schema(receiver: OtlpReceiver) -> None:
    records = [event("signal_received", signal_id=f"s{n}", source="hubspot") for n in range(20)]
    destination().export(records)
    assert [r.attributes["caseyos.signal.id"] for r in receiver.records] == [f"s{n}" for n in range(20)]
    assert {r.event_name for r in receiver.records} == {"caseyos.signal.received"}
    assert [r.attributes["caseyos.event.id"] for r in receiver.records] == [record.event_id for record in records]
    assert all(r.resource == RESOURCE for r in receiver.records)
    assert {(r.scope, r.schema_url) for r in receiver.records} == {(("caseyos_otel", "1.2"), SCOPE.schema_url)}
    assert [r.record.time_unix_nano for r in receiver.records] == [NOON] * 20
    assert [request.path for request in receiver.requests] == ["/v1/logs"]


def test_personal_data_is_a_hash_unless_opted_in(receiver: OtlpReceiver) -> None:
    destination().export([failure()])
    destination(plain=frozenset({"otlp"})).export([failure()])
    hashed, plain = (received.attributes for received in receiver.records)
    pseudonym = PSEUDONYMS.of("john@acmecorp.com")
    assert hashed["exception.message"] == f"to {pseudonym}"
    assert "john" not in str(hashed)
    assert pseudonym in str(hashed)
    assert plain["exception.message"] == "to john@acmecorp.com"


def test_trace_and_severity_travel(receiver: OtlpReceiver) -> None:
    destination().export([failure(retryable=True), failure(retryable=False), event("signal_received")])
    retried, final, success = (received.record for received in receiver.records)
    assert (final.trace_id.hex(), final.span_id.hex()) == (f"{0xABC:032x}", f"{0xDEF:016x}")
    assert [r.severity_text for r in (retried, final, success)] == ["WARN", "ERROR", "INFO"]
    assert [r.severity_number for r in (retried, final, success)] == [13, 17, 9]
    assert (success.trace_id, success.span_id) == (b"", b"")


def adopted(resource: Mapping[str, Any]) -> EventRecord:
    """As it comes out of the spool of a process that is gone."""
    from caseyos_otel.events.registry import registry

    frame = RequestEncoder(resource, "caseyos_otel", "0.9", "").encode([event("signal_received", signal_id="old")])
    return decode(frame, registry)[0]


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_an_adopted_event_keeps_the_resource_of_the_process_that_emitted_it(
    protocol: str, request: pytest.FixtureRequest
) -> None:
    receiver = request.getfixturevalue("grpc_receiver" if protocol == "grpc" else "receiver")
    old = {"service.name": "api", "service.version": "0.9", "service.instance.id": "dead"}
    destination(protocol).export(
        [event("signal_received", signal_id="new"), adopted(old), adopted(old), event("signal_received")]
    )
    assert [r.resource for r in receiver.records] == [RESOURCE, old, old, RESOURCE]


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 401, 403, 404, 301, 302, 307])
def test_a_receiver_that_cannot_take_anything_now_is_unavailable(status: int, receiver: OtlpReceiver) -> None:
    receiver.answers.append(status)
    with pytest.raises(Unavailable, match=str(status)):
        destination().export([failure()])
    assert receiver.records == []


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_receiver_that_refuses_these_records_rejects_them(status: int, receiver: OtlpReceiver) -> None:
    receiver.answers.append(status)
    with pytest.raises(Rejected, match=str(status)):
        destination().export([failure()])


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_what_a_receiver_rejects_of_a_request_that_it_takes_is_counted_and_not_sent_again(
    protocol: str, request: pytest.FixtureRequest
) -> None:
    receiver = request.getfixturevalue("grpc_receiver" if protocol == "grpc" else "receiver")
    made = destination(protocol)
    before = drops.snapshot().get(("rejected", "otlp", ""), 0)
    receiver.answer.partial_success.rejected_log_records = 2
    receiver.answer.partial_success.error_message = "too old"
    made.export([failure(), failure(), failure()])
    receiver.answer.Clear()
    made.export([failure()])
    assert drops.snapshot()["rejected", "otlp", ""] == before + 2
    assert len(receiver.records) == 4


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_nobody_there_is_unavailable(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with OtlpReceiver() as gone:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", gone.endpoint)
    with pytest.raises(Unavailable):
        destination(protocol).export([failure()])


def test_headers_and_compression_are_those_of_opentelemetry_s_variables(
    receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20abc,x-tenant=acme")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    destination().export([failure()])
    received = receiver.requests[0]
    assert received.headers["authorization"] == "Bearer abc"
    assert received.headers["x-tenant"] == "acme"
    assert received.headers["content-encoding"] == "gzip"
    assert b"caseyos.action.failed" in gzip.decompress(received.body)
    assert receiver.names == ["caseyos.action.failed"]


def test_the_endpoint_of_logs_goes_before_the_common_one_and_is_taken_as_it_is(
    receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", f"{receiver.endpoint}/ingest/logs")
    destination().export([failure()])
    assert [request.path for request in receiver.requests] == ["/ingest/logs"]


def test_over_grpc_the_same_is_sent(
    grpc_receiver: GrpcReceiver, receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=acme")
    records = [failure(), event("outcome_reply_received", recipient="john@acmecorp.com", time_to_reply_hours=2)]
    destination().export(records)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", grpc_receiver.endpoint)
    destination("grpc").export(records)
    assert grpc_receiver.metadata[0]["x-tenant"] == "acme"
    assert [r._replace(record=None) for r in grpc_receiver.records] == [
        r._replace(record=None) for r in receiver.records
    ]
    for over_grpc, over_http in zip(grpc_receiver.records, receiver.records, strict=True):
        for part in ("time_unix_nano", "severity_number", "severity_text", "trace_id", "span_id", "event_name"):
            assert getattr(over_grpc.record, part) == getattr(over_http.record, part)


@pytest.mark.parametrize(
    ("code", "retry_after_s", "raised"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, None, Rejected),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, None, Rejected),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 0.25, Unavailable),
        (grpc.StatusCode.UNAVAILABLE, None, Unavailable),
        (grpc.StatusCode.UNAVAILABLE, 0.25, Unavailable),
        (grpc.StatusCode.UNAUTHENTICATED, None, Unavailable),
        (grpc.StatusCode.INTERNAL, None, Unavailable),
    ],
)
def test_grpc_codes_tell_whether_to_try_again_and_when(
    grpc_receiver: GrpcReceiver, code: grpc.StatusCode, retry_after_s: float | None, raised: type[Exception]
) -> None:
    grpc_receiver.answers.append((code, retry_after_s))
    made = destination("grpc")
    with pytest.raises(raised, match=code.name) as told:
        made.export([failure()])
    assert getattr(told.value, "retry_after_s", None) == (retry_after_s if raised is Unavailable else None)
    made.export([failure()])
    assert len(grpc_receiver.records) == 1


def test_a_grpc_receiver_that_comes_back_is_found_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    made = destination("grpc")
    for _ in range(6):  # a channel of its own would be waiting for seconds by now
        with pytest.raises(Unavailable):
            made.export([failure()])
    with GrpcReceiver(port) as receiver:
        made.export([failure()])
        assert len(receiver.records) == 1
    made.close()
    with pytest.raises(Unavailable):
        made.export([failure()])


@pytest.mark.parametrize(
    ("variable", "wrong"),
    [
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "brotli"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://["),
    ],
)
def test_a_setting_that_grpc_s_exporter_refuses_sets_no_event_aside_and_is_named(
    grpc_receiver: GrpcReceiver, monkeypatch: pytest.MonkeyPatch, variable: str, wrong: str
) -> None:
    right = os.environ.get(variable)
    monkeypatch.setenv(variable, wrong)
    made = destination("grpc")
    for _ in range(2):
        with pytest.raises(Unavailable, match=r"mend OTEL_EXPORTER_OTLP_"):
            made.export([failure()])
    monkeypatch.delenv(variable)
    if right is not None:
        monkeypatch.setenv(variable, right)
    made.export([failure()])
    assert len(grpc_receiver.records) == 1


def refused_of(protocol: str, *signal_ids: str) -> list[str]:
    """What a delivery sets aside of signals with these ids, and why."""
    refused: list[str] = []
    delivery = Delivery(
        "otlp",
        destination(protocol).export,
        reader=None,
        decode=lambda frame: [],
        wants=lambda record: True,
        set_aside=lambda record, reason: refused.append(f"{record.values['signal_id'][:6]}: {reason}"),
        interval_s=1,
    )
    for signal_id in signal_ids:
        delivery.offer(event("signal_received", signal_id=signal_id))
    assert delivery.flush(20)
    return refused


def test_only_the_record_that_the_receiver_refuses_is_set_aside(receiver: OtlpReceiver) -> None:
    receiver.refuse = "poison"
    assert refused_of("http/protobuf", "s1", "s2", "poison", "s3", "s4") == ["poison: otlp: HTTP 400"]
    assert [r.attributes["caseyos.signal.id"] for r in receiver.records] == ["s1", "s2", "s3", "s4"]


def test_over_grpc_it_is_so_and_what_is_too_large_is_told_from_what_is_not(grpc_receiver: GrpcReceiver) -> None:
    grpc_receiver.refuse = "poison"
    assert refused_of("grpc", "s1", "s2", "poison", "s3", "larger" * 12_000, *["small " * 6000] * 3) == [
        "poison: otlp: gRPC INVALID_ARGUMENT",
        "larger: otlp: gRPC RESOURCE_EXHAUSTED",
    ]
    ids = [r.attributes["caseyos.signal.id"][:6] for r in grpc_receiver.records]
    assert ids == ["s1", "s2", "s3", "small ", "small ", "small "]


def test_a_child_connects_anew(receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    made = destination()
    made.export([failure()])
    before = made._transport
    made.after_fork()
    made.export([failure()])
    assert made._transport is not before
    assert len(receiver.records) == 2


def test_closing_gives_up_a_request_that_is_being_repeated(
    receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "600")
    receiver.answers.extend([503] * 20)
    made, ended = destination(), threading.Event()

    def export() -> None:
        with pytest.raises(Unavailable):
            made.export([failure()])
        ended.set()

    thread = threading.Thread(target=export)
    thread.start()
    for _ in range(1000):
        if receiver.requests:
            break
        ended.wait(0.01)
    made.close()
    assert ended.wait(20)
    thread.join()
    assert len(receiver.requests) < 5
