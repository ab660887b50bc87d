"""One field of an event: its type, level, privacy class, unit, attribute name, and how a value becomes valid."""

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
    if isinstance(value, str):
        return str.__str__(value)  # a plain str, whatever a subclass's own __str__ says
    return str(value) if isinstance(value, UUID) else None


def _id(value: Any) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(_int64(value)) if _int64(value) is not None else None
    return _string(value)


def _int(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return _int64(value) if math.isfinite(value) and int(value) == value else None


def _int64(value: float) -> int | None:
    # an exact int first: `in range` steps through the range one by one for anything else
    whole = int(value)
    return whole if whole in INT64 else None


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
    """An aware datetime in UTC, or None for anything that is not one (naive ones included). Never raises."""
    try:
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        if not isinstance(value, datetime) or value.utcoffset() is None:
            return None
        moment = value.astimezone(UTC)
        # a plain datetime, whatever the subclass: those of other libraries print in their own way
        return datetime.combine(moment.date(), moment.time(), UTC)
    except Exception:
        # no such date, beyond year 9999 in UTC, or a time zone whose own code raises
        return None


_CONVERT: Final = {
    FieldType.ID: _id,
    FieldType.STRING: _string,
    FieldType.INT: _int,
    FieldType.DOUBLE: _double,
    FieldType.BOOLEAN: _boolean,
    FieldType.TIMESTAMP: parse_timestamp,
}
