"""Real requests to begin with, small ones: each declared event as our encoder and as protobuf writes it."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from collections.abc import Iterator
from typing import Any

import zstandard
from google.protobuf import json_format
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from caseyos_otel.events.field import Field, FieldType
from caseyos_otel.events.record import EVENT_ID, EventRecord
from tests.properties.test_otlp import DECLARATIONS, ENCODER

VALUES: dict[FieldType, Any] = {
    FieldType.ID: "rec-1",
    FieldType.STRING: "casey@example.com",
    FieldType.INT: 300,
    FieldType.DOUBLE: 0.5,
    FieldType.BOOLEAN: True,
    FieldType.TIMESTAMP: "2026-01-23T15:30:00+00:00",
}
UNDECLARED = (
    KeyValue(key="a", value=AnyValue(int_value=300)),
    KeyValue(key="b", value=AnyValue(bool_value=True)),
    KeyValue(key="c", value=AnyValue(double_value=0.5)),
    KeyValue(key="d", value=AnyValue(string_value="text")),
)
SOME_TIME = 1_769_178_600_123_456_789


def logs() -> Iterator[bytes]:
    """Requests of log records."""
    for event in (_event(n) for n in range(len(DECLARATIONS))):
        request = ENCODER.encode([event])
        yield request
        yield _changed(request, with_id=False)
        yield _changed(request, with_id=True, more=UNDECLARED)
    yield ENCODER.encode([_event(0), _event(1)])
    yield ENCODER.encode([_event(0)]) + ENCODER.encode([_event(1)])


def traces() -> Iterator[bytes]:
    """Requests of spans, with span events of declared names and of another."""
    for declaration in DECLARATIONS[:4]:
        found = KeyValue(key=declaration.fields[0].attribute, value=AnyValue(string_value="rec-1"))
        events = [Span.Event(name=name, attributes=[found]) for name in (declaration.otel_name, "another")]
        span = Span(name="GET /", trace_id=bytes(range(16)), span_id=bytes(range(8)), events=events)
        scope = ScopeSpans(spans=[span])
        yield ExportTraceServiceRequest(resource_spans=[ResourceSpans(scope_spans=[scope])]).SerializeToString()


def json_logs() -> Iterator[bytes]:
    """The same in OTLP/JSON: ids in hexadecimal."""
    for request in list(logs())[:8]:
        document = json.loads(json_format.MessageToJson(ExportLogsServiceRequest.FromString(request), indent=None))
        for record in document["resourceLogs"][0]["scopeLogs"][0]["logRecords"]:
            record.update({name: base64.b64decode(record[name]).hex() for name in ("traceId", "spanId")})
        yield json.dumps(document).encode()


def compressed() -> Iterator[bytes]:
    """Bodies behind one byte that says how they are compressed: the index in `ENCODINGS` of the targets."""
    for body in (b"", b"a" * 5000, next(logs())):
        yield b"\0" + gzip.compress(body, mtime=0)
        yield b"\0" + gzip.compress(body, mtime=0) + gzip.compress(body, mtime=0)
        yield b"\1" + zlib.compress(body)
        yield b"\2" + zstandard.ZstdCompressor().compress(body)


def _event(n: int) -> EventRecord:
    declaration = DECLARATIONS[n]
    values = {field.name: _value(field) for field in declaration.fields}
    return EventRecord(
        declaration,
        values,
        event_id=f"0190a5d2-6c1e-7b3a-9f51-2f6d1c8e{n:04x}",
        timestamp=SOME_TIME + n,
        observed_timestamp=SOME_TIME + n,
        trace_id=2**100 + n,
        span_id=2**60 + n,
    )


def _value(field: Field) -> Any:
    return field.allowed[0] if field.allowed else VALUES[field.type]


def _changed(request: bytes, *, with_id: bool, more: tuple[KeyValue, ...] = ()) -> bytes:
    message = ExportLogsServiceRequest.FromString(request)
    for record in message.resource_logs[0].scope_logs[0].log_records:
        kept = [attribute for attribute in record.attributes if with_id or attribute.key != EVENT_ID]
        del record.attributes[:]
        record.attributes.extend([*kept, *more])
    return message.SerializeToString()
