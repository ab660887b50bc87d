"""Every declaration, the sixteen and their twins: names, privacy, units, twins."""

from __future__ import annotations

import re

import pytest

from caseyos_otel.events.field import FieldType, Level, Privacy
from caseyos_otel.events.model import Declaration
from caseyos_otel.events.schema import specified

DECLARATIONS = specified()
NOUNS = {"recommendation", "action", "outcome", "signal", "integration", "circuit_breaker"}
DOTTED = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")
PERSONAL = {
    "recipient": Privacy.EMAIL,
    "metadata.recipient": Privacy.EMAIL,
    "attendee": Privacy.EMAIL,
    "client": Privacy.COMPANY,
    "user_id": Privacy.USER,
    "reasoning": Privacy.FREE_TEXT,
    "metadata.subject": Privacy.FREE_TEXT,
    "error": Privacy.FREE_TEXT,
    "error_message": Privacy.FREE_TEXT,
    "dismiss_reason": Privacy.FREE_TEXT,
    "endpoint": Privacy.FREE_TEXT,  # paths hold ids and addresses: /contacts/ann@example.org
}
UNIT_BY_ENDING = {"_ms": "ms", "_seconds": "s", "_hours": "h", "_days": "d", "_minutes": "min"}
STANDARD = {
    "user_id": "user.id",
    "error_type": "error.type",
    "method": "http.request.method",
    "status_code": "http.response.status_code",
    "endpoint": "url.path",
    "recommendation_id": "caseyos.recommendation.id",
    "action_id": "caseyos.action.id",
    "draft_id": "caseyos.draft.id",
    "deal_id": "caseyos.deal.id",
    "deliverable_id": "caseyos.deliverable.id",
    "signal_id": "caseyos.signal.id",
}
each = pytest.mark.parametrize("declaration", DECLARATIONS, ids=[d.name for d in DECLARATIONS])


def named(name: str) -> Declaration:
    return next(d for d in DECLARATIONS if d.name == name)


@each
def test_names_are_lower_case_dotted_and_of_a_known_noun(declaration: Declaration) -> None:
    assert DOTTED.fullmatch(declaration.otel_name)
    assert declaration.otel_name.split(".")[0] == "caseyos"
    assert declaration.otel_name.split(".")[1] in NOUNS
    assert all(DOTTED.fullmatch(field.attribute) for field in declaration.fields)


@each
def test_attributes_are_unique_within_the_event_and_apart_from_the_envelope(declaration: Declaration) -> None:
    assert len(declaration.by_attribute) == len(declaration.by_name) == len(declaration.fields)
    assert not any(attribute.startswith("caseyos.event.") for attribute in declaration.by_attribute)


def test_event_names_are_unique() -> None:
    assert len({d.name for d in DECLARATIONS}) == len({d.otel_name for d in DECLARATIONS}) == len(DECLARATIONS)


def test_one_attribute_means_one_thing_everywhere() -> None:
    meanings: dict[str, set[tuple[FieldType, Privacy, str]]] = {}
    for field in (field for d in DECLARATIONS for field in d.fields):
        meanings.setdefault(field.attribute, set()).add((field.type, field.privacy, field.unit))

    assert {attribute: found for attribute, found in meanings.items() if len(found) > 1} == {}


@each
def test_personal_fields_have_their_privacy_class_and_no_others_do(declaration: Declaration) -> None:
    for field in declaration.fields:
        assert field.privacy is PERSONAL.get(field.name, Privacy.NONE), field.name


def test_every_personal_field_of_the_list_occurs() -> None:
    assert PERSONAL.keys() <= {field.name for d in DECLARATIONS for field in d.fields}


@each
def test_personal_fields_are_never_dimensions_of_a_metric(declaration: Declaration) -> None:
    for field in declaration.fields:
        assert not (field.dimension and (field.privacy is not Privacy.NONE or field.type is FieldType.ID)), field.name


@each
def test_units_follow_from_names_and_every_field_is_described(declaration: Declaration) -> None:
    for field in declaration.fields:
        assert field.doc.endswith("."), field.name
        ending = next((end for end in UNIT_BY_ENDING if field.name.endswith(end)), None)
        assert ending is None or field.unit == UNIT_BY_ENDING[ending], field.name


@each
def test_standard_attributes_are_used_where_they_mean_the_same(declaration: Declaration) -> None:
    for field in declaration.fields:
        if field.name in STANDARD:
            assert field.attribute == STANDARD[field.name]
        else:
            assert field.attribute.startswith("caseyos.") or field.name == "error_message", field.name


@pytest.mark.parametrize("declaration", [d for d in DECLARATIONS if not d.failure], ids=lambda d: d.name)
def test_a_success_has_a_failure_twin_that_carries_its_ids(declaration: Declaration) -> None:
    assert declaration.twin is not None
    twin = named(declaration.twin)

    assert twin.failure
    assert {"error_type", "error_message", "duration_ms"} <= twin.by_name.keys()
    if twin.derived:
        ids = {name for name in declaration.by_name if name.endswith("_id")}
        assert twin.by_name.keys() == ids | {"error_type", "error_message", "duration_ms"}
        assert all(field.level is Level.RECOMMENDED for field in twin.fields)
        assert all(twin.by_name[name].privacy is declaration.by_name[name].privacy for name in ids)


def test_twins_of_the_specification_are_the_specifications_events() -> None:
    assert named("action_executed").twin == "action_failed"
    assert named("integration_call_success").twin == "integration_call_failed"
    assert named("recommendation_generated").twin == "recommendation_generated_failed"
    assert not named("action_failed").derived
    assert not named("integration_call_failed").derived


@pytest.mark.parametrize("declaration", [d for d in DECLARATIONS if d.failure], ids=lambda d: d.name)
def test_a_failure_always_failed_and_has_no_twin(declaration: Declaration) -> None:
    assert declaration.failed(declaration.bind({}).values)
    assert declaration.twin is None


@pytest.mark.parametrize(
    ("name", "field"), [("action_executed", "success"), ("action_rolled_back", "rollback_success")]
)
def test_an_event_fails_when_its_field_is_false_and_only_then(name: str, field: str) -> None:
    declaration = named(name)

    assert declaration.failed(declaration.bind({field: False}).values)
    assert not declaration.failed(declaration.bind({field: True}).values)
    assert not declaration.failed(declaration.bind({}).values)
    assert not declaration.failed(declaration.bind({field: 0}).values)
