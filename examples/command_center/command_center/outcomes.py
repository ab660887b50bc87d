"""Outcomes: what came of an action, told by webhooks, found by polling the calendar, or entered by a person.

The same news may come twice; it is stored once and told once.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import select

from . import telemetry
from .database import Sessions
from .integrations import Calendar
from .models import Action, Deal, Deliverable, Outcome, now
from .queue import ConflictError, NotFoundError

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

STAGES = ("Lead", "MQL", "SQL", "Opportunity", "Proposal", "Closed Won")


def reply_received(
    sessions: Sessions, message_id: str, received_at: datetime, reply_sentiment: str | None
) -> Outcome | None:
    """A reply to a message of ours, or None: to none of ours, or known already."""
    action, outcome = _record(sessions, "reply_received", message_id, received_at)
    if action is None or outcome is None:
        return None
    with _about(action):
        telemetry.outcome_reply_received(
            recipient=action.recipient,
            time_to_reply_hours=_hours(action, received_at),
            reply_sentiment=reply_sentiment,
        )
    return outcome


async def poll_meetings(sessions: Sessions, calendar: Calendar) -> list[Outcome]:
    """The meetings that were accepted since the last poll; raise `IntegrationError` or `CircuitOpenError`."""
    outcomes = [
        meeting_booked(
            sessions,
            meeting["id"],
            meeting_time=datetime.fromisoformat(meeting["start"]),
            accepted_at=datetime.fromisoformat(meeting["accepted_at"]),
        )
        for meeting in await calendar.accepted()
    ]
    return [outcome for outcome in outcomes if outcome is not None]


def meeting_booked(sessions: Sessions, event_id: str, meeting_time: datetime, accepted_at: datetime) -> Outcome | None:
    """An invitation of ours was accepted, or None: it was none of ours, or is known already."""
    action, outcome = _record(sessions, "meeting_booked", event_id, accepted_at)
    if action is None or outcome is None:
        return None
    with _about(action):
        telemetry.outcome_meeting_booked(
            attendee=action.recipient,
            meeting_time=meeting_time,
            time_to_book_hours=_hours(action, accepted_at),
        )
    return outcome


def deal_advanced(sessions: Sessions, deal_id: str, new_stage: str) -> Outcome | None:
    """A deal that an action of ours touched went forward; None for others and other moves. Raise `NotFoundError`."""
    with sessions.begin() as session:
        deal = session.get(Deal, deal_id)
        if deal is None:
            raise NotFoundError(f"no deal {deal_id}")
        old_stage, deal.stage = deal.stage, new_stage
        forward = STAGES.index(new_stage) > STAGES.index(old_stage)
        if deal.recommendation_id is None or not forward:
            return None
        outcome = _store(session, "deal_advanced", f"{deal_id} {new_stage}", deal.recommendation_id, now())
    if outcome is not None:
        telemetry.outcome_deal_advanced(
            deal_id=deal_id,
            recommendation_id=deal.recommendation_id,
            old_stage=old_stage,
            new_stage=new_stage,
            pipeline_value=deal.pipeline_value,
        )
    return outcome


def promise_deliverable(sessions: Sessions, client: str, deliverable_type: str, due_at: datetime) -> Deliverable:
    """Something is owed to a client."""
    with sessions.begin() as session:
        deliverable = Deliverable(client=client, deliverable_type=deliverable_type, due_at=due_at)
        session.add(deliverable)
    return deliverable


def ship_deliverable(sessions: Sessions, deliverable_id: str) -> Deliverable:
    """It was delivered; raise `NotFoundError`, or `ConflictError` where it was delivered before."""
    with sessions.begin() as session:
        deliverable = session.get(Deliverable, deliverable_id)
        if deliverable is None:
            raise NotFoundError(f"no deliverable {deliverable_id}")
        if deliverable.shipped_at is not None:
            raise ConflictError(f"deliverable {deliverable_id} was shipped at {deliverable.shipped_at}")
        deliverable.shipped_at = now()
        _store(session, "deliverable_shipped", deliverable_id, None, deliverable.shipped_at)
    telemetry.outcome_deliverable_shipped(
        deliverable_id=deliverable_id,
        client=deliverable.client,
        deliverable_type=deliverable.deliverable_type,
        on_time=deliverable.shipped_at <= deliverable.due_at,
    )
    return deliverable


def _record(
    sessions: Sessions, kind: str, external_id: str, occurred_at: datetime
) -> tuple[Action | None, Outcome | None]:
    """The executed action that an integration's id belongs to, and its outcome where that is news."""
    with sessions.begin() as session:
        query = select(Action).where(Action.external_id == external_id, Action.status == "executed")
        action = session.scalars(query.order_by(Action.executed_at.desc())).first()
        if action is None:
            return None, None
        return action, _store(session, kind, external_id, action.recommendation_id, occurred_at)


def _store(
    session: Session, kind: str, subject_id: str, recommendation_id: str | None, occurred_at: datetime
) -> Outcome | None:
    known = session.scalars(select(Outcome).where(Outcome.kind == kind, Outcome.subject_id == subject_id)).first()
    if known is not None:
        return None
    outcome = Outcome(kind=kind, subject_id=subject_id, recommendation_id=recommendation_id, occurred_at=occurred_at)
    session.add(outcome)
    session.flush()
    return outcome


def _about(action: Action) -> telemetry.Bound:
    return telemetry.about(
        recommendation_id=action.recommendation_id, action_id=action.action_id, draft_id=action.draft_id
    )


def _hours(action: Action, at: datetime) -> float:
    return round((at - (action.executed_at or at)).total_seconds() / 3600, 2)
