"""The tables, and the column types that give the same values back from both databases."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Double,
    Index,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
)
from sqlalchemy.dialects.postgresql import JSONB, UUID

metadata: Final = MetaData()
"""Ours alone; a host's MetaData never sees these tables."""


VERSION_TABLE: Final = "caseyos_otel_alembic_version"
"""Where Alembic notes our revision, apart from a host's own."""


class UtcDateTime(TypeDecorator[datetime]):
    """A moment: `timestamptz` on PostgreSQL; on SQLite, UTC as `YYYY-MM-DD HH:MM:SS.ffffff`, which sorts and which
    SQLite's own date functions read. Always comes back aware, in UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """SQLite has no time zones: UTC is what its texts are in."""
        if value is None or dialect.name != "sqlite":
            return value
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """PostgreSQL answers in the zone of the session, SQLite without one."""
        if value is None:
            return None
        moment: datetime = value
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


EVENT_ID: Final = String(36).with_variant(UUID(as_uuid=False), "postgresql")
PROPERTIES: Final = JSON().with_variant(JSONB(), "postgresql")

INDEXED_IDS: Final = ("recommendation_id", "action_id", "draft_id", "deal_id", "contact_hash", "trace_id")
"""Columns that are looked up by one value, in both tables."""


def _identity() -> list[Column[Any]]:
    return [
        Column("event_id", EVENT_ID, primary_key=True),
        Column("event", Text, nullable=False),
        Column("occurred_at", UtcDateTime, nullable=False),
        Column("received_at", UtcDateTime, nullable=False),
    ]


def _ids() -> list[Column[Any]]:
    return [Column(name, Text) for name in ("recommendation_id", "action_id", "draft_id", "deal_id")]


def _origin() -> list[Column[Any]]:
    names = ("trace_id", "span_id", "service_name", "service_version", "environment")
    return [*(Column(name, Text) for name in names), Column("properties", PROPERTIES, nullable=False)]


outcome_events: Final = Table(
    "outcome_events",
    metadata,
    *_identity(),
    *_ids(),
    Column("deliverable_id", Text),
    Column("contact_email", Text),
    Column("contact_hash", Text),
    Column("client", Text),
    Column("user_id", Text),
    Column("old_stage", Text),
    Column("new_stage", Text),
    Column("pipeline_value", Double),
    Column("time_to_reply_hours", Double),
    Column("time_to_book_hours", Double),
    Column("meeting_time", UtcDateTime),
    Column("reply_sentiment", Text),
    Column("on_time", Boolean),
    *_origin(),
    Column("anonymised_at", UtcDateTime),
)
"""Outcomes, kept for a year: what a recommendation led to. `anonymised_at`: since when no address in it is plain."""

events: Final = Table(
    "events",
    metadata,
    *_identity(),
    Column("failure", Boolean, nullable=False),
    *_ids(),
    Column("contact_hash", Text),
    Column("user_id", Text),
    *_origin(),
    postgresql_partition_by="RANGE (event_id)",
)
"""Everything else, kept for 90 days. On PostgreSQL partitioned by the time in `event_id` (see `partitions`)."""

retention_runs: Final = Table(
    "caseyos_otel_retention",
    metadata,
    Column("finished_at", UtcDateTime, primary_key=True),
    Column("events_deleted", BigInteger, nullable=False),
    Column("outcomes_anonymised", BigInteger, nullable=False),
    Column("outcomes_deleted", BigInteger, nullable=False),
)
"""One row a run of `caseyos-otel retention run`, for a year."""

leases: Final = Table(
    "caseyos_otel_leases",
    metadata,
    Column("work", Text, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("until", UtcDateTime, nullable=False),
)
"""Who of several gateways does timed work, and until when."""


def _index(table: Table) -> None:
    Index(f"ix_{table.name}_event_occurred_at", table.c.event, table.c.occurred_at)
    for name in INDEXED_IDS:
        present = table.c[name].is_not(None)
        # partial: most events lack most ids, and an index without them is a fraction of the size
        Index(f"ix_{table.name}_{name}", table.c[name], postgresql_where=present, sqlite_where=present)


_index(outcome_events)
_index(events)
_plain: Final = outcome_events.c.anonymised_at.is_(None)
Index("ix_outcome_events_not_anonymised", outcome_events.c.occurred_at, postgresql_where=_plain, sqlite_where=_plain)
