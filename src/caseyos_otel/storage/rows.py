"""From an event to its row: pure, and safe for both databases whatever the values are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from caseyos_otel.events.field import Privacy
from caseyos_otel.events.record import EventRecord, rfc3339

Row = dict[str, Any]
"""Column → value: strings, numbers, booleans, aware datetimes, None; `properties` a dict that JSON can hold."""

REPLACEMENT: Final = "\ufffd"
"""Stands for what PostgreSQL does not store: NUL and lone surrogates."""

MAX_INDEXED: Final = 512
"""Characters of an indexed column. PostgreSQL's index entries end at 2,704 bytes; `properties` keeps the whole."""

_TEXT: Final = (str,)
_NUMBER: Final = (float, int)
_EVENT_COLUMNS: Final[Mapping[str, tuple[type, ...]]] = {
    "recommendation_id": _TEXT,
    "action_id": _TEXT,
    "draft_id": _TEXT,
    "deal_id": _TEXT,
    "user_id": _TEXT,
}
_OUTCOME_COLUMNS: Final[Mapping[str, tuple[type, ...]]] = {
    **_EVENT_COLUMNS,
    "deliverable_id": _TEXT,
    "client": _TEXT,
    "old_stage": _TEXT,
    "new_stage": _TEXT,
    "pipeline_value": _NUMBER,
    "time_to_reply_hours": _NUMBER,
    "time_to_book_hours": _NUMBER,
    "meeting_time": (datetime,),
    "reply_sentiment": _TEXT,
    "on_time": (bool,),
}
"""Fields that have a column of their name, with the types it takes; a service's own event may declare another type."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def outcome_row(
    record: EventRecord, values: Mapping[str, Any], received_at: datetime, pseudonym: Callable[[str], str]
) -> Row:
    """The row of `outcome_events`.

    `values` are the record's fields as this database may see them. `contact_email` is the first field of privacy class
    `email`, if it may be seen in plain; `contact_hash` its pseudonym, always. Fields without a column are `properties`.
    """
    row = _common(record, received_at)
    row |= dict.fromkeys(_OUTCOME_COLUMNS)
    contact, row["contact_hash"] = _contact(record, pseudonym)
    plain = contact is not None and values[contact] == record.values[contact]
    row["contact_email"] = clean(values[contact]) if contact is not None and plain else None
    _distribute(row, values, _OUTCOME_COLUMNS, but=contact)
    return row


def event_row(
    record: EventRecord, values: Mapping[str, Any], received_at: datetime, pseudonym: Callable[[str], str]
) -> Row:
    """The row of `events`: `contact_hash` as in `outcome_row`, the address itself (if disclosed) in `properties`."""
    row = _common(record, received_at)
    row |= dict.fromkeys(_EVENT_COLUMNS)
    row["failure"] = record.failure
    _, row["contact_hash"] = _contact(record, pseudonym)
    _distribute(row, values, _EVENT_COLUMNS, but=None)
    return row


def row(record: EventRecord, values: Mapping[str, Any], received_at: datetime, pseudonym: Callable[[str], str]) -> Row:
    """The row of the table that holds `record`: `outcome_events` for an outcome, else `events`."""
    return (outcome_row if record.outcome else event_row)(record, values, received_at, pseudonym)


def clean(value: Any) -> Any:
    """`value` as JSON and PostgreSQL can hold it: a timestamp as text, no NUL, no lone surrogate, no NaN."""
    if isinstance(value, str):
        return _clean_text(value)
    if isinstance(value, datetime):
        return rfc3339(value.astimezone(UTC))
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _clean_text(text: str) -> str:
    text = text.replace("\x00", REPLACEMENT)
    if text.isascii():
        return text
    return "".join(REPLACEMENT if "\ud800" <= c <= "\udfff" else c for c in text) if _has_surrogate(text) else text


def _has_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _common(record: EventRecord, received_at: datetime) -> Row:
    resource = record.resource or {}
    environment = resource.get("deployment.environment.name") or resource.get("deployment.environment")
    return {
        "event_id": record.event_id,
        "event": record.declaration.name,
        "occurred_at": _EPOCH + timedelta(microseconds=(record.timestamp or 0) // 1000),
        "received_at": received_at,
        "trace_id": f"{record.trace_id:032x}" if record.trace_id else None,
        "span_id": f"{record.span_id:016x}" if record.span_id else None,
        "service_name": _label(resource.get("service.name")),
        "service_version": _label(resource.get("service.version")),
        "environment": _label(environment),
        "properties": {},
    }


def _label(value: object) -> str | None:
    return None if value is None else _clean_text(str(value))


def _contact(record: EventRecord, pseudonym: Callable[[str], str]) -> tuple[str | None, str | None]:
    for field in record.declaration.fields:
        address = record.values[field.name]
        if field.privacy is Privacy.EMAIL and isinstance(address, str):
            return field.name, clean(pseudonym(address))
    return None, None


def _distribute(row: Row, values: Mapping[str, Any], columns: Mapping[str, tuple[type, ...]], but: str | None) -> None:
    for name, value in values.items():
        if value is None or name == but:
            continue
        if type(value) in columns.get(name, ()) and _fits(value):
            row[name] = value if isinstance(value, datetime) else clean(value)
            if not isinstance(value, str) or len(value) <= MAX_INDEXED:
                continue
            row[name] = row[name][:MAX_INDEXED]
        _nest(row["properties"], name, clean(value))


def _fits(value: object) -> bool:
    return not isinstance(value, int) or isinstance(value, bool) or abs(value) <= 2**53


def _nest(properties: Row, name: str, value: Any) -> None:
    group, dot, key = name.partition(".")
    if not dot:
        properties[name] = value
        return
    inner = properties.setdefault(group, {})
    inner[key] = value
