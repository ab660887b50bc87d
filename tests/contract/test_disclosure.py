"""Personal data by destination: every class, destination and choice of `CASEYOS_OTEL_PII_PLAIN` (DESIGN 7 and 8.4)."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest

from caseyos_otel.events.field import Privacy
from caseyos_otel.events.model import Event, optional
from caseyos_otel.events.record import EventRecord
from caseyos_otel.events.registry import registry
from caseyos_otel.otlp.encode import RequestEncoder
from caseyos_otel.redaction.disclosure import DESTINATIONS, TABLE, Disclosure, minimise
from caseyos_otel.redaction.pseudonyms import Pseudonyms

PSEUDONYMS = Pseudonyms(b"key")
ADDRESS = "john@acmecorp.com"
HASHED = PSEUDONYMS.of(ADDRESS)
CHOICES = [frozenset(chosen) for n in range(5) for chosen in combinations(("database", "log", "otlp", "sentry"), n)]


class Everything(Event, name="everything", otel="acme.everything.seen"):
    """A field of each class."""

    page: str | None = optional(privacy=Privacy.NONE)
    recipient: str | None = optional(privacy=Privacy.EMAIL)
    contact: str | None = optional(privacy=Privacy.PERSON)
    client: str | None = optional(privacy=Privacy.COMPANY)
    user_id: str | None = optional(privacy=Privacy.USER)
    owner: str | None = optional(privacy=Privacy.USER)
    reasoning: str | None = optional(privacy=Privacy.FREE_TEXT)


GIVEN = {
    "page": "/today",
    "recipient": ADDRESS,
    "contact": "John Doe",
    "client": "Acme Corp",
    "user_id": "casey",
    "owner": ADDRESS,
    "reasoning": f"{ADDRESS} asked, password=hunter2",
}
IN_PLAIN = {**GIVEN, "reasoning": f"{ADDRESS} asked, password=[secret]"}
HASHED_FORM = {
    "page": "/today",
    "recipient": HASHED,
    "contact": PSEUDONYMS.of("John Doe"),
    "client": PSEUDONYMS.of("Acme Corp"),
    "user_id": "casey",
    "owner": HASHED,
    "reasoning": f"{HASHED} asked, password=[secret]",
}
RAISED = {
    "exception.type": "smtplib.SMTPRecipientsRefused",
    "exception.message": f"{ADDRESS}: token=abc",
    "exception.stacktrace": f"Traceback\nSMTPRecipientsRefused: {ADDRESS}",
}
RAISED_IN_PLAIN = {**RAISED, "exception.message": f"{ADDRESS}: token=[secret]"}


def minimised(declaration: Any, given: dict[str, Any]) -> EventRecord:
    record = EventRecord(
        declaration,
        declaration.bind(given).values,
        event_id="01890a5d-ac96-774b-bcce-b302099a8057",
        timestamp=1,
        observed_timestamp=1,
        exception_attributes=dict(RAISED),
    )
    minimise(record)
    return record


def test_the_table_and_this_test_know_every_class() -> None:
    assert set(TABLE) == set(Privacy) == {field.privacy for field in Everything.declaration.fields}


@pytest.mark.parametrize("plain", CHOICES, ids=lambda chosen: "+".join(sorted(chosen)) or "none")
@pytest.mark.parametrize("destination", DESTINATIONS)
def test_who_may_see_what(destination: str, plain: frozenset[str]) -> None:
    disclosure = Disclosure(PSEUDONYMS, plain)
    record = minimised(Everything.declaration, GIVEN)
    may_see = destination == "spool" or destination in plain
    assert disclosure.values(record, destination) == (IN_PLAIN if may_see else HASHED_FORM)
    hashed = {key: text.replace(ADDRESS, HASHED) for key, text in RAISED_IN_PLAIN.items()}
    assert disclosure.exception(record, destination) == (RAISED_IN_PLAIN if may_see else hashed)
    text = disclosure.text(GIVEN["reasoning"], destination)
    assert text == (IN_PLAIN if may_see else HASHED_FORM)["reasoning"]


@pytest.mark.parametrize("destination", ["log", "otlp", "sentry"])
@pytest.mark.parametrize("declaration", list(registry), ids=lambda declaration: declaration.name)
def test_by_default_no_declared_personal_field_leaves_in_plain(declaration: Any, destination: str) -> None:
    given: dict[str, Any] = {}
    for field in declaration.fields:
        if field.privacy is not Privacy.NONE:
            group, dot, key = field.name.partition(".")
            (given.setdefault(group, {}) if dot else given)[key or group] = f"of {ADDRESS} and others"
    record = minimised(declaration, given)
    shown = Disclosure(PSEUDONYMS, frozenset({"database"})).values(record, destination)
    assert ADDRESS not in repr(shown)
    assert {name for name, value in shown.items() if value is not None} == {
        name for name, value in record.values.items() if value is not None
    }, "what may not be shown is hashed, not lost"


def test_the_bytes_that_leave_by_otlp() -> None:
    disclosure = Disclosure(PSEUDONYMS, frozenset({"database"}))
    record = minimised(Everything.declaration, GIVEN)
    request = RequestEncoder({}, "s", "1", "").encode(
        [record], lambda r: disclosure.values(r, "otlp"), lambda r: disclosure.exception(r, "otlp")
    )
    for personal in (ADDRESS, "John Doe", "Acme Corp", "hunter2"):
        assert personal.encode() not in request
    assert HASHED.encode() in request
