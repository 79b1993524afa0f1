"""The signatures of alias moves; rows from before them have none."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    for name in ("signature_key", "signature_value"):
        op.add_column("alias_moves", sa.Column(name, sa.String(), nullable=True))
