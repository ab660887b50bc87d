from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from caseyos_otel.events.action import ActionExecuted
from caseyos_otel.events.field import Privacy
from caseyos_otel.events.model import Event, optional, required
from caseyos_otel.events.outcome import (
    OutcomeDealAdvanced,
    OutcomeDeliverableShipped,
    OutcomeMeetingBooked,
    OutcomeReplyReceived,
)
from caseyos_otel.events.recommendation import RecommendationAccepted
from caseyos_otel.events.record import EventRecord
from caseyos_otel.storage.columns import EVENT_COLUMNS, MAX_INDEXED, OUTCOME_COLUMNS
from caseyos_otel.storage.rows import row as row_of
from caseyos_otel.storage.tables import events, outcome_events

Make = Callable[..., EventRecord]
RECEIVED = datetime(2026, 1, 23, 18, 31, tzinfo=UTC)


class ContractSigned(Event, name="contract_signed", otel="acme.contract.signed", outcome=True):
    """A contract was signed: an outcome of a service's own, whose fields do not all fit our columns."""

    contract_id: str = required(doc="Contract in the CRM.")
    deal_id: str | None = optional(doc="The deal.")
    signer: str | None = optional(privacy=Privacy.EMAIL, doc="Who signed.")
    witness: str | None = optional(privacy=Privacy.EMAIL, doc="Who saw it.")
    pipeline_value: str | None = optional(doc="In words, unlike the column of this name.")
    on_time: int | None = optional(doc="Days, unlike the column of this name.")
    contact_email: str | None = optional(doc="Named like a column that is not a field's.")
    valid_until: datetime | None = optional(doc="Its end.")


def pseudonym(address: str) -> str:
    return f"hash of {address}"


def outcome_of(record: EventRecord, values: dict[str, Any] | None = None) -> dict[str, Any]:
    return row_of(record, record.values if values is None else values, RECEIVED, pseudonym)


def test_an_outcome_fills_its_columns(record: Make) -> None:
    reply = record(
        OutcomeReplyReceived,
        {"draft_id": "d", "recipient": "john@acme.example", "time_to_reply_hours": 4.5, "reply_sentiment": "positive"},
        trace_id=0xABC,
        span_id=0xDEF,
        resource={"service.name": "api", "service.version": "1.2", "deployment.environment.name": "production"},
    )
    row = outcome_of(reply)
    assert row.pop("event_id") == reply.event_id
    assert {name: value for name, value in row.items() if value is not None} == {
        "event": "outcome_reply_received",
        "occurred_at": datetime(2026, 1, 23, 14, 30, 0, 123456, tzinfo=UTC),
        "received_at": RECEIVED,
        "draft_id": "d",
        "contact_email": "john@acme.example",
        "contact_hash": "hash of john@acme.example",
        "time_to_reply_hours": 4.5,
        "reply_sentiment": "positive",
        "trace_id": "00000000000000000000000000000abc",
        "span_id": "0000000000000def",
        "service_name": "api",
        "service_version": "1.2",
        "environment": "production",
        "properties": {},
    }


@pytest.mark.parametrize("disclosed", ["hash of john@acme.example", None])
def test_an_address_that_may_not_be_seen_leaves_its_hash_alone(record: Make, disclosed: str | None) -> None:
    reply = record(OutcomeReplyReceived, {"recipient": "john@acme.example"})
    row = outcome_of(reply, {**reply.values, "recipient": disclosed})
    assert (row["contact_email"], row["contact_hash"]) == (None, "hash of john@acme.example")
    assert "john" not in json.dumps(row["properties"])


def test_an_event_without_a_contact_has_no_hash(record: Make) -> None:
    row = outcome_of(record(OutcomeReplyReceived, {"draft_id": "d"}))
    assert (row["contact_email"], row["contact_hash"]) == (None, None)


def test_a_moment_stays_a_moment(record: Make) -> None:
    moment = datetime(2026, 1, 24, 16, 0, tzinfo=timezone(timedelta(hours=2)))
    row = outcome_of(record(OutcomeMeetingBooked, {"meeting_time": moment}))
    assert row["meeting_time"] == moment
    assert row["meeting_time"].tzinfo is not None


