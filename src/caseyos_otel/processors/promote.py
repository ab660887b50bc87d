"""A record of another OpenTelemetry logger whose name is declared becomes an EventRecord."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import uuid_utils
from opentelemetry._logs import LogRecord

from caseyos_otel.diagnostics import drops
from caseyos_otel.events.model import Declaration
from caseyos_otel.events.record import DELIVERY, EVENT_ID, EXCEPTION_ATTRIBUTES, Delivery, EventRecord
from caseyos_otel.events.registry import registry


def promote(record: LogRecord) -> EventRecord | None:
    """The event that a foreign record is, or None. Undeclared attributes do not come along."""
    if not record.event_name or (declaration := registry.get(record.event_name)) is None:
        return None
    attributes: Mapping[str, Any] = record.attributes or {}
    bound = declaration.bind(fields_of(declaration, attributes))
    if bound.problems:
        drops.count("invalid_field", len(bound.problems), event=declaration.name)
    return EventRecord(
        declaration,
        bound.values,
        event_id=_event_id(attributes.get(EVENT_ID)),
        timestamp=record.timestamp or record.observed_timestamp or 0,
        observed_timestamp=record.observed_timestamp or 0,
        invalid_fields=tuple(problem.field for problem in bound.problems),
        context=record.context,
        trace_id=record.trace_id or 0,
        span_id=record.span_id or 0,
        trace_flags=record.trace_flags,
        delivery=_delivery(attributes.get(DELIVERY)),
        exception_attributes={k: str(attributes[k]) for k in EXCEPTION_ATTRIBUTES if k in attributes},
    )


def fields_of(declaration: Declaration, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes under the event's flat names; a field may also come under its flat name, as a stock SDK's user writes it."""
    fields: dict[str, Any] = {}
    for field in declaration.fields:
        value = attributes.get(field.attribute, attributes.get(field.name))
        if value is None:
            continue
        group, _, inner = field.name.partition(".")
        if inner:
            fields.setdefault(group, {})[inner] = value
        else:
            fields[field.name] = value
    return fields


def _event_id(given: Any) -> str:
    """The id that the sender gave, where it is one: databases keep it as a UUID."""
    try:
        return str(UUID(given)) if isinstance(given, str) else str(uuid_utils.uuid7())
    except ValueError:
        return str(uuid_utils.uuid7())


def _delivery(value: Any) -> Delivery | None:
    return Delivery(value) if value in tuple(Delivery) else None
