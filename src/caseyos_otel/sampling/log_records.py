"""The log half of tail sampling: how a destination that gets a tenth asks for one record."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from caseyos_otel.sampling.decision import Decision
from caseyos_otel.sampling.table import TraceTable

if TYPE_CHECKING:
    from uuid import UUID


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

    A failure is released at once and keeps its trace. A record without a trace is decided by the hash of its event id.

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
    if failure:
        release(record, table.keep(trace_id))
    elif trace_id:
        table.offer(trace_id, record, release, destination=destination, event_name=event_name)
    else:
        table.offer_untraced(event_id, record, release, destination=destination, event_name=event_name)
