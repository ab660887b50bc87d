"""Records whose structure was seen are read as their messages would be, whatever their values and whatever was damaged."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from caseyos_otel.events.record import EVENT_ID, EventRecord
from caseyos_otel.otlp import decode as decoding
from caseyos_otel.otlp import wire
from tests.properties.test_otlp import ENCODER, REGISTRY, events

Result = list[dict[str, Any]] | str


def seen(decode: Any, request: bytes) -> tuple[Result, list[tuple[str, bytes]], list[tuple[str, Any]]]:
    """Everything that a decoder says of a request: events, undeclared records as messages, problems; or that it is none."""
    undeclared: list[tuple[str, bytes]] = []
    invalid: list[tuple[str, Any]] = []

    def aside(name: str, alone: bytes) -> None:
        undeclared.append((name, ExportLogsServiceRequest.FromString(alone).SerializeToString(deterministic=True)))

    def problem(declaration: Any, what: Any) -> None:
        invalid.append((declaration.name, repr(what)))

    try:
        found: list[EventRecord] = decode(request, REGISTRY, aside, problem, lambda: 1)
    except decoding.MalformedRequestError:
        return "no request", [], []
    return (
        [{**vars(r), "values": repr(r.values), "declaration": r.declaration.name} for r in found],
        undeclared,
        invalid,
    )


def quick(request: bytes, registry: Any, aside: Any, problem: Any, now: Any) -> list[EventRecord]:
    return decoding.decode(request, registry, on_undeclared=aside, on_invalid=problem, now=now)


def same(request: bytes) -> None:
    expected = seen(decoding._decode_whole, request)
    for _ in range(3):  # unknown, seen once, learned
        assert seen(quick, request) == expected


@given(st.lists(events(), min_size=1, max_size=4))
def test_our_own_requests(records: list[EventRecord]) -> None:
    same(ENCODER.encode(records))


@given(st.lists(events(), min_size=1, max_size=3), st.booleans())
def test_as_protobuf_writes_them_with_and_without_an_id(records: list[EventRecord], with_id: bool) -> None:
    request = ExportLogsServiceRequest.FromString(ENCODER.encode(records))
    if not with_id:
        for record in request.resource_logs[0].scope_logs[0].log_records:
            kept = [attribute for attribute in record.attributes if attribute.key != EVENT_ID]
            del record.attributes[:]
            record.attributes.extend(kept)
    same(request.SerializeToString())


@settings(max_examples=300)
@given(events(), st.data())
def test_what_was_damaged_after_it_was_learned(record: EventRecord, data: st.DataObject) -> None:
    request = ENCODER.encode([record])
    same(request)
    damaged = bytearray(request)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at] = data.draw(st.integers(0, 255))
    same(bytes(damaged))


@given(st.lists(events(), min_size=1, max_size=3), st.binary(max_size=30), st.binary(max_size=30))
def test_requests_joined_with_anything(records: list[EventRecord], before: bytes, after: bytes) -> None:
    same(before + ENCODER.encode(records) + ENCODER.encode(records) + after)


@pytest.mark.parametrize("other", [b"\x18\xac\x00", b"\x18\x05\x05", b"\x18\xff\xff"], ids=["longer", "two", "endless"])
@pytest.mark.parametrize("key", ["caseyos.circuit_breaker.threshold", "undeclared"])
def test_a_number_that_protobuf_would_not_write_so(key: str, other: bytes) -> None:
    ours = "caseyos.circuit_breaker."
    whole = {f"{ours}service": "gmail", f"{ours}failure_count": 3, f"{ours}threshold": 300, "undeclared": 300}
    found = b"".join(wire.delimited(6, wire.key_value(name, value)) for name, value in whole.items())
    record = wire.tag(1, wire.FIXED64) + bytes(range(8)) + found + wire.delimited(12, f"{ours}opened".encode())
    request = wire.delimited(1, wire.delimited(2, wire.delimited(2, record)))
    damaged = request.replace(wire.key_value(key, 300), wire.key_value(key, 300).replace(b"\x18\xac\x02", other))
    assert damaged != request
    same(request)
    same(damaged)


def test_of_a_structure_that_was_seen_twice_no_message_is_made(monkeypatch: Any) -> None:
    requests = [ENCODER.encode([_accepted(n)]) for n in range(4)]
    for request in requests[:2]:
        decoding.decode(request, REGISTRY)

    class NoMessage:
        @staticmethod
        def FromString(_: bytes) -> LogRecord:  # noqa: N802  # protobuf's name
            raise AssertionError("a message was made")

    monkeypatch.setattr(decoding, "LogRecord", NoMessage)
    for n, request in enumerate(requests[2:], 2):
        (event,) = decoding.decode(request, REGISTRY)
        assert event.values["aps_score"] == n + 0.5


def _accepted(n: int) -> EventRecord:
    declaration = REGISTRY.require("recommendation_accepted")
    fields = {"recommendation_id": f"rec-{n}", "aps_score": n + 0.5, "action_type": "send_email", "user_id": "casey"}
    return EventRecord(
        declaration,
        declaration.bind(fields).values,
        event_id=f"0190a5d2-6c1e-7b3a-9f51-2f6d1c8e4a1{n}",
        timestamp=1_769_178_600_123_456_789 + n,
        observed_timestamp=1_769_178_600_123_456_789 + n,
        trace_id=2**100 + n,
        span_id=2**60 + n,
    )
