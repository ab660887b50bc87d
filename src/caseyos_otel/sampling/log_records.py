"""The log half of tail sampling: how a destination that gets a tenth asks for one record."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.sdk._logs import LogRecordProcessor, ReadWriteLogRecord

from caseyos_otel.events.failure import record_failed
from caseyos_otel.events.record import EVENT_ID, SAMPLING_KEPT, SAMPLING_THRESHOLD
from caseyos_otel.sampling.decision import Decision
from caseyos_otel.sampling.probability import encode_threshold
from caseyos_otel.sampling.table import TraceTable

if TYPE_CHECKING:
    from uuid import UUID

_SHUTDOWN_S: Final = 5.0


def offer_record(
    table: TraceTable,
    record: object,
    release: Callable[[Any, Decision], object],
    *,
    trace_id: int,
    event_id: UUID | str | bytes,
    failure: bool,
    destination: str = "sentry",
    event_name: str = "",
) -> None:
    """Release a record if its trace is kept, hold it while its trace is undecided, count it as `sampled` otherwise.

    A failure leaves in any case and keeps its trace. A record without a trace is decided by the hash of its event id.

    Args:
        table: The trace table that the spans of the same traces use.
        record: What is released.
        release: Called as (record, decision), now or later from the table's tick.
        trace_id: The record's trace; 0 for none.
        event_id: Its id.
        failure: Whether the record is a failure.
        destination: Whom a drop is counted for.
        event_name: Which event a drop is counted for.
    """
    if failure or trace_id:
        table.offer(trace_id, record, release, failure=failure, destination=destination, event_name=event_name)
    else:
        table.offer_untraced(event_id, record, release, destination=destination, event_name=event_name)


def sampling_attributes(decision: Decision) -> dict[str, Any]:
    """What a record that left by a decision carries: its trace's verdict, and the threshold where one is known."""
    attributes: dict[str, Any] = {SAMPLING_KEPT: decision.keep}
    if decision.keep and decision.threshold is not None:
        attributes[SAMPLING_THRESHOLD] = encode_threshold(decision.threshold)
    return attributes


class TailSamplingLogRecordProcessor(LogRecordProcessor):
    """Hands log records to the processors it wraps by the verdict of their trace: all of a kept one, none of a dropped one.

    A record of severity ERROR or above (and a failure event) leaves in any case and keeps its trace. One without a
    trace is decided by the hash of its event id, or by chance if it has none. What leaves is a copy with
    `caseyos.sampling.kept` and, where the probability is known, `sampling.threshold`.

    Nothing puts it into a provider by itself: events are sampled where a destination asks (Sentry logs;
    `CASEYOS_OTEL_OTLP_EVENTS=kept`). It is for who wants the same for every OTLP log.

    Args:
        table: The trace table that the spans of the same traces use; somebody ticks it.
        wrapped: The processors that export.
        destination: Whom a drop is counted for.

    Example:
        >>> from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, ConsoleLogRecordExporter
        >>> batch = BatchLogRecordProcessor(ConsoleLogRecordExporter())
        >>> TailSamplingLogRecordProcessor(TraceTable(0.1), [batch]).shutdown()
    """

    def __init__(self, table: TraceTable, wrapped: Sequence[LogRecordProcessor], *, destination: str = "otlp") -> None:
        self._table = table
        self._wrapped = tuple(wrapped)
        self._destination = destination

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        """Take one record; it leaves now, with its trace, or not at all."""
        record = log_record.log_record
        offer_record(
            self._table,
            _held(log_record),
            self._release,
            trace_id=record.trace_id or 0,
            event_id=_event_id(record),
            failure=record_failed(record),
            destination=self._destination,
            event_name=record.event_name or "",
        )

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Decide what is pending, then flush the wrapped processors."""
        left = self._table.flush(timeout_millis / 1000)
        results = [each.force_flush(timeout_millis) for each in self._wrapped]  # each of them, whatever one says
        return left and all(result is not False for result in results)

    def shutdown(self) -> None:
        """Decide what is pending, then shut the wrapped processors down."""
        self._table.flush(_SHUTDOWN_S)
        for processor in self._wrapped:
            processor.shutdown()

    def _release(self, held: ReadWriteLogRecord, decision: Decision) -> None:
        record = held.log_record
        record.attributes = {**(record.attributes or {}), **sampling_attributes(decision)}
        for processor in self._wrapped:
            processor.on_emit(held)


def _held(log_record: ReadWriteLogRecord) -> ReadWriteLogRecord:
    """A copy: other processors may change the record while it waits, and ours must not change theirs."""
    held = copy.copy(log_record)
    held.log_record = copy.copy(log_record.log_record)
    return held


def _event_id(record: Any) -> str | bytes:
    attributes: Mapping[str, Any] = record.attributes or {}
    known = getattr(record, "event_id", None) or attributes.get(EVENT_ID)
    return str(known) if known else os.urandom(8)
