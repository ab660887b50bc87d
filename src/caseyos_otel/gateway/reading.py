"""What is in a request: pure. A request of logs or traces becomes frames for the spool, and counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # protobuf has no types of its own
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs

from caseyos_otel.gateway.refusal import MALFORMED, TOO_LARGE, Refused
from caseyos_otel.otlp import wire

REQUESTS: Final = "requests"
SPANS: Final = "spans"
LONGEST_NAME: Final = 256
MOST_RECORDS: Final = 100_000
"""Records (spans, span events) of one request: empty ones take two bytes each, and hold everybody up."""
LARGEST_RECORD: Final = 2**20
"""Bytes of one record: what no destination takes (Sentry's largest event, the Collector's usual bounds) is said at once."""
_UNUSABLE: Final = (
    f"event names have at most {LONGEST_NAME} characters, records at most {LARGEST_RECORD} bytes; an event that nobody"
    " declared is set aside only while there is room: declare it, then run `caseyos-otel spool replay`"
)
_NAME_ATTRIBUTE: Final = "event.name"
"""Where an event's name stood before log records had a field for it (semantic conventions, registry, "Event")."""
_SPANS_FIELD: Final = 15
"""`ExportLogsServiceRequest` has no such field: a decoder of log frames sees a request without records."""
_SPANS_TAG: Final = wire.tag(_SPANS_FIELD, wire.LENGTH)


@dataclass(frozen=True, slots=True)
class Request:
    """What a request holds: frames by series, how often each event name came, what else, and what cannot be used."""

    frames: tuple[tuple[str, bytes], ...]
    names: Counter[str]
    others: int
    rejected: int = 0
    why: str = ""


def parse_logs(body: bytes) -> ExportLogsServiceRequest:
    """Raises Refused where the bytes are no such request."""
    request: ExportLogsServiceRequest = _parse(ExportLogsServiceRequest, body)
    return request


def parse_traces(body: bytes) -> ExportTraceServiceRequest:
    """Raises Refused where the bytes are no such request."""
    request: ExportTraceServiceRequest = _parse(ExportTraceServiceRequest, body)
    return request


def _parse(kind: Any, body: bytes) -> Any:
    try:
        return kind.FromString(body)
    except DecodeError:
        name = kind.DESCRIPTOR.name
        raise Refused(MALFORMED, f"the body is no {name} in protobuf, or is nested too deeply") from None


def read_logs(
    request: ExportLogsServiceRequest,
    body: bytes,
    forwarding: bool,
    has_place: Callable[[str], bool] = lambda name: True,
    declared: Callable[[str], bool] = lambda name: False,
) -> Request:
    """A request of log records. Its own bytes are the frame, unless a record in it cannot be used, or is named by attribute.

    `forwarding`: whether records without an event name go anywhere; else they are only counted. `has_place`: whether an
    event of this name can be kept. `declared`: whether an attribute with this name makes a record an event.
    """
    _check_number(sum(len(scope.log_records) for of_one in request.resource_logs for scope in of_one.scope_logs))
    names = _event_names(request)
    renamed = "" in names and _NAME_ATTRIBUTE.encode() in body and _name_by_attribute(request, declared)
    if renamed:
        names = _event_names(request)
    unusable = {name for name in names if len(name) > LONGEST_NAME or (name and not has_place(name))}
    rejected = _remove(request, unusable) if unusable or len(body) > LARGEST_RECORD else 0
    if rejected:
        names = _event_names(request)
    # our frames of spans are marked by a field that logs do not have
    if rejected or renamed or body.startswith(_SPANS_TAG):
        request.DiscardUnknownFields()
        body = bytes(request.SerializeToString())
    others = names.pop("", 0)
    frames = ((REQUESTS, body),) if names or (others and forwarding) else ()
    return Request(frames, names, others, rejected, _UNUSABLE if rejected else "")


def _check_number(records: int) -> None:
    if records > MOST_RECORDS:
        raise Refused(TOO_LARGE, f"{records} records in one request; accepted are {MOST_RECORDS}")


def _event_names(request: ExportLogsServiceRequest) -> Counter[str]:
    return Counter([r.event_name for rl in request.resource_logs for sl in rl.scope_logs for r in sl.log_records])


def _name_by_attribute(request: ExportLogsServiceRequest, declared: Callable[[str], bool]) -> bool:
    """Give records the event name that an attribute says, if it is declared; whether there was one."""
    found = False
    for record in (r for rl in request.resource_logs for sl in rl.scope_logs for r in sl.log_records):
        name = "" if record.event_name else _old_name(record)
        if name and declared(name):
            record.event_name = name
            found = True
    return found


def _old_name(record: LogRecord) -> str:
    return next((a.value.string_value for a in record.attributes if a.key == _NAME_ATTRIBUTE), "")


def _remove(request: ExportLogsServiceRequest, names: set[str]) -> int:
    """Take out records of these names, and those that are too large; how many."""
    removed = 0
    for resource_logs in request.resource_logs:
        for scope_logs in resource_logs.scope_logs:
            usable = [r for r in scope_logs.log_records if r.event_name not in names and r.ByteSize() <= LARGEST_RECORD]
            if len(usable) < len(scope_logs.log_records):
                removed += len(scope_logs.log_records) - len(usable)
                kept = [LogRecord.FromString(r.SerializeToString()) for r in usable]
                del scope_logs.log_records[:]
                scope_logs.log_records.extend(kept)
    return removed


def read_traces(
    request: ExportTraceServiceRequest, body: bytes, declared: Callable[[str], bool], forwarding: bool
) -> Request:
    """A request of spans. Span events of a declared name become a frame of log records; the spans themselves go on."""
    names: Counter[str] = Counter()
    events: list[ResourceLogs] = []
    scopes = [scope for of_one in request.resource_spans for scope in of_one.scope_spans]
    spans = sum(len(scope.spans) for scope in scopes)
    _check_number(spans)
    _check_number(sum(len(span.events) for scope in scopes for span in scope.spans))
    for resource_spans in request.resource_spans:
        for scope_spans in resource_spans.scope_spans:
            records = [record for span in scope_spans.spans for record in _events(span, declared)]
            if records:
                names.update(record.event_name for record in records)
                of_scope = ScopeLogs(scope=scope_spans.scope, log_records=records, schema_url=scope_spans.schema_url)
                events.append(
                    ResourceLogs(
                        resource=resource_spans.resource, scope_logs=[of_scope], schema_url=resource_spans.schema_url
                    )
                )
    frames = _frames(events, body if forwarding and spans else b"")
    return Request(tuple(frames), names, spans)


def _frames(events: list[ResourceLogs], spans: bytes) -> Iterable[tuple[str, bytes]]:
    if events:
        yield REQUESTS, bytes(ExportLogsServiceRequest(resource_logs=events).SerializeToString())
    if spans:
        yield SPANS, _SPANS_TAG + wire.varint(len(spans)) + spans


def _events(span: Any, declared: Callable[[str], bool]) -> list[LogRecord]:
    return [
        LogRecord(
            time_unix_nano=event.time_unix_nano,
            event_name=event.name,
            attributes=event.attributes,
            trace_id=span.trace_id,
            span_id=span.span_id,
            flags=span.flags & 0xFF,
        )
        for event in span.events
        if event.name and declared(event.name)
    ]


def spans_in(frame: bytes) -> bytes | None:
    """The trace request in a frame of the series `spans`; None for any other frame."""
    if not frame.startswith(_SPANS_TAG):
        return None
    at = len(_SPANS_TAG)
    while frame[at] & 0x80:
        at += 1
    return frame[at + 1 :]
