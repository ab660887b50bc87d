"""A stock OTLP log processor that is there already gets other loggers' records only: our events leave by exporters/otlp."""

from __future__ import annotations

from opentelemetry.sdk._logs import LogRecordProcessor, ReadWriteLogRecord

from caseyos_otel import _otel
from caseyos_otel.events.record import EventRecord


class ForeignOnly(LogRecordProcessor):
    """Passes on what is no event."""

    def __init__(self, wrapped: LogRecordProcessor) -> None:
        self.wrapped = wrapped

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        """Called for every record."""
        if not isinstance(log_record.log_record, EventRecord):
            self.wrapped.on_emit(log_record)

    def shutdown(self) -> None:
        """The wrapped processor's."""
        self.wrapped.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """The wrapped processor's."""
        return self.wrapped.force_flush(timeout_millis)


def foreign_only(processor: LogRecordProcessor) -> LogRecordProcessor:
    """`processor`, wrapped if it exports by OTLP; any other one gets everything."""
    exporter = _otel.exporter_of(processor)
    is_otlp = type(exporter).__module__.startswith("opentelemetry.exporter.otlp.")
    return ForeignOnly(processor) if is_otlp else processor
