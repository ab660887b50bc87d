"""Create outcome_events and events."""

import sqlalchemy as sa
from alembic.operations import Operations
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

EVENT_ID = sa.String(36).with_variant(postgresql.UUID(as_uuid=False), "postgresql")
PROPERTIES = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
MOMENT = sa.DateTime(timezone=True)
INDEXED_IDS = ("recommendation_id", "action_id", "draft_id", "deal_id", "contact_hash", "trace_id")


def upgrade(op: Operations) -> None:
    """On PostgreSQL `events` is partitioned on event_id, whose first 48 bits are milliseconds since 1970."""
    op.create_table(
        "outcome_events",
        sa.Column("event_id", EVENT_ID, primary_key=True),
        sa.Column("event", sa.Text, nullable=False),
        sa.Column("occurred_at", MOMENT, nullable=False),
        sa.Column("received_at", MOMENT, nullable=False),
        sa.Column("recommendation_id", sa.Text),
        sa.Column("action_id", sa.Text),
        sa.Column("draft_id", sa.Text),
        sa.Column("deal_id", sa.Text),
        sa.Column("deliverable_id", sa.Text),
        sa.Column("contact_email", sa.Text),
        sa.Column("contact_hash", sa.Text),
        sa.Column("client", sa.Text),
        sa.Column("user_id", sa.Text),
        sa.Column("old_stage", sa.Text),
        sa.Column("new_stage", sa.Text),
        sa.Column("pipeline_value", sa.Double),
        sa.Column("time_to_reply_hours", sa.Double),
        sa.Column("time_to_book_hours", sa.Double),
        sa.Column("meeting_time", MOMENT),
        sa.Column("reply_sentiment", sa.Text),
        sa.Column("on_time", sa.Boolean),
        sa.Column("trace_id", sa.Text),
        sa.Column("span_id", sa.Text),
        sa.Column("service_name", sa.Text),
        sa.Column("service_version", sa.Text),
        sa.Column("environment", sa.Text),
        sa.Column("properties", PROPERTIES, nullable=False),
    )
    op.create_table(
        "events",
        sa.Column("event_id", EVENT_ID, primary_key=True),
        sa.Column("event", sa.Text, nullable=False),
        sa.Column("occurred_at", MOMENT, nullable=False),
        sa.Column("received_at", MOMENT, nullable=False),
        sa.Column("failure", sa.Boolean, nullable=False),
        sa.Column("recommendation_id", sa.Text),
        sa.Column("action_id", sa.Text),
        sa.Column("draft_id", sa.Text),
        sa.Column("deal_id", sa.Text),
        sa.Column("contact_hash", sa.Text),
        sa.Column("user_id", sa.Text),
        sa.Column("trace_id", sa.Text),
        sa.Column("span_id", sa.Text),
        sa.Column("service_name", sa.Text),
        sa.Column("service_version", sa.Text),
        sa.Column("environment", sa.Text),
        sa.Column("properties", PROPERTIES, nullable=False),
        postgresql_partition_by="RANGE (event_id)",
    )
    for table in ("outcome_events", "events"):
        create_indexes(op, table)
    if op.get_bind().dialect.name == "postgresql":
        create_fixed_partitions(op)


def create_indexes(op: Operations, table: str) -> None:
    op.create_index(f"ix_{table}_event_occurred_at", table, ["event", "occurred_at"])
    for name in INDEXED_IDS:
        present = sa.text(f"{name} IS NOT NULL")
        op.create_index(f"ix_{table}_{name}", table, [name], postgresql_where=present, sqlite_where=present)


def create_fixed_partitions(op: Operations) -> None:
    """Ids of `once_per` have time zero; what fits no other partition goes to the default one. Months are made ahead."""
    op.execute(
        "CREATE TABLE events_once_per PARTITION OF events FOR VALUES FROM ('00000000-0000-0000-0000-000000000000') "
        "TO ('00000000-0001-0000-0000-000000000000')"
    )
    op.execute("CREATE TABLE events_default PARTITION OF events DEFAULT")
