"""What an outcome's row becomes once no address in it may stay plain, alone and in a SQLite file."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import uuid_utils
from sqlalchemy import Engine, select

from caseyos_otel.events.field import Privacy
from caseyos_otel.events.model import Declaration, Event, optional, required
from caseyos_otel.events.outcome import OutcomeReplyReceived
from caseyos_otel.events.record import EventRecord
from caseyos_otel.privacy import retention
from caseyos_otel.privacy.anonymise import READ, anonymised
from caseyos_otel.redaction.pseudonyms import Pseudonyms
from caseyos_otel.storage import schema
from caseyos_otel.storage.columns import OUTCOME_COLUMNS
from caseyos_otel.storage.engine import create, parse_url
from caseyos_otel.storage.tables import outcome_events
from caseyos_otel.storage.writer import Writer

pseudonym = Pseudonyms(b"the key of these tests").of
NOW = datetime.now(UTC)


class LeaseCountersigned(Event, name="lease_countersigned", otel="acme.lease.countersigned", outcome=True):
    """An outcome with a personal field of every class, some with a column and some in a group."""

    lease_id: str = required(doc="The lease.")
    tenant: str | None = optional(privacy=Privacy.EMAIL, doc="Who signed.")
    guarantor: str | None = optional(privacy=Privacy.EMAIL, doc="Who signed too.")
    agent: str | None = optional(privacy=Privacy.PERSON, doc="By name.")
    agents_birthday: datetime | None = optional(privacy=Privacy.PERSON, doc="A moment about a person.")
    user_id: str | None = optional(privacy=Privacy.USER, doc="Who entered it.")
    client: str | None = optional(privacy=Privacy.COMPANY, doc="The company.")
    reply_sentiment: str | None = optional(privacy=Privacy.FREE_TEXT, doc="Free text in a column.")
    pipeline_value: float | None = optional(doc="Rent.")


LEASE = LeaseCountersigned.declaration


def row(**columns: Any) -> dict[str, Any]:
    return {**dict.fromkeys(OUTCOME_COLUMNS), "event": LEASE.name, "properties": {}, **columns}


def test_nothing_changes_where_nothing_is_personal() -> None:
    assert anonymised(LEASE, row(user_id="casey", client="Acme", pipeline_value=9.5), pseudonym) == {}


def test_the_address_of_the_contact_becomes_the_hash_that_is_stored_beside_it() -> None:
    changed = anonymised(LEASE, row(contact_email="ann@acme.example", contact_hash="as it was made then"), pseudonym)
    assert changed == {"contact_email": "as it was made then"}


@pytest.mark.parametrize(
    ("user", "becomes"),
    [
        ("casey", None),
        ("casey@caseyos.example", pseudonym("casey@caseyos.example")),
        ("c@localhost", pseudonym("c@localhost")),
    ],
)
def test_a_user_becomes_a_hash_only_as_an_address(user: str, becomes: str | None) -> None:
    assert anonymised(LEASE, row(user_id=user), pseudonym) == ({"user_id": becomes} if becomes else {})


def test_free_text_keeps_its_words_and_a_company_its_name() -> None:
    changed = anonymised(LEASE, row(reply_sentiment="ann@acme.example agrees", client="Acme"), pseudonym)
    assert changed == {"reply_sentiment": f"{pseudonym('ann@acme.example')} agrees"}


def test_a_moment_about_a_person_goes() -> None:
    properties = {"agents_birthday": 19800101, "agent": "Carl", "lease_id": "l1"}
    changed = anonymised(LEASE, row(properties=properties), pseudonym)
    assert changed == {"properties": {"agents_birthday": None, "agent": pseudonym("Carl"), "lease_id": "l1"}}


def test_a_moment_and_a_number_about_a_person_that_have_a_column_go_unread() -> None:
    class Birthday(Event, name="birthday_entered", otel="acme.birthday.entered", outcome=True):
        """Both in columns."""

        meeting_time: datetime | None = optional(privacy=Privacy.PERSON, doc="A moment.")
        pipeline_value: float | None = optional(privacy=Privacy.PERSON, doc="A number.")
        time_to_reply_hours: float | None = optional(doc="About nobody.")

    read = {**dict.fromkeys(READ), "event": "birthday_entered", "properties": {}}
    assert anonymised(Birthday.declaration, read, pseudonym) == {"meeting_time": None, "pipeline_value": None}


def test_of_an_event_that_nobody_declares_every_text_becomes_a_hash_in_every_depth() -> None:
    properties = {"note": "ask Bob", "metadata": {"name": "Eve", "n": 3, "late": True}, "all": ["Dan", 1.5, None]}
    changed = anonymised(None, row(client="Carl", pipeline_value=9.5, on_time=False, properties=properties), pseudonym)
    assert changed == {
        "client": pseudonym("Carl"),
        "properties": {
            "note": pseudonym("ask Bob"),
            "metadata": {"name": pseudonym("Eve"), "n": 3, "late": True},
            "all": [pseudonym("Dan"), 1.5, None],
        },
    }


def test_ids_stay_whoever_declares_them_unless_they_are_addresses() -> None:
    ids = {"recommendation_id": "r1", "deal_id": "d1", "user_id": "casey", "draft_id": "dan@acme.example"}
    assert anonymised(None, row(**ids), pseudonym) == {"draft_id": pseudonym("dan@acme.example")}


def test_a_field_that_its_event_does_not_declare_any_more_becomes_a_hash() -> None:
    changed = anonymised(LEASE, row(properties={"lease_id": "l1", "landlord": "Larry"}), pseudonym)
    assert changed == {"properties": {"lease_id": "l1", "landlord": pseudonym("Larry")}}


@pytest.mark.parametrize("properties", ["Larry", ["Larry"], None, 3])
def test_properties_that_somebody_else_wrote_stop_nothing(properties: Any) -> None:
    assert "Larry" not in repr(anonymised(LEASE, row(properties=properties), pseudonym).get("properties", ""))


@pytest.mark.parametrize("declaration", [LEASE, None])
def test_doing_it_again_changes_nothing(declaration: Declaration | None) -> None:
    before = row(
        contact_email="ann@acme.example",
        contact_hash=pseudonym("ann@acme.example"),
        user_id="casey@caseyos.example",
        properties={"guarantor": "bob@acme.example", "agent": "Carl"},
    )
    after = {**before, **anonymised(declaration, before, pseudonym)}
    assert anonymised(declaration, after, pseudonym) == {}


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = create(parse_url(f"sqlite:///{tmp_path / 'caseyos.db'}"))
    schema.upgrade(engine)
    yield engine
    engine.dispose()


def store(engine: Engine, days: int, address: str) -> str:
    declaration = OutcomeReplyReceived.declaration
    moment = int((NOW - timedelta(days=days)).timestamp() * 1e9)
    values = declaration.bind({"draft_id": "d1", "recipient": address, "time_to_reply_hours": 4.5}).values
    record = EventRecord(
        declaration, values, event_id=str(uuid_utils.uuid7()), timestamp=moment, observed_timestamp=moment
    )
    Writer(engine, event_store="all", disclose=lambda r: r.values, pseudonym=pseudonym).write([record])
    return record.event_id


def rows_of(engine: Engine) -> dict[str, dict[str, Any]]:
    with engine.connect() as connection:
        return {r["event_id"]: dict(r) for r in connection.execute(select(outcome_events)).mappings()}


def test_in_the_database_an_old_outcome_loses_its_address_and_nothing_else(engine: Engine) -> None:
    old, young = store(engine, 91, "ann@acme.example"), store(engine, 89, "bob@acme.example")
    before = rows_of(engine)
    policy = retention.Policy.of(90, 365, NOW)
    assert retention.run(engine, policy, pseudonym).outcomes_anonymised == 1
    after = rows_of(engine)
    assert after[young] == before[young]
    assert after[old]["anonymised_at"] >= NOW
    changed = {"contact_email": pseudonym("ann@acme.example"), "anonymised_at": after[old]["anonymised_at"]}
    assert after[old] == {**before[old], **changed}
    assert retention.run(engine, policy, pseudonym).rows == 0
    assert rows_of(engine) == after
