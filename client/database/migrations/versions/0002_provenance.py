"""Where every strip came from, what was rejected in it, what people said about it, who was forgotten.

Rows that exist keep empty values in the new columns: what was not stored then is not known now.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision: str | None = "0001"


def upgrade() -> None:
    """Add the columns and the two tables."""
    with op.batch_alter_table("patients") as table:
        table.add_column(sa.Column("files_sha256", sa.String(64), nullable=True))
    with op.batch_alter_table("draws") as table:
        table.add_column(sa.Column("printed", sa.String(64), nullable=True))
        table.add_column(sa.Column("flag", sa.String(16), nullable=True))
        table.add_column(sa.Column("hemolysis", sa.String(12), nullable=True))
        table.create_check_constraint(op.f("ck_draws_hemolysis"), "hemolysis in ('reported', 'suspected')")
    with op.batch_alter_table("strips") as table:
        table.add_column(sa.Column("rate_hz", sa.Float(), nullable=True))
        table.add_column(sa.Column("source", sa.JSON(), nullable=False, server_default="[]"))
        table.add_column(sa.Column("signal_sha256", sa.String(64), nullable=True))
        table.add_column(sa.Column("reasons", sa.JSON(), nullable=False, server_default="[]"))
        table.add_column(sa.Column("beats_rejected", sa.JSON(), nullable=False, server_default="{}"))
        table.add_column(sa.Column("agreement", sa.Float(), nullable=True))
    with op.batch_alter_table("strips") as table:  # the code gives every new row a value itself
        for name in ("source", "reasons", "beats_rejected"):
            table.alter_column(name, server_default=None)
    op.create_table(
        "reviews",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("strip_id", sa.Integer(), nullable=False),
        sa.Column("reviewer", sa.String(64), nullable=False),
        sa.Column("verdict", sa.String(12), nullable=False),
        sa.Column("comment", sa.String(255), nullable=True),
        sa.Column("exclusion", sa.String(32), nullable=True),
        sa.Column("sheet_sha256", sa.String(64), nullable=False),
        sa.Column("read_at", sa.DateTime(), nullable=False),
        sa.CheckConstraint("verdict in ('usable', 'unusable', 'unsure')", name=op.f("ck_reviews_verdict")),
        sa.ForeignKeyConstraint(["strip_id"], ["strips.id"], name=op.f("fk_reviews_strip_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reviews")),
        sa.UniqueConstraint("strip_id", "reviewer", name=op.f("uq_reviews_strip_id")),
    )
    op.create_table(
        "forgotten",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("key_sha256", sa.String(64), nullable=False),
        sa.Column("forgotten_at", sa.DateTime(), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_forgotten")),
        sa.UniqueConstraint("key_sha256", name=op.f("uq_forgotten_key_sha256")),
    )


def downgrade() -> None:
    """Take them away again."""
    op.drop_table("forgotten")
    op.drop_table("reviews")
    with op.batch_alter_table("strips") as table:
        for name in ("rate_hz", "source", "signal_sha256", "reasons", "beats_rejected", "agreement"):
            table.drop_column(name)
    with op.batch_alter_table("draws") as table:
        table.drop_constraint(op.f("ck_draws_hemolysis"), type_="check")
        for name in ("printed", "flag", "hemolysis"):
            table.drop_column(name)
    with op.batch_alter_table("patients") as table:
        table.drop_column("files_sha256")
