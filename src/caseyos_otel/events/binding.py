"""From given fields to values: one function per declaration, generated, because every `track()` waits for it.

An exact-type check per field in straight-line code costs half of a loop over the fields (0.55 against 1.0 µs for six).
What is not exactly right takes the slow way through `Field.convert`, and costs that field alone if it fails.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from typing import Any, Final, NamedTuple, Protocol

from caseyos_otel.events.field import INT64, Field, FieldType, Level


class Problem(NamedTuple):
    """A field that costs itself: its name, the value that was refused, and why."""

    field: str
    value: object
    reason: str


class Bound(NamedTuple):
    """Fields after validation: every declared field with its value or None, and what was wrong with the others."""

    values: dict[str, Any]
    problems: tuple[Problem, ...]


class Bind(Protocol):
    """Validate fields. Undeclared ones vanish; bad and missing required ones become None and are named. Never raises.

    `context` are `bind()`'s fields, which fill in what `given` leaves out.
    """

    def __call__(
        self, given: Mapping[str, Any], context: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], tuple[Problem, ...]]:
        """The values of every declared field, and the problems: a `Bound` without its price (0.2 µs)."""


MISSING: Final = "it is required and missing"

_IS_NOT: Final[Mapping[FieldType, str]] = {
    FieldType.ID: "type({v}) is not str",
    FieldType.STRING: "type({v}) is not str",
    FieldType.INT: "(type({v}) is not int or not least <= {v} <= most)",
    FieldType.DOUBLE: "(type({v}) is not float or {v} - {v} != 0.0)"
    " and (type({v}) is not int or not least <= {v} <= most)",
    FieldType.BOOLEAN: "{v} is not True and {v} is not False",
    FieldType.TIMESTAMP: "True",
}
"""When a value needs the slow way. Only exact types are compared: no method of the caller's runs here."""


def compile_bind(name: str, fields: tuple[Field, ...], groups: frozenset[str]) -> Bind:
    """The `bind` of a declaration. Its source holds nothing but numbers and the reprs of declared names."""
    lines = [
        "def bind(given, context=None):",
        "    values = {**template, **context, **given} if context else {**template, **given}",
        "    problems = ()",
        *(line for group in sorted(groups) for line in _group_lines(group)),
        # declared names come first, so what is beyond their number is undeclared
        f"    while len(values) > {len(fields)}: values.popitem()",
        # locals from here on: to look each one up by its name costs half as much again
        *([f"    {', '.join(f'v{number}' for number in range(len(fields)))}, = values.values()"] if fields else []),
        *(_field_line(number, field) for number, field in enumerate(fields)),
        "    return values, problems",
    ]
    scope: dict[str, Any] = {
        "template": {f.name: None for f in fields},
        "keys": {g: _keys(g, fields) for g in groups},
        "least": INT64[0],
        "most": INT64[-1],
        "settle": _settle,
        "spread": _spread,
        **{f"field{number}": f for number, f in enumerate(fields)},
        **{f"allowed{number}": frozenset(f.allowed) for number, f in enumerate(fields)},
    }
    exec(compile("\n".join(lines), f"<bind of {name}>", "exec"), scope)  # noqa: S102  # the lines above, nothing else
    bind: Bind = scope["bind"]
    return bind


def _group_lines(group: str) -> tuple[str, str]:
    return (
        f"    v = values.pop({group!r}, None)",
        f"    if v is not None: problems = spread({group!r}, keys[{group!r}], v, values, problems)",
    )


def _field_line(number: int, field: Field) -> str:
    value = f"v{number}"
    wrong = _IS_NOT[field.type].format(v=value)
    if field.allowed:
        wrong = f"({wrong} or {value} not in allowed{number})"
    if field.level is not Level.REQUIRED:
        wrong = f"{value} is not None and {wrong}"
    return f"    if {wrong}: problems = settle(field{number}, values, problems)"


def _settle(field: Field, values: dict[str, Any], problems: tuple[Problem, ...]) -> tuple[Problem, ...]:
    value = values[field.name]
    values[field.name] = None
    if value is None:
        return (*problems, Problem(field.name, None, MISSING))
    try:
        values[field.name] = field.convert(value)
    except Exception:
        # not accepted, or a value whose own methods raise: either costs the field alone
        return (*problems, Problem(field.name, value, f"expected {field.accepts}"))
    return problems


def _keys(group: str, fields: tuple[Field, ...]) -> tuple[tuple[str, str], ...]:
    prefix = f"{group}."
    return tuple((f.name.removeprefix(prefix), f.name) for f in fields if f.name.startswith(prefix))


def _spread(
    group: str, keys: tuple[tuple[str, str], ...], given: Any, values: dict[str, Any], problems: tuple[Problem, ...]
) -> tuple[Problem, ...]:
    try:
        get = _getter(given)
        for key, path in keys:
            if (value := get(key)) is not None:
                values[path] = value
    except Exception:
        return (*problems, Problem(group, given, "expected an object"))
    return problems


def _getter(given: Any) -> Callable[[str], Any]:
    if type(given) is dict or isinstance(given, Mapping):
        return given.get
    if is_dataclass(given) and not isinstance(given, type):
        return lambda key: getattr(given, key, None)
    raise TypeError
