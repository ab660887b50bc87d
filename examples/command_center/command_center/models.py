"""The service's own tables."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import ClassVar
from uuid import uuid4

from sqlalchemy import DateTime, Dialect, ForeignKey, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator


def new_id() -> str:
    """A fresh identifier."""
    return str(uuid4())


def now() -> datetime:
    """This moment, in UTC."""
    return datetime.now(UTC)


class UtcDateTime(TypeDecorator[datetime]):
    """SQLite forgets time zones: what goes in aware comes out aware, in UTC."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


class Base(DeclarativeBase):
    type_annotation_map: ClassVar = {datetime: UtcDateTime}


class Signal(Base):
    __tablename__ = "signals"
    signal_id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    source: Mapped[str]
    signal_type: Mapped[str]
    contact_email: Mapped[str]
    received_at: Mapped[datetime] = mapped_column(default=now)
    processed_at: Mapped[datetime | None]


class Recommendation(Base):
    __tablename__ = "recommendations"
    recommendation_id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    signal_id: Mapped[str] = mapped_column(ForeignKey("signals.signal_id"), unique=True)
    aps_score: Mapped[float]
    action_type: Mapped[str]
    revenue_impact: Mapped[int]
    urgency_days: Mapped[int]
    effort_minutes: Mapped[int]
    icp_score: Mapped[float]
    reasoning: Mapped[str]
    signal_source: Mapped[str]
    signal_type: Mapped[str]
    contact_email: Mapped[str]
    company: Mapped[str]
    deal_id: Mapped[str | None]


class QueueItem(Base):
    """A recommendation in the queue. Status: pending, then dismissed or accepted, then executing, then done."""

    __tablename__ = "queue_items"
    queue_item_id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    recommendation_id: Mapped[str] = mapped_column(ForeignKey("recommendations.recommendation_id"), unique=True)
    aps_score: Mapped[float]
    status: Mapped[str] = mapped_column(default="pending", index=True)
    draft_id: Mapped[str] = mapped_column(default=new_id)
    created_at: Mapped[datetime] = mapped_column(default=now)
    shown_at: Mapped[datetime | None]
    decided_at: Mapped[datetime | None]
    user_id: Mapped[str | None]
    dismiss_reason: Mapped[str | None]


class Action(Base):
    """One execution. Status: executing, then executed or failed; executed ones may become rolled_back."""

    __tablename__ = "actions"
    action_id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    queue_item_id: Mapped[str] = mapped_column(ForeignKey("queue_items.queue_item_id"), index=True)
    recommendation_id: Mapped[str] = mapped_column(index=True)
    draft_id: Mapped[str]
    action_type: Mapped[str]
    execution_mode: Mapped[str]
    recipient: Mapped[str]
    subject: Mapped[str]
    status: Mapped[str] = mapped_column(default="executing", index=True)
    external_id: Mapped[str | None] = mapped_column(index=True)
    error_type: Mapped[str | None]
    error_message: Mapped[str | None]
    executed_at: Mapped[datetime | None]
    rollback_attempts: Mapped[int] = mapped_column(default=0)


class Deal(Base):
    """A deal as last seen in HubSpot, and the executed recommendation that touched it last."""

    __tablename__ = "deals"
    deal_id: Mapped[str] = mapped_column(primary_key=True)
    stage: Mapped[str]
    pipeline_value: Mapped[int]
    recommendation_id: Mapped[str | None]


class Deliverable(Base):
    __tablename__ = "deliverables"
    deliverable_id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    client: Mapped[str]
    deliverable_type: Mapped[str]
    due_at: Mapped[datetime]
    shipped_at: Mapped[datetime | None]


class Outcome(Base):
    """What came of it. `subject_id` and `kind` are unique: the same news twice is one outcome."""

    __tablename__ = "outcomes"
    __table_args__ = (UniqueConstraint("kind", "subject_id"),)
    outcome_id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    kind: Mapped[str]
    subject_id: Mapped[str]
    recommendation_id: Mapped[str | None]
    occurred_at: Mapped[datetime]
