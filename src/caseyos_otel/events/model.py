"""The declaration of an event: one frozen typed class, from which everything else about the event is derived."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Mapping
from datetime import datetime
from types import NoneType, UnionType
from typing import Any, ClassVar, Final, NamedTuple, dataclass_transform

from caseyos_otel.errors import InvalidEventError
from caseyos_otel.events.field import EXACT, Field, FieldType, Level, Privacy

NOUNS: Final = ("recommendation", "action", "draft", "deal", "deliverable", "signal", "queue_item")
STANDARD_ATTRIBUTES: Final = {
    "user_id": "user.id",
    "error_type": "error.type",
    "error_message": "error.message",
    "method": "http.request.method",
    "status_code": "http.response.status_code",
    "endpoint": "url.path",
    "aps_score": "caseyos.recommendation.aps_score",
    "action_type": "caseyos.action.type",
    "signal_type": "caseyos.signal.type",
    "signal_source": "caseyos.signal.source",
    "integration": "caseyos.integration.name",
}
"""Fields whose attribute is the same in every event: OpenTelemetry's where one means the same, else the noun's own."""

_FIELD_TYPES: Final[Mapping[type, FieldType]] = {
    str: FieldType.STRING,
    int: FieldType.INT,
    float: FieldType.DOUBLE,
    bool: FieldType.BOOLEAN,
    datetime: FieldType.TIMESTAMP,
}
_META: Final = "caseyos_otel"


def required(
    *,
    privacy: Privacy = Privacy.NONE,
    allowed: tuple[str, ...] = (),
    unit: str = "",
    attribute: str = "",
    doc: str = "",
    dimension: bool = False,
) -> Any:
    """A field that every event of the class has. Missing, it is null and named in `caseyos.event.invalid_fields`.

    Example:
        >>> class ContractSigned(Event, name="contract_signed", otel="acme.contract.signed", outcome=True):
        ...     '''A contract was signed.'''
        ...
        ...     contract_id: str = required(doc="Contract in the CRM.")
    """
    return _specify(Level.REQUIRED, privacy, allowed, unit, attribute, doc, dimension)


def optional(
    *,
    default: None = None,
    level: Level = Level.RECOMMENDED,
    privacy: Privacy = Privacy.NONE,
    allowed: tuple[str, ...] = (),
    unit: str = "",
    attribute: str = "",
    doc: str = "",
    dimension: bool = False,
) -> Any:
    """A field that an event may lack: null then, without complaint."""
    return _specify(level, privacy, allowed, unit, attribute, doc, dimension)


def group(fields: type[Fields], *, default: None = None, doc: str = "") -> Any:
    """A nested object of declared keys, like `metadata`; what it does not declare does not leave."""
    return dataclasses.field(default=None, metadata={_META: fields, "doc": doc})


def _specify(
    level: Level, privacy: Privacy, allowed: tuple[str, ...], unit: str, attribute: str, doc: str, dimension: bool
) -> Any:
    facts = {
        "level": level,
        "privacy": privacy,
        "allowed": allowed,
        "unit": unit,
        "attribute": attribute,
        "doc": doc,
        "dimension": dimension,
    }
    # None at run time even where the type says otherwise: a missing field costs that field, never the event.
    return dataclasses.field(default=None, metadata={_META: facts})


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(required, optional, group))
class Fields:
    """Base of a group of fields."""

    def __init_subclass__(cls) -> None:
        dataclasses.dataclass(frozen=True, kw_only=True)(cls)


class Problem(NamedTuple):
    """A field that costs itself: its name, the value that was refused, and why."""

    field: str
    value: object
    reason: str


class Bound(NamedTuple):
    """Fields after validation: every declared field with its value or None, and what was wrong with the others."""

    values: dict[str, Any]
    problems: tuple[Problem, ...]


class Declaration:
    """What is known of one event class. `bind` is the only way from fields to values."""

    def __init__(
        self,
        *,
        name: str,
        otel_name: str,
        doc: str,
        fields: tuple[Field, ...],
        groups: frozenset[str] = frozenset(),
        outcome: bool = False,
        failure: bool = False,
        failed_when: str = "",
        twin: str | None = None,
        derived: bool = False,
    ) -> None:
        self.name = name
        self.otel_name = otel_name
        self.doc = doc
        self.fields = fields
        self.groups = groups
        self.outcome = outcome
        self.failure = failure
        self.failed_when = failed_when
        self.twin = twin
        self.derived = derived
        self.by_name: Mapping[str, Field] = {f.name: f for f in fields}
        self.by_attribute: Mapping[str, Field] = {f.attribute: f for f in fields}
        self.required: tuple[str, ...] = tuple(f.name for f in fields if f.level is Level.REQUIRED)
        self.retryable = "retryable" in self.by_name
        self._template: dict[str, Any] = dict.fromkeys(self.by_name)
        self._exact = {f.name: (frozenset() if f.allowed else EXACT[f.type]) for f in fields}

    def __repr__(self) -> str:
        return f"<Declaration {self.name}>"

    def bind(self, given: Mapping[str, Any], context: Mapping[str, Any] | None = None) -> Bound:
        """Validate fields. Undeclared ones vanish; bad and missing required ones become None and are named.

        `context` are `bind()`'s fields, which fill in what `given` leaves out.
        """
        values = self._template.copy()
        problems: list[Problem] | None = None
        exact = self._exact
        if context:
            given = {**context, **given}
        for name, value in given.items():
            types = exact.get(name)
            if types is None:
                if name in self.groups:
                    problems = self._bind_group(name, value, values, problems)
            elif type(value) in types and (type(value) is not float or value - value == 0.0):
                values[name] = value
            elif value is not None:
                problems = self._bind_one(name, value, values, problems)
        for name in self.required:
            if values[name] is None and name not in given:
                problems = [*(problems or ()), Problem(name, None, "it is required and missing")]
        return Bound(values, () if problems is None else tuple(problems))

    def failed(self, values: Mapping[str, Any]) -> bool:
        """Whether these values say that something failed (DESIGN section 2, *Failure*)."""
        return self.failure or (self.failed_when != "" and values[self.failed_when] is False)

    def undeclared(self, given: Mapping[str, Any]) -> list[str]:
        """Names that this event does not declare."""
        return [name for name in given if name not in self.by_name and name not in self.groups and name != "timestamp"]

    def explain(self, problem: Problem) -> str:
        """A sentence naming event, field, value, what is accepted and, for an unknown name, the nearest known one."""
        shown = "" if problem.value is None else f" has {type(problem.value).__name__} {_shown(problem.value)}"
        return f"{self.name}.{problem.field}{shown}: {problem.reason}"

    def unknown_field(self, name: str) -> Problem:
        """The problem of a field that is not declared."""
        near = difflib.get_close_matches(name, [*self.by_name, *self.groups], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(self.by_name)}"
        return Problem(name, None, f"{self.name} declares no such field{hint}")

    def _bind_one(
        self, name: str, value: Any, values: dict[str, Any], problems: list[Problem] | None
    ) -> list[Problem] | None:
        try:
            values[name] = self.by_name[name].convert(value)
        except Exception as error:
            # a value whose own __str__ or __eq__ raises costs the field as well
            reason = f"expected {error}" if type(error) is ValueError else f"expected {self.by_name[name].accepts}"
            return [*(problems or ()), Problem(name, value, reason)]
        return problems

    def _bind_group(
        self, name: str, value: Any, values: dict[str, Any], problems: list[Problem] | None
    ) -> list[Problem] | None:
        if value is None:
            return problems
        if isinstance(value, Fields):
            value = vars(value)
        if not isinstance(value, Mapping):
            return [*(problems or ()), Problem(name, value, "expected an object")]
        for key, inner in value.items():
            path = f"{name}.{key}"
            if path in self._exact and inner is not None:
                problems = self._bind_one(path, inner, values, problems)
        return problems


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(required, optional, group))
class Event:
    """Base of every event class.

    Class arguments: `name` (flat name), `otel` (OpenTelemetry name, `<prefix>.<what happened>`), `outcome` (stored for a
    year in `outcome_events`), `failure` (always a failure), `failed_when` (the boolean field whose False is a failure),
    `twin` (name of the event emitted when the decorated function raises; default `<name>_failed`).

    Raises:
        InvalidEventError: at class creation, when the declaration itself is wrong.
    """

    declaration: ClassVar[Declaration]

    def __init_subclass__(
        cls,
        *,
        name: str,
        otel: str,
        outcome: bool = False,
        failure: bool = False,
        failed_when: str = "",
        twin: str | None = None,
    ) -> None:
        dataclasses.dataclass(frozen=True, kw_only=True)(cls)
        if "." not in otel:
            raise InvalidEventError(f"{cls.__name__}: otel={otel!r} needs a namespace, like caseyos.outcome.{name}")
        fields, groups = _fields_of(cls, otel.rpartition(".")[0])
        cls.declaration = Declaration(
            name=name,
            otel_name=otel,
            doc=(cls.__doc__ or "").strip(),
            fields=fields,
            groups=groups,
            outcome=outcome,
            failure=failure,
            failed_when=failed_when,
            twin=None if failure else (twin or f"{name}_failed"),
        )


def failure_twin(declaration: Declaration) -> Declaration:
    """`<event>_failed`: the event's ids, error_type, error_message, duration_ms (DESIGN section 2)."""
    prefix = declaration.otel_name.rpartition(".")[0]
    ids = tuple(
        dataclasses.replace(f, level=Level.RECOMMENDED) for f in declaration.fields if f.name.endswith("_id")
    )
    own = {f.name for f in ids}
    extra = tuple(f for f in _twin_fields(prefix) if f.name not in own)
    return Declaration(
        name=declaration.twin or f"{declaration.name}_failed",
        otel_name=f"{declaration.otel_name}_failed",
        doc=f"{declaration.name} did not happen because an exception was raised.",
        fields=(*ids, *extra),
        failure=True,
        derived=True,
    )


