"""One strip may be scored by one method after one round in each of several protocols."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision: str | None = "0002"

TABLE = "strip_predictions"
INDEX = "ix_strip_predictions_unseen"
NAME = "uq_strip_predictions_run_id"
BEFORE = ("run_id", "strip_id", "method", "round", "purpose")
AFTER = ("run_id", "personalization_run_id", "strip_id", "method", "round", "purpose")


def upgrade() -> None:
    """Let the patient's protocol tell predictions apart."""
    _replace(AFTER)
    unseen = sa.text("personalization_run_id is null")
    op.create_index(INDEX, TABLE, BEFORE, unique=True, sqlite_where=unseen, postgresql_where=unseen)


def downgrade() -> None:
    """Take the wider rule back, and the rows it allowed."""
    op.drop_index(INDEX, TABLE)
    op.execute(
        "delete from strip_predictions where personalization_run_id in "
        "(select id from personalization_runs where protocol <> 'prospective')"
    )
    _replace(BEFORE)


def _replace(columns: tuple[str, ...]) -> None:
    with op.batch_alter_table(TABLE) as table:
        table.drop_constraint(op.f(NAME), type_="unique")
        table.create_unique_constraint(op.f(NAME), list(columns))
