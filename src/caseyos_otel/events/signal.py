"""Signal events: received, processed (specification, *Signal Ingestion Events*)."""

from __future__ import annotations

from caseyos_otel.events.model import Event, optional, required

SOURCES = ("hubspot", "gmail", "calendar", "webhook")


class SignalReceived(Event, name="signal_received", otel="caseyos.signal.received"):
    """New signal captured: form submission, CRM update, e-mail reply."""

    signal_id: str = required(doc="The signal.")
    source: str = required(allowed=SOURCES, doc="Where it came from.", dimension=True)
    signal_type: str = required(doc="Kind of signal, like deal_stage_changed.", dimension=True)
    processed: bool | None = optional(doc="Whether it has been processed.")


class SignalProcessed(Event, name="signal_processed", otel="caseyos.signal.processed"):
    """Signal processed by SignalProcessor."""

    signal_id: str = required(doc="The signal.")
    source: str = required(allowed=SOURCES, doc="Where it came from.", dimension=True)
    signal_type: str = required(doc="Kind of signal, like deal_stage_changed.", dimension=True)
    recommendation_generated: bool | None = optional(doc="Whether a recommendation came of it.", dimension=True)
    processing_duration_ms: float | None = optional(unit="ms", doc="Time it took.")
