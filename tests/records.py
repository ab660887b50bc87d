"""Events as tests hand them to what comes after `track()`."""

from __future__ import annotations

from typing import Any

import uuid_utils

from caseyos_otel.events.record import EventRecord
from caseyos_otel.events.registry import registry

NOON = 1_769_169_600_123_456_789
"""2026-01-23T12:00:00.123456789Z, in nanoseconds."""


def event(name: str, /, **fields: Any) -> EventRecord:
    """An event of a declared name at noon; arguments that begin with `_` are those of the record."""
    declaration = registry.require(name)
    bound = declaration.bind({key: value for key, value in fields.items() if not key.startswith("_")})
    facts = {
        "event_id": str(uuid_utils.uuid7()),
        "timestamp": NOON,
        "observed_timestamp": NOON,
        "invalid_fields": tuple(problem.field for problem in bound.problems),
        **{key[1:]: value for key, value in fields.items() if key.startswith("_")},
    }
    return EventRecord(declaration, bound.values, **facts)
