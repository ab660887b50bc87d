"""What binds events to the running sentry-sdk: the request of a failure, and errors that the service captures."""

from __future__ import annotations

import contextvars
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import sentry_sdk
from sentry_sdk.scope import Scope, add_global_event_processor

from caseyos_otel.context import TrailEntry
from caseyos_otel.diagnostics import guard
from caseyos_otel.events.record import EventRecord
from caseyos_otel.exporters.sentry import payloads
from caseyos_otel.redaction.disclosure import minimise

OURS: Final = "caseyos_otel"
"""Key in the hint of an event that we capture ourselves."""
REMEMBERED: Final = 256
"""Failures whose request is remembered until their issue has left; each may hold a traceback and its frames."""

_CAPTURED: Final = "_caseyos_otel_event_id"
_DEFAULT_MAX_BREADCRUMBS: Final = 100

Render = Callable[[EventRecord], Mapping[str, Any]]


class FailureScope(NamedTuple):
    """What a failing call knew: its context, its Sentry scope as it was, the trail, the exception if one was raised."""

    context: contextvars.Context
    scope: Scope
    trail: tuple[TrailEntry, ...]
    exception: BaseException | None


class FailureScopes:
    """Requests of failures by event id, from `track()` until the delivery thread has sent the issue.

    Bounded: the oldest is forgotten and its issue leaves without them, as after a crash.
    """

    def __init__(self, limit: int = REMEMBERED) -> None:
        self._limit = limit
        self._scopes: OrderedDict[str, FailureScope] = OrderedDict()

    def remember(
        self,
        event_id: str,
        context: contextvars.Context,
        trail: Iterable[TrailEntry] | None,
        exception: BaseException | None = None,
    ) -> None:
        """Keep what is known in the failing caller, and refuse later captures of the same exception object.

        `context` is the caller's, or a copy of it. Its Sentry scope is copied here: tags that another job sets before
        the issue leaves are not this failure's.
        """
        with guard("remembering the scope of a failure"):
            if exception is not None:
                _mark(exception, event_id)
            own = context.copy()  # the given one may be entered already
            self._scopes[event_id] = FailureScope(own, own.run(_snapshot), tuple(trail or ()), exception)
            while len(self._scopes) > self._limit:
                self._scopes.popitem(last=False)

    def get(self, event_id: str) -> FailureScope | None:
        """What is remembered of a failure; it stays, for another attempt."""
        return self._scopes.get(event_id)

    def forget(self, event_id: str) -> None:
        """The issue has left."""
        self._scopes.pop(event_id, None)

    def clear(self) -> None:
        """A child does not send its parent's issues."""
        self._scopes = OrderedDict()

    def __len__(self) -> int:
        return len(self._scopes)


class HostErrors:
    """Event processor for the errors that the service captures itself: the trail's breadcrumbs, and none twice."""

    def __init__(self, current_trail: Callable[[], Iterable[TrailEntry] | None], render: Render) -> None:
        self._current_trail = current_trail
        self._render = render

    def __call__(self, event: dict[str, Any], hint: dict[str, Any]) -> dict[str, Any] | None:
        """The event with breadcrumbs, or None where its exception is the issue of an event already."""
        if event.get("type") is not None:  # transactions, check-ins
            return event
        if OURS not in hint:
            if _captured((hint.get("exc_info") or (None, None, None))[1]):
                return None
            with guard("adding breadcrumbs to an error of the service"):
                _add_breadcrumbs(event, self._breadcrumbs())
        _limit_breadcrumbs(event, sentry_sdk.get_client().options.get("max_breadcrumbs", _DEFAULT_MAX_BREADCRUMBS))
        return event

    def _breadcrumbs(self) -> list[dict[str, Any]]:
        return breadcrumbs(tuple(self._current_trail() or ()), self._render)


_host_errors: HostErrors | None = None
_registered = False


def install(host_errors: HostErrors | None) -> None:
    """Use this processor for every client of the process, present and future; None: none (sentry-sdk removes none)."""
    global _host_errors, _registered
    _host_errors = host_errors
    if not _registered:
        _registered = True
        add_global_event_processor(_process)


def _process(event: Any, hint: Any) -> Any:
    return event if _host_errors is None else _host_errors(event, hint)


def breadcrumbs(trail: Iterable[TrailEntry], render: Render) -> list[dict[str, Any]]:
    """Breadcrumbs of a trail, whose entries have not passed the redact step."""
    return [_breadcrumb(entry, render) for entry in trail]


def _breadcrumb(entry: TrailEntry, render: Render) -> dict[str, Any]:
    timestamp, declaration, values = entry
    record = EventRecord(declaration, dict(values), event_id="", timestamp=timestamp, observed_timestamp=timestamp)
    minimise(record)
    return payloads.breadcrumb(record, render(record))


def request_scope() -> Callable[[], object | None]:
    """A look-up of the current request's isolation scope; None without one, and in that of now (start-up's).

    `sentry_sdk.get_isolation_scope()` would create one, which a pooled thread then shares among all that it serves.
    """
    variable = getattr(sentry_sdk.scope, "_isolation_scope", None)
    if variable is None:
        return lambda: None
    at_start = variable.get()

    def current() -> object | None:
        scope: object | None = variable.get()
        return None if scope is at_start else scope

    return current


def _snapshot() -> Scope:
    """The scopes of this context merged, as sentry-sdk merges them for a capture."""
    merged = copy(sentry_sdk.get_global_scope())
    merged.update_from_scope(sentry_sdk.get_isolation_scope())
    merged.update_from_scope(sentry_sdk.get_current_scope())
    return merged


def _mark(exception: BaseException, event_id: str) -> None:
    try:
        setattr(exception, _CAPTURED, event_id)
    except (AttributeError, TypeError):  # a class that refuses attributes: its second capture is not recognised
        return


def _captured(exception: BaseException | None) -> bool:
    """Whether this object, or every member of this group, is the issue of an event. One raised from it is not."""
    if exception is None:
        return False
    if hasattr(exception, _CAPTURED):
        return True
    if isinstance(exception, BaseExceptionGroup):
        return all(_captured(member) for member in exception.exceptions)
    return False


def _add_breadcrumbs(event: dict[str, Any], ours: list[dict[str, Any]]) -> None:
    values = _breadcrumbs_of(event)
    if values is not None and ours:
        event["breadcrumbs"] = {"values": sorted([*values, *ours], key=_when)}


def _limit_breadcrumbs(event: dict[str, Any], limit: int) -> None:
    values = _breadcrumbs_of(event)
    if values is not None and len(values) > limit:
        event["breadcrumbs"] = {"values": values[-limit:] if limit > 0 else []}


def _breadcrumbs_of(event: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The native breadcrumbs; None where sentry-sdk has put something in their place."""
    breadcrumbs = event.get("breadcrumbs") or {}
    values = breadcrumbs.get("values", []) if isinstance(breadcrumbs, dict) else None
    return values if isinstance(values, list) else None


def _when(crumb: Mapping[str, Any]) -> float:
    moment = crumb.get("timestamp")
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    if isinstance(moment, datetime):
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return float(moment) if isinstance(moment, int | float) else 0.0
