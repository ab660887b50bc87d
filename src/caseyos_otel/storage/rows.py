"""From an event to its row: pure, and safe for both databases whatever the values are.

What depends on the declaration alone is settled once, in a `Projection`: a row then costs what its values cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final

from caseyos_otel.events.field import Field, FieldType, Privacy
from caseyos_otel.events.model import Declaration
from caseyos_otel.events.record import EventRecord, rfc3339

Row = dict[str, Any]
"""Column → value: strings, numbers, booleans, aware datetimes, None; `properties` a dict that JSON can hold."""

Pseudonym = Callable[[str], str]
_Labels = tuple[str | None, str | None, str | None]
"""Name, version and environment of a service."""

REPLACEMENT: Final = "\ufffd"
"""Stands for what PostgreSQL does not store: NUL and lone surrogates."""

MAX_INDEXED: Final = 512
"""Characters of an indexed column. PostgreSQL's index entries end at 2,704 bytes; `properties` keeps the whole."""

_MOST_EXACT: Final = 2**53
"""A whole number beyond is not itself any more in a column of floating point; `properties` keeps it."""

_TEXT: Final = frozenset({FieldType.ID, FieldType.STRING})
_NUMBER: Final = frozenset({FieldType.INT, FieldType.DOUBLE})
_IDS: Final[Mapping[str, frozenset[FieldType]]] = {
    "recommendation_id": _TEXT,
    "action_id": _TEXT,
    "draft_id": _TEXT,
    "deal_id": _TEXT,
    "user_id": _TEXT,
}
OUTCOME_FIELDS: Final[Mapping[str, frozenset[FieldType]]] = {
    **_IDS,
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

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Projection:
    """Makes the rows of one declaration."""

    def __init__(self, declaration: Declaration) -> None:
        outcome = declaration.outcome
        self.columns = OUTCOME_COLUMNS if outcome else EVENT_COLUMNS
        self._at = {name: index for index, name in enumerate(self.columns)}
        self._blank: list[Any] = [None] * len(self.columns)
        self._blank[1] = declaration.name
        own = OUTCOME_FIELDS if outcome else _IDS
        fits = [field for field in declaration.fields if field.type in own.get(field.name, ())]
        self._typed = tuple((self._at[field.name], field.name) for field in fits)
        self._others = tuple(field.name for field in declaration.fields if field not in fits)
        self._nested = any("." in name for name in self._others)
        self._contacts = tuple(field.name for field in declaration.fields if _is_address(field))
        self._hash = self._at["contact_hash"]
        self._email = self._at.get("contact_email")
        self._failure = self._at.get("failure")
        self._origin = self._at["trace_id"]
        self._known: tuple[Mapping[str, Any] | None, _Labels] = (None, _labels(None))

    def __call__(
        self, record: EventRecord, values: Mapping[str, Any], received_at: datetime, pseudonym: Pseudonym
    ) -> list[Any]:
        """The row's values in the order of `columns`."""
        row = self._blank.copy()
        row[0] = record.event_id
        row[2] = _EPOCH + timedelta(microseconds=(record.timestamp or 0) // 1000)
        row[3] = received_at
        if self._failure is not None:
            row[self._failure] = record.failure
        contact = self._contact(row, record, values, pseudonym) if self._contacts else None
        row[self._origin :] = (
            f"{record.trace_id:032x}" if record.trace_id else None,
            f"{record.span_id:016x}" if record.span_id else None,
            *self._labels_of(record.resource),
            self._distribute(row, values, contact),
        )
        return row

    def _contact(
        self, row: list[Any], record: EventRecord, values: Mapping[str, Any], pseudonym: Pseudonym
    ) -> str | None:
        """Fill in the contact; the name of its field where it has a column of its own."""
        for name in self._contacts:
            address = record.values[name]
            if isinstance(address, str):
                row[self._hash] = clean(pseudonym(address))
                if self._email is None:
                    return None
                row[self._email] = clean(address) if values[name] == address else None
                return name
        return None

    def _labels_of(self, resource: Mapping[str, Any] | None) -> _Labels:
        """Looked up once: the records of a process, and those of equal resources in the spool, share one object."""
        known, labels = self._known
        if known is not resource:
            labels = _labels(resource)
            self._known = (resource, labels)
        return labels

    def _distribute(self, row: list[Any], values: Mapping[str, Any], contact: str | None) -> Row:
        """Fill in the columns that have a field; what has none, or does not fit, is returned."""
        properties: Row = {}
        for at, name in self._typed:
            value = values[name]
            if value is None:
                continue
            if _fits(value):
                row[at] = value
            else:
                row[at], whole = _fitted(value)
                if not whole:
                    properties[name] = clean(value)
        for name in self._others:
            value = values[name]
            if value is not None and name != contact:
                properties[name] = value if _is_clean(value) else clean(value)
        return _nest(properties) if self._nested else properties


def project(record: EventRecord, values: Mapping[str, Any], received_at: datetime, pseudonym: Pseudonym) -> list[Any]:
    """The row of the table that holds `record` (`outcome_events` for an outcome, else `events`), as a list of columns.

    `values` are the record's fields as this database may see them. `contact_email` is the first field of privacy class
    `email`, if it may be seen in plain; `contact_hash` its pseudonym, always. Fields without a column are `properties`.
    """
    return _projection(record.declaration)(record, values, received_at, pseudonym)


def row(record: EventRecord, values: Mapping[str, Any], received_at: datetime, pseudonym: Pseudonym) -> Row:
    """The same by name of the column."""
    projection = _projection(record.declaration)
    return dict(zip(projection.columns, projection(record, values, received_at, pseudonym), strict=True))


def clean(value: Any) -> Any:
    """`value` as JSON and PostgreSQL can hold it: a timestamp as text, no NUL, no lone surrogate, no NaN."""
    if isinstance(value, str):
        return _clean_text(value)
    if isinstance(value, datetime):
        return rfc3339(value.astimezone(UTC))
    return None if isinstance(value, float) and not math.isfinite(value) else value


_projection: Final = lru_cache(maxsize=1024)(Projection)


def _is_address(field: Field) -> bool:
    return field.privacy is Privacy.EMAIL


def _is_clean(value: Any) -> bool:
    """Whether `clean` would leave it as it is; what is not sure is False."""
    if type(value) is str:
        return value.isascii() and "\x00" not in value
    return type(value) is bool or (type(value) is float and value - value == 0.0)


def _fits(value: Any) -> bool:
    """Whether a column of its type holds it as it is; what is not sure is False."""
    if type(value) is str:
        return value.isascii() and "\x00" not in value and len(value) <= MAX_INDEXED
    if type(value) is float:
        return value - value == 0.0
    return type(value) is not int or -_MOST_EXACT <= value <= _MOST_EXACT


def _fitted(value: Any) -> tuple[Any, bool]:
    """`value` as its column holds it, and whether that is all of it."""
    if isinstance(value, str):
        text = _clean_text(value)
        return text[:MAX_INDEXED], len(text) <= MAX_INDEXED
    return None, isinstance(value, float)


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


def _labels(resource: Mapping[str, Any] | None) -> _Labels:
    if not resource:
        return (None, None, None)
    environment = resource.get("deployment.environment.name") or resource.get("deployment.environment")
    return (_label(resource.get("service.name")), _label(resource.get("service.version")), _label(environment))


def _label(value: object) -> str | None:
    return None if value is None else _clean_text(str(value))


def _nest(properties: Row) -> Row:
    """`metadata.recipient` as `metadata: {recipient: …}`."""
    nested: Row = {}
    for name, value in properties.items():
        group, dot, key = name.partition(".")
        if dot:
            nested.setdefault(group, {})[key] = value
        else:
            nested[name] = value
    return nested
