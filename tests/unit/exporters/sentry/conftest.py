"""Failures of the specification, as they come out of the spool."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from caseyos_otel.events.record import EventRecord
from caseyos_otel.events.registry import Registry

NOON = 1_769_169_600_123_456_789  # 2026-01-23T12:00:00.123456789Z


@pytest.fixture
def make_record() -> Callable[..., EventRecord]:
    """An event of a name with fields, at noon, in one trace."""
    registry = Registry()

    def make(name: str, fields: Mapping[str, Any], **more: Any) -> EventRecord:
        declaration = registry.require(name)
        bound = declaration.bind(fields)
        facts = {
            "event_id": "019beadd-8000-7000-8000-000000000001",
            "timestamp": NOON,
            "observed_timestamp": NOON,
            "invalid_fields": tuple(problem.field for problem in bound.problems),
            "trace_id": 0x0AF7651916CD43DD8448EB211C80319C,
            "span_id": 0xB7AD6B7169203331,
        }
        return EventRecord(declaration, bound.values, **(facts | more))

    return make
