"""What a declaration says, for others to read: its JSON Schema, and the page of all events.

`python -m caseyos_otel.events.schema > docs/events.md` writes the page anew.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any, Final

from caseyos_otel.events.field import Field, FieldType, Level, Privacy
from caseyos_otel.events.model import Declaration, failure_twin
from caseyos_otel.events.registry import SPECIFIED

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

_JSON_TYPES: Final[Mapping[FieldType, str]] = {
    FieldType.ID: "string",
    FieldType.STRING: "string",
    FieldType.INT: "integer",
    FieldType.DOUBLE: "number",
    FieldType.BOOLEAN: "boolean",
    FieldType.TIMESTAMP: "string",
}
_ENVELOPE: Final[Mapping[str, Any]] = {
    "event_id": {"type": "string", "format": "uuid", "description": "Unique id of the event."},
    "trace_id": {"type": ["string", "null"], "pattern": "^[0-9a-f]{32}$", "description": "Trace it happened in."},
    "span_id": {"type": ["string", "null"], "pattern": "^[0-9a-f]{16}$", "description": "Span it happened in."},
    "invalid_fields": {
        "type": "array",
        "items": {"type": "string"},
        "description": "Fields that were refused and are null.",
    },
}


def json_schema(declaration: Declaration) -> dict[str, Any]:
    """JSON Schema (2020-12) of an event as the structured log and the specification write it.

    Flat, groups nested. OpenTelemetry names are in `x-otel-name`, privacy classes in `x-privacy`, units (UCUM's where
    it has one) in `x-unit`. What the envelope adds (`event_id`, `trace_id`, `span_id`, the emitting service) may be
    missing. A required field that was refused leaves as null and is named in `invalid_fields`; such a line does not
    validate, on purpose.
    """
    return {
        "$schema": DIALECT,
        "$id": f"urn:caseyos-otel:event:{declaration.name}",
        "title": declaration.name,
        "description": declaration.doc,
        "x-otel-name": declaration.otel_name,
        "x-outcome": declaration.outcome,
        "x-failure": _failure(declaration),
        "type": "object",
        "properties": {
            "event": {"const": declaration.name},
            **_properties(declaration),
            "timestamp": {"type": "string", "format": "date-time", "description": "When it happened, with time zone."},
            **_ENVELOPE,
            service_key(declaration): {"type": "string", "description": "Service that emitted it."},
        },
        "required": ["event", *declaration.required, "timestamp"],
        "additionalProperties": False,
    }


def service_key(declaration: Declaration) -> str:
    """Where the emitting service is named: `service`, or `service_name` where an event has a field of that name."""
    return "service_name" if "service" in declaration.by_name else "service"


def markdown(declarations: Iterable[Declaration]) -> str:
    """The page of events, from which `docs/events.md` is made."""
    every = tuple(declarations)
    derived = [declaration for declaration in every if declaration.derived]
    sections = [_section(declaration) for declaration in every if not declaration.derived]
    return "\n\n".join([_INTRODUCTION, *sections, *([_twins(derived)] if derived else [])]) + "\n"


def specified() -> tuple[Declaration, ...]:
    """The specification's events and the failure twins that they imply, whatever else is installed."""
    declared = tuple(cls.declaration for cls in SPECIFIED)
    names = {declaration.name for declaration in declared}
    return (*declared, *(failure_twin(d) for d in declared if d.twin is not None and d.twin not in names))


def _failure(declaration: Declaration) -> str:
    if declaration.failed_when:
        return f"when {declaration.failed_when} is false"
    return "always" if declaration.failure else "never"


def _properties(declaration: Declaration) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    for field in declaration.fields:
        group, _, inner = field.name.rpartition(".")
        if group:
            properties.setdefault(group, _group())["properties"][inner] = _property(field)
        else:
            properties[field.name] = _property(field)
    return properties


def _group() -> dict[str, Any]:
    return {"type": ["object", "null"], "properties": {}, "additionalProperties": False}


def _property(field: Field) -> dict[str, Any]:
    kind, optional = _JSON_TYPES[field.type], field.level is not Level.REQUIRED
    facts: dict[str, Any] = {"type": [kind, "null"] if optional else kind, "description": field.doc}
    if field.allowed:
        facts["enum"] = [*field.allowed, *([None] if optional else [])]
    if field.type is FieldType.TIMESTAMP:
        facts["format"] = "date-time"
    facts |= {"x-otel-name": field.attribute, "x-privacy": field.privacy.value}
    facts["x-requirement-level"] = field.level.value
    return facts | ({"x-unit": field.unit} if field.unit else {})


_INTRODUCTION: Final = """\
# Events

Made from the declarations in `src/caseyos_otel/events/`; `python -m caseyos_otel.events.schema > docs/events.md`
writes it anew. Each event also has `event_id` (UUIDv7), `timestamp` (UTC), `trace_id`, `span_id` and `service`
(`service_name` where an event has a field `service` itself). A field that is missing or refused is null; a refused one,
and a required one that is missing, is named in `invalid_fields`. Privacy classes decide what leaves in plain and where:
`email`, `person`, `company`, `user`, `free_text`; `none` where the column is empty."""


def _section(declaration: Declaration) -> str:
    rows = "\n".join(map(_row, declaration.fields))
    return f"""\
## `{declaration.name}`

{declaration.doc}

{_facts(declaration)}

| field | type | level | accepts | unit | privacy | OpenTelemetry attribute | meaning |
|---|---|---|---|---|---|---|---|
{rows}"""


def _facts(declaration: Declaration) -> str:
    facts = [f"OpenTelemetry name `{declaration.otel_name}`"]
    if declaration.outcome:
        facts.append("an outcome: stored in `outcome_events`")
    if declaration.failure or declaration.failed_when:
        facts.append(f"a failure {_failure(declaration).replace('when', 'where')}")
    if declaration.twin is not None:
        facts.append(f"its failure twin is `{declaration.twin}`")
    return "; ".join(facts) + "."


def _row(field: Field) -> str:
    cells = (
        f"`{field.name}`",
        field.type.value,
        field.level.value,
        ", ".join(f"`{value}`" for value in field.allowed),
        f"`{field.unit}`" if field.unit else "",
        "" if field.privacy is Privacy.NONE else field.privacy.value,
        f"`{field.attribute}`",
        field.doc,
    )
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _twins(derived: list[Declaration]) -> str:
    rows = "\n".join(
        f"| `{d.name}` | `{d.otel_name}` | {', '.join(f'`{name}`' for name in d.by_name)} |" for d in derived
    )
    return f"""\
## Failure twins

Emitted when what an event is about raises an exception. Always failures, declared with the event; no field is required.

| event | OpenTelemetry name | fields |
|---|---|---|
{rows}"""


if __name__ == "__main__":
    sys.stdout.write(markdown(specified()))
