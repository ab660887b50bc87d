"""OTLP → events: the one decoder of spool, gateway and tests."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Hashable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Protocol
from uuid import UUID

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # protobuf has no types of its own
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.trace import TraceFlags

from caseyos_otel.errors import CaseyosOtelError
from caseyos_otel.events.identity import derived_event_id
from caseyos_otel.events.model import Declaration, Problem
from caseyos_otel.events.record import (
    DELIVERY,
    EVENT_ID,
    EXCEPTION_ATTRIBUTES,
    INVALID_FIELDS,
    Delivery,
    EventRecord,
)
from caseyos_otel.otlp.places import Place, find
from caseyos_otel.otlp.shapes import Shapes

if TYPE_CHECKING:
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue

OnUndeclared = Callable[[str, bytes], None]
OnInvalid = Callable[[Declaration, Problem], None]

_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
LEARNED_A_REQUEST: Final = 4
"""To learn the structure of a record takes as long as to read twenty: a request pays for a few at most."""
_LARGEST_KEPT: Final = 16 * 1024
_LATEST: Final = (1 << 63) - 1
_DELIVERIES: Final = {delivery.value: delivery for delivery in Delivery}


class MalformedRequestError(CaseyosOtelError, ValueError):
    """These bytes are no OTLP logs request."""


class Declarations(Protocol):
    """Where declarations are looked up; `events.registry.registry` is one."""

    def get(self, name: str) -> Declaration | None:
        """The declaration of a flat or an OpenTelemetry name, if any."""


def decode(
    request: bytes,
    registry: Declarations,
    *,
    on_undeclared: OnUndeclared | None = None,
    on_invalid: OnInvalid | None = None,
    now: Callable[[], int] = time.time_ns,
) -> list[EventRecord]:
    """The declared events of an `ExportLogsServiceRequest`, in the order in which they stand.

    Args:
        on_undeclared: gets the name of every other record, and its bytes as a request of its own.
        on_invalid: gets what is wrong with a field that the sender did not name itself.
        now: nanoseconds since 1970, for a record that has no time at all.

    Raises:
        MalformedRequestError: the bytes are no such request.
    """
    found = find(request)
    if found is None or not isinstance(registry, Hashable):
        return _decode_whole(request, registry, on_undeclared, on_invalid, now)
    shapes, get, to_learn = _shapes_of(registry), registry.get, LEARNED_A_REQUEST
    records: list[EventRecord] = []
    for place in found:
        resource = _resource_of(place.resource)
        events = shapes.read(request, place.records, resource, get)
        for (start, end), known in zip(place.records, events, strict=True):
            event = known
            if event is None:
                event = _read(request[start:end], place, resource, get, on_undeclared, on_invalid, now)
                if event is not None and to_learn:
                    to_learn -= 1
                    shapes.learn(request[start:end], event)
            if event is not None:
                records.append(event)
    return records


def _read(
    record: bytes,
    place: Place,
    resource: dict[str, Any],
    get: Callable[[str], Declaration | None],
    on_undeclared: OnUndeclared | None,
    on_invalid: OnInvalid | None,
    now: Callable[[], int],
) -> EventRecord | None:
    """One record by its message; None where it is no declared event."""
    message = _parse(LogRecord, record)
    declaration = get(message.event_name)
    if declaration is not None:
        return _event(message, declaration, resource, on_invalid, now)
    if on_undeclared is not None:
        on_undeclared(message.event_name, place.request_of(record))
    return None


def _decode_whole(
    request: bytes,
    registry: Declarations,
    on_undeclared: OnUndeclared | None,
    on_invalid: OnInvalid | None,
    now: Callable[[], int],
) -> list[EventRecord]:
    """By protobuf's messages alone: a request that is written in an unusual way."""
    records = []
    for record, resource, where in _walk(_parse(ExportLogsServiceRequest, request)):
        declaration = registry.get(record.event_name)
        if declaration is not None:
            records.append(_event(record, declaration, resource, on_invalid, now))
        elif on_undeclared is not None:
            on_undeclared(record.event_name, _request_of(record, *where))
    return records


@lru_cache(maxsize=8)
def _shapes_of(registry: Declarations) -> Shapes:
    return Shapes()


def _parse(kind: Any, request: bytes) -> Any:
    try:
        return kind.FromString(request)
    except DecodeError as error:
        raise MalformedRequestError(
            f"{len(request)} bytes are not an OTLP ExportLogsServiceRequest in protobuf: {error}"
        ) from error


def _walk(
    request: ExportLogsServiceRequest,
) -> Iterator[tuple[LogRecord, dict[str, Any], tuple[ResourceLogs, ScopeLogs]]]:
    for resource_logs in request.resource_logs:
        resource = _resource_of(resource_logs.resource.SerializeToString())
        for scope_logs in resource_logs.scope_logs:
            for record in scope_logs.log_records:
                yield record, resource, (resource_logs, scope_logs)


