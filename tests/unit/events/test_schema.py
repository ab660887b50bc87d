"""JSON Schema and the page of events, both made from the declarations."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker

from caseyos_otel.events.field import Level
from caseyos_otel.events.model import Declaration
from caseyos_otel.events.record import EventRecord
from caseyos_otel.events.registry import Registry
from caseyos_otel.events.schema import json_schema, markdown, specified
from caseyos_otel.exporters.structured_log import line
from tests.contract.specification import Example, examples

PAGE = Path(__file__).parents[3] / "docs" / "events.md"
EXAMPLES = examples()
each_example = pytest.mark.parametrize("example", EXAMPLES, ids=[example.event for example in EXAMPLES])
each_declaration = pytest.mark.parametrize("declaration", specified(), ids=lambda declaration: declaration.name)


def validator(declaration: Declaration) -> Draft202012Validator:
    schema = json_schema(declaration)
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema, format_checker=FormatChecker())


def problems(example: Example, **changed: Any) -> list[str]:
    """What the schema of the example's event says about the example with some properties changed."""
    found = validator(Registry().require(example.event)).iter_errors({**example.document, **changed})
    return sorted(".".join(map(str, error.path)) or error.message for error in found)


@each_example
def test_the_specifications_example_validates(example: Example) -> None:
    assert problems(example) == []


@each_example
def test_a_line_of_the_structured_log_validates(example: Example) -> None:
    declaration = Registry().require(example.event)
    values = declaration.bind(example.properties).values
    record = EventRecord(
        declaration,
        values,
        event_id="0198c0de-0000-7000-8000-000000000001",
        timestamp=int(datetime(2026, 1, 23, tzinfo=UTC).timestamp()) * 10**9,
        observed_timestamp=0,
        trace_id=1,
        span_id=2,
    )

    assert [error.message for error in validator(declaration).iter_errors(json.loads(line(record, values, "x")))] == []


@each_example
def test_what_is_not_declared_or_missing_or_of_another_kind_does_not_validate(example: Example) -> None:
    declaration = Registry().require(example.event)

    assert problems(example, event="another") == ["event"]
    assert len(problems(example, body="Dear John")) == 1
    for field in declaration.fields:
        if "." not in field.name:
            assert problems(example, **{field.name: ["a list"]})
            assert bool(problems(example, **{field.name: None})) == (field.level is Level.REQUIRED)


def test_a_value_outside_the_allowed_ones_does_not_validate() -> None:
    executed = next(example for example in EXAMPLES if example.event == "action_executed")

    assert problems(executed, execution_mode="by_magic") == ["execution_mode"]
    assert problems(executed, metadata={"body": "Dear John"}) == ["metadata"]
    assert problems(executed, metadata=None) == []


@each_declaration
def test_the_schema_tells_what_the_declaration_says(declaration: Declaration) -> None:
    schema = json_schema(declaration)
    assert json.loads(json.dumps(schema)) == schema
    assert schema["x-otel-name"] == declaration.otel_name
    for field in declaration.fields:
        group, _, inner = field.name.rpartition(".")
        facts = (schema["properties"][group] if group else schema)["properties"][inner]
        assert (facts["x-otel-name"], facts["x-privacy"]) == (field.attribute, field.privacy.value)
        assert (facts.get("x-unit", ""), facts["description"]) == (field.unit, field.doc)
        assert (field.name in schema["required"]) == (field.level is Level.REQUIRED)


def test_an_event_with_a_field_service_names_the_emitting_service_differently() -> None:
    opened, viewed = (
        json_schema(Registry().require(name)) for name in ("circuit_breaker_opened", "recommendation_viewed")
    )

    assert "service_name" in opened["properties"]
    assert opened["properties"]["service"]["x-otel-name"] == "caseyos.circuit_breaker.service"
    assert "service_name" not in viewed["properties"]


def test_the_page_of_events_is_up_to_date() -> None:
    assert PAGE.read_text("utf-8") == markdown(specified()), (
        "docs/events.md is not what the declarations say; write it anew:"
        " make docs, or python -m caseyos_otel.events.schema > docs/events.md"
    )


@each_declaration
def test_the_page_names_every_event_and_field(declaration: Declaration) -> None:
    page = PAGE.read_text("utf-8")

    assert f"`{declaration.name}`" in page
    assert f"`{declaration.otel_name}`" in page
    assert all(f"`{field.name}`" in page for field in declaration.fields)
