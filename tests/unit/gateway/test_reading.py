"""From a request to frames for the spool."""

from __future__ import annotations

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from caseyos_otel.events.registry import registry
from caseyos_otel.gateway.forwarding import without_events
from caseyos_otel.gateway.reading import REQUESTS, SPANS, parse_logs, read_logs, read_traces, spans_in
from caseyos_otel.otlp import wire
from caseyos_otel.otlp.decode import decode
from tests.e2e.gateway import reply, request_of


def read(body: bytes, *, forwarding: bool = False) -> object:
    request = read_logs(parse_logs(body), body, forwarding)
    return request.frames, dict(request.names), request.others, request.rejected


def test_a_request_with_events_is_its_own_frame() -> None:
    body = request_of(reply(1), reply(2), {"note": "x"}).SerializeToString()
    assert read(body) == (((REQUESTS, body),), {"caseyos.outcome.reply_received": 2}, 1, 0)


def test_a_request_without_events_is_a_frame_only_where_it_goes_on() -> None:
    body = request_of({"note": "x"}).SerializeToString()
    assert read(body) == ((), {}, 1, 0)
    assert read(body, forwarding=True) == (((REQUESTS, body),), {}, 1, 0)
    assert without_events(body) == body


def test_what_goes_on_is_without_events_and_in_its_place() -> None:
    body = request_of(reply(1), {"note": "x"}, {"event_name": "acme.unknown"}).SerializeToString()
    (resource_logs,) = ExportLogsServiceRequest.FromString(without_events(body)).resource_logs
    (record,) = resource_logs.scope_logs[0].log_records
    assert (record.event_name, record.attributes[0].key) == ("", "note")
    assert resource_logs.resource.attributes[0].value.string_value == "billing"
    assert without_events(request_of(reply(1)).SerializeToString()) == b""


def test_a_request_cannot_pass_for_a_frame_of_spans() -> None:
    disguised = wire.delimited(15, b"anything") + request_of(reply(1)).SerializeToString()
    request = read_logs(parse_logs(disguised), disguised, forwarding=True)
    ((_, frame),) = request.frames
    assert spans_in(frame) is None
    assert len(decode(frame, registry)) == 1


def test_a_frame_of_spans_has_no_log_records_for_a_decoder_of_logs() -> None:
    request = ExportTraceServiceRequest()
    request.resource_spans.add().scope_spans.add().spans.add(name="x" * 300)
    body = request.SerializeToString()
    read_ = read_traces(request, body, lambda name: False, forwarding=True)
    ((series, frame),) = read_.frames
    assert (series, spans_in(frame), decode(frame, registry)) == (SPANS, body, [])


def test_a_declared_name_in_the_old_attribute_makes_a_record_an_event_and_no_other_does() -> None:
    request = ExportLogsServiceRequest()
    scope = request.resource_logs.add().scope_logs.add()
    for field, attribute in (("", "acme.known"), ("", "acme.other"), ("acme.field", "acme.known"), ("", "")):
        named = [KeyValue(key="event.name", value=AnyValue(string_value=attribute))] if attribute else []
        scope.log_records.add(event_name=field, attributes=named)
    body = request.SerializeToString()
    read_ = read_logs(parse_logs(body), body, True, declared=lambda name: name == "acme.known")
    assert (read_.names, read_.others, read_.rejected) == ({"acme.known": 1, "acme.field": 1}, 2, 0)
    ((series, frame),) = read_.frames
    assert series == REQUESTS
    found = parse_logs(frame).resource_logs[0].scope_logs[0].log_records
    assert [record.event_name for record in found] == ["acme.known", "", "acme.field", ""]