def _resource_of(identity: bytes) -> dict[str, Any]:
    return _known_resource(identity) if len(identity) <= _LARGEST_KEPT else _resource(identity)


def _resource(identity: bytes) -> dict[str, Any]:
    return {attribute.key: python_value(attribute.value) for attribute in _parse(Resource, identity).attributes}


# equal resources are one object, so that encoding groups by identity; nobody changes it
_known_resource = lru_cache(maxsize=64)(_resource)


def _request_of(record: LogRecord, resource_logs: ResourceLogs, scope_logs: ScopeLogs) -> bytes:
    one = ScopeLogs(scope=scope_logs.scope, log_records=[record], schema_url=scope_logs.schema_url)
    where = ResourceLogs(resource=resource_logs.resource, scope_logs=[one], schema_url=resource_logs.schema_url)
    return bytes(ExportLogsServiceRequest(resource_logs=[where]).SerializeToString())


def _event(
    record: LogRecord,
    declaration: Declaration,
    resource: dict[str, Any],
    on_invalid: OnInvalid | None,
    now: Callable[[], int],
) -> EventRecord:
    fields, others = _split(record, declaration)
    named = _named_by_sender(others.get(INVALID_FIELDS), declaration)
    values, problems = declaration.bind(fields)
    unnamed = [problem for problem in problems if problem.field not in named]
    if on_invalid is not None:
        for problem in unnamed:
            on_invalid(declaration, problem)
    own_time = _time(record.time_unix_nano) or _time(record.observed_time_unix_nano)
    timestamp = own_time or now()
    return EventRecord(
        declaration,
        values,
        event_id=_event_id(others.get(EVENT_ID)) or derived_event_id(own_time, _content(record)),
        timestamp=timestamp,
        observed_timestamp=_time(record.observed_time_unix_nano) or timestamp,
        invalid_fields=(*named, *dict.fromkeys(problem.field for problem in unnamed)),
        trace_id=_identifier(record.trace_id, 16),
        span_id=_identifier(record.span_id, 8),
        trace_flags=TraceFlags(record.flags & 0xFF),
        delivery=_delivery(others.get(DELIVERY)),
        exception_attributes={k: others[k] for k in EXCEPTION_ATTRIBUTES if isinstance(others.get(k), str)},
        resource=resource,
    )


def _split(record: LogRecord, declaration: Declaration) -> tuple[dict[str, Any], dict[str, Any]]:
    """Attributes as what `bind` takes (`metadata.recipient` inside `metadata`), and those that are no fields.

    A field may also come under its flat name, as a stock SDK's user writes it; its OpenTelemetry attribute wins.
    """
    found: dict[str, Any] = {}
    others: dict[str, Any] = {}
    by_attribute, by_name = declaration.by_attribute, declaration.by_name
    for attribute in record.attributes:
        field = by_attribute.get(attribute.key)
        if field is not None:
            found[field.name] = python_value(attribute.value)
        else:
            others[attribute.key] = python_value(attribute.value)
    for name in others.keys() & by_name.keys():
        found.setdefault(name, others[name])
    return _grouped(found) if declaration.groups else found, others


def _grouped(found: dict[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in found.items():
        group, dot, key = name.partition(".")
        if dot:
            fields.setdefault(group, {})[key] = value
        else:
            fields[name] = value
    return fields


def python_value(value: AnyValue) -> Any:
    """An `AnyValue` as a Python value."""
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [python_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return {item.key: python_value(item.value) for item in value.kvlist_value.values}
    return getattr(value, kind)


def _named_by_sender(names: Any, declaration: Declaration) -> tuple[str, ...]:
    if not isinstance(names, list):
        return ()
    known = {*declaration.by_name, *declaration.groups, "timestamp"}
    return tuple(dict.fromkeys(name for name in names if isinstance(name, str) and name in known))


def _event_id(text: Any) -> str | None:
    if not isinstance(text, str):
        return None
    if _UUID.fullmatch(text):
        return text
    try:
        return str(UUID(text))
    except ValueError:
        return None


def _content(record: LogRecord) -> bytes:
    """What identifies a record that has no id: all but the time at which somebody on the way saw it."""
    content = LogRecord()
    content.CopyFrom(record)
    if record.time_unix_nano:
        content.ClearField("observed_time_unix_nano")
    return bytes(content.SerializeToString(deterministic=True))


def _time(nanoseconds: int) -> int:
    """0 (OTLP's "unknown") also for a time that no clock can show."""
    return nanoseconds if nanoseconds <= _LATEST else 0


def _identifier(identifier: bytes, length: int) -> int:
    return int.from_bytes(identifier) if len(identifier) == length else 0


def _delivery(text: Any) -> Delivery | None:
    return _DELIVERIES.get(text) if isinstance(text, str) else None