def test_what_has_no_column_is_a_property(record: Make) -> None:
    row = outcome_of(
        record(OutcomeDeliverableShipped, {"deliverable_id": "x", "deliverable_type": "doc", "on_time": False})
    )
    assert (row["deliverable_id"], row["on_time"], row["properties"]) == ("x", False, {"deliverable_type": "doc"})


def test_fields_of_an_own_outcome_take_a_column_only_where_their_type_fits(record: Make) -> None:
    fields = {
        "contract_id": "c1",
        "deal_id": "d1",
        "signer": "ann@acme.example",
        "witness": "bob@acme.example",
        "pipeline_value": "a lot",
        "on_time": 3,
        "contact_email": "mine",
        "valid_until": datetime(2027, 1, 1, tzinfo=UTC),
    }
    signed = record(ContractSigned, fields)
    row = outcome_of(signed)
    assert row["event_id"] == signed.event_id
    assert (row["deal_id"], row["contact_email"], row["pipeline_value"], row["on_time"]) == (
        "d1",
        "ann@acme.example",
        None,
        None,
    )
    assert row["properties"] == {
        "contract_id": "c1",
        "witness": "bob@acme.example",
        "pipeline_value": "a lot",
        "on_time": 3,
        "contact_email": "mine",
        "valid_until": "2027-01-01T00:00:00Z",
    }


def test_an_event_nests_its_group_and_knows_whether_it_failed(record: Make) -> None:
    executed = record(
        ActionExecuted,
        {"action_id": "a", "action_type": "send_email", "success": False, "metadata": {"recipient": "j@acme.example"}},
    )
    row = row_of(executed, executed.values, RECEIVED, pseudonym)
    assert (row["failure"], row["action_id"], row["contact_hash"]) == (True, "a", "hash of j@acme.example")
    assert row["properties"] == {
        "action_type": "send_email",
        "success": False,
        "metadata": {"recipient": "j@acme.example"},
    }


def test_nothing_reaches_the_database_that_it_refuses(record: Make) -> None:
    row = outcome_of(
        record(OutcomeReplyReceived, {"draft_id": "nul\x00 and \ud800 lone", "action_id": "fine \U0001f600"})
    )
    assert row["draft_id"] == "nul\ufffd and \ufffd lone"
    assert row["action_id"] == "fine \U0001f600"


def test_an_id_too_long_for_an_index_is_whole_in_properties(record: Make) -> None:
    row = outcome_of(record(OutcomeReplyReceived, {"draft_id": "x" * 5000}))
    assert row["draft_id"] == "x" * MAX_INDEXED
    assert row["properties"] == {"draft_id": "x" * 5000}


def test_rows_have_the_columns_of_their_table_in_its_order(record: Make) -> None:
    accepted = record(RecommendationAccepted, {"user_id": "casey"})
    assert list(row_of(accepted, accepted.values, RECEIVED, pseudonym)) == list(EVENT_COLUMNS)
    assert list(outcome_of(record(OutcomeReplyReceived))) == list(OUTCOME_COLUMNS)
    assert list(EVENT_COLUMNS) == events.columns.keys()
    assert [*OUTCOME_COLUMNS, "anonymised_at"] == outcome_events.columns.keys()


def test_a_number_that_its_column_cannot_hold_exactly_is_a_property(record: Make) -> None:
    row = outcome_of(record(OutcomeDealAdvanced, {"pipeline_value": 2**53 + 1}))
    assert (row["pipeline_value"], row["properties"]) == (None, {"pipeline_value": 2**53 + 1})


def test_what_is_no_number_is_left_out(record: Make) -> None:
    advanced = record(OutcomeDealAdvanced)
    row = outcome_of(advanced, {**advanced.values, "pipeline_value": float("nan")})
    assert (row["pipeline_value"], row["properties"]) == (None, {})


def test_each_row_names_the_service_of_its_own_resource(record: Make) -> None:
    resources = ({"service.name": "api"}, {"service.name": "worker", "deployment.environment": "test"}, None)
    made = [outcome_of(record(OutcomeReplyReceived, resource=resource)) for resource in resources]
    assert [(row["service_name"], row["environment"]) for row in made] == [
        ("api", None),
        ("worker", "test"),
        (None, None),
    ]
