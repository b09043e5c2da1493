"""The site database, table by table (SQLAlchemy 2, typed).

Every number in a report can be traced to rows here, and every row to a run: code version, settings,
data fingerprint and model hash. One database belongs to one site; nothing in it leaves the building.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, CheckConstraint, ForeignKey, MetaData, String, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

NAMES = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    """Root of all tables; names of constraints are fixed so that migrations can address them."""

    metadata = MetaData(naming_convention=NAMES)
    type_annotation_map = {dict[str, Any]: JSON}  # noqa: RUF012


class Run(Base):
    """One execution of one step (ingest, cohort, federation, personalization, report)."""

    __tablename__ = "runs"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(20), index=True)
    name: Mapped[str] = mapped_column(String(64), default="main", doc="Fold or other part of a journey")
    status: Mapped[str] = mapped_column(String(12), doc="running, finished, failed or interrupted")
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    task: Mapped[str] = mapped_column(String(32))
    code_version: Mapped[str] = mapped_column(String(64))
    settings: Mapped[dict[str, Any]]
    settings_sha256: Mapped[str] = mapped_column(String(64))
    seed: Mapped[int]
    data_fingerprint: Mapped[str | None] = mapped_column(String(64))
    model_sha256: Mapped[str | None] = mapped_column(String(64))
    cohort_run_id: Mapped[int | None] = mapped_column(ForeignKey("runs.id"), doc="Cohort this run used")
    details: Mapped[dict[str, Any]] = mapped_column(default=dict, doc="Counts and outcomes of the step")


class Patient(Base):
    """One person. ``source_key`` is the identifier in the site's own files; it never leaves the site."""

    __tablename__ = "patients"
    id: Mapped[int] = mapped_column(primary_key=True)
    source_key: Mapped[str] = mapped_column(String(64), unique=True)
    sex: Mapped[str | None] = mapped_column(String(1))
    age: Mapped[float | None] = mapped_column(doc="Years at the first draw; above 89 stored as 91.4")
    ethnicity: Mapped[str | None] = mapped_column(String(32))
    height_cm: Mapped[float | None]
    weight_kg: Mapped[float | None]
    split: Mapped[str | None] = mapped_column(String(12), doc="Assigned once, never changed")
    stratum: Mapped[str | None] = mapped_column(String(12), doc="positive or negative, when assigned")

    draws: Mapped[list[Draw]] = relationship(back_populates="patient")
    strips: Mapped[list[Strip]] = relationship(back_populates="patient")


