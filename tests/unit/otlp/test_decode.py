"""OTLP bytes as events: our own, those of another SDK, and hostile ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from caseyos_otel.errors import CaseyosOtelError
from caseyos_otel.events.model import Declaration, Problem
from caseyos_otel.events.record import Delivery, EventRecord
from caseyos_otel.events.registry import Registry
from caseyos_otel.otlp import wire
from caseyos_otel.otlp.decode import MalformedRequestError, decode
from caseyos_otel.otlp.encode import RequestEncoder

Make = Callable[..., EventRecord]
TIME = 1_769_178_600_123_456_789


def foreign(name: str, attributes: Mapping[str, Any], **parts: Any) -> LogRecord:
    """A record as another SDK writes it."""
    pairs = [KeyValue.FromString(wire.key_value(key, value)) for key, value in attributes.items()]
    return LogRecord(event_name=name, attributes=pairs, **{"time_unix_nano": TIME, **parts})


def request(*records: LogRecord, service: str = "their-service") -> bytes:
    resource = Resource(attributes=[KeyValue.FromString(wire.key_value("service.name", service))])
    scope = ScopeLogs(scope=InstrumentationScope(name="theirs"), log_records=records)
    return ExportLogsServiceRequest(
        resource_logs=[ResourceLogs(resource=resource, scope_logs=[scope])]
    ).SerializeToString()


def one(record: LogRecord, registry: Registry, **options: Any) -> EventRecord:
    (event,) = decode(request(record), registry, **options)
    return event


def test_our_own_event_comes_back(encoder: RequestEncoder, signed: EventRecord, registry: Registry) -> None:
    (event,) = decode(encoder.encode([signed]), registry)
    assert event.declaration is signed.declaration
    assert event.values == signed.values
    assert event.values["signed_at"] == datetime(2026, 1, 23, 14, 30, tzinfo=UTC)
    assert event.resource == {"service.name": "command-center"}
    for part in ("event_id", "timestamp", "observed_timestamp", "trace_id", "span_id", "trace_flags", "delivery",
                 "invalid_fields", "exception_attributes", "severity_number"):  # fmt: skip
        assert getattr(event, part) == getattr(signed, part), part


def test_fields_inside_a_group(encoder: RequestEncoder, make: Make, registry: Registry) -> None:
    metadata = {"recipient": "john@acmecorp.com", "subject": "Demo", "gmail_message_id": "m"}
    event = make(
        "action_executed", action_id="a", action_type="t", execution_mode="manual", success=True, metadata=metadata
    )
    (back,) = decode(encoder.encode([event]), registry)
    assert {key: back.values[f"metadata.{key}"] for key in metadata} == metadata


def test_failure_with_its_exception_and_delivery(encoder: RequestEncoder, make: Make, registry: Registry) -> None:
    event = make(
        "action_failed",
        action_id="a",
        action_type="t",
        error_type="e",
        _delivery=Delivery.TRANSACTION,
        _exception_attributes={"exception.type": "E", "exception.message": "m"},
    )
    (back,) = decode(encoder.encode([event]), registry)
    assert back.failure
    assert back.delivery is Delivery.TRANSACTION
    assert back.exception_attributes == {"exception.type": "E", "exception.message": "m"}


def test_a_field_that_the_sender_named_is_not_named_twice(
    encoder: RequestEncoder, make: Make, registry: Registry
) -> None:
    event = make("signal_received", signal_id="s", source="carrier pigeon", signal_type="t")
    assert event.invalid_fields == ("source",)
    refused: list[Problem] = []
    (back,) = decode(encoder.encode([event]), registry, on_invalid=lambda _, problem: refused.append(problem))
    assert back.invalid_fields == ("source",)
    assert refused == [], "it was counted where it was refused"


def test_bad_fields_of_a_foreign_event_cost_themselves(registry: Registry) -> None:
    refused: list[tuple[Declaration, str]] = []
    event = one(
        foreign("caseyos.signal.received", {"caseyos.signal.id": "s", "caseyos.signal.source": ["hubspot"]}),
        registry,
        on_invalid=lambda declaration, problem: refused.append((declaration, problem.field)),
    )
    assert event.values["signal_id"] == "s"
    assert event.values["source"] is None
    assert event.invalid_fields == ("source", "signal_type")
    assert refused == [(event.declaration, "source"), (event.declaration, "signal_type")]


def test_names_of_invalid_fields_are_declared_ones(registry: Registry) -> None:
    named = {"caseyos.event.invalid_fields": ["john@acmecorp.com", "processed", 7, "processed", "timestamp"]}
    event = one(foreign("caseyos.signal.received", named), registry)
    assert event.invalid_fields[:2] == ("processed", "timestamp")
    assert "john@acmecorp.com" not in event.invalid_fields


def test_undeclared_attributes_vanish(registry: Registry) -> None:
    event = one(foreign("caseyos.signal.received", {"mail.body": "Dear John", "caseyos.signal.id": "s"}), registry)
    assert "Dear John" not in repr(vars(event))


def test_other_records_are_handed_over_as_requests_of_their_own(registry: Registry) -> None:
    aside: list[tuple[str, bytes]] = []
    known, unknown = foreign("caseyos.signal.received", {}), foreign("acme.unknown", {"a": 1})
    events = decode(request(known, unknown), registry, on_undeclared=lambda name, raw: aside.append((name, raw)))
    assert [e.declaration.name for e in events] == ["signal_received"]
    assert aside == [("acme.unknown", request(unknown))]


def test_flat_names_are_understood(registry: Registry) -> None:
    assert one(foreign("signal_received", {}), registry).declaration.name == "signal_received"


def test_an_event_without_id_gets_one_from_time_and_content(registry: Registry) -> None:
    record = foreign("caseyos.signal.received", {"caseyos.signal.id": "s"})
    first = UUID(one(record, registry).event_id)
    assert first.version == 8
    assert first.int >> 80 == TIME // 1_000_000
    assert str(first) == one(record, registry).event_id
    assert str(first) != one(foreign("caseyos.signal.received", {"caseyos.signal.id": "t"}), registry).event_id


def test_a_derived_id_does_not_depend_on_who_saw_the_record_when(registry: Registry) -> None:
    ids = {
        one(foreign("caseyos.signal.received", {}, observed_time_unix_nano=seen), registry).event_id
        for seen in (0, TIME + 5, TIME + 6)
    }
    assert len(ids) == 1


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("01890A5D-AC96-774B-BCCE-B302099A8057", True),
        ("01890a5dac96774bbcceb302099a8057", True),
        ("", False),
        ("42", False),
        ("x" * 36, False),
        (42, False),
    ],
)
def test_an_id_is_a_uuid_in_its_usual_form(registry: Registry, given: Any, kept: bool) -> None:
    event = one(foreign("caseyos.signal.received", {"caseyos.event.id": given}), registry)
    assert str(UUID(event.event_id)) == event.event_id
    assert (event.event_id == "01890a5d-ac96-774b-bcce-b302099a8057") is kept


@pytest.mark.parametrize(
    ("times", "timestamp", "observed"),
    [
        ({"time_unix_nano": 0, "observed_time_unix_nano": 5}, 5, 5),
        ({"time_unix_nano": 4, "observed_time_unix_nano": 0}, 4, 4),
        ({"time_unix_nano": 0, "observed_time_unix_nano": 0}, 77, 77),
        ({"time_unix_nano": 2**64 - 1, "observed_time_unix_nano": 5}, 5, 5),
    ],
)
def test_times(registry: Registry, times: dict[str, int], timestamp: int, observed: int) -> None:
    event = one(foreign("caseyos.signal.received", {}, **times), registry, now=lambda: 77)
    assert (event.timestamp, event.observed_timestamp) == (timestamp, observed)


def test_identifiers_of_the_wrong_length_are_none(registry: Registry) -> None:
    event = one(foreign("caseyos.signal.received", {}, trace_id=b"\1" * 8, span_id=b"\1" * 16), registry)
    assert (event.trace_id, event.span_id) == (0, 0)


@pytest.mark.parametrize("delivery", ["yesterday", 3, ["durable"]])
def test_an_unknown_delivery_is_the_default(registry: Registry, delivery: Any) -> None:
    event = one(foreign("caseyos.signal.received", {"caseyos.event.delivery": delivery}), registry)
    assert event.delivery is Delivery.BEST_EFFORT


def test_equal_resources_are_one_object(registry: Registry) -> None:
    record = foreign("caseyos.signal.received", {})
    a, b, c = decode(request(record) + request(record) + request(record, service="other"), registry)
    assert a.resource is b.resource
    assert c.resource == {"service.name": "other"}
    assert one(record, registry).resource is a.resource, "frames are decoded one by one"


def test_a_huge_resource_is_read_but_not_kept(registry: Registry) -> None:
    huge = request(foreign("caseyos.signal.received", {}), service="x" * 100_000)
    (a,), (b,) = decode(huge, registry), decode(huge, registry)
    assert a.resource == b.resource == {"service.name": "x" * 100_000}
    assert a.resource is not b.resource


@pytest.mark.parametrize("garbage", [b"\xff", b"not protobuf", b"\x0a\x7f", b'{"resourceLogs": []}'])
def test_bytes_that_are_no_request(registry: Registry, garbage: bytes) -> None:
    with pytest.raises(MalformedRequestError, match=f"{len(garbage)} bytes are not an OTLP") as raised:
        decode(garbage, registry)
    assert isinstance(raised.value, CaseyosOtelError)


def test_nothing_is_nothing(registry: Registry) -> None:
    assert decode(b"", registry) == []
