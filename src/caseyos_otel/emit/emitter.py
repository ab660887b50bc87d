"""`Emitter.emit`: only what cannot wait happens here, in the caller (DESIGN 9.1)."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping
from contextvars import Context, copy_context
from typing import Any, Final

import uuid_utils
from opentelemetry.trace import INVALID_SPAN_CONTEXT

from caseyos_otel import _otel, context, diagnostics
from caseyos_otel.context import TrailEntry
from caseyos_otel.diagnostics import drops
from caseyos_otel.emit.queue import EventQueue, Item
from caseyos_otel.events.field import parse_timestamp
from caseyos_otel.events.model import Declaration, Problem
from caseyos_otel.events.record import Delivery, EventRecord

_BEST_EFFORT: Final = Delivery.BEST_EFFORT
"""Looking a member up in its enum costs 0.1 µs."""


class Emitter:
    """Turns declared fields into one queued tuple. What the pipeline adds when it is configured are callables:

    `spool(record)` makes a durable record survive, `keep(trace_id)` keeps a failed trace, `remember(event_id, context,
    trail, exception)` lets the issue show what led to it, `bridge(record)` copies the event to the current span,
    `woken()` starts the worker.
    """

    def __init__(self, queue: EventQueue) -> None:
        self.queue = queue
        self.strict = False
        self.new_id: Callable[[], Any] = uuid_utils.uuid7
        self.clock: Callable[[], int] = time.time_ns
        self.spool: Callable[[EventRecord], bool] | None = None
        self.keep: Callable[[int], object] | None = None
        self.remember: Callable[[str, Context, tuple[Any, ...], BaseException | None], None] | None = None
        self.bridge: Callable[[EventRecord], None] | None = None
        self.woken: Callable[[], None] = _nothing
        self.inline: Callable[[], None] | None = None

    def emit(
        self,
        declaration: Declaration,
        fields: Mapping[str, Any],
        delivery: Delivery | None = None,
        event_id: str | None = None,
        exception: BaseException | None = None,
    ) -> None:
        """Emit one event. Never raises, unless strict."""
        # Written out, and no parameter by keyword alone (30 ns each): every caller waits for this.
        values, problems = declaration.settle(fields, context.bound_fields())
        now = self.clock()
        if "timestamp" in fields:
            now, problems = _given_time(fields["timestamp"], now, problems)
        if problems:
            self._refuse(declaration, problems)
        entry = (now, declaration, values)
        if (trail := context.current_trail()) is not None:
            trail.append(entry)
        failed = declaration.failure or (declaration.failed_when != "" and declaration.failed(values))
        best_effort = not declaration.outcome if delivery is None else delivery is _BEST_EFFORT
        if best_effort and not failed:
            item: Item = (copy_context(), entry, event_id or self.new_id(), problems, delivery)
        else:
            item = self._emit_rare(entry, problems, event_id, delivery, failed, exception)
        if self.bridge is not None:
            self.bridge(build(item))
        if not self.queue.append(item):
            _count_queue_full(item)
        self.woken()
        if self.inline is not None:
            self.inline()

    def record(
        self,
        declaration: Declaration,
        fields: Mapping[str, Any],
        *,
        delivery: Delivery,
        event_id: str | None = None,
    ) -> EventRecord:
        """The record of an event that is not emitted yet: it belongs to a transaction that may be rolled back."""
        values, problems = declaration.settle(fields, context.bound_fields())
        now = self.clock()
        if "timestamp" in fields:
            now, problems = _given_time(fields["timestamp"], now, problems)
        if problems:
            self._refuse(declaration, problems)
        return build((copy_context(), (now, declaration, values), event_id or self.new_id(), problems, delivery))

    def emit_record(self, record: EventRecord, within: Context) -> None:
        """Emit a record that is stored already; what follows sees the context `within`."""
        if self.spool is not None:  # for the other destinations
            record.spooled = self.spool(record)
        trail = within.run(context.current_trail)
        if trail is not None:
            trail.append((record.timestamp or 0, record.declaration, record.values))
        if not self.queue.append((within, record)):
            _count_queue_full((within, record))
        self.woken()
        if self.inline is not None:
            self.inline()

    def _emit_rare(
        self,
        entry: TrailEntry,
        problems: tuple[Problem, ...],
        event_id: str | None,
        delivery: Delivery | None,
        failed: bool,
        exception: BaseException | None,
    ) -> Item:
        here = copy_context()
        record = build((here, entry, event_id or self.new_id(), problems, delivery))
        if exception is not None:
            record.exception_attributes = exception_attributes(exception)
        if failed:
            if self.keep is not None and record.trace_id:
                self.keep(record.trace_id)
            if self.remember is not None:
                trail = context.current_trail()
                self.remember(record.event_id, here, () if trail is None else tuple(trail), exception)
        if self.spool is not None and record.durable:
            record.spooled = self.spool(record)
        return (here, record)

    def _refuse(self, declaration: Declaration, problems: tuple[Problem, ...]) -> None:
        if self.strict:
            from caseyos_otel.errors import InvalidEventError

            raise InvalidEventError("; ".join(declaration.explain(problem) for problem in problems))
        drops.count("invalid_field", len(problems), event=declaration.name)
        for problem in problems:
            diagnostics.warn(declaration.explain(problem), key=f"{declaration.name}.{problem.field}")


def build(item: Item) -> EventRecord:
    """The record of a queued item, with the span that was current in the caller."""
    if len(item) == 2:
        return item[1]
    within, (now, declaration, values), event_id, problems, delivery = item
    otel_context = _otel.context_within(within)
    span = _otel.span_of(otel_context)
    span_context = INVALID_SPAN_CONTEXT if span is None else span.get_span_context()
    return EventRecord(
        declaration,
        values,
        event_id=str(event_id),
        timestamp=now,
        observed_timestamp=now,
        invalid_fields=tuple([problem.field for problem in problems]),
        context=otel_context,
        trace_id=span_context.trace_id,
        span_id=span_context.span_id,
        trace_flags=span_context.trace_flags,
        delivery=delivery,
    )


def exception_attributes(exception: BaseException) -> dict[str, str]:
    """OpenTelemetry's `exception.*` attributes of an exception, as text."""
    kind = type(exception)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    try:
        message = str(exception)
        stack = "".join(traceback.format_exception(exception))
    except Exception:
        message, stack = "(its message cannot be shown)", ""
    return {"exception.type": name, "exception.message": message, "exception.stacktrace": stack}


def _given_time(value: Any, now: int, problems: tuple[Problem, ...]) -> tuple[int, tuple[Problem, ...]]:
    if value is None:
        return now, problems
    if (moment := parse_timestamp(value)) is None:
        reason = "expected a datetime with a time zone, or such a one in ISO 8601"
        return now, (*problems, Problem("timestamp", value, reason))
    return int(moment.timestamp()) * 1_000_000_000 + moment.microsecond * 1000, problems


def _count_queue_full(item: Item) -> None:
    """What is in the spool or in a transaction loses its log line and its metrics; anything else is lost everywhere."""
    if len(item) == 2:
        record = item[1]
        kept = record.spooled or record.delivery is Delivery.TRANSACTION
        drops.count("queue_full", destination="log" if kept else "", event=record.declaration.name)
    else:
        drops.count("queue_full", event=item[1][1].name)


def _nothing() -> None:
    pass
