"""What each destination is fed of an event at the end of the chain; the spool feeds what was spooled."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from caseyos_otel.diagnostics import drops, guard
from caseyos_otel.events.record import Delivery as Promise
from caseyos_otel.events.record import EventRecord
from caseyos_otel.exporters.delivery import Delivery
from caseyos_otel.processors.chain import Sink
from caseyos_otel.sampling.decision import Decision
from caseyos_otel.sampling.log_records import offer_record, sampling_attributes
from caseyos_otel.sampling.table import TraceTable

if TYPE_CHECKING:
    from caseyos_otel.exporters.sentry.client import SentryDestination


def to_database(delivery: Delivery, *, outcomes_only: bool) -> Sink:
    """Every event that is not stored by a transaction of the service's."""

    def sink(record: EventRecord) -> None:
        if outcomes_only and not record.outcome:
            drops.count("not_applicable", destination="outcomes", event=record.declaration.name)
        elif not record.spooled and record.delivery is not Promise.TRANSACTION:
            delivery.offer(record)

    return sink


def to_otlp(delivery: Delivery, table: TraceTable, *, everything: bool) -> Sink:
    """Every event; or what is durable, and of the rest what its trace's verdict keeps."""

    def release(record: EventRecord, decision: Decision) -> None:
        record.sampling = sampling_attributes(decision)
        delivery.offer(record)

    def sink(record: EventRecord) -> None:
        if record.spooled:
            return
        if everything or record.durable:
            delivery.offer(record)
        else:
            _by_verdict(table, record, release, "otlp")

    return sink


def to_sentry(delivery: Delivery, table: TraceTable, sentry: SentryDestination) -> Sink:
    """Failures as issues; of the rest what its trace's verdict keeps, as logs."""

    def release(record: EventRecord, decision: Decision) -> None:
        with guard("sending a Sentry log"):
            sentry.emit_log(record, sampling_attributes(decision))

    def sink(record: EventRecord) -> None:
        if not record.failure:
            _by_verdict(table, record, release, "sentry")
        elif not record.spooled:
            delivery.offer(record)

    return sink


def _by_verdict(
    table: TraceTable, record: EventRecord, release: Callable[[Any, Decision], object], destination: str
) -> None:
    offer_record(
        table,
        record,
        release,
        trace_id=record.trace_id,
        event_id=record.event_id,
        failure=record.failure,
        destination=destination,
        event_name=record.declaration.name,
    )
