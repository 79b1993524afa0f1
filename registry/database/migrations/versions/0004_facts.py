"""Facts of versions, and aliases by their own name: what searches need."""

import sqlalchemy as sa
from alembic import op

from hotswap.registry.database.schema import KeyText

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "facts",
        sa.Column("name", KeyText(), primary_key=True),
        sa.Column("number", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("key", KeyText(), primary_key=True),
        sa.Column("text", KeyText(), nullable=True),
        sa.Column("value", sa.Float(), nullable=True),
        sqlite_with_rowid=False,
    )
    op.create_index("facts_by_key", "facts", ["key", "text", "value", "name", "number"])
    op.create_index("alias_moves_by_alias", "alias_moves", ["alias", "name"])
    op.execute("DELETE FROM store")  # the next start reads the manifests
