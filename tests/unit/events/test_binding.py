"""`bind`: what becomes of each kind of value, and what is said about those that are refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

import pytest

from caseyos_otel.events.action import ActionExecuted, ActionMetadata
from caseyos_otel.events.field import Privacy
from caseyos_otel.events.model import Declaration, Event, optional, required
from caseyos_otel.events.registry import Registry
from tests.unit.events.hostile import HOSTILE, HostileText, Size


class Mode(StrEnum):
    QUICK = "quick"


class ParcelSent(Event, name="parcel_sent", otel="acme.parcel.sent"):
    """A parcel was sent."""

    parcel_id: str = required(doc="The parcel.")
    carrier: str | None = optional(doc="Who carries it.")
    mode: str | None = optional(allowed=("quick", "slow"), doc="How.")
    weight: float | None = optional(unit="kg", doc="Weight.")
    pieces: int | None = optional(doc="How many.")
    insured: bool | None = optional(doc="Whether it is.")
    due: datetime | None = optional(doc="When it should be there.")
    receiver: str | None = optional(privacy=Privacy.EMAIL, doc="Who gets it.")


PARCEL = ParcelSent.declaration
ID = "0198c0de-0000-7000-8000-000000000001"
NOON = datetime(2026, 1, 23, 12, tzinfo=UTC)

ACCEPTED: list[tuple[str, Any, Any]] = [
    ("parcel_id", "p-1", "p-1"),
    ("parcel_id", UUID(ID), ID),
    ("parcel_id", 17, "17"),
    ("parcel_id", Size.LARGE, "5"),
    ("parcel_id", "", ""),
    ("carrier", "lone surrogate \ud800", "lone surrogate \ud800"),
    ("carrier", Mode.QUICK, "quick"),
    ("mode", "slow", "slow"),
    ("mode", Mode.QUICK, "quick"),
    ("weight", 1.5, 1.5),
    ("weight", 2, 2),
    ("weight", Decimal("2.5"), 2.5),
    ("weight", 2**70, float(2**70)),
    ("weight", 1e300, 1e300),
    ("pieces", 2, 2),
    ("pieces", 2.0, 2),
    ("pieces", Size.LARGE, 5),
    ("pieces", 2**63 - 1, 2**63 - 1),
    ("pieces", -(2**63), -(2**63)),
    ("insured", False, False),
    ("due", NOON, NOON),
    ("due", NOON.astimezone(timezone(timedelta(hours=5, minutes=30))), NOON),
    ("due", "2026-01-23T12:00:00Z", NOON),
    ("due", "2026-01-23T13:00:00.000001+01:00", NOON + timedelta(microseconds=1)),
]
REFUSED: list[tuple[str, Any, str]] = [
    ("parcel_id", True, "a string, a UUID or a whole number"),
    ("parcel_id", 2**63, "a string, a UUID or a whole number"),
    ("parcel_id", b"p-1", "a string, a UUID or a whole number"),
    ("carrier", 3, "a string"),
    ("carrier", ["a"], "a string"),
    ("mode", "fast", "one of quick, slow"),
    ("mode", 3, "one of quick, slow"),
    ("mode", ["quick"], "one of quick, slow"),
    ("weight", float("nan"), "a finite number"),
    ("weight", float("inf"), "a finite number"),
    ("weight", 10**400, "a finite number"),
    ("weight", Decimal("sNaN"), "a finite number"),
    ("weight", "1.5", "a finite number"),
    ("weight", True, "a finite number"),
    ("pieces", 2**63, "a whole number of at most 64 bits"),
    ("pieces", -(2**63) - 1, "a whole number of at most 64 bits"),
    ("pieces", 1.5, "a whole number of at most 64 bits"),
    ("pieces", float("inf"), "a whole number of at most 64 bits"),
    ("pieces", True, "a whole number of at most 64 bits"),
    ("insured", 1, "true or false"),
    ("insured", "true", "true or false"),
    ("due", datetime(2026, 1, 23, 12), "a datetime with a time zone, or such a one in ISO 8601"),  # noqa: DTZ001
    ("due", "2026-01-23T12:00:00", "a datetime with a time zone, or such a one in ISO 8601"),
    ("due", "tomorrow", "a datetime with a time zone, or such a one in ISO 8601"),
    ("due", datetime.max.replace(tzinfo=timezone(-timedelta(hours=1))), "a datetime with a time zone, or such"),
    ("due", 1769169600, "a datetime with a time zone, or such a one in ISO 8601"),
]


def bound_alone(field: str, value: Any) -> tuple[Any, list[str]]:
    """What becomes of one value, and the names in problems; all other fields are as they should be."""
    given = {"parcel_id": "p-1", "carrier": "mail", field: value}
    values, problems = PARCEL.bind(given)
    assert values | {field: None} == {
        **dict.fromkeys(PARCEL.by_name),
        "parcel_id": "p-1",
        "carrier": "mail",
        field: None,
    }
    return values[field], [problem.field for problem in problems]


@pytest.mark.parametrize(("field", "value", "expected"), ACCEPTED, ids=lambda part: type(part).__name__)
def test_an_accepted_value_is_held_as_a_plain_one(field: str, value: Any, expected: Any) -> None:
    found, problems = bound_alone(field, value)

    assert problems == []
    assert type(found) is type(expected)
    assert found == expected


def test_a_time_is_held_in_utc() -> None:
    found, _ = bound_alone("due", "2026-01-23T13:00:00+01:00")

    assert found.isoformat() == "2026-01-23T12:00:00+00:00"


@pytest.mark.parametrize(("field", "value", "accepts"), REFUSED, ids=lambda part: type(part).__name__)
def test_a_refused_value_costs_its_field_and_the_sentence_names_everything(
    field: str, value: Any, accepts: str
) -> None:
    found, problems = bound_alone(field, value)

    assert (found, problems) == (None, [field])
    sentence = PARCEL.explain(PARCEL.bind({"parcel_id": "p", field: value}).problems[0])
    assert sentence.startswith(f"parcel_sent.{field} has {type(value).__name__} {repr(value)[:77]}")
    assert f"expected {accepts}" in sentence


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("field", list(PARCEL.by_name))
def test_a_hostile_value_costs_its_field_alone(field: str, kind: str) -> None:
    values, problems = PARCEL.bind({"parcel_id": "p-1", "carrier": "mail", field: HOSTILE[kind]()})

    assert values[field] is None
    assert [problem.field for problem in problems] == [field]
    assert values["carrier" if field != "carrier" else "parcel_id"] in ("mail", "p-1")
    assert PARCEL.explain(problems[0]).startswith(f"parcel_sent.{field} has ")


def test_a_text_of_another_class_becomes_plain_text() -> None:
    values, problems = PARCEL.bind({"parcel_id": HostileText("p-1"), "mode": HostileText("quick")})

    assert problems == ()
    assert [type(values[name]) for name in ("parcel_id", "mode")] == [str, str]
    assert (values["parcel_id"], values["mode"]) == ("p-1", "quick")


def test_a_missing_required_field_is_named_and_null() -> None:
    for given in ({}, {"parcel_id": None}):
        values, problems = PARCEL.bind(given)

        assert values == dict.fromkeys(PARCEL.by_name)
        assert [PARCEL.explain(p) for p in problems] == ["parcel_sent.parcel_id: it is required and missing"]


def test_the_value_of_a_personal_field_is_not_repeated() -> None:
    sentence = PARCEL.explain(PARCEL.bind({"parcel_id": "p", "receiver": ["ann@example.org"]}).problems[0])

    assert sentence == "parcel_sent.receiver has list (withheld: email): expected a string"


def test_a_long_value_is_shortened() -> None:
    sentence = PARCEL.explain(PARCEL.bind({"parcel_id": "p", "mode": "x" * 500}).problems[0])

    assert "x" * 76 + "...: expected one of quick, slow" in sentence
    assert len(sentence) < 200


def test_undeclared_fields_vanish_whatever_they_are() -> None:
    given = {"parcel_id": "p", "body": "secret", "timestamp": NOON, 7: "seven", "x": HOSTILE["object"]()}

    values, problems = PARCEL.bind(given)

    assert list(values) == list(PARCEL.by_name)
    assert problems == ()


def test_undeclared_names_are_told_with_the_nearest_known_one() -> None:
    assert PARCEL.undeclared({"parcel_id": 1, "cariier": 2, "timestamp": 3}) == ["cariier"]
    assert PARCEL.explain(PARCEL.unknown_field("cariier")) == (
        "parcel_sent.cariier: parcel_sent declares no such field; did you mean 'carrier'?"
    )
    assert "it has parcel_id, carrier, mode" in PARCEL.unknown_field("zzz").reason


def test_context_fills_in_what_is_left_out_and_is_checked_as_well() -> None:
    context = {"parcel_id": "from context", "carrier": 3, "user_id": "undeclared here", "weight": 1.0}

    values, problems = PARCEL.bind({"weight": 2.0}, context)

    assert (values["parcel_id"], values["weight"], values["carrier"]) == ("from context", 2.0, None)
    assert [problem.field for problem in problems] == ["carrier"]
    assert list(values) == list(PARCEL.by_name)


def test_what_was_given_is_not_changed() -> None:
    given: dict[str, Any] = {"action_id": 1, "metadata": {"recipient": 3}, "other": 4}
    context = {"action_type": "send_email"}

    ActionExecuted.declaration.bind(given, context)

    assert given == {"action_id": 1, "metadata": {"recipient": 3}, "other": 4}
    assert context == {"action_type": "send_email"}


class TestGroups:
    """`metadata`: declared keys only."""

    declaration: Declaration = ActionExecuted.declaration
    fields: dict[str, Any] = {"action_id": "a", "action_type": "t", "execution_mode": "manual", "success": True}  # noqa: RUF012  # read only

    def metadata(self, value: Any) -> tuple[dict[str, Any], list[str]]:
        values, problems = self.declaration.bind({**self.fields, "metadata": value})
        assert list(values) == list(self.declaration.by_name)
        inner = {name.removeprefix("metadata."): v for name, v in values.items() if name.startswith("metadata.")}
        return {name: v for name, v in inner.items() if v is not None}, [problem.field for problem in problems]

    @pytest.mark.parametrize("message", ["body", "text", "html", "content"])
    def test_a_message_body_never_leaves(self, message: str) -> None:
        assert self.metadata({"subject": "Demo", message: "Dear John"}) == ({"subject": "Demo"}, [])

    def test_a_typed_group_is_taken(self) -> None:
        assert self.metadata(ActionMetadata(recipient="a@b.c")) == ({"recipient": "a@b.c"}, [])

    def test_flat_names_are_taken_and_the_group_wins(self) -> None:
        given = {
            **self.fields,
            "metadata.subject": "flat",
            "metadata.recipient": "a@b.c",
            "metadata": {"subject": "in"},
        }

        values, problems = self.declaration.bind(given)

        assert (values["metadata.subject"], values["metadata.recipient"], problems) == ("in", "a@b.c", ())

    def test_a_bad_key_costs_itself(self) -> None:
        assert self.metadata({"subject": 3, "recipient": "a@b.c"}) == ({"recipient": "a@b.c"}, ["metadata.subject"])

    @pytest.mark.parametrize("value", ["text", 3, ["a"], object(), ActionMetadata], ids=lambda v: type(v).__name__)
    def test_what_is_no_object_costs_the_group_alone(self, value: Any) -> None:
        assert self.metadata(value) == ({}, ["metadata"])

    @pytest.mark.parametrize("kind", HOSTILE)
    def test_a_hostile_group_or_key_costs_itself(self, kind: str) -> None:
        assert self.metadata(HOSTILE[kind]()) == ({}, ["metadata"])
        assert self.metadata({"subject": HOSTILE[kind](), "recipient": "a@b.c"}) == (
            {"recipient": "a@b.c"},
            ["metadata.subject"],
        )

    def test_the_sentence_about_a_group_withholds_what_it_held(self) -> None:
        problem = self.declaration.bind({**self.fields, "metadata": ["ann@example.org"]}).problems[0]

        assert self.declaration.explain(problem) == (
            "action_executed.metadata has list (withheld: email): expected an object"
        )

    def test_null_and_empty_groups_are_no_problem(self) -> None:
        assert self.metadata(None) == ({}, [])
        assert self.metadata({}) == ({}, [])


def test_the_specifications_own_decorator_use_yields_an_event_without_ids() -> None:
    values, problems = Registry().require("recommendation_generated").bind({})

    assert set(values.values()) == {None}
    assert [problem.field for problem in problems] == ["recommendation_id", "aps_score", "action_type"]
