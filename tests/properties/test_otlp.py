"""OTLP: what we write equals what OpenTelemetry's own encoder writes, and comes back field by field."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import TraceFlags

from caseyos_otel.events.field import Field, FieldType, Privacy
from caseyos_otel.events.model import Declaration, Event, optional, required
from caseyos_otel.events.record import EXCEPTION_ATTRIBUTES, Delivery, EventRecord
from caseyos_otel.events.registry import SPECIFIED, Registry
from caseyos_otel.otlp.decode import MalformedRequestError, decode
from caseyos_otel.otlp.encode import RequestEncoder


class ContractSigned(Event, name="contract_signed", otel="acme.contract.signed", outcome=True):
    """Every type of field, in a service's own event."""

    contract_id: str = required()
    signed_at: datetime | None = optional()
    pages: int | None = optional()
    value: float | None = optional(unit="USD")
    countersigned: bool | None = optional()
    kind: str | None = optional(allowed=("new", "renewal"))
    signer: str | None = optional(privacy=Privacy.EMAIL)


REGISTRY = Registry([*SPECIFIED, ContractSigned])
DECLARATIONS = list(REGISTRY)
RESOURCE = {"service.name": "command-center", "host.cpus": 4, "process.command_args": ("python", "app.py")}
SCOPE = InstrumentationScope("caseyos_otel", "1.2.3", "https://example.com/schema/1")
ENCODER = RequestEncoder(RESOURCE, SCOPE.name, str(SCOPE.version), str(SCOPE.schema_url))

INT64 = st.integers(-(2**63), 2**63 - 1)
VALUES: dict[FieldType, st.SearchStrategy[Any]] = {
    FieldType.ID: st.uuids().map(str) | st.text(max_size=40),
    FieldType.STRING: st.text() | st.text(min_size=100, max_size=300),
    FieldType.INT: INT64 | st.integers(-1000, 1000),
    # whole numbers that a double holds exactly
    FieldType.DOUBLE: st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53),
    FieldType.BOOLEAN: st.booleans(),
    FieldType.TIMESTAMP: st.datetimes(timezones=st.just(UTC)),
}


def value_of(field: Field) -> st.SearchStrategy[Any]:
    return st.none() | (st.sampled_from(field.allowed) if field.allowed else VALUES[field.type])


@st.composite
def events(draw: st.DrawFn) -> EventRecord:
    """A valid event of any declaration, with any ids, clocks and additions."""
    declaration: Declaration = draw(st.sampled_from(DECLARATIONS))
    given_values: dict[str, Any] = {}
    for field in declaration.fields:
        value = draw(value_of(field))
        group, dot, key = field.name.partition(".")
        (given_values.setdefault(group, {}) if dot else given_values)[key or group] = value
    bound = declaration.bind(given_values)
    missing = [problem.field for problem in bound.problems]
    assert all(bound.values[name] is None for name in missing)
    exception = st.tuples(st.text(), st.text(), st.text()).map(
        lambda t: dict(zip(EXCEPTION_ATTRIBUTES, t, strict=True))
    )
    return EventRecord(
        declaration,
        bound.values,
        event_id=str(draw(st.uuids())),
        timestamp=draw(st.integers(1, 2**63 - 1)),
        observed_timestamp=draw(st.integers(1, 2**63 - 1)),
        invalid_fields=tuple(draw(st.permutations(missing))),
        trace_id=draw(st.integers(0, 2**128 - 1)),
        span_id=draw(st.integers(0, 2**64 - 1)),
        trace_flags=TraceFlags(draw(st.integers(0, 255))),
        delivery=draw(st.none() | st.sampled_from(Delivery)),
        exception_attributes=draw(st.none() | exception),
    )


def plain_attributes(record: EventRecord) -> EventRecord:
    """`record` with all of its OpenTelemetry attributes, as after a redact step that may show everything."""
    record.disclose = lambda r: r.values
    record.disclose_exception = lambda r: r.exception_attributes
    return record


def stock_encoding(records: list[EventRecord]) -> ExportLogsServiceRequest:
    """What OpenTelemetry's encoder makes of them."""
    readable = []
    for record in records:
        doubles = {f.attribute for f in record.declaration.fields if f.type is FieldType.DOUBLE}
        attributes = plain_attributes(record).attributes
        # ours are doubles on the wire even where a whole number was given: one type for receivers
        record.attributes = {k: float(v) if k in doubles else v for k, v in attributes.items()}
        readable.append(ReadableLogRecord(log_record=record, resource=Resource(RESOURCE), instrumentation_scope=SCOPE))
    return encode_logs(readable)


def same(back: EventRecord, record: EventRecord) -> bool:
    parts = """declaration values event_id timestamp observed_timestamp trace_id span_id trace_flags
        invalid_fields delivery exception_attributes failure severity_number"""
    for part in parts.split():
        assert getattr(back, part) == getattr(record, part), part
    return True


@given(st.lists(events(), min_size=1, max_size=5))
def test_our_encoder_equals_opentelemetrys(records: list[EventRecord]) -> None:
    assert ExportLogsServiceRequest.FromString(ENCODER.encode(records)) == stock_encoding(records)


@given(st.lists(events(), max_size=5))
def test_events_come_back_field_by_field(records: list[EventRecord]) -> None:
    back = decode(ENCODER.encode(records), REGISTRY)
    assert len(back) == len(records)
    assert all(same(b, r) for b, r in zip(back, records, strict=True))
    assert all(b.resource == {**RESOURCE, "process.command_args": ["python", "app.py"]} for b in back)


@given(st.lists(events(), max_size=5))
def test_frames_joined_are_the_request(records: list[EventRecord]) -> None:
    back = decode(b"".join(ENCODER.encode([r]) for r in records), REGISTRY)
    assert all(same(b, r) for b, r in zip(back, records, strict=True))


@given(events())
def test_events_that_the_stock_exporter_sent_come_back(record: EventRecord) -> None:
    (back,) = decode(stock_encoding([record]).SerializeToString(), REGISTRY)
    assert same(back, record)


@given(events())
def test_encoding_again_what_was_decoded_changes_nothing(record: EventRecord) -> None:
    once = ENCODER.encode([record])
    assert ENCODER.encode(decode(once, REGISTRY)) == once


@given(events(), st.dictionaries(st.text(max_size=9), st.none() | st.integers() | st.text(), max_size=3), st.data())
def test_whatever_stands_in_the_values_something_valid_is_written(
    record: EventRecord, strange: dict[str, Any], data: st.DataObject
) -> None:
    names = [f.name for f in record.declaration.fields]
    anything = st.one_of(st.integers(), st.floats(), st.booleans(), st.binary(), st.just(strange), st.text())
    record.values[data.draw(st.sampled_from(names))] = data.draw(anything)
    (back,) = decode(ENCODER.encode([record]), REGISTRY)
    assert back.event_id == record.event_id


@given(st.binary() | events().map(lambda r: ENCODER.encode([r])[:-1]))
def test_bytes_from_anywhere_are_refused_or_read(garbage: bytes) -> None:
    try:
        records = decode(garbage, REGISTRY)
    except MalformedRequestError:
        return
    assert all(record.declaration in DECLARATIONS for record in records)
