"""What surrounds an event: fields bound by `bind()`, and the trail of recent events of the same request.

The trail is one per local root span, else one per Sentry isolation scope; it is shared by the tasks and threads beneath
and never inherited from start-up (DESIGN 8.1). Breadcrumbs are rendered from it.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any, Final

from opentelemetry import baggage
from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import Span

from caseyos_otel import _otel

TRAIL_LENGTH: Final = 100
"""Events remembered of one request: Sentry's own default for breadcrumbs."""

TrailEntry = tuple[int, Any, dict[str, Any]]
"""(nanoseconds since 1970, declaration, plain values)"""
Trail = deque[TrailEntry]

_BAGGAGE_PREFIX: Final = "caseyos."
_SPAN_TRAIL: Final = "_caseyos_trail"
_SCOPES_REMEMBERED: Final = 1000

_bound: ContextVar[Mapping[str, Any] | None] = ContextVar("caseyos_otel_bound", default=None)
_scope_trails: OrderedDict[int, tuple[object, Trail]] = OrderedDict()

propagate: bool = False
"""Whether `bind()` also travels in baggage; set by the pipeline from CASEYOS_OTEL_PROPAGATE."""

isolation_scope: Callable[[], object | None] = lambda: None  # noqa: E731  # replaced by the pipeline where Sentry is on
"""The current request's Sentry isolation scope, or None (no Sentry, or the scope of start-up)."""


class bind:  # noqa: N801  # used like a function: `with bind(recommendation_id=…):`
    """Fill in fields on every event inside the block, across await and into executor threads that copy the context.

    Example:
        >>> with bind(recommendation_id="7d0c…"):
        ...     pass  # events here carry recommendation_id, where they declare it
    """

    def __init__(self, **fields: Any) -> None:
        self._fields = fields
        self._within: Mapping[str, Any] = {}
        self._token: Token[Mapping[str, Any] | None] | None = None
        self._baggage: Token[Context] | None = None

    def __enter__(self) -> None:
        self._within = {**(_bound.get() or {}), **self._fields}
        self._token = _bound.set(self._within)
        if propagate:
            context: Context | None = None
            for name, value in self._fields.items():
                context = baggage.set_baggage(_BAGGAGE_PREFIX + name, str(value), context)
            if context is not None:
                self._baggage = attach(context)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._baggage is not None:
            detach(self._baggage)
        if self._token is not None:
            try:
                _bound.reset(self._token)
            except ValueError:  # a generator that was closed in another context: what others bound there stays
                if _bound.get() is self._within:
                    _bound.set(self._token.old_value if self._token.old_value is not Token.MISSING else None)


def bound_fields() -> Mapping[str, Any] | None:
    """Fields that `bind()` (and, where asked for, incoming baggage) gives to events emitted here."""
    here = _bound.get()
    if not propagate:
        return here
    incoming = {
        key.removeprefix(_BAGGAGE_PREFIX): value
        for key, value in baggage.get_all().items()
        if key.startswith(_BAGGAGE_PREFIX)
    }
    return {**incoming, **(here or {})} if incoming else here


def start_trail(span: Span, parent: Span | None) -> None:
    """Give a span the trail of its local parent, or a new one where it is a local root."""
    inherited = None if parent is None else getattr(parent, _SPAN_TRAIL, None)
    setattr(span, _SPAN_TRAIL, deque(maxlen=TRAIL_LENGTH) if inherited is None else inherited)


def current_trail() -> Trail | None:
    """The trail that an event emitted here belongs to; None where there is neither a span nor an isolation scope."""
    # no isinstance of the span, which costs 0.1 µs: whatever else is there has no trail
    trail: Trail | None = getattr(_otel.current_context().get(_otel.SPAN_KEY), _SPAN_TRAIL, None)
    if trail is None and (scope := isolation_scope()) is not None:
        trail = _scope_trail(scope)
    return trail


def _scope_trail(scope: object) -> Trail:
    # The scope itself is held, so that its id is not given to another one while it is remembered.
    known = _scope_trails.get(id(scope))
    if known is not None:
        return known[1]
    trail: Trail = deque(maxlen=TRAIL_LENGTH)
    _scope_trails[id(scope)] = (scope, trail)
    while len(_scope_trails) > _SCOPES_REMEMBERED:
        try:
            _scope_trails.popitem(last=False)
        except KeyError:  # another thread emptied it
            break
    return trail
