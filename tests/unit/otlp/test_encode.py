"""Events as OTLP bytes, read back with OpenTelemetry's own protobuf classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from caseyos_otel.events.record import Delivery, EventRecord
from caseyos_otel.otlp.decode import python_value
from caseyos_otel.otlp.encode import RequestEncoder

if TYPE_CHECKING:
    from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

Parse = Callable[[bytes], ExportLogsServiceRequest]
Make = Callable[..., EventRecord]


def attributes(record: Any) -> dict[str, Any]:
    return {a.key: python_value(a.value) for a in record.attributes}


def only(request: ExportLogsServiceRequest) -> LogRecord:
    ((record,),) = [[r for s in resource.scope_logs for r in s.log_records] for resource in request.resource_logs]
    return record


def test_a_record_with_all_its_parts(encoder: RequestEncoder, signed: EventRecord, parse: Parse) -> None:
    record = only(parse(encoder.encode([signed])))
    assert attributes(record) == {
        "caseyos.event.id": "01890a5d-ac96-774b-bcce-b302099a8057",
        "acme.contract.id": "c-1",
        "acme.contract.signed_at": "2026-01-23T14:30:00Z",
        "acme.contract.pages": 12,
        "acme.contract.value": 50_000.0,
        "acme.contract.countersigned": False,
        "acme.contract.kind": "new",
        "acme.contract.signer": "john@acmecorp.com",
    }
    assert record.event_name == "acme.contract.signed"
    assert (record.time_unix_nano, record.observed_time_unix_nano) == (
        1_769_178_600_123_456_789,
        1_769_178_600_123_456_999,
    )
    assert (record.severity_number, record.severity_text) == (9, "INFO")
    assert record.trace_id.hex() == "5b8efff798038103d269b633813fc60c"
    assert record.span_id.hex() == "eee19b7ec3c1b174"
    assert record.flags == 1
    assert record.body.WhichOneof("value") is None


def test_resource_and_scope(encoder: RequestEncoder, signed: EventRecord, parse: Parse) -> None:
    (resource_logs,) = parse(encoder.encode([signed, signed])).resource_logs
    (scope_logs,) = resource_logs.scope_logs
    assert attributes(resource_logs.resource) == {"service.name": "command-center"}
    assert (scope_logs.scope.name, scope_logs.scope.version) == ("caseyos_otel", "1.2.3")
    assert scope_logs.schema_url == "https://example.com/schema/1"
    assert len(scope_logs.log_records) == 2


def test_a_double_is_a_double_even_where_a_whole_number_was_given(
    encoder: RequestEncoder, signed: EventRecord, parse: Parse
) -> None:
    assert type(signed.values["value"]) is int
    assert type(attributes(only(parse(encoder.encode([signed]))))["acme.contract.value"]) is float


def test_no_trace_no_ids(encoder: RequestEncoder, make: Make, parse: Parse) -> None:
    record = only(parse(encoder.encode([make("signal_received", signal_id="s", _trace_id=0, _span_id=0)])))
    assert (record.trace_id, record.span_id) == (b"", b"")


def test_what_belongs_to_the_event_beside_its_fields(encoder: RequestEncoder, make: Make, parse: Parse) -> None:
    exception = {"exception.type": "E", "exception.message": "m", "exception.stacktrace": "s"}
    event = make(
        "action_failed",
        action_id="a",
        action_type=7,
        error_type="api_error",
        _delivery=Delivery.BEST_EFFORT,
        _exception_attributes=exception,
    )
    record = only(parse(encoder.encode([event])))
    assert attributes(record) == {
        "caseyos.event.id": event.event_id,
        "caseyos.action.id": "a",
        "error.type": "api_error",
        "caseyos.event.invalid_fields": ["action_type"],
        "caseyos.event.delivery": "best_effort",
        **exception,
    }
    assert (record.severity_number, record.severity_text) == (17, "ERROR")


def test_disclosed_values_leave_instead_of_plain_ones(
    encoder: RequestEncoder, signed: EventRecord, parse: Parse
) -> None:
    signed.exception_attributes = {"exception.type": "E", "exception.message": "mail to john@acmecorp.com"}
    request = encoder.encode([signed], lambda record: {**record.values, "signer": "h_1"})
    assert b"john@acmecorp.com" not in request, "an exception nobody disclosed keeps its text"
    assert attributes(only(parse(request)))["acme.contract.signer"] == "h_1"
    assert attributes(only(parse(request)))["exception.type"] == "E"


def test_the_exception_as_disclosed(encoder: RequestEncoder, signed: EventRecord, parse: Parse) -> None:
    signed.exception_attributes = {"exception.type": "E", "exception.message": "mail to john@acmecorp.com"}
    request = encoder.encode([signed], lambda r: r.values, lambda _: {"exception.message": "mail to h_1"})
    assert attributes(only(parse(request)))["exception.message"] == "mail to h_1"


def test_frames_joined_one_behind_the_other_are_one_request(
    encoder: RequestEncoder, signed: EventRecord, make: Make, parse: Parse
) -> None:
    other = make("signal_received", signal_id="s", source="hubspot", signal_type="t")
    joined = parse(encoder.encode([signed]) + encoder.encode([other]))
    names = [r.event_name for g in joined.resource_logs for s in g.scope_logs for r in s.log_records]
    assert names == ["acme.contract.signed", "caseyos.signal.received"]


def test_a_record_of_another_service_keeps_its_resource(
    encoder: RequestEncoder, signed: EventRecord, make: Make, parse: Parse
) -> None:
    theirs = {"service.name": "billing", "host.cpus": 4}
    others = [make("signal_received", signal_id=s, _resource=theirs) for s in "ab"]
    request = parse(encoder.encode([others[0], signed, others[1]]))
    groups = [(attributes(g.resource), len(g.scope_logs[0].log_records)) for g in request.resource_logs]
    assert groups == [(theirs, 2), ({"service.name": "command-center"}, 1)]


@pytest.mark.parametrize("length", [0, 1, 100, 127, 128, 511, 512, 16_384, 70_000])
def test_texts_of_any_length(encoder: RequestEncoder, make: Make, parse: Parse, length: int) -> None:
    event = make("action_failed", action_id="a", action_type="t", error_type="e", error_message="ä" * length)
    for _ in range(2):  # the second time from what was kept of the first
        record = only(parse(encoder.encode([event])))
        assert attributes(record)["error.message"] == "ä" * length


def test_more_values_than_are_kept(encoder: RequestEncoder, make: Make, parse: Parse) -> None:
    for n in [*range(300), *range(300)]:
        event = make("signal_received", signal_id="s", source="hubspot", signal_type=f"t{n}")
        assert attributes(only(parse(encoder.encode([event]))))["caseyos.signal.type"] == f"t{n}"


@pytest.mark.parametrize(
    ("field", "value", "written"),
    [
        ("pages", "many", "many"),
        ("value", "a lot", "a lot"),
        ("countersigned", "yes", "yes"),
        ("signer", 5, 5),
        ("kind", ["new"], ["new"]),
        ("signed_at", "later", "later"),
        ("signer", "a\ud800", "a\ufffd"),
    ],
)
def test_a_value_that_somebody_put_there_is_written_as_what_it_is(
    encoder: RequestEncoder, signed: EventRecord, parse: Parse, field: str, value: Any, written: Any
) -> None:
    signed.values[field] = value
    record = only(parse(encoder.encode([signed])))
    assert attributes(record)[signed.declaration.by_name[field].attribute] == written
    assert attributes(record)["acme.contract.id"] == "c-1"


def test_a_time_before_1970_is_no_time(encoder: RequestEncoder, make: Make, parse: Parse) -> None:
    event = make("signal_received", signal_id="s", _timestamp=-1)
    assert only(parse(encoder.encode([event]))).time_unix_nano == 0


def test_no_records_no_bytes(encoder: RequestEncoder) -> None:
    assert encoder.encode([]) == b""
