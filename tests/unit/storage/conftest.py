from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import uuid_utils

from caseyos_otel.events.model import Event
from caseyos_otel.events.record import EventRecord

MOMENT = 1_769_178_600_123_456_789
"""2026-01-23T14:30:00.123456789Z, in nanoseconds."""


@pytest.fixture
def record() -> Callable[..., EventRecord]:
    """A record of an event class: `record(cls, fields, **what the record takes)`."""

    def make(cls: type[Event], fields: dict[str, Any] | None = None, **facts: Any) -> EventRecord:
        facts = {
            "event_id": str(uuid_utils.uuid7()),
            "timestamp": MOMENT,
            "observed_timestamp": MOMENT,
            "resource": {"service.name": "command-center"},
            **facts,
        }
        return EventRecord(cls.declaration, cls.declaration.bind(fields or {}).values, **facts)

    return make