def _twin_fields(prefix: str) -> tuple[Field, ...]:
    return (
        Field("error_type", FieldType.STRING, Level.RECOMMENDED, Privacy.NONE, "error.type", doc="Class of the exception.", dimension=True),
        Field("error_message", FieldType.STRING, Level.RECOMMENDED, Privacy.FREE_TEXT, "error.message", doc="Its message."),
        Field("duration_ms", FieldType.DOUBLE, Level.RECOMMENDED, Privacy.NONE, f"{prefix}.duration_ms", unit="ms", doc="Time until it was raised."),
    )  # fmt: skip


def _fields_of(cls: type, prefix: str) -> tuple[tuple[Field, ...], frozenset[str]]:
    hints = typing.get_type_hints(cls)
    fields: list[Field] = []
    groups: set[str] = set()
    for spec in dataclasses.fields(cls):  # type: ignore[arg-type]  # made a dataclass just before
        facts = spec.metadata.get(_META)
        if facts is None:
            raise InvalidEventError(f"{cls.__name__}.{spec.name}: declare it with required(), optional() or group()")
        if isinstance(facts, type):
            groups.add(spec.name)
            inner, _ = _fields_of(facts, prefix)
            fields += [dataclasses.replace(f, name=f"{spec.name}.{f.name}") for f in inner]
        else:
            fields.append(_field(cls, spec.name, hints[spec.name], facts, prefix))
    return tuple(fields), frozenset(groups)


