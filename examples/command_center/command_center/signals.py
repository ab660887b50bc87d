"""Signals: something happened outside; it is stored, scored and, where it asks for one, leads to a recommendation."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from sqlalchemy import update

from . import telemetry
from .breaker import CircuitOpenError
from .database import Sessions
from .integrations import Contact, HubSpot, IntegrationError
from .models import Deal, QueueItem, Recommendation, Signal, new_id, now
from .scoring import Score, score_signal

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

UNKNOWN_PIPELINE_VALUE = 10_000
UNKNOWN_ICP_SCORE = 0.5


@dataclass(frozen=True, slots=True)
class ReceivedSignal:
    """A signal as it came in."""

    signal_id: str
    source: str
    signal_type: str
    contact_email: str
    processed: bool


@dataclass(frozen=True, slots=True)
class ProcessedSignal:
    """A signal and what it led to."""

    signal_id: str
    source: str
    signal_type: str
    recommendation_generated: bool
    recommendation_id: str | None


@dataclass(frozen=True, slots=True)
class GeneratedRecommendation:
    """A recommendation as it enters the queue."""

    recommendation_id: str
    aps_score: float
    action_type: str
    revenue_impact: int
    urgency_days: int
    effort_minutes: int
    icp_score: float
    reasoning: str
    signal_source: str
    signal_type: str


@telemetry.signal_received
def receive_signal(sessions: Sessions, source: str, signal_type: str, contact_email: str) -> ReceivedSignal:
    """Store a signal that nobody has looked at yet."""
    with sessions.begin() as session:
        signal = Signal(signal_id=new_id(), source=source, signal_type=signal_type, contact_email=contact_email)
        session.add(signal)
        return ReceivedSignal(signal.signal_id, source, signal_type, contact_email, processed=False)


@telemetry.signal_processed
async def process_signal(sessions: Sessions, hubspot: HubSpot, signal: ReceivedSignal) -> ProcessedSignal:
    """Score a signal with what HubSpot knows of its contact, or without HubSpot where that cannot be had."""
    contact = await _contact(hubspot, signal.contact_email)
    score = score_signal(signal.signal_type, contact.pipeline_value, contact.icp_score)
    recommendation_id = recommend(sessions, signal, contact, score).recommendation_id if score else None
    with sessions.begin() as session:
        session.execute(update(Signal).where(Signal.signal_id == signal.signal_id).values(processed_at=now()))
    return ProcessedSignal(
        signal.signal_id, signal.source, signal.signal_type, recommendation_id is not None, recommendation_id
    )


@telemetry.recommendation_generated
def recommend(sessions: Sessions, signal: ReceivedSignal, contact: Contact, score: Score) -> GeneratedRecommendation:
    """Put a scored action into the queue."""
    recommendation = GeneratedRecommendation(
        recommendation_id=new_id(), signal_source=signal.source, signal_type=signal.signal_type, **asdict(score)
    )
    with sessions.begin() as session:
        session.add(
            Recommendation(
                **asdict(recommendation),
                signal_id=signal.signal_id,
                contact_email=signal.contact_email,
                company=contact.company,
                deal_id=contact.deal_id,
            )
        )
        session.flush()
        session.add(QueueItem(recommendation_id=recommendation.recommendation_id, aps_score=recommendation.aps_score))
        _remember_deal(session, contact)
    return recommendation


async def _contact(hubspot: HubSpot, email: str) -> Contact:
    try:
        return await hubspot.find_contact(email)
    except (IntegrationError, CircuitOpenError):
        company = email.rpartition("@")[2].partition(".")[0].title()
        return Contact(company, UNKNOWN_ICP_SCORE, None, "", UNKNOWN_PIPELINE_VALUE)


def _remember_deal(session: Session, contact: Contact) -> None:
    if contact.deal_id is not None and session.get(Deal, contact.deal_id) is None:
        session.add(Deal(deal_id=contact.deal_id, stage=contact.deal_stage, pipeline_value=contact.pipeline_value))
