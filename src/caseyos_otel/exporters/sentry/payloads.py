"""An event as Sentry takes it: an issue, a breadcrumb, a log. Pure; every value was disclosed before it comes here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from opentelemetry._logs import SeverityNumber
from opentelemetry.trace import format_span_id, format_trace_id

from caseyos_otel.events.field import Field
from caseyos_otel.events.record import EventRecord, rfc3339
from caseyos_otel.exporters.sentry import grouping, stacktrace

LOGGER: Final = "caseyos_otel"
CONTEXT: Final = "caseyos.event"
BREADCRUMB_DATA: Final = 10
"""sentry-sdk cuts a breadcrumb's data to so many keys, silently."""

_TAG_LENGTH: Final = 200
_LEVELS: Final[Mapping[SeverityNumber, str]] = {
    SeverityNumber.INFO: "info",
    SeverityNumber.WARN: "warning",
    SeverityNumber.ERROR: "error",
}
_RESOURCE: Final[Mapping[str, str]] = {
    "service.name": "service",
    "service.version": "service_version",
    "service.instance.id": "service_instance",
    "deployment.environment.name": "environment",
}


def issue(
    record: EventRecord,
    values: Mapping[str, Any],
    disclose_text: Callable[[str], str],
    breadcrumbs: Iterable[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The Sentry event of a failure; its id is the event's, so that a repeated one is stored once.

    An exception that raised it gives type, message and stack; without one the title tells the failure.
    """
    event: dict[str, Any] = {
        "event_id": record.event_id.replace("-", ""),
        "timestamp": _moment(record.timestamp or 0),
        "level": level(record),
        "platform": "python",
        "logger": LOGGER,
        "fingerprint": grouping.fingerprint(record, values),
        "tags": _tags(record, values),
        "contexts": {CONTEXT: _context(record, values)},
        "breadcrumbs": {"values": [dict(crumb) for crumb in breadcrumbs]},
    }
    if record.trace_id:
        event["contexts"]["trace"] = {
            "trace_id": format_trace_id(record.trace_id),
            "span_id": format_span_id(record.span_id or 0),
        }
    if values.get("user_id"):
        event["user"] = {"id": str(values["user_id"])}
    return event | _what_happened(record, values, disclose_text)


def breadcrumb(record: EventRecord, values: Mapping[str, Any]) -> dict[str, Any]:
    """An earlier event of the same request: its name and its first fields."""
    present = [(name, _json(value)) for name, value in values.items() if value is not None]
    return {
        "type": "default",
        "category": "telemetry",
        "message": record.declaration.name,
        "level": level(record),
        "timestamp": _moment(record.timestamp or 0),
        "data": dict(present[:BREADCRUMB_DATA]),
    }


def log(record: EventRecord, values: Mapping[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """Body, severity and attributes of a Sentry log; the attributes have the specification's flat names."""
    attributes = {"event": record.declaration.name, "event_id": record.event_id, **_fields(values)}
    return record.declaration.name, level(record), attributes


def level(record: EventRecord) -> str:
    """Sentry's level: error for a final failure, warning for one that will be retried, else info."""
    return _LEVELS.get(record.severity_number or SeverityNumber.INFO, "info")


def _what_happened(
    record: EventRecord, values: Mapping[str, Any], disclose_text: Callable[[str], str]
) -> dict[str, Any]:
    texts = record.exception_attributes
    if kind := texts.get("exception.type"):
        message = disclose_text(texts.get("exception.message", ""))
        stack = disclose_text(texts.get("exception.stacktrace", ""))
        return {"exception": {"values": stacktrace.exceptions(kind, message, stack)}}
    return {"logentry": {"formatted": grouping.title(record, values)}}


def _tags(record: EventRecord, values: Mapping[str, Any]) -> dict[str, str]:
    """The event's name and its bounded fields (those that a metric may have), as Sentry searches them."""
    tags = {"event": record.declaration.name}
    for field in record.declaration.fields:
        if field.dimension and values[field.name] is not None:
            tags[field.name] = _tag(field, values[field.name])
    if error_type := grouping.error_type(record, values):
        tags["error_type"] = error_type[:_TAG_LENGTH]
    if record.resource and (service := record.resource.get("service.name")):
        tags["service.name"] = str(service)[:_TAG_LENGTH]
    return tags


def _tag(field: Field, value: Any) -> str:
    text = str(value).lower() if field.type == "boolean" else str(value)
    return text.replace("\n", " ")[:_TAG_LENGTH]


def _context(record: EventRecord, values: Mapping[str, Any]) -> dict[str, Any]:
    """All fields of the event; contexts are not cut to ten keys."""
    context: dict[str, Any] = {"event": record.declaration.name, "event_id": record.event_id, **_fields(values)}
    if record.invalid_fields:
        context["invalid_fields"] = list(record.invalid_fields)
    for attribute, name in _RESOURCE.items():
        if record.resource and attribute in record.resource:
            context.setdefault(name, str(record.resource[attribute]))
    return context


def _fields(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _json(value) for name, value in values.items() if value is not None}


def _json(value: Any) -> Any:
    return rfc3339(value) if isinstance(value, datetime) else value


def _moment(timestamp_ns: int) -> str:
    """Nanoseconds since 1970 as Sentry writes a time: RFC 3339 with microseconds."""
    seconds, rest = divmod(timestamp_ns, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest // 1000)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