def _field(cls: type, name: str, hint: Any, facts: Mapping[str, Any], prefix: str) -> Field:
    kind = _FIELD_TYPES.get(_bare(hint))
    if kind is None:
        accepted = ", ".join(t.__name__ for t in _FIELD_TYPES)
        raise InvalidEventError(f"{cls.__name__}.{name}: type {hint!r} is not one of {accepted} (or that | None)")
    if kind is FieldType.STRING and name.endswith("_id"):
        kind = FieldType.ID
    return Field(name=name, type=kind, **{**facts, "attribute": facts["attribute"] or attribute_name(name, prefix)})


def _bare(hint: Any) -> Any:
    if isinstance(hint, UnionType) or typing.get_origin(hint) is typing.Union:
        return next((part for part in typing.get_args(hint) if part is not NoneType), None)
    return hint


def attribute_name(field: str, prefix: str) -> str:
    """The OpenTelemetry attribute of a field: the standard one, the noun's id, or `<prefix>.<field>`."""
    if field in STANDARD_ATTRIBUTES:
        return STANDARD_ATTRIBUTES[field]
    noun = field.removesuffix("_id")
    if noun != field and noun in NOUNS:
        return f"caseyos.{noun}.id"
    own = prefix.rpartition(".")[2]
    return f"{prefix}.{field.removeprefix(own + '_') or field}"


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except Exception:
        return "that cannot be shown"
    return text if len(text) <= 80 else text[:77] + "..."


