"""What was emitted, and what a test may say about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from typing import Any, Final

from caseyos_otel.errors import InvalidEventError
from caseyos_otel.events.record import EventRecord
from caseyos_otel.events.registry import registry
from caseyos_otel.instrumentation import decorator
from caseyos_otel.instrumentation import track as tracking
from caseyos_otel.testing.clock import Clock
from caseyos_otel.testing.isolation import isolate, replace
from caseyos_otel.testing.recorded import RecordedEvent, spelled, undeclared

_MOST_SHOWN: Final = 50


class Recorder:
    """The events of one test, oldest first.

    `has` answers, `count` counts; `one`, `none` and `sequence` are assertions, whose errors show what was emitted. A
    name or a field that nobody declared is an error of the test (`InvalidEventError`), so that a misspelled `none` does
    not pass.
    """

    def __init__(self) -> None:
        self.clock: Final = Clock()
        """Stands still; `clock.set(moment)` and `clock.advance(seconds=…)` move it."""
        self._events: list[RecordedEvent] = []

    def add(self, record: EventRecord) -> None:
        """Take in what was emitted."""
        self._events.append(RecordedEvent(record))

    def has(self, name: str, /, **fields: Any) -> bool:
        """Whether an event of this name with these fields was emitted.

        Example:
            >>> assert events.has("recommendation_accepted", user_id="casey")  # doctest: +SKIP
        """
        return bool(self.all(name, **fields))

    def count(self, name: str, /, **fields: Any) -> int:
        """How many of them were emitted."""
        return len(self.all(name, **fields))

    def all(self, name: str, /, **fields: Any) -> list[RecordedEvent]:
        """Those of this name with these fields, oldest first."""
        name = _declared(name, fields)
        return [event for event in self._events if event.name == name and event.matches(fields)]

    def one(self, name: str, /, **fields: Any) -> RecordedEvent:
        """The one event of this name with these fields.

        Raises:
            AssertionError: there is none, or more than one.
        """
        __tracebackhide__ = True
        found = self.all(name, **fields)
        if len(found) != 1:
            raise AssertionError(f"expected one {_asked(name, fields)}, got {len(found)}\n{self._shown(name, fields)}")
        return found[0]

    def none(self, name: str, /, **fields: Any) -> bool:
        """True, as no such event was emitted.

        Raises:
            AssertionError: there was one.
        """
        __tracebackhide__ = True
        if found := self.all(name, **fields):
            raise AssertionError(f"expected no {_asked(name, fields)}, got {len(found)}\n{self._shown(name, fields)}")
        return True

    def sequence(self, first: str, second: str, /, *more: str) -> bool:
        """True, as events of these names were emitted in this order; others may lie between.

        Raises:
            AssertionError: they were not; the message names the first that is missing.
        """
        __tracebackhide__ = True
        wanted = [_declared(name, {}) for name in (first, second, *more)]
        emitted = iter(self.names)  # `in` goes on where the one before it was found
        for position, name in enumerate(wanted):
            if name not in emitted:
                after = f" after {' → '.join(wanted[:position])}" if position else ""
                raise AssertionError(f"expected {name}{after}, which did not follow\n{self._shown()}")
        return True

    @property
    def names(self) -> list[str]:
        """The names of all events, in the order in which they were emitted."""
        return [event.name for event in self._events]

    @property
    def strict(self) -> bool:
        """Whether an invalid event raises at the call; a test may set it to False to see what production would do."""
        return tracking.emitter.strict

    @strict.setter
    def strict(self, strict: bool) -> None:
        tracking.emitter.strict = strict

    def as_dicts(self) -> list[dict[str, Any]]:
        """Whole events as the structured log's lines have them, for snapshots: the same at each run.

        Trace and span ids are numbered in the order of their appearance; personal fields are in plain; the service's
        name is left out.
        """
        traces: dict[str, str] = {}
        spans: dict[str, str] = {}
        lines = [event.as_dict() for event in self._events]
        for shaped in lines:
            shaped["trace_id"] = _numbered(traces, shaped["trace_id"], 32)
            shaped["span_id"] = _numbered(spans, shaped["span_id"], 16)
        return lines

    def clear(self) -> None:
        """Forget what was emitted until now: the preparations of a test."""
        self._events.clear()

    def describe(self) -> str:
        """What was emitted, one line an event."""
        return self._shown()

    def __iter__(self) -> Iterator[RecordedEvent]:
        return iter(list(self._events))

    def __len__(self) -> int:
        return len(self._events)

    def __bool__(self) -> bool:
        """Always true: a recorder is there even when nothing was emitted."""
        return True

    def __repr__(self) -> str:
        return f"<events emitted: {', '.join(self.names) or 'none'}>"

    def _shown(self, name: str = "", fields: Mapping[str, Any] | None = None) -> str:
        """Every event; those of the name asked for say in what they differ."""
        if not self._events:
            return "nothing was emitted"
        asked = _declared(name, fields or {}) if name else ""
        lines = []
        for event in self._events[:_MOST_SHOWN]:
            differing = event.differing(fields) if fields and event.name == asked else {}
            lines.append(f"  {event!r}" + (f"  <- here {spelled(differing)}" if differing else ""))
        if (left_out := len(self._events) - len(lines)) > 0:
            lines.append(f"  … and {left_out} more")
        return "\n".join([f"emitted, {len(self._events)} in all:", *lines])


@contextmanager
def recording(*, strict: bool = True) -> Iterator[Recorder]:
    """Record what is emitted inside the block, in every thread; nothing of it leaves. The innermost block gets it.

    Event ids count up from 00000000-0000-7000-8000-000000000001, the clock stands still. `strict`: an invalid event
    raises at the call.

    Example:
        >>> from caseyos_otel import track
        >>> with recording() as events:
        ...     track("recommendation_viewed", user_id="casey", recommendations_shown=3)
        >>> events.one("recommendation_viewed")["user_id"]
        'casey'
    """
    recorder = Recorder()
    with isolate(recorder.add, strict=strict) as undo:
        replace(undo, tracking.emitter, new_id=_counting_ids(), clock=recorder.clock)
        replace(undo, decorator, time=recorder.clock)  # it asks for perf_counter alone
        yield recorder


def _counting_ids() -> Callable[[], str]:
    numbers = count(1)
    return lambda: f"00000000-0000-7000-8000-{next(numbers):012x}"


def _declared(name: str, fields: Mapping[str, Any]) -> str:
    declaration = registry.require(name)
    if problem := undeclared(declaration, tuple(fields)):
        raise InvalidEventError(problem)
    return declaration.name


def _asked(name: str, fields: Mapping[str, Any]) -> str:
    return f"{name} with {spelled(fields)}" if fields else name


def _numbered(known: dict[str, str], identity: str | None, digits: int) -> str | None:
    return None if identity is None else known.setdefault(identity, f"{len(known) + 1:0{digits}x}")
