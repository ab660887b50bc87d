"""Which events are declared: the specification's sixteen, their failure twins, and those of the service."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from importlib.metadata import EntryPoint, entry_points
from threading import get_ident

from caseyos_otel import diagnostics
from caseyos_otel.errors import InvalidEventError, UnknownEventError
from caseyos_otel.events import action, integration, outcome, recommendation, signal
from caseyos_otel.events.model import Declaration, Event, failure_twin

GROUP = "caseyos_otel_events"
SPECIFIED: tuple[type[Event], ...] = (
    recommendation.RecommendationGenerated,
    recommendation.RecommendationViewed,
    recommendation.RecommendationAccepted,
    recommendation.RecommendationDismissed,
    action.ActionExecuted,
    action.ActionFailed,
    action.ActionRolledBack,
    outcome.OutcomeReplyReceived,
    outcome.OutcomeMeetingBooked,
    outcome.OutcomeDealAdvanced,
    outcome.OutcomeDeliverableShipped,
    signal.SignalReceived,
    signal.SignalProcessed,
    integration.IntegrationCallSuccess,
    integration.IntegrationCallFailed,
    integration.CircuitBreakerOpened,
)


class Registry:
    """Declarations by flat name and OpenTelemetry name. Reads are lock-free; registering replaces nothing silently."""

    def __init__(self, classes: Iterable[type[Event]] = SPECIFIED) -> None:
        self._by_name: dict[str, Declaration] = {}
        self._by_otel_name: dict[str, Declaration] = {}
        for cls in classes:
            self.register(cls)
        self._loaded = False
        self._loading: set[int] = set()

    def register(self, cls: type[Event]) -> Declaration:
        """Add an event class, and its failure twin unless that is declared by a class of its own.

        Raises:
            InvalidEventError: another class already has its name or its OpenTelemetry name.
        """
        declaration = cls.declaration
        self._add(declaration)
        if declaration.twin is not None and declaration.twin not in self._by_name:
            self._add(failure_twin(declaration))
        return declaration

    def get(self, name: str) -> Declaration | None:
        """The declaration of a flat or an OpenTelemetry name, if any."""
        return self._by_name.get(name) or self._by_otel_name.get(name) or self._late(name)

    def require(self, name: str) -> Declaration:
        """The declaration of a name.

        Raises:
            UnknownEventError: nobody declared it; the message has the nearest known name and what to do.
        """
        if (declaration := self.get(name)) is not None:
            return declaration
        near = difflib.get_close_matches(str(name), [*self._by_name, *self._by_otel_name], n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"declare it as a class in the entry point group {GROUP}"
        raise UnknownEventError(f"{name!r} is not a declared event; {hint}")

    def twin(self, declaration: Declaration) -> Declaration | None:
        """The failure that is emitted when what the event is about raises."""
        return None if declaration.twin is None else self._by_name.get(declaration.twin)

    def __iter__(self) -> Iterator[Declaration]:
        self.load_entry_points()
        return iter(list(self._by_name.values()))

    def load_entry_points(self) -> None:
        """Add what packages declare in `caseyos_otel_events`: classes, or modules of classes. Broken: reported."""
        # No lock: loading imports foreign modules, whose import may itself emit an event or hold an import lock.
        # Threads that meet here each load, which changes nothing the second time.
        if self._loaded or get_ident() in self._loading:
            return
        self._loading.add(get_ident())
        try:
            for entry_point in entry_points(group=GROUP):
                self._load(entry_point)
        except Exception as error:
            diagnostics.fault(f"entry points of {GROUP} cannot be read: {error}", error)
        finally:
            self._loaded = True
            self._loading.discard(get_ident())

    def _load(self, entry_point: EntryPoint) -> None:
        try:
            classes = _event_classes(entry_point.load())
        except (Exception, SystemExit) as error:
            diagnostics.fault(f"entry point {entry_point.name!r} of {GROUP} cannot be used: {error}", error)
            return
        if not classes:
            diagnostics.warn(f"entry point {entry_point.name!r} of {GROUP} ({entry_point.value}) has no Event class")
        for cls in classes:
            try:
                self.register(cls)
            except InvalidEventError as error:
                diagnostics.fault(f"entry point {entry_point.name!r} of {GROUP}: {cls.__name__}: {error}", error)

    def _late(self, name: str) -> Declaration | None:
        if self._loaded:
            return None
        self.load_entry_points()
        return self._by_name.get(name) or self._by_otel_name.get(name)

    def _add(self, declaration: Declaration) -> None:
        named, otel_named = self._by_name.get(declaration.name), self._by_otel_name.get(declaration.otel_name)
        for known in (named, otel_named):
            if known is not None and known is not declaration and not known.derived:
                raise InvalidEventError(
                    f"the event name {declaration.name!r} ({declaration.otel_name}) is declared twice;"
                    f" {known.name!r} ({known.otel_name}) has it"
                )
        if named is not None and named is not declaration:
            self._by_otel_name.pop(named.otel_name, None)  # a derived twin gives way to a class of its own
        self._by_name[declaration.name] = declaration
        self._by_otel_name[declaration.otel_name] = declaration


def _event_classes(loaded: object) -> list[type[Event]]:
    candidates = [loaded] if isinstance(loaded, type) else list(vars(loaded).values())
    return [cls for cls in candidates if isinstance(cls, type) and issubclass(cls, Event) and cls is not Event]


registry = Registry()
"""The declarations of this process."""