class Draw(Base):
    """One blood potassium measurement, with its label or the reason why it has none."""

    __tablename__ = "draws"
    __table_args__ = (
        UniqueConstraint("patient_id", "source_row"),
        CheckConstraint("(label is null) <> (exclusion is null)", name="label_or_reason"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    patient_id: Mapped[int] = mapped_column(ForeignKey("patients.id"), index=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"))
    source_row: Mapped[str] = mapped_column(String(64), doc="Row of the lab table it came from")
    specimen_time: Mapped[datetime]
    value: Mapped[float | None] = mapped_column(doc="mEq/L")
    unit: Mapped[str | None] = mapped_column(String(16))
    item: Mapped[str] = mapped_column(String(32))
    specimen: Mapped[str] = mapped_column(String(16), doc="serum or whole_blood")
    censored: Mapped[str | None] = mapped_column(String(8), doc="above or below, for 'GREATER THAN 10'")
    label: Mapped[str | None] = mapped_column(String(8))
    exclusion: Mapped[str | None] = mapped_column(String(32))
    merged_into_id: Mapped[int | None] = mapped_column(ForeignKey("draws.id"))

    patient: Mapped[Patient] = relationship(back_populates="draws")
    strip: Mapped[Strip | None] = relationship(back_populates="draw")


class Strip(Base):
    """The ECG that belongs to one label: its place in the beat store, or the reason for its exclusion."""

    __tablename__ = "strips"
    __table_args__ = (UniqueConstraint("patient_id", "start", "label"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    patient_id: Mapped[int] = mapped_column(ForeignKey("patients.id"), index=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"))
    draw_id: Mapped[int | None] = mapped_column(ForeignKey("draws.id"), unique=True)
    label: Mapped[str] = mapped_column(String(8))
    value: Mapped[float | None] = mapped_column(doc="mEq/L; null where the label is not a measurement")
    start: Mapped[datetime]
    end: Mapped[datetime]
    record: Mapped[str | None] = mapped_column(String(128), doc="WFDB record read, relative to the root")
    exclusion: Mapped[str | None] = mapped_column(String(32), index=True)
    beat_offset: Mapped[int | None] = mapped_column(doc="First row in the beat store")
    n_beats: Mapped[int] = mapped_column(default=0, doc="Accepted beats")
    n_detected: Mapped[int] = mapped_column(default=0, doc="R peaks found")
    signal_s: Mapped[float] = mapped_column(default=0.0, doc="Seconds of lead II in the window")
    heart_rate_bpm: Mapped[float | None]
    quality: Mapped[dict[str, Any]] = mapped_column(default=dict, doc="Every quality figure, by name")

    patient: Mapped[Patient] = relationship(back_populates="strips")
    draw: Mapped[Draw | None] = relationship(back_populates="strip")


class CohortMember(Base):
    """A patient's role and split in a frozen cohort."""

    __tablename__ = "cohort_members"
    __table_args__ = (UniqueConstraint("run_id", "patient_id"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"), index=True)
    patient_id: Mapped[int] = mapped_column(ForeignKey("patients.id"), index=True)
    role: Mapped[str] = mapped_column(String(8), doc="generic or personal")
    split: Mapped[str | None] = mapped_column(String(12), doc="train, validation, test; null if personal")
    n_positive: Mapped[int]
    n_negative: Mapped[int]
    n_gap: Mapped[int]

    patient: Mapped[Patient] = relationship()


class FederatedRound(Base):
    """What this site computed in one federated round."""

    __tablename__ = "federated_rounds"
    __table_args__ = (UniqueConstraint("run_id", "round"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"), index=True)
    round: Mapped[int]
    received_sha256: Mapped[str] = mapped_column(String(64))
    returned_sha256: Mapped[str | None] = mapped_column(String(64))
    learning_rate: Mapped[float | None]
    train_patients: Mapped[int] = mapped_column(default=0)
    train_beats: Mapped[int] = mapped_column(default=0)
    train_loss: Mapped[float | None]
    validation_patients: Mapped[int] = mapped_column(default=0)
    validation_loss: Mapped[float | None] = mapped_column(doc="Mean over patients of mean beat loss")
    update_norm: Mapped[float | None]
    seconds: Mapped[float]


class Model(Base):
    """A model on disk: the generic one, or a patient's personal suffix."""

    __tablename__ = "models"
    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"), index=True)
    kind: Mapped[str] = mapped_column(String(8), doc="generic or personal")
    sha256: Mapped[str] = mapped_column(String(64), index=True)
    generic_sha256: Mapped[str | None] = mapped_column(String(64), doc="Generic model a suffix belongs to")
    patient_id: Mapped[int | None] = mapped_column(ForeignKey("patients.id"), index=True)
    method: Mapped[str | None] = mapped_column(String(16))
    round: Mapped[int | None]
    path: Mapped[str] = mapped_column(String(255), doc="Relative to the site folder")
    architecture: Mapped[dict[str, Any]]


class PersonalizationRun(Base):
    """One patient's personalization under one protocol: its outcome and what was selected."""

    __tablename__ = "personalization_runs"
    __table_args__ = (UniqueConstraint("run_id", "patient_id", "protocol"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"), index=True)
    patient_id: Mapped[int] = mapped_column(ForeignKey("patients.id"), index=True)
    protocol: Mapped[str] = mapped_column(String(16))
    outcome: Mapped[str] = mapped_column(String(24))
    generic_sha256: Mapped[str] = mapped_column(String(64))
    cut: Mapped[datetime | None] = mapped_column(doc="Start of the first test strip")
    gap_s: Mapped[float | None]
    n_train_positive: Mapped[int] = mapped_column(default=0)
    n_train_negative: Mapped[int] = mapped_column(default=0)
    n_test_positive: Mapped[int] = mapped_column(default=0)
    n_test_negative: Mapped[int] = mapped_column(default=0)
    episodes_positive: Mapped[int] = mapped_column(default=0)
    episodes_negative: Mapped[int] = mapped_column(default=0)
    rounds: Mapped[int] = mapped_column(default=0)
    selected_method: Mapped[str | None] = mapped_column(String(16))
    selected_round: Mapped[int | None]
    details: Mapped[dict[str, Any]] = mapped_column(default=dict)

    patient: Mapped[Patient] = relationship()
    personalization_rounds: Mapped[list[PersonalizationRound]] = relationship(
        back_populates="personalization_run", cascade="all, delete-orphan"
    )


class PersonalizationRound(Base):
    """One method after one personalization round, scored on the patient's test strips."""

    __tablename__ = "personalization_rounds"
    __table_args__ = (UniqueConstraint("personalization_run_id", "round", "method"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    personalization_run_id: Mapped[int] = mapped_column(ForeignKey("personalization_runs.id"), index=True)
    round: Mapped[int] = mapped_column(doc="0 is the generic model before any personal strip")
    method: Mapped[str] = mapped_column(String(16), doc="generic, threshold, closed_form, fine_tuned, selected")
    chosen: Mapped[str | None] = mapped_column(String(16), doc="For selected: the method behind it")
    guard_loss: Mapped[float | None] = mapped_column(doc="Log loss on pair round + 1 before training on it")
    tp: Mapped[int]
    fp: Mapped[int]
    tn: Mapped[int]
    fn: Mapped[int]
    strip_tp: Mapped[int]
    strip_fp: Mapped[int]
    strip_tn: Mapped[int]
    strip_fn: Mapped[int]
    beat_auc: Mapped[float | None]
    beat_f1: Mapped[float | None]
    strip_accuracy: Mapped[float | None]
    strip_auc: Mapped[float | None]
    brier: Mapped[float | None]
    train_beats: Mapped[int] = mapped_column(default=0)

    personalization_run: Mapped[PersonalizationRun] = relationship(
        back_populates="personalization_rounds"
    )


class StripPrediction(Base):
    """What one model said about one strip. ``round`` and ``method`` as in personalization rounds."""

    __tablename__ = "strip_predictions"
    __table_args__ = (UniqueConstraint("run_id", "strip_id", "method", "round", "purpose"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"), index=True)
    personalization_run_id: Mapped[int | None] = mapped_column(
        ForeignKey("personalization_runs.id", ondelete="CASCADE"), index=True
    )
    strip_id: Mapped[int] = mapped_column(ForeignKey("strips.id"), index=True)
    method: Mapped[str] = mapped_column(String(16))
    round: Mapped[int]
    purpose: Mapped[str] = mapped_column(String(8), doc="test, guard or gap")
    n_beats: Mapped[int]
    n_positive_beats: Mapped[int] = mapped_column(doc="Beats called positive; the vote is their share")
    mean_logit: Mapped[float]

    strip: Mapped[Strip] = relationship()


class Report(Base):
    """A page that was written, and the runs it was written from."""

    __tablename__ = "reports"
    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"), index=True)
    path: Mapped[str] = mapped_column(String(255), doc="Relative to the site folder")
    sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
