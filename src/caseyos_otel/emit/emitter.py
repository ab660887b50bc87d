"""`Emitter.emit`: only what cannot wait happens here, in the caller (DESIGN 9.1)."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping
from contextvars import Context, copy_context
from typing import Any

import uuid_utils
from opentelemetry.trace import INVALID_SPAN_CONTEXT

from caseyos_otel import _otel, context, diagnostics
from caseyos_otel.diagnostics import drops
from caseyos_otel.emit.queue import EventQueue
from caseyos_otel.events.field import parse_timestamp
from caseyos_otel.events.model import Bound, Declaration, Problem
from caseyos_otel.events.record import Delivery, EventRecord, default_delivery


class Emitter:
    """Turns declared fields into one queued tuple. What the pipeline adds when it is configured are callables:

    `spool(record)` makes a durable record survive, `keep(trace_id)` keeps a failed trace, `remember(event_id, context,
    trail, exception)` lets the issue show what led to it, `woken()` starts the worker.
    """

    def __init__(self, queue: EventQueue) -> None:
        self.queue = queue
        self.strict = False
        self.new_id: Callable[[], Any] = uuid_utils.uuid7
        self.clock: Callable[[], int] = time.time_ns
        self.spool: Callable[[EventRecord], bool] | None = None
        self.keep: Callable[[int], None] | None = None
        self.remember: Callable[[str, Context, tuple[Any, ...], BaseException | None], None] | None = None
        self.woken: Callable[[], None] = _nothing
        self.inline: Callable[[], None] | None = None

    def emit(
        self,
        declaration: Declaration,
        fields: Mapping[str, Any],
        *,
        delivery: Delivery | None = None,
        event_id: str | None = None,
        exception: BaseException | None = None,
    ) -> None:
        """Emit one event. Never raises, unless strict."""
        bound = declaration.bind(fields, context.bound_fields())
        now = self.clock()
        if "timestamp" in fields:
            now, bound = _given_time(fields["timestamp"], now, bound)
        if bound.problems:
            self._refuse(declaration, bound)
        trail = context.current_trail()
        if trail is not None:
            trail.append((now, declaration, bound.values))
        failure = declaration.failed(bound.values)
        wanted = delivery or default_delivery(declaration.outcome, failure)
        identity = event_id or self.new_id()
        if wanted is Delivery.BEST_EFFORT and not failure:
            item = (declaration, bound, identity, now, copy_context(), wanted, None, None)
        else:
            item = self._emit_rare(declaration, bound, str(identity), now, wanted, failure, exception)
        if not self.queue.append(item):
            drops.count("queue_full", event=declaration.name)
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
        bound = declaration.bind(fields, context.bound_fields())
        now = self.clock()
        if "timestamp" in fields:
            now, bound = _given_time(fields["timestamp"], now, bound)
        if bound.problems:
            self._refuse(declaration, bound)
        item = (declaration, bound, event_id or self.new_id(), now, copy_context(), delivery, None, None)
        return build(item)

    def emit_record(self, record: EventRecord, within: Context) -> None:
        """Emit a record that is stored already; what follows sees the context `within`."""
        trail = within.run(context.current_trail)
        if trail is not None:
            trail.append((record.timestamp or 0, record.declaration, record.values))
        if not self.queue.append((record.declaration, None, None, None, within, None, None, record)):
            drops.count("queue_full", event=record.declaration.name)
        self.woken()
        if self.inline is not None:
            self.inline()

    def _emit_rare(
        self,
        declaration: Declaration,
        bound: Bound,
        event_id: str,
        now: int,
        delivery: Delivery,
        failure: bool,
        exception: BaseException | None,
    ) -> tuple[Any, ...]:
        here = copy_context()
        details = None if exception is None else exception_attributes(exception)
        item = (declaration, bound, event_id, now, here, delivery, details, None)
        record = build(item)
        if failure:
            if self.keep is not None and record.trace_id:
                self.keep(record.trace_id)
            if self.remember is not None:
                trail = context.current_trail()
                self.remember(event_id, here, () if trail is None else tuple(trail), exception)
        if self.spool is not None and record.durable:
            record.spooled = self.spool(record)
        return (declaration, None, None, None, here, None, None, record)

    def _refuse(self, declaration: Declaration, bound: Bound) -> None:
        if self.strict:
            from caseyos_otel.errors import InvalidEventError

            raise InvalidEventError("; ".join(declaration.explain(problem) for problem in bound.problems))
        drops.count("invalid_field", len(bound.problems), event=declaration.name)
        for problem in bound.problems:
            diagnostics.warn(declaration.explain(problem), key=f"{declaration.name}.{problem.field}")


def build(item: tuple[Any, ...]) -> EventRecord:
    """The record of a queued item, with the span that was current in the caller."""
    declaration, bound, event_id, now, within, delivery, details, record = item
    if record is not None:
        return record  # type: ignore[no-any-return]
    span = within.run(_otel.current_span)
    span_context = INVALID_SPAN_CONTEXT if span is None else span.get_span_context()
    return EventRecord(
        declaration,
        bound.values,
        event_id=str(event_id),
        timestamp=now,
        observed_timestamp=now,
        invalid_fields=tuple(problem.field for problem in bound.problems),
        context=within.run(_otel.current_context),
        trace_id=span_context.trace_id,
        span_id=span_context.span_id,
        trace_flags=span_context.trace_flags,
        delivery=delivery,
        exception_attributes=details,
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


def _given_time(value: Any, now: int, bound: Bound) -> tuple[int, Bound]:
    if value is None:
        return now, bound
    if (moment := parse_timestamp(value)) is None:
        problem = Problem("timestamp", value, "expected a datetime with a time zone, or such a one in ISO 8601")
        return now, Bound(bound.values, (*bound.problems, problem))
    return int(moment.timestamp()) * 1_000_000_000 + moment.microsecond * 1000, bound


def _nothing() -> None:
    pass
