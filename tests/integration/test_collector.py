"""One Collector with one file of collector-config/: what it is given, and what leaves on each branch."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.collector import Collector
from tests.e2e.receiver import OtlpReceiver, Sentry
from tests.e2e.service import wait_for
from tests.integration.otlp_receiver import OtlpReceiver as Serve

ADDRESS = "john@acme.example"
LOW, HIGH = "0" * 14, "f" * 14
"""R of traces that probability drops and keeps."""


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Stands for `caseyos-otel serve`; takes logs, and answers as it is told to."""
    with Serve() as receiver:
        yield receiver


@pytest.fixture
def backend() -> Iterator[OtlpReceiver]:
    """Any OTLP backend."""
    with OtlpReceiver() as receiver:
        yield receiver


def gateway(here: Path, serve: Serve | OtlpReceiver, backend: OtlpReceiver | None = None, **more: str) -> Collector:
    to_backend = {
        "COLLECTOR_BACKEND": backend.endpoint, "COLLECTOR_BACKEND_AUTHORIZATION": "Basic abc",
        "COLLECTOR_TRACES_TO": "[otlp_http/backend]", "COLLECTOR_LOGS_TO": "[otlp_http/backend]",
    } if backend is not None else {}  # fmt: skip
    settings = {
        "COLLECTOR_SERVE": serve.endpoint,
        "CASEYOS_OTEL_INGEST_TOKEN": "a-token",
        "COLLECTOR_DECISION_WAIT": "1s",
    }
    return Collector("gateway.yaml", here / "gateway", **{**settings, **to_backend, **more})


def attributes(**named: Any) -> list[KeyValue]:
    """OTLP attributes; a dot is spelled as `__`."""
    return [KeyValue(key=name.replace("__", "."), value=value_of(value)) for name, value in named.items()]


def value_of(value: Any) -> AnyValue:
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    return AnyValue(int_value=value) if isinstance(value, int) else AnyValue(string_value=value)


def logs(*records: tuple[str, str, dict[str, Any]]) -> ExportLogsServiceRequest:
    """Log records by event name, body and attributes."""
    request = ExportLogsServiceRequest()
    scope = request.resource_logs.add().scope_logs.add()
    for event_name, body, named in records:
        scope.log_records.add(
            time_unix_nano=time.time_ns(), event_name=event_name, body=value_of(body), attributes=attributes(**named)
        )
    return request


def traces(*spans: Span) -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    request.resource_spans.add().scope_spans.add().spans.extend(spans)
    return request


def span(name: str, randomness: str = LOW, **more: Any) -> Span:
    """A span of a trace of its own, with this randomness R in its id."""
    trace_id = bytes.fromhex(f"{crc32(name.encode()):018x}" + randomness)
    now = time.time_ns()
    return Span(
        name=name, trace_id=trace_id, span_id=b"12345678", start_time_unix_nano=now, end_time_unix_nano=now, **more
    )


def send(collector: Collector, request: ExportLogsServiceRequest | ExportTraceServiceRequest) -> None:
    signal = "logs" if isinstance(request, ExportLogsServiceRequest) else "traces"
    kind = {"Content-Type": "application/x-protobuf"}
    body = request.SerializeToString()
    with urllib.request.urlopen(urllib.request.Request(f"{collector.http}/v1/{signal}", body, kind)) as response:
        assert response.status == 200


EVENT = "caseyos.outcome.reply_received"
PERSONAL = {"caseyos__outcome__recipient": ADDRESS, "user__id": ADDRESS, "caseyos__draft__id": "d1"}


def test_serve_gets_events_as_they_came_and_a_backend_gets_them_without_a_person(
    serve: Serve, backend: OtlpReceiver, tmp_path: Path
) -> None:
    with gateway(tmp_path, serve, backend) as collector:
        older = {"event__name": EVENT, **PERSONAL}  # before event names had a field of their own
        plain = ("", f"cannot reach {ADDRESS}", {"peer": f"smtp://{ADDRESS}:25"})
        send(collector, logs((EVENT, "", PERSONAL), ("", "", older), plain))
        wait_for(lambda: len(serve.records) == 2 and len(backend.records) == 3, "not there:", collector.log)
    assert {record.attributes["caseyos.outcome.recipient"] for record in serve.records} == {ADDRESS}
    assert {request.headers["authorization"] for request in serve.requests} == {"Bearer a-token"}
    assert ADDRESS not in str(backend.records)
    assert [record.attributes.get("caseyos.draft.id") for record in backend.records] == ["d1", "d1", None]
    assert backend.records[2].attributes == {"peer": "smtp://[email]:25"}


def test_product_events_on_spans_reach_serve_whatever_happens_to_their_trace(
    backend: OtlpReceiver, tmp_path: Path
) -> None:
    event = Span.Event(name=EVENT, attributes=attributes(**PERSONAL))
    with OtlpReceiver() as serve, gateway(tmp_path, serve, backend) as collector:
        other = Span.Event(name="cache miss")
        send(
            collector, traces(span("dropped", events=[other, event]), span("kept", HIGH, events=[event]), span("none"))
        )
        wait_for(lambda: len(serve.spans) == 2 and backend.spans, "not there:", collector.log)
        assert (collector.undecided, collector.kept) == (0, 1)
    assert {one.name for one in serve.spans} == {"dropped", "kept"}
    assert [one.name for one in backend.spans] == ["kept"]


