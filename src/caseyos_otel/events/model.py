"""The declaration of an event: one frozen typed class, from which everything else about the event is derived."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from types import NoneType, UnionType
from typing import Any, ClassVar, Final, dataclass_transform

from caseyos_otel.errors import InvalidEventError
from caseyos_otel.events.binding import Bind, Bound, Problem, compile_bind
from caseyos_otel.events.field import Field, FieldType, Level, Privacy
from caseyos_otel.events.naming import RESERVED, attribute_name, check_names

__all__ = [
    "Bind",
    "Bound",
    "Declaration",
    "Event",
    "Fields",
    "Problem",
    "failure_twin",
    "group",
    "optional",
    "required",
]

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


def group(fields: type[Fields], *, doc: str = "") -> Any:
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


# Only `required` is a field specifier to type checkers: what another call returns is a default to them, so that
# optional fields and groups may be left out.
@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(required,))
class Fields:
    """Base of a group of fields."""

    def __init_subclass__(cls) -> None:
        dataclasses.dataclass(frozen=True, kw_only=True)(cls)


class Declaration:
    """What is known of one event class. `bind` (see `Bind`) is the only way from fields to values."""

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

    def __repr__(self) -> str:
        return f"<Declaration {self.name}>"

    @cached_property
    def settle(self) -> Bind:
        """`bind` as a plain pair, for the hot path; made when first used, as most processes bind a few of the events."""
        return compile_bind(self.name, self.fields, self.groups)

    def bind(self, given: Mapping[str, Any], context: Mapping[str, Any] | None = None) -> Bound:
        """The values of every declared field, and what was wrong with the others; see `Bind`."""
        return Bound(*self.settle(given, context))

    def failed(self, values: Mapping[str, Any]) -> bool:
        """Whether these values say that something failed (DESIGN section 2, *Failure*)."""
        return self.failure or (self.failed_when != "" and values[self.failed_when] is False)

    def undeclared(self, given: Mapping[str, Any]) -> list[str]:
        """Names that this event does not declare."""
        return [name for name in given if name not in self.by_name and name not in self.groups and name != "timestamp"]

    def explain(self, problem: Problem) -> str:
        """A sentence naming event, field, value, what is accepted and, for an unknown name, the nearest known one.

        It goes to logs and exceptions, so the value of a personal field is withheld.
        """
        shown = "" if problem.value is None else f" has {type(problem.value).__name__} {self._shown(problem)}"
        return f"{self.name}.{problem.field}{shown}: {problem.reason}"

    def unknown_field(self, name: str) -> Problem:
        """The problem of a field that is not declared."""
        near = difflib.get_close_matches(name, [*self.by_name, *self.groups], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(self.by_name)}"
        return Problem(name, None, f"{self.name} declares no such field{hint}")

    def _shown(self, problem: Problem) -> str:
        inner = [f for f in self.fields if f.name == problem.field or f.name.startswith(f"{problem.field}.")]
        if private := [f.privacy.value for f in inner if f.privacy is not Privacy.NONE]:
            return f"(withheld: {private[0]})"
        return _abbreviated(problem.value)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(required,))
class Event:
    """Base of every event class.

    Class arguments: `name` (flat name), `otel` (OpenTelemetry name, `<prefix>.<what happened>`), `outcome` (stored for
    a year in `outcome_events`), `failure` (always a failure), `failed_when` (the boolean field whose False is a
    failure), `twin` (name of the event emitted when the decorated function raises; default `<name>_failed`).

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
        check_names(cls, name, otel)
        fields, groups = _fields_of(cls, otel.rpartition(".")[0])
        _check_fields(cls, fields, failed_when)
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
    ids = tuple(dataclasses.replace(f, level=Level.RECOMMENDED) for f in declaration.fields if f.name.endswith("_id"))
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
    recommended, open_text = Level.RECOMMENDED, Privacy.FREE_TEXT
    return (
        Field(
            "error_type",
            FieldType.STRING,
            recommended,
            Privacy.NONE,
            "error.type",
            doc="Class of the exception.",
            dimension=True,
        ),
        Field("error_message", FieldType.STRING, recommended, open_text, "error.message", doc="Its message."),
        Field(
            "duration_ms",
            FieldType.DOUBLE,
            recommended,
            Privacy.NONE,
            f"{prefix}.duration_ms",
            unit="ms",
            doc="Time until it was raised.",
        ),
    )


def _check_fields(cls: type, fields: tuple[Field, ...], failed_when: str) -> None:
    attributes: dict[str, str] = {}
    for field in fields:
        if field.name in RESERVED:
            raise InvalidEventError(f"{cls.__name__}.{field.name}: every event has this already; name it differently")
        if (other := attributes.setdefault(field.attribute, field.name)) != field.name:
            raise InvalidEventError(
                f"{cls.__name__}: {other} and {field.name} share the attribute {field.attribute};"
                " give one of them attribute=…"
            )
    if failed_when and not any(f.name == failed_when and f.type is FieldType.BOOLEAN for f in fields):
        raise InvalidEventError(f"{cls.__name__}: failed_when={failed_when!r} is not a bool field of it")


def _fields_of(cls: type, prefix: str) -> tuple[tuple[Field, ...], frozenset[str]]:
    try:
        hints = typing.get_type_hints(cls)
    except NameError as error:
        raise InvalidEventError(f"{cls.__name__}: {error}, so its types are not known") from error
    fields: list[Field] = []
    groups: set[str] = set()
    for spec in dataclasses.fields(cls):
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
        parts = [part for part in typing.get_args(hint) if part is not NoneType]
        return parts[0] if len(parts) == 1 else None
    return hint


def _abbreviated(value: object) -> str:
    try:
        text = repr(value)
        return text if len(text) <= 80 else text[:77] + "..."
    except Exception:
        return "(it cannot be shown)"
