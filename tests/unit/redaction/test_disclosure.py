"""What the table costs and what minimising does; the table itself is tested in tests/contract."""

from __future__ import annotations

from typing import Any

import pytest

from caseyos_otel.events.field import Privacy
from caseyos_otel.events.model import Event, optional, required
from caseyos_otel.events.record import EventRecord
from caseyos_otel.redaction.disclosure import Disclosure, is_address, minimise
from caseyos_otel.redaction.patterns import LIMIT
from caseyos_otel.redaction.pseudonyms import Pseudonyms

PSEUDONYMS = Pseudonyms(b"key")
DISCLOSURE = Disclosure(PSEUDONYMS, frozenset({"database"}))


class Visited(Event, name="visited", otel="acme.visit.seen"):
    """Personal and harmless fields."""

    page: str = required()
    kind: str | None = optional(allowed=("first", "again"))
    visitor: str | None = optional(privacy=Privacy.EMAIL)
    age: int | None = optional(privacy=Privacy.PERSON)
    note: str | None = optional(privacy=Privacy.FREE_TEXT)
    user_id: str | None = optional(privacy=Privacy.USER)


def visited(exception: dict[str, str] | None = None, **values: Any) -> EventRecord:
    return EventRecord(
        Visited.declaration,
        Visited.declaration.bind(values).values,
        event_id="01890a5d-ac96-774b-bcce-b302099a8057",
        timestamp=1,
        observed_timestamp=1,
        exception_attributes=exception,
    )


@pytest.mark.parametrize("values", [{"page": "/"}, {"page": "/", "note": "fine", "user_id": "casey"}])
def test_an_event_without_personal_data_is_returned_as_it_is(values: dict[str, Any]) -> None:
    record = visited(**values)
    assert DISCLOSURE.values(record, "log") is record.values


def test_disclosing_leaves_the_record_alone() -> None:
    record = visited(page="/", visitor="john@acmecorp.com")
    before = dict(record.values)
    assert DISCLOSURE.values(record, "log") == {**before, "visitor": PSEUDONYMS.of("john@acmecorp.com")}
    assert record.values == before


def test_a_personal_field_that_is_no_text_does_not_leave() -> None:
    record = visited(page="/", age=44)
    assert DISCLOSURE.values(record, "sentry")["age"] is None
    assert DISCLOSURE.values(record, "database")["age"] == 44


def test_a_destination_nobody_knows_is_never_plain() -> None:
    record = visited(page="/", visitor="john@acmecorp.com")
    assert DISCLOSURE.values(record, "databse")["visitor"] == PSEUDONYMS.of("john@acmecorp.com")


@pytest.mark.parametrize(
    ("user", "address"),
    [
        ("casey", False),
        ("@casey", False),
        ("casey@", False),
        ("casey@acme.com", True),
        ("google:casey@localhost", True),
        ("casey%40acme.com", True),
        ("7", False),
    ],
)
def test_user_ids_that_are_addresses(user: str, address: bool) -> None:
    assert is_address(user) is address
    shown = DISCLOSURE.values(visited(page="/", user_id=user), "log")["user_id"]
    assert shown == (PSEUDONYMS.of(user) if address else user)


def test_minimising_masks_secrets_in_free_text_and_cleans_every_text() -> None:
    record = visited(
        {"exception.type": "E\0", "exception.message": "password=x", "exception.stacktrace": "a" * LIMIT * 2 + "end"},
        page="/a\0b",
        note="token=abc\ud800 for john@acmecorp.com",
        visitor="x" * LIMIT * 2,
        kind="first",
        age=4,
    )
    minimise(record)
    assert record.values["page"] == "/a\ufffdb"
    assert record.values["note"] == "token=[secret] for john@acmecorp.com"
    assert len(record.values["visitor"].encode()) == LIMIT
    assert record.values["visitor"].endswith("…[cut]")
    assert (record.values["kind"], record.values["age"], record.values["user_id"]) == ("first", 4, None)
    assert record.exception_attributes["exception.type"] == "E\ufffd"
    assert record.exception_attributes["exception.message"] == "password=[secret]"
    assert record.exception_attributes["exception.stacktrace"].endswith("end")
    again = (dict(record.values), dict(record.exception_attributes))
    minimise(record)
    assert again == (record.values, record.exception_attributes)


def test_minimising_keeps_the_texts_of_an_ordinary_event() -> None:
    record = visited(page="/today", note="High pipeline value", user_id="casey")
    texts = {name: id(value) for name, value in record.values.items()}
    minimise(record)
    assert {name: id(value) for name, value in record.values.items()} == texts


def test_any_other_text() -> None:
    text = "password=x for john@acmecorp.com\0"
    hashed = PSEUDONYMS.of("john@acmecorp.com")
    assert DISCLOSURE.text(text, "database") == "password=[secret] for john@acmecorp.com\ufffd"
    assert DISCLOSURE.text(text, "log") == f"password=[secret] for {hashed}\ufffd"


def test_no_exception_nothing_to_disclose() -> None:
    assert DISCLOSURE.exception(visited(page="/"), "log") == {}
