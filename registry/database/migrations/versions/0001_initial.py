"""The store's id, versions, alias moves and states of versions."""

import sqlalchemy as sa
from alembic import op

from hotswap.registry.database.schema import KeyText, UtcDateTime

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table("store", sa.Column("store_id", sa.String(), primary_key=True))
    op.create_table(
        "versions",
        sa.Column("name", KeyText(), primary_key=True),
        sa.Column("number", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("manifest_digest", sa.String(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
    )
    op.create_index("versions_by_digest", "versions", ["name", "manifest_digest"])
    op.create_table(
        "version_states",
        sa.Column("name", KeyText(), primary_key=True),
        sa.Column("number", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("sequence", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("changed_by", sa.String(), nullable=False),
        sa.Column("changed_at", UtcDateTime(), nullable=False),
        sa.Column("why", sa.String(), nullable=False),
    )
    op.create_table(
        "alias_moves",
        sa.Column("name", KeyText(), primary_key=True),
        sa.Column("alias", KeyText(), primary_key=True),
        sa.Column("sequence", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("from_number", sa.BigInteger(), nullable=True),
        sa.Column("to_number", sa.BigInteger(), nullable=False),
        sa.Column("moved_by", sa.String(), nullable=False),
        sa.Column("moved_at", UtcDateTime(), nullable=False),
        sa.Column("why", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["name", "to_number"], ["versions.name", "versions.number"]),
    )
