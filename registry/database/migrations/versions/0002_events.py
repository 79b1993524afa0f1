"""Which record each event tells of."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "events",
        sa.Column("sequence", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("record_key", sa.String(), nullable=False),
    )
    op.create_index("ix_events_record_key", "events", ["record_key"])
