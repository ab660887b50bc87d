"""One field of an event: its type, requirement level, privacy class, unit, attribute name, and how a value becomes valid."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum, StrEnum
from typing import Any, Final
from uuid import UUID

INT64: Final = range(-(2**63), 2**63)


class FieldType(StrEnum):
    """Types of OpenTelemetry's AnyValue that fields use; `id` and `timestamp` are strings with a meaning."""

    ID = "id"
    STRING = "string"
    INT = "int"
    DOUBLE = "double"
    BOOLEAN = "boolean"
    TIMESTAMP = "timestamp"


class Level(StrEnum):
    """OpenTelemetry's requirement levels."""

    REQUIRED = "required"
    RECOMMENDED = "recommended"
    OPT_IN = "opt_in"


class Privacy(StrEnum):
    """Whose data a field holds; class and destination together decide what leaves in plain (DESIGN section 7)."""

    NONE = "none"
    EMAIL = "email"
    PERSON = "person"
    COMPANY = "company"
    USER = "user"
    FREE_TEXT = "free_text"


EXACT: Final[Mapping[FieldType, frozenset[type]]] = {
    FieldType.ID: frozenset({str}),
    FieldType.STRING: frozenset({str}),
    FieldType.INT: frozenset({int}),
    FieldType.DOUBLE: frozenset({float, int}),
    FieldType.BOOLEAN: frozenset({bool}),
    FieldType.TIMESTAMP: frozenset(),
}
"""Types that need no conversion."""

ACCEPTED: Final[Mapping[FieldType, str]] = {
    FieldType.ID: "a string, a UUID or a whole number",
    FieldType.STRING: "a string",
    FieldType.INT: "a whole number of at most 64 bits",
    FieldType.DOUBLE: "a finite number",
    FieldType.BOOLEAN: "true or false",
    FieldType.TIMESTAMP: "a datetime with a time zone, or such a one in ISO 8601",
}


@dataclass(frozen=True, slots=True)
class Field:
    """One declared field.

    `name` is the specification's flat name (`metadata.recipient` for one inside a group), `attribute` its OpenTelemetry
    name, `allowed` the closed set of values (empty: open), `dimension` whether it is bounded enough for a metric.
    """

    name: str
    type: FieldType
    level: Level
    privacy: Privacy
    attribute: str
    allowed: tuple[str, ...] = ()
    unit: str = ""
    doc: str = ""
    dimension: bool = False

    def convert(self, value: Any) -> Any:
        """The value as this field holds it.

        Raises:
            ValueError: it is not accepted; the message says what is.
        """
        converted = _CONVERT[self.type](value)
        if converted is None or (self.allowed and converted not in self.allowed):
            raise ValueError(self.accepts)
        return converted

    @property
    def accepts(self) -> str:
        """What this field accepts, in words."""
        return f"one of {', '.join(self.allowed)}" if self.allowed else ACCEPTED[self.type]

    @property
    def is_duration(self) -> bool:
        """Whether this is a measured time, which gets a histogram."""
        return self.type is FieldType.DOUBLE and self.unit in ("ms", "s", "h")


def _string(value: Any) -> str | None:
    if isinstance(value, Enum):
        value = value.value
    return str(value) if isinstance(value, str | UUID) else None


def _id(value: Any) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if value in INT64 else None
    return _string(value)


def _int(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if math.isfinite(value) and int(value) == value and int(value) in INT64 else None


def _double(value: Any) -> float | int | None:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    if type(value) is int and value in INT64:
        return value
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _boolean(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def parse_timestamp(value: Any) -> datetime | None:
    """An aware datetime in UTC, or None for anything that is not one (naive ones included)."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if not isinstance(value, datetime) or value.tzinfo is None or value.utcoffset() is None:
        return None
    try:
        return value.astimezone(UTC)
    except OverflowError:
        return None


_CONVERT: Final = {
    FieldType.ID: _id,
    FieldType.STRING: _string,
    FieldType.INT: _int,
    FieldType.DOUBLE: _double,
    FieldType.BOOLEAN: _boolean,
    FieldType.TIMESTAMP: parse_timestamp,
}
