"""The first schema: runs, patients, draws, strips, cohorts, rounds, models, predictions, reports."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision: str | None = None


def upgrade() -> None:
    """Make every table."""
    op.create_table(
        "patients",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("source_key", sa.String(64), nullable=False),
        sa.Column("sex", sa.String(1), nullable=True),
        sa.Column("age", sa.Float(), nullable=True),
        sa.Column("ethnicity", sa.String(32), nullable=True),
        sa.Column("height_cm", sa.Float(), nullable=True),
        sa.Column("weight_kg", sa.Float(), nullable=True),
        sa.Column("split", sa.String(12), nullable=True),
        sa.Column("stratum", sa.String(12), nullable=True),
        sa.CheckConstraint("split in ('train', 'validation', 'test')", name=op.f("ck_patients_split")),
        sa.CheckConstraint("stratum in ('positive', 'negative')", name=op.f("ck_patients_stratum")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_patients")),
        sa.UniqueConstraint("source_key", name=op.f("uq_patients_source_key")),
    )
    op.create_table(
        "runs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("status", sa.String(12), nullable=False),
        sa.Column("started_at", sa.DateTime(), nullable=False),
        sa.Column("finished_at", sa.DateTime(), nullable=True),
        sa.Column("task", sa.String(32), nullable=False),
        sa.Column("code_version", sa.String(64), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("settings_sha256", sa.String(64), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("data_fingerprint", sa.String(64), nullable=True),
        sa.Column("model_sha256", sa.String(64), nullable=True),
        sa.Column("cohort_run_id", sa.Integer(), nullable=True),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.CheckConstraint(
            "status in ('running', 'finished', 'failed', 'interrupted')", name=op.f("ck_runs_status")
        ),
        sa.ForeignKeyConstraint(["cohort_run_id"], ["runs.id"], name=op.f("fk_runs_cohort_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runs")),
    )
    op.create_index(op.f("ix_runs_kind"), "runs", ["kind"])
    op.create_table(
        "cohort_members",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("patient_id", sa.Integer(), nullable=False),
        sa.Column("role", sa.String(8), nullable=False),
        sa.Column("split", sa.String(12), nullable=True),
        sa.Column("n_positive", sa.Integer(), nullable=False),
        sa.Column("n_negative", sa.Integer(), nullable=False),
        sa.Column("n_gap", sa.Integer(), nullable=False),
        sa.CheckConstraint("role in ('generic', 'personal')", name=op.f("ck_cohort_members_role")),
        sa.CheckConstraint("split in ('train', 'validation', 'test')", name=op.f("ck_cohort_members_split")),
        sa.ForeignKeyConstraint(["patient_id"], ["patients.id"], name=op.f("fk_cohort_members_patient_id")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_cohort_members_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_cohort_members")),
        sa.UniqueConstraint("run_id", "patient_id", name=op.f("uq_cohort_members_run_id")),
    )
    op.create_index(op.f("ix_cohort_members_patient_id"), "cohort_members", ["patient_id"])
    op.create_table(
        "draws",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("patient_id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("source_row", sa.String(64), nullable=False),
        sa.Column("specimen_time", sa.DateTime(), nullable=False),
        sa.Column("value", sa.Float(), nullable=True),
        sa.Column("unit", sa.String(16), nullable=True),
        sa.Column("item", sa.String(32), nullable=False),
        sa.Column("specimen", sa.String(16), nullable=False),
        sa.Column("censored", sa.String(8), nullable=True),
        sa.Column("label", sa.String(8), nullable=True),
        sa.Column("exclusion", sa.String(32), nullable=True),
        sa.Column("merged_into_id", sa.Integer(), nullable=True),
        sa.CheckConstraint("label in ('positive', 'negative', 'gap')", name=op.f("ck_draws_label")),
        sa.CheckConstraint("(label is null) <> (exclusion is null)", name=op.f("ck_draws_label_or_reason")),
        sa.ForeignKeyConstraint(["merged_into_id"], ["draws.id"], name=op.f("fk_draws_merged_into_id")),
        sa.ForeignKeyConstraint(["patient_id"], ["patients.id"], name=op.f("fk_draws_patient_id")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_draws_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_draws")),
        sa.UniqueConstraint("patient_id", "source_row", name=op.f("uq_draws_patient_id")),
    )
    op.create_table(
        "federated_rounds",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("received_sha256", sa.String(64), nullable=False),
        sa.Column("returned_sha256", sa.String(64), nullable=True),
        sa.Column("learning_rate", sa.Float(), nullable=True),
        sa.Column("train_patients", sa.Integer(), nullable=False),
        sa.Column("train_beats", sa.Integer(), nullable=False),
        sa.Column("train_loss", sa.Float(), nullable=True),
        sa.Column("validation_patients", sa.Integer(), nullable=False),
        sa.Column("validation_loss", sa.Float(), nullable=True),
        sa.Column("update_norm", sa.Float(), nullable=True),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_federated_rounds_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_federated_rounds")),
        sa.UniqueConstraint("run_id", "round", name=op.f("uq_federated_rounds_run_id")),
    )
    op.create_table(
        "models",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("generic_sha256", sa.String(64), nullable=True),
        sa.Column("patient_id", sa.Integer(), nullable=True),
        sa.Column("method", sa.String(16), nullable=True),
        sa.Column("round", sa.Integer(), nullable=True),
        sa.Column("path", sa.String(255), nullable=False),
        sa.Column("architecture", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["patient_id"], ["patients.id"], name=op.f("fk_models_patient_id")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_models_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_models")),
    )
    op.create_index(op.f("ix_models_patient_id"), "models", ["patient_id"])
    op.create_index(op.f("ix_models_run_id"), "models", ["run_id"])
    op.create_index(op.f("ix_models_sha256"), "models", ["sha256"])
    op.create_table(
        "personalization_runs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("patient_id", sa.Integer(), nullable=False),
        sa.Column("protocol", sa.String(16), nullable=False),
        sa.Column("outcome", sa.String(24), nullable=False),
        sa.Column("generic_sha256", sa.String(64), nullable=False),
        sa.Column("cut", sa.DateTime(), nullable=True),
        sa.Column("gap_s", sa.Float(), nullable=True),
        sa.Column("n_train_positive", sa.Integer(), nullable=False),
        sa.Column("n_train_negative", sa.Integer(), nullable=False),
        sa.Column("n_test_positive", sa.Integer(), nullable=False),
        sa.Column("n_test_negative", sa.Integer(), nullable=False),
        sa.Column("episodes_positive", sa.Integer(), nullable=False),
        sa.Column("episodes_negative", sa.Integer(), nullable=False),
        sa.Column("rounds", sa.Integer(), nullable=False),
        sa.Column("selected_method", sa.String(16), nullable=True),
        sa.Column("selected_round", sa.Integer(), nullable=True),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["patient_id"], ["patients.id"], name=op.f("fk_personalization_runs_patient_id")
        ),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_personalization_runs_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_personalization_runs")),
        sa.UniqueConstraint("run_id", "patient_id", "protocol", name=op.f("uq_personalization_runs_run_id")),
    )
    op.create_index(op.f("ix_personalization_runs_patient_id"), "personalization_runs", ["patient_id"])
    op.create_table(
        "reports",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("path", sa.String(255), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_reports_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reports")),
    )
    op.create_index(op.f("ix_reports_run_id"), "reports", ["run_id"])
    op.create_table(
        "personalization_rounds",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("personalization_run_id", sa.Integer(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("method", sa.String(16), nullable=False),
        sa.Column("chosen", sa.String(16), nullable=True),
        sa.Column("guard_loss", sa.Float(), nullable=True),
        sa.Column("tp", sa.Integer(), nullable=False),
        sa.Column("fp", sa.Integer(), nullable=False),
        sa.Column("tn", sa.Integer(), nullable=False),
        sa.Column("fn", sa.Integer(), nullable=False),
        sa.Column("strip_tp", sa.Integer(), nullable=False),
        sa.Column("strip_fp", sa.Integer(), nullable=False),
        sa.Column("strip_tn", sa.Integer(), nullable=False),
        sa.Column("strip_fn", sa.Integer(), nullable=False),
        sa.Column("beat_auc", sa.Float(), nullable=True),
        sa.Column("beat_f1", sa.Float(), nullable=True),
        sa.Column("strip_accuracy", sa.Float(), nullable=True),
        sa.Column("strip_auc", sa.Float(), nullable=True),
        sa.Column("brier", sa.Float(), nullable=True),
        sa.Column("train_beats", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["personalization_run_id"],
            ["personalization_runs.id"],
            name=op.f("fk_personalization_rounds_personalization_run_id"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_personalization_rounds")),
        sa.UniqueConstraint(
            "personalization_run_id",
            "round",
            "method",
            name=op.f("uq_personalization_rounds_personalization_run_id"),
        ),
    )
    op.create_table(
        "strips",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("patient_id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("draw_id", sa.Integer(), nullable=True),
        sa.Column("label", sa.String(8), nullable=False),
        sa.Column("value", sa.Float(), nullable=True),
        sa.Column("start", sa.DateTime(), nullable=False),
        sa.Column("end", sa.DateTime(), nullable=False),
        sa.Column("record", sa.String(128), nullable=True),
        sa.Column("exclusion", sa.String(32), nullable=True),
        sa.Column("beat_offset", sa.BigInteger(), nullable=True),
        sa.Column("n_beats", sa.Integer(), nullable=False),
        sa.Column("n_detected", sa.Integer(), nullable=False),
        sa.Column("signal_s", sa.Float(), nullable=False),
        sa.Column("heart_rate_bpm", sa.Float(), nullable=True),
        sa.Column("quality", sa.JSON(), nullable=False),
        sa.CheckConstraint("label in ('positive', 'negative', 'gap')", name=op.f("ck_strips_label")),
        sa.ForeignKeyConstraint(["draw_id"], ["draws.id"], name=op.f("fk_strips_draw_id")),
        sa.ForeignKeyConstraint(["patient_id"], ["patients.id"], name=op.f("fk_strips_patient_id")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_strips_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_strips")),
        sa.UniqueConstraint("draw_id", name=op.f("uq_strips_draw_id")),
        sa.UniqueConstraint("patient_id", "start", "label", name=op.f("uq_strips_patient_id")),
    )
    op.create_index(op.f("ix_strips_exclusion"), "strips", ["exclusion"])
    op.create_table(
        "strip_predictions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("personalization_run_id", sa.Integer(), nullable=True),
        sa.Column("strip_id", sa.Integer(), nullable=False),
        sa.Column("method", sa.String(16), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("purpose", sa.String(8), nullable=False),
        sa.Column("n_beats", sa.Integer(), nullable=False),
        sa.Column("n_positive_beats", sa.Integer(), nullable=False),
        sa.Column("mean_logit", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["personalization_run_id"],
            ["personalization_runs.id"],
            name=op.f("fk_strip_predictions_personalization_run_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_strip_predictions_run_id")),
        sa.ForeignKeyConstraint(["strip_id"], ["strips.id"], name=op.f("fk_strip_predictions_strip_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_strip_predictions")),
        sa.UniqueConstraint(
            "run_id", "strip_id", "method", "round", "purpose", name=op.f("uq_strip_predictions_run_id")
        ),
    )
    op.create_index(
        op.f("ix_strip_predictions_personalization_run_id"),
        "strip_predictions",
        ["personalization_run_id"],
    )
    op.create_index(op.f("ix_strip_predictions_strip_id"), "strip_predictions", ["strip_id"])


def downgrade() -> None:
    """Drop every table, those that point at others first."""
    for name in (
        "strip_predictions",
        "strips",
        "personalization_rounds",
        "reports",
        "personalization_runs",
        "models",
        "federated_rounds",
        "draws",
        "cohort_members",
        "runs",
        "patients",
    ):
        op.drop_table(name)
