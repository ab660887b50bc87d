"""One recorded event, as a test reads it."""

from __future__ import annotations

import difflib
import json
import reprlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from opentelemetry.trace import format_span_id, format_trace_id

from caseyos_otel.events.model import Declaration
from caseyos_otel.events.record import EventRecord
from caseyos_otel.exporters.structured_log import line, nested

ENVELOPE: Final = ("event_id", "timestamp", "trace_id", "span_id")
"""What every event has besides its declared fields."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80
_short.maxdict = 8


class RecordedEvent:
    """An event that was emitted, with its values in plain.

    Example:
        >>> event["recipient"]  # doctest: +SKIP
        'john@acmecorp.com'
    """

    def __init__(self, record: EventRecord) -> None:
        self._record = record
        self.name: str = record.declaration.name
        self.event_id: str = record.event_id
        self.timestamp: datetime = _EPOCH + timedelta(microseconds=(record.timestamp or 0) // 1000)
        self.trace_id: str | None = format_trace_id(record.trace_id) if record.trace_id else None
        self.span_id: str | None = format_span_id(record.span_id) if record.span_id else None
        self.fields: Mapping[str, Any] = nested(record.values, record.declaration.groups)
        self.invalid_fields: tuple[str, ...] = record.invalid_fields
        self.failure: bool = record.failure
        self.outcome: bool = record.outcome
        self.delivery: str = record.delivery.value
        self.exception: Mapping[str, str] = record.exception_attributes

    def __getitem__(self, field: str) -> Any:
        """The value of a declared field, of a group (`metadata`) or of `metadata.recipient`; None where it is missing.

        Raises:
            KeyError: the event declares no such field; the message names the nearest one.
        """
        if problem := undeclared(self._record.declaration, (field,)):
            raise KeyError(problem)
        if field in ENVELOPE:
            return getattr(self, field)
        return self.fields[field] if field in self.fields else self._record.values[field]

    def matches(self, fields: Mapping[str, Any]) -> bool:
        """Whether each of the fields has the value given, by `==`: `unittest.mock.ANY` and `pytest.approx` work."""
        return not self.differing(fields)

    def differing(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """This event's values where they are not those given."""
        values = {name: self[name] for name in fields}
        return {name: value for name, value in values.items() if fields[name] != value}

    def as_dict(self) -> dict[str, Any]:
        """The event as its line in the structured log has it, personal fields in plain, without the service's name."""
        declaration = self._record.declaration
        shaped: dict[str, Any] = json.loads(line(self._record, self._record.values, ""))
        del shaped["service_name" if "service" in declaration.by_name else "service"]
        return shaped

    def __repr__(self) -> str:
        return f"{self.name}({spelled({k: v for k, v in self.fields.items() if v is not None})})"


def spelled(fields: Mapping[str, Any]) -> str:
    """Fields as keyword arguments, long values shortened."""
    return ", ".join(f"{name}={_short.repr(value)}" for name, value in fields.items())


def undeclared(declaration: Declaration, names: tuple[str, ...]) -> str:
    """What is wrong with the first of the names that this event does not have; empty if it has them all."""
    unknown = [name for name in declaration.undeclared(dict.fromkeys(names)) if name not in ENVELOPE]
    if not unknown:
        return ""
    known = [*declaration.by_name, *declaration.groups, *ENVELOPE]
    near = difflib.get_close_matches(unknown[0], known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}"
    return f"{declaration.name} has no field {unknown[0]!r}; {hint}"