KEPT = {
    "status": span("status", status=Status(code=Status.STATUS_CODE_ERROR)),
    "error type": span("error type", attributes=attributes(error__type="TimeoutError")),
    "exception": span("exception", events=[Span.Event(name="exception")]),
    "failure event": span("failure event", attributes=attributes(sampling__priority=1, caseyos__sampling__kept=True)),
    "process": span("process", attributes=attributes(caseyos__sampling__reason="policy:slow")),
    "high": span("high", HIGH),
    "at the threshold": span("at the threshold", "e6666666666666"),
    "high rv": span("high rv", trace_state=f"other=1,ot=th:0;rv:{HIGH}"),
}
DROPPED = {
    "low": span("low"),
    "below the threshold": span("below the threshold", "e6666666666665"),
    "low rv": span("low rv", HIGH, trace_state=f"ot=rv:{LOW}"),
    "left to us": span(
        "left to us", attributes=attributes(caseyos__sampling__reason="probability", caseyos__sampling__kept=False)
    ),
}


def test_traces_are_kept_for_a_failure_for_the_process_or_by_their_randomness(
    serve: Serve, backend: OtlpReceiver, tmp_path: Path
) -> None:
    with gateway(tmp_path, serve, backend) as collector:
        send(collector, traces(*KEPT.values(), *DROPPED.values()))
        wait_for(lambda: len(backend.spans) >= len(KEPT), "not there:", collector.log)
        assert (collector.undecided, collector.kept) == (0, len(KEPT))
    assert sorted(one.name for one in backend.spans) == sorted(KEPT)


def test_sentry_gets_traces_at_the_endpoint_of_its_dsn(serve: Serve, tmp_path: Path) -> None:
    with Sentry() as sentry:
        scheme, rest = sentry.dsn.split("://")
        key, address = rest.split("@")
        host, project = address.rsplit("/", 1)
        to_sentry = {
            "COLLECTOR_SENTRY": f"{scheme}://{host}/api/{project}/integration/otlp/v1/traces/",
            "COLLECTOR_SENTRY_KEY": key, "COLLECTOR_TRACES_TO": "[otlp_http/sentry]",
        }  # fmt: skip
        with gateway(tmp_path, serve, **to_sentry) as collector:
            send(collector, traces(KEPT["status"]))
            wait_for(lambda: sentry.spans, "not there:", collector.log)
        assert [one.name for one in sentry.spans] == ["status"]


def test_what_serve_refuses_for_now_is_brought_again(serve: Serve, tmp_path: Path) -> None:
    serve.answers.extend([429, 503, 502])
    with gateway(tmp_path, serve) as collector:
        send(collector, logs((EVENT, "", PERSONAL)))
        wait_for(lambda: serve.records, "not there:", collector.log, timeout_s=60)
    assert (len(serve.requests), serve.names) == (4, [EVENT])


class Raw(OtlpReceiver):
    """Keeps what arrives as text, with everything in it."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def take(self, path: str, body: bytes) -> None:
        super().take(path, body)
        self.texts.append(str(ExportTraceServiceRequest.FromString(body)))


def test_the_agent_takes_addresses_out_of_spans_and_leaves_product_events_alone(tmp_path: Path) -> None:
    with Raw() as events, Raw() as backend:
        # two tiers, because an agent speaks gRPC; this gateway keeps every trace
        second = gateway(tmp_path, events, backend, COLLECTOR_SAMPLING_THRESHOLD=LOW)
        with second, Collector("agent.yaml", tmp_path / "agent", COLLECTOR_NEXT=f"http://{second.grpc}") as agent:
            send(agent, traces(talkative()))
            wait_for(lambda: events.texts and backend.texts, "not there:", second.log)
    span_of_trace = backend.spans[0]
    assert span_of_trace.name == "GET /users/[email]"
    assert span_of_trace.attributes == {"url.full": "/unsubscribe?to=[email]&x=1", "tries": 2}
    assert "no mailbox [email]" in backend.texts[0]
    assert "acme" not in backend.texts[0]
    assert events.texts[0].count(ADDRESS) == 2  # the recipient and the user of the product event, and nowhere else


def test_a_backend_gets_no_address_of_a_service_without_an_agent(serve: Serve, tmp_path: Path) -> None:
    with Raw() as backend, gateway(tmp_path, serve, backend) as collector:
        send(collector, traces(talkative()))
        wait_for(lambda: backend.texts, "not there:", collector.log)
    assert "acme" not in backend.texts[0]


def talkative() -> Span:
    """A span that names a person in all the places that it has."""
    encoded = "/unsubscribe?to=john%40acme.example&x=1"
    return span(
        f"GET /users/{ADDRESS}",
        attributes=attributes(url__full=encoded, tries=2),
        status=Status(code=Status.STATUS_CODE_ERROR, message=f"no mailbox {ADDRESS}"),
        events=[
            Span.Event(name=EVENT, attributes=attributes(**PERSONAL)),
            Span.Event(name="sent", attributes=attributes(to=ADDRESS)),
        ],
    )
