"""The redact step: a record is made fit to leave once, and told what foreign processors and exporters may see of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from caseyos_otel.events.record import EventRecord
from caseyos_otel.redaction.disclosure import Disclosure, minimise


class Redact:
    """Masks secrets and cleans text in place; OpenTelemetry attributes are disclosed as for `otlp`."""

    def __init__(self, disclosure: Disclosure) -> None:
        self._disclosure = disclosure

    def __call__(self, record: EventRecord) -> EventRecord:
        """Redact one event. Doing it twice changes nothing: a durable one was redacted before it was spooled."""
        minimise(record)
        record.disclose = self._values
        record.disclose_exception = self._exception
        record.attributes = None  # `Logger.emit` has set them to what they were before anything could be disclosed
        return record

    def _values(self, record: EventRecord) -> Mapping[str, Any]:
        return self._disclosure.values(record, "otlp")

    def _exception(self, record: EventRecord) -> Mapping[str, str]:
        return self._disclosure.exception(record, "otlp")
