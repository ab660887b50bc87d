"""The columns that rows fill, and values as both databases hold them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final

from caseyos_otel.events.field import FieldType
from caseyos_otel.events.record import rfc3339

REPLACEMENT: Final = "\ufffd"
"""Stands for what PostgreSQL does not store: NUL and lone surrogates."""

MAX_INDEXED: Final = 512
"""Characters of an indexed column. PostgreSQL's index entries end at 2,704 bytes; `properties` keeps the whole."""

_MOST_EXACT: Final = 2**53
"""A whole number beyond is not itself any more in a column of floating point; `properties` keeps it."""

_TEXT: Final = frozenset({FieldType.ID, FieldType.STRING})
_NUMBER: Final = frozenset({FieldType.INT, FieldType.DOUBLE})
EVENT_FIELDS: Final[Mapping[str, frozenset[FieldType]]] = {
    "recommendation_id": _TEXT,
    "action_id": _TEXT,
    "draft_id": _TEXT,
    "deal_id": _TEXT,
    "user_id": _TEXT,
}
OUTCOME_FIELDS: Final[Mapping[str, frozenset[FieldType]]] = {
    **EVENT_FIELDS,
    "deliverable_id": _TEXT,
    "client": _TEXT,
    "old_stage": _TEXT,
    "new_stage": _TEXT,
    "pipeline_value": _NUMBER,
    "time_to_reply_hours": _NUMBER,
    "time_to_book_hours": _NUMBER,
    "meeting_time": frozenset({FieldType.TIMESTAMP}),
    "reply_sentiment": _TEXT,
    "on_time": frozenset({FieldType.BOOLEAN}),
}
"""Fields that have a column of their name, with the types it takes; a service's own event may declare another type."""

_IDENTITY: Final = ("event_id", "event", "occurred_at", "received_at")
_ORIGIN: Final = ("trace_id", "span_id", "service_name", "service_version", "environment", "properties")
OUTCOME_COLUMNS: Final = (
    *_IDENTITY, "recommendation_id", "action_id", "draft_id", "deal_id", "deliverable_id", "contact_email",
    "contact_hash", "client", "user_id", "old_stage", "new_stage", "pipeline_value", "time_to_reply_hours",
    "time_to_book_hours", "meeting_time", "reply_sentiment", "on_time", *_ORIGIN,
)  # fmt: skip
EVENT_COLUMNS: Final = (
    *_IDENTITY, "failure", "recommendation_id", "action_id", "draft_id", "deal_id", "contact_hash", "user_id", *_ORIGIN,
)  # fmt: skip
"""What this release writes, in the order of the table. A column that a migration adds is not among them until the
release after it (docs/storage.md): then both releases write to both schemas."""

BOOLEANS: Final = ("failure", "on_time")
MOMENTS: Final = ("occurred_at", "received_at", "meeting_time")

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def clean(value: Any) -> Any:
    """`value` as JSON and PostgreSQL can hold it: a timestamp as text, no NUL, no lone surrogate, no NaN."""
    if isinstance(value, str):
        return _clean_text(value)
    if isinstance(value, datetime):
        return rfc3339(value.astimezone(UTC))
    return None if isinstance(value, float) and not math.isfinite(value) else value


def fitted(value: Any) -> tuple[Any, bool]:
    """`value` as a column of its type holds it, and whether that is all of it."""
    if isinstance(value, str):
        text = _clean_text(value)
        return text[:MAX_INDEXED], len(text) <= MAX_INDEXED
    if isinstance(value, float):
        return (value if math.isfinite(value) else None), True
    exact = not isinstance(value, int) or -_MOST_EXACT <= value <= _MOST_EXACT
    return (value if exact else None), exact


def moment(value: datetime) -> str:
    """In UTC, as `tables.UtcDateTime` writes it to SQLite: `YYYY-MM-DD HH:MM:SS.ffffff`."""
    return value.astimezone(UTC).isoformat(" ", "microseconds")[:26]


@lru_cache(maxsize=64)
def second(seconds: int) -> str:
    """The same of seconds since 1970, without the fraction. Records of a batch happened within a few: a datetime for each
    costs four times as much."""
    return (_EPOCH + timedelta(seconds=seconds)).isoformat(" ")[:19]


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
