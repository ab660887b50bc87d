"""Remember which outcomes are anonymised, and when retention last ran."""

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True)


def upgrade(op: Operations) -> None:
    """Adds only: the writer of the release before names neither."""
    op.add_column("outcome_events", sa.Column("anonymised_at", MOMENT))
    plain = sa.text("anonymised_at IS NULL")
    op.create_index(
        "ix_outcome_events_not_anonymised",
        "outcome_events",
        ["occurred_at"],
        postgresql_where=plain,
        sqlite_where=plain,
    )
    op.create_table(
        "caseyos_otel_retention",
        sa.Column("finished_at", MOMENT, primary_key=True),
        sa.Column("events_deleted", sa.BigInteger, nullable=False),
        sa.Column("outcomes_anonymised", sa.BigInteger, nullable=False),
        sa.Column("outcomes_deleted", sa.BigInteger, nullable=False),
    )
