"""The one LogRecordProcessor of ours: promote ▸ suppress ▸ redact ▸ measure, then the sinks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from opentelemetry._logs import LogRecord
from opentelemetry.sdk._logs import LogRecordProcessor, ReadWriteLogRecord

from caseyos_otel.diagnostics import swallowed
from caseyos_otel.events.failure import record_failed
from caseyos_otel.events.record import EventRecord
from caseyos_otel.processors.promote import promote

Step = Callable[[EventRecord], EventRecord | None]
"""Takes an event and gives it back (or another one); None ends its way, counted by the step."""
Sink = Callable[[EventRecord], None]


class EventChain(LogRecordProcessor):
    """Stands first in the provider, so that processors installed by the user see the same, shaped record.

    `on_foreign(record)` sees the records of other loggers that are no events; `on_promoted(record)` those that became one.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        sinks: Sequence[tuple[str, Sink]],
        on_promoted: Callable[[EventRecord], None],
        on_failed_trace: Callable[[int], object],
        flush: Callable[[float], bool],
    ) -> None:
        self._steps = tuple(steps)
        self._sinks = tuple(sinks)
        self._on_promoted = on_promoted
        self._on_failed_trace = on_failed_trace
        self._flush = flush

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        """Shape an event and hand it to the sinks. Other records pass; one of severity ERROR keeps its trace."""
        try:
            record = log_record.log_record
            if not isinstance(record, EventRecord):
                if (event := promote(record)) is None:
                    self._foreign(record)
                    return
                log_record.log_record = record = event
                if event.failure:
                    self._on_failed_trace(event.trace_id)
                self._on_promoted(event)
            self.process(record)
        except Exception as error:  # written out: `guard` costs 1 µs each time, and every record comes here
            swallowed("processing a log record", error)

    def process(self, record: EventRecord) -> None:
        """The chain for one event; the pipeline calls it directly where no LoggerProvider works."""
        event = record
        for step in self._steps:
            if (shaped := step(event)) is None:
                return
            event = shaped
        for name, sink in self._sinks:
            try:
                sink(event)
            except Exception as error:
                swallowed(f"handing an event to {name}", error)

    def _foreign(self, record: LogRecord) -> None:
        if record.trace_id and record_failed(record):
            self._on_failed_trace(record.trace_id)

    def shutdown(self) -> None:
        """The pipeline owns life and death; the provider's shutdown only flushes."""
        self._flush(5.0)

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Whether everything emitted before the call has left in time."""
        return self._flush(timeout_millis / 1000)
