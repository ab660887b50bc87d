"""`track()` and `flush()`'s queue: the door through which a service's own code emits events."""

from __future__ import annotations

import atexit
import sys
from collections.abc import Callable, Mapping
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final

from caseyos_otel import diagnostics
from caseyos_otel.diagnostics import drops
from caseyos_otel.emit.emitter import Emitter
from caseyos_otel.emit.queue import EventQueue
from caseyos_otel.errors import InvalidEventError, StorageError, UnknownEventError
from caseyos_otel.events.identity import once_per_event_id
from caseyos_otel.events.model import Declaration, Event
from caseyos_otel.events.record import Delivery, EventRecord
from caseyos_otel.events.registry import registry

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

emitter: Final = Emitter(EventQueue())
"""The one emitter of this process. Until the pipeline connects it, events wait in its bounded queue."""

insert_through: Callable[..., None] | None = None
"""Set by the pipeline: puts a record into a session's transaction."""

set_aside_unknown: Callable[[str, Mapping[str, Any]], None] | None = None
"""Set by the pipeline: keeps an event that nobody declared, with its fields, until somebody does."""

enabled: bool = True
"""False where CASEYOS_OTEL_DISABLED says so."""


def track(
    event: str | Event,
    /,
    *,
    once_per: object = None,
    delivery: Delivery | str | None = None,
    session: Session | AsyncSession | None = None,
    **fields: Any,
) -> None:
    """Emit one event. Returns in microseconds and never raises, unless CASEYOS_OTEL_STRICT=1 or `session=` cannot work.

    Args:
        event: A declared name with its fields as keywords, or an instance of an event class.
        once_per: Stored once for each event name and key, however often it is tracked.
        delivery: What is promised once this returns: `durable` (survives the process however it ends, on every disk; a
            power cut on a volume costs at most the last second; what lies on a container's own layer or in memory goes
            with it; default for outcomes and failures) or `best_effort` (memory; default for the rest). A spool that is
            full or cannot be written makes `durable` memory too, which is counted. See docs/delivery.md.
        session: An SQLAlchemy session; the outcome becomes a row of its transaction, and everything else follows its
            commit, or does not happen with a rollback.
        **fields: The event's fields. `timestamp`, an aware datetime, says when it happened; default: now.

    Raises:
        InvalidEventError: strict mode, and a field is missing, wrong or undeclared; or `session=` with no outcome.
        UnknownEventError: strict mode, and nobody declared the event.
        StorageError: `session=`, and its database cannot take the row.

    Example:
        >>> track("recommendation_accepted", recommendation_id="7d0c", action_type="send_email", user_id="casey")
    """
    if not enabled:
        return
    try:
        declaration = registry.get(event) if type(event) is str else None
        if declaration is not None and once_per is None and delivery is None and session is None and not emitter.strict:
            emitter.emit(declaration, fields)  # nearly every call ends here
            return
        declaration, given = _resolve(event, fields)
        if emitter.strict and (unknown := declaration.undeclared(given)):
            raise InvalidEventError(declaration.explain(declaration.unknown_field(unknown[0])))
        wanted = None if delivery is None else Delivery(delivery)
        event_id = None if once_per is None else once_per_event_id(declaration.name, str(once_per))
        if session is None:
            emitter.emit(declaration, given, delivery=wanted, event_id=event_id)
    except Exception as error:
        refused(event, fields, error)
        return
    if session is not None:
        _track_through(session, declaration, given, event_id)


def _resolve(event: str | Event, fields: Mapping[str, Any]) -> tuple[Declaration, Mapping[str, Any]]:
    if isinstance(event, str):
        return registry.require(event), fields
    if registry.get(event.declaration.name) is not event.declaration:
        registry.register(type(event))
    given = {name: value for name, value in vars(event).items() if value is not None}
    return event.declaration, {**given, **fields}


def refused(event: str | Event, fields: Mapping[str, Any], error: Exception) -> None:
    """An event that could not be emitted: raised when strict, else counted, said, and set aside if undeclared."""
    if emitter.strict and isinstance(error, InvalidEventError):
        raise error
    if isinstance(error, UnknownEventError):
        drops.count("undeclared", event=str(event)[:100])
        diagnostics.warn(str(error))
        if set_aside_unknown is not None:
            set_aside_unknown(str(event), fields)
        return
    diagnostics.swallowed(f"tracking {event!r}", error)


def _track_through(
    session: Session | AsyncSession, declaration: Declaration, fields: Mapping[str, Any], event_id: str | None
) -> None:
    if not declaration.outcome:
        raise InvalidEventError(f"track({declaration.name!r}, session=…): only outcomes go into a transaction")
    if insert_through is None:
        raise StorageError("track(…, session=…) needs caseyos_otel.configure() or opentelemetry-instrument first")
    record = emitter.record(declaration, fields, delivery=Delivery.TRANSACTION, event_id=event_id)
    here = copy_context()
    insert_through(session, record, on_commit=lambda stored: emitter.emit_record(stored, here), on_discard=_discarded)


def _discarded(record: EventRecord) -> None:
    drops.count("discarded", event=record.declaration.name)


def say_if_never_configured() -> None:
    """At exit: events that waited for a configuration that never came are counted and said once."""
    waiting = len(emitter.queue)
    if emitter.spool is None and emitter.inline is None and waiting:
        drops.count("not_configured", waiting)
        sys.stderr.write(
            f"caseyos-otel: {waiting} events went nowhere: start the program with opentelemetry-instrument,"
            " or call caseyos_otel.configure()\n"
        )


atexit.register(say_if_never_configured)
