"""Outcome events: reply, meeting, deal advanced, deliverable shipped (specification, *Outcome Events*)."""

from __future__ import annotations

from datetime import datetime

from caseyos_otel.events.field import Privacy
from caseyos_otel.events.model import Event, optional, required

SENTIMENTS = ("positive", "neutral", "negative")


class OutcomeReplyReceived(Event, name="outcome_reply_received", otel="caseyos.outcome.reply_received", outcome=True):
    """E-mail reply detected for a sent draft."""

    draft_id: str | None = optional(doc="The draft that was answered.")
    action_id: str | None = optional(doc="The action that sent it.")
    recommendation_id: str | None = optional(doc="The recommendation that led to it.")
    recipient: str | None = optional(privacy=Privacy.EMAIL, doc="Who answered.")
    time_to_reply_hours: float | None = optional(unit="h", doc="Time from sending to reply.")
    reply_sentiment: str | None = optional(allowed=SENTIMENTS, doc="Tone of the reply.", dimension=True)


class OutcomeMeetingBooked(Event, name="outcome_meeting_booked", otel="caseyos.outcome.meeting_booked", outcome=True):
    """Meeting scheduled, seen in the calendar or the CRM."""

    draft_id: str | None = optional(doc="The draft that led to it.")
    action_id: str | None = optional(doc="The action that sent it.")
    recommendation_id: str | None = optional(doc="The recommendation that led to it.")
    attendee: str | None = optional(privacy=Privacy.EMAIL, doc="Who comes.")
    meeting_time: datetime | None = optional(doc="When it takes place.")
    time_to_book_hours: float | None = optional(unit="h", doc="Time from sending to booking.")


class OutcomeDealAdvanced(Event, name="outcome_deal_advanced", otel="caseyos.outcome.deal_advanced", outcome=True):
    """Deal moves to the next stage in the CRM."""

    deal_id: str = required(doc="The deal in the CRM.")
    recommendation_id: str | None = optional(doc="The recommendation that led to it.")
    old_stage: str | None = optional(doc="Stage before.")
    new_stage: str | None = optional(doc="Stage after.")
    pipeline_value: float | None = optional(unit="USD", doc="Value of the deal.")


class OutcomeDeliverableShipped(
    Event, name="outcome_deliverable_shipped", otel="caseyos.outcome.deliverable_shipped", outcome=True
):
    """Client deliverable marked as complete."""

    deliverable_id: str = required(doc="The deliverable.")
    client: str | None = optional(privacy=Privacy.COMPANY, doc="Company it was made for.")
    deliverable_type: str | None = optional(doc="What it is, like onboarding_doc.", dimension=True)
    on_time: bool | None = optional(doc="Whether it was in time.", dimension=True)
