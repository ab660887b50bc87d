"""The command queue: today's moves, and a person's decision on each."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import CursorResult, select, update

from . import telemetry
from .database import Sessions
from .models import QueueItem, Recommendation, now

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


class NotFoundError(LookupError):
    """There is no such thing."""


class ConflictError(ValueError):
    """It is no longer, or not yet, in a state in which this can be done."""


@dataclass(frozen=True, slots=True)
class Move:
    """One line of today's moves."""

    queue_item_id: str
    recommendation_id: str
    aps_score: float
    action_type: str
    reasoning: str
    recipient: str
    company: str
    deal_id: str | None


@dataclass(frozen=True, slots=True)
class TodaysMoves:
    """The best moves, best first. The scores are None where there are none."""

    user_id: str
    recommendations_shown: int
    top_score: float | None
    bottom_score: float | None
    moves: list[Move]


@dataclass(frozen=True, slots=True)
class Decision:
    """What a person decided on a recommendation, and how long that took since it was shown."""

    recommendation_id: str
    queue_item_id: str
    aps_score: float
    action_type: str
    user_id: str
    time_to_decision_seconds: float


@telemetry.recommendation_viewed
def todays_moves(sessions: Sessions, user_id: str, limit: int) -> TodaysMoves:
    """The `limit` best pending moves."""
    with sessions.begin() as session:
        query = (
            select(QueueItem.queue_item_id, Recommendation)
            .join(Recommendation, Recommendation.recommendation_id == QueueItem.recommendation_id)
            .where(QueueItem.status == "pending")
            .order_by(QueueItem.aps_score.desc(), QueueItem.queue_item_id)
            .limit(limit)
        )
        moves = [_move(item_id, recommendation) for item_id, recommendation in session.execute(query)]
        shown = QueueItem.queue_item_id.in_([move.queue_item_id for move in moves])
        session.execute(update(QueueItem).where(shown, QueueItem.shown_at.is_(None)).values(shown_at=now()))
    scores = [move.aps_score for move in moves]
    return TodaysMoves(user_id, len(moves), max(scores, default=None), min(scores, default=None), moves)


def _move(queue_item_id: str, recommendation: Recommendation) -> Move:
    return Move(
        queue_item_id=queue_item_id,
        recommendation_id=recommendation.recommendation_id,
        aps_score=recommendation.aps_score,
        action_type=recommendation.action_type,
        reasoning=recommendation.reasoning,
        recipient=recommendation.contact_email,
        company=recommendation.company,
        deal_id=recommendation.deal_id,
    )


def accept(sessions: Sessions, queue_item_id: str, user_id: str) -> Decision:
    """Accept a pending move; raise `NotFoundError` or `ConflictError`."""
    decision = _decide(sessions, queue_item_id, user_id, "accepted", None)
    telemetry.recommendation_accepted(**asdict(decision))
    return decision


def dismiss(sessions: Sessions, queue_item_id: str, user_id: str, dismiss_reason: str | None) -> Decision:
    """Dismiss a pending move, with or without a reason; raise `NotFoundError` or `ConflictError`."""
    decision = _decide(sessions, queue_item_id, user_id, "dismissed", dismiss_reason)
    fields = asdict(decision)
    del fields["time_to_decision_seconds"]
    telemetry.recommendation_dismissed(**fields, dismiss_reason=dismiss_reason)
    return decision


def _decide(sessions: Sessions, queue_item_id: str, user_id: str, status: str, dismiss_reason: str | None) -> Decision:
    decided_at = now()
    with sessions.begin() as session:
        item = session.get(QueueItem, queue_item_id)
        if item is None:
            raise NotFoundError(f"no queue item {queue_item_id}")
        values = {"decided_at": decided_at, "user_id": user_id, "dismiss_reason": dismiss_reason}
        if not claim(session, queue_item_id, "pending", status, **values):
            raise ConflictError(f"queue item {queue_item_id} is {item.status}, no longer pending")
        recommendation = session.get_one(Recommendation, item.recommendation_id)
        return Decision(
            recommendation_id=item.recommendation_id,
            queue_item_id=queue_item_id,
            aps_score=item.aps_score,
            action_type=recommendation.action_type,
            user_id=user_id,
            time_to_decision_seconds=(decided_at - (item.shown_at or item.created_at)).total_seconds(),
        )


def claim(session: Session, queue_item_id: str, before: str, after: str, **values: object) -> bool:
    """Move an item from one status to another, or return False. One statement both asks and changes, so that of two
    people who click at once one is told so."""
    change = (
        update(QueueItem)
        .where(QueueItem.queue_item_id == queue_item_id, QueueItem.status == before)
        .values(status=after, **values)
    )
    return cast("CursorResult[Any]", session.execute(change)).rowcount == 1
