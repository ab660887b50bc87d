"""Whatever is given to `bind`: it never raises, gives exactly the declared fields, and only plain values."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from caseyos_otel.events.field import FieldType, Level
from caseyos_otel.events.model import Bound, Declaration
from caseyos_otel.events.schema import json_schema, specified
from caseyos_otel.exporters.structured_log import nested
from tests.unit.events.hostile import HOSTILE, Colour, HostileText, Size

DECLARATIONS = specified()
PLAIN = (str, int, float, bool, datetime, type(None))


@dataclass(frozen=True)
class Hostile:
    """Stands for a hostile value until `bind` is called: Hypothesis itself would trip over one."""

    kind: str


def made(drawn: Any) -> Any:
    """What was drawn, with hostile values where they belong."""
    if isinstance(drawn, Hostile):
        return HOSTILE[drawn.kind]()
    return {key: made(value) for key, value in drawn.items()} if isinstance(drawn, dict) else drawn


values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=2**62, max_value=2**64) | st.integers(min_value=-(2**64), max_value=-(2**62)),
    st.floats(),
    st.decimals(),
    st.text(st.characters()),
    st.text(st.characters()).map(HostileText),
    st.binary(),
    st.uuids(),
    st.datetimes(timezones=st.none() | st.timezones()),
    st.datetimes(timezones=st.timezones()).map(datetime.isoformat),
    st.sampled_from([Size.LARGE, Colour.TEXT, Colour.HOSTILE, object(), Exception, print, ...]),
    st.lists(st.integers(), max_size=2),
    st.complex_numbers(),
    st.sampled_from([Hostile(kind) for kind in HOSTILE]),
)
keys = st.sampled_from(sorted({name for d in DECLARATIONS for name in (*d.by_name, *d.groups)} | {"timestamp", "body"}))
groups = st.dictionaries(st.sampled_from(["recipient", "subject", "gmail_message_id", "body", ""]), values) | values
fields = st.dictionaries(keys | st.text(max_size=5), values, max_size=12)
contexts = st.none() | fields
declarations = st.sampled_from(DECLARATIONS)


@st.composite
def relevant(draw: st.DrawFn, declaration: Declaration) -> dict[str, Any]:
    """Fields that mostly belong to this event, some of the right type, some not."""
    names = st.sampled_from([*declaration.by_name, *declaration.groups])
    given = draw(st.dictionaries(names, values, max_size=8))
    return given | {name: draw(groups) for name in declaration.groups if draw(st.booleans())}


def check(declaration: Declaration, bound: Bound) -> None:
    assert list(bound.values) == list(declaration.by_name)
    for name, value in bound.values.items():
        assert type(value) in PLAIN
        assert not isinstance(value, float) or math.isfinite(value)
        assert not isinstance(value, datetime) or value.tzinfo is UTC
        assert type(value) is not int or -(2**63) <= value < 2**63
        field = declaration.by_name[name]
        assert value is None or not field.allowed or value in field.allowed
    for problem in bound.problems:
        assert problem.field in declaration.by_name or problem.field in declaration.groups
        assert bound.values.get(problem.field) is None
        assert declaration.explain(problem).startswith(f"{declaration.name}.{problem.field}")
    assert len({problem.field for problem in bound.problems}) == len(bound.problems)


@given(declarations, fields, contexts)
def test_bind_never_raises_and_gives_the_declared_fields_in_plain(
    declaration: Declaration, given_fields: dict[str, Any], context: dict[str, Any] | None
) -> None:
    check(declaration, declaration.bind(made(given_fields), made(context)))


@given(st.data(), declarations)
def test_fields_of_the_event_itself(data: st.DataObject, declaration: Declaration) -> None:
    check(declaration, declaration.bind(made(data.draw(relevant(declaration)))))


@given(st.data(), declarations)
def test_a_field_is_null_only_if_it_was_null_or_named(data: st.DataObject, declaration: Declaration) -> None:
    fields_given = data.draw(relevant(declaration))

    bound = declaration.bind(made(fields_given))

    named = {problem.field for problem in bound.problems}
    for name, field in declaration.by_name.items():
        if bound.values[name] is None and name not in named:
            assert field.level is not Level.REQUIRED
            assert fields_given.get(name) is None


@given(st.data(), declarations)
def test_binding_what_was_bound_changes_nothing(data: st.DataObject, declaration: Declaration) -> None:
    once = declaration.bind(made(data.draw(relevant(declaration)))).values

    again, problems = declaration.bind(once)

    assert again == once
    assert [type(value) for value in again.values()] == [type(value) for value in once.values()]
    assert {p.field for p in problems} == {name for name in declaration.required if once[name] is None}


valid = {
    FieldType.ID: st.text(st.characters()) | st.uuids().map(str),
    FieldType.STRING: st.text(st.characters()),
    FieldType.INT: st.integers(-(2**63), 2**63 - 1),
    FieldType.DOUBLE: st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63), 2**63 - 1),
    FieldType.BOOLEAN: st.booleans(),
    FieldType.TIMESTAMP: st.datetimes(timezones=st.just(UTC)),
}


@given(st.data(), declarations)
def test_valid_fields_come_back_as_they_are_and_fit_the_json_schema(
    data: st.DataObject, declaration: Declaration
) -> None:
    fields_given = {
        field.name: data.draw(st.sampled_from(field.allowed) if field.allowed else valid[field.type])
        for field in declaration.fields
        if field.level is Level.REQUIRED or data.draw(st.booleans())
    }

    bound_values, problems = declaration.bind(fields_given)

    assert problems == ()
    assert bound_values == {**dict.fromkeys(declaration.by_name), **fields_given}
    written = nested(bound_values, declaration.groups)
    document = {"event": declaration.name, **written, "timestamp": "2026-01-23T12:00:00Z"}
    document = json.loads(json.dumps(document, default=datetime.isoformat))
    assert [error.message for error in Draft202012Validator(json_schema(declaration)).iter_errors(document)] == []
