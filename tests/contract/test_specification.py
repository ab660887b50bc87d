"""The declarations say what the specification says: events, properties, spelling, allowed values."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

import pytest

from caseyos_otel.events.field import FieldType
from caseyos_otel.events.registry import SPECIFIED, Registry
from caseyos_otel.exporters.structured_log import nested
from tests.contract.specification import PATH, Example, examples

EXAMPLES = examples()
each_example = pytest.mark.parametrize("example", EXAMPLES, ids=[example.event for example in EXAMPLES])

ADDED = {
    # a failure's own time and class of error, beside the message that the specification names
    "action_failed": {"duration_ms"},
    "integration_call_failed": {"error_type", "duration_ms"},
}
"""Fields that the specification does not show."""

OPEN = {
    # the decorator's failure twin has the class of the exception here
    ("action_failed", "error_type"),
    # CASEYOS_OTEL_INTEGRATIONS adds hosts, and with them names
    ("integration_call_success", "integration"),
}
"""Fields whose comment lists values that are examples rather than all there are."""

LISTED_ELSEWHERE = {("signal_processed", "source"): ("hubspot", "gmail", "calendar", "webhook")}
"""Closed fields whose values another event's example lists."""


def as_written(value: Any) -> Any:
    """A bound value as JSON has it."""
    return value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else value


def test_the_copy_is_the_specification_of_version_1_0_byte_for_byte() -> None:
    digest = hashlib.sha256(PATH.read_bytes()).hexdigest()

    assert digest == "fc05c981f9a413cbeaaa5a5eb5097c3c8c5cf979ec8d2d228dd3e96984afb276", (
        "a formatter or an edit changed it"
    )


def test_every_heading_of_the_taxonomy_has_an_example_and_a_declaration() -> None:
    headings = [line[6:-1] for line in PATH.read_text("utf-8").splitlines() if line.startswith("#### `")]

    assert len(headings) == 16
    assert [example.event for example in EXAMPLES] == headings
    assert [cls.declaration.name for cls in SPECIFIED] == headings


@each_example
def test_an_example_binds_and_comes_back_field_by_field(example: Example) -> None:
    declaration = Registry().require(example.event)

    values, problems = declaration.bind(example.properties)

    assert problems == ()
    added = dict.fromkeys(ADDED.get(example.event, ()))
    assert {name: as_written(value) for name, value in values.items()} == {**example.flat, **added}


@each_example
def test_values_keep_the_specifications_shape_and_types(example: Example) -> None:
    declaration = Registry().require(example.event)

    shaped = nested(declaration.bind(example.properties).values, declaration.groups)

    for name, value in example.properties.items():
        assert as_written(shaped[name]) == value
        assert isinstance(as_written(shaped[name]), type(value))


@each_example
def test_exactly_the_specifications_properties_are_declared(example: Example) -> None:
    declared = set(Registry().require(example.event).by_name)

    assert declared - example.flat.keys() == ADDED.get(example.event, set())
    assert example.flat.keys() - declared == set()


def test_what_is_listed_as_added_is_needed() -> None:
    shown = {example.event: example.flat.keys() for example in EXAMPLES}

    assert all(fields and not fields & shown[event] for event, fields in ADDED.items())


def test_allowed_values_are_those_that_the_comments_list() -> None:
    listed = {(e.event, name): values for e in EXAMPLES for name, values in e.alternatives.items()}
    closed = {(c.declaration.name, f.name): f.allowed for c in SPECIFIED for f in c.declaration.fields if f.allowed}

    assert len(listed) == 6
    listed_and_closed = {key: values for key, values in listed.items() if key not in OPEN}
    assert closed == listed_and_closed | LISTED_ELSEWHERE
    assert listed.keys() >= OPEN


def test_open_fields_take_the_listed_values_and_others() -> None:
    registry, listed = Registry(), {(e.event, n): v for e in EXAMPLES for n, v in e.alternatives.items()}
    for event, name in OPEN:
        for value in (*listed[event, name], "another"):
            assert registry.require(event).bind({name: value}).values[name] == value


def test_the_examples_timestamp_is_an_instant_in_utc() -> None:
    meeting = next(example for example in EXAMPLES if example.event == "outcome_meeting_booked")
    declaration = Registry().require(meeting.event)

    assert declaration.by_name["meeting_time"].type is FieldType.TIMESTAMP
    assert declaration.bind(meeting.properties).values["meeting_time"] == datetime(2026, 1, 24, 14, tzinfo=UTC)


def test_outcomes_and_failures_are_the_specifications() -> None:
    declarations = [cls.declaration for cls in SPECIFIED]

    assert [d.name for d in declarations if d.outcome] == [
        d.name for d in declarations if d.name.startswith("outcome_")
    ]
    assert {d.name for d in declarations if d.failure} == {
        "action_failed",
        "integration_call_failed",
        "circuit_breaker_opened",
    }
    assert {d.name: d.failed_when for d in declarations if d.failed_when} == {
        "action_executed": "success",
        "action_rolled_back": "rollback_success",
    }
