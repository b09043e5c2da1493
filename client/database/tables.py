"""The site database, table by table (SQLAlchemy 2, typed).

Every number in a report can be traced to rows here, and every row to a run: code version, settings,
data fingerprint and model hash. One database belongs to one site; nothing in it leaves the building.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    MetaData,
    String,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

NAMES = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}


class Text(TypeDecorator[str]):
    """Text of bounded length, checked here because SQLite would take any length and PostgreSQL not."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Refuse what PostgreSQL would refuse; store members of a StrEnum as plain text."""
        length = getattr(self.impl_instance, "length", None)
        if value is not None and length is not None and len(value) > length:
            raise ValueError(f"text of {len(value)} characters in a column for {length}")
        return None if value is None else str(value)


class Number(TypeDecorator[float]):
    """A double. NaN is stored as null, because SQLite does that by itself and PostgreSQL does not."""

    impl = Float
    cache_ok = True

    def process_bind_param(self, value: float | None, dialect: Dialect) -> float | None:
        """Turn NumPy scalars into floats and NaN into null."""
        return None if value is None or math.isnan(value) else float(value)


class Timestamp(TypeDecorator[datetime]):
    """A time without zone, as the site's files have it. Years up to 9999 (shifted dates lie past 2100)."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse a time with a zone: PostgreSQL would shift it, SQLite would drop the zone."""
        if value is not None and value.tzinfo is not None:
            raise ValueError("a time with a zone in a column for times without one")
        return value


def one_of(column: str, values: Sequence[str]) -> CheckConstraint:
    """Return the constraint that a column holds one of some words (or null, where it may)."""
    words = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} in ({words})", name=column)


LABELS = ("positive", "negative", "gap")
SPLITS = ("train", "validation", "test")


class Base(DeclarativeBase):
    """Root of all tables; names of constraints are fixed so that migrations can address them."""

    metadata = MetaData(naming_convention=NAMES)
    type_annotation_map = {  # noqa: RUF012
        dict[str, Any]: JSON,
        float: Number,
        datetime: Timestamp,
    }


class Run(Base):
    """One execution of one step (ingest, review, cohort, federation, personalization, report)."""

    __tablename__ = "runs"
    __table_args__ = (one_of("status", ("running", "finished", "failed", "interrupted")),)
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(
        Text(20), index=True, doc="ingest, review, cohort, federation, personalization or report"
    )
    name: Mapped[str] = mapped_column(Text(64), default="main", doc="Fold or other part of a journey")
    status: Mapped[str] = mapped_column(Text(12), doc="running, finished, failed or interrupted")
    started_at: Mapped[datetime] = mapped_column(doc="UTC")
    finished_at: Mapped[datetime | None] = mapped_column(doc="UTC; null while running")
    task: Mapped[str] = mapped_column(Text(32), doc="hyperkalemia or ventricular")
    code_version: Mapped[str] = mapped_column(Text(64), doc="Version of fedkalemia")
    settings: Mapped[dict[str, Any]] = mapped_column(doc="Every setting, with its value")
    settings_sha256: Mapped[str] = mapped_column(Text(64), doc="Digest of the settings")
    seed: Mapped[int] = mapped_column(BigInteger, doc="Seed of every random stream")
    data_fingerprint: Mapped[str | None] = mapped_column(Text(64), doc="SHA-256 of what the run read")
    model_sha256: Mapped[str | None] = mapped_column(Text(64), doc="Model the run used or made")
    cohort_run_id: Mapped[int | None] = mapped_column(ForeignKey("runs.id"), doc="Cohort this run used")
    details: Mapped[dict[str, Any]] = mapped_column(default=dict, doc="Counts and outcomes of the step")


class Patient(Base):
    """One person. ``source_key`` is the identifier in the site's own files; it never leaves the site."""

    __tablename__ = "patients"
    __table_args__ = (one_of("split", SPLITS), one_of("stratum", LABELS[:2]))
    id: Mapped[int] = mapped_column(primary_key=True)
    source_key: Mapped[str] = mapped_column(Text(64), unique=True, doc="Identifier in the site's files")
    sex: Mapped[str | None] = mapped_column(Text(1), doc="F or M; null if unknown")
    age: Mapped[float | None] = mapped_column(doc="Years at the first draw; above 89 stored as 91.4")
    ethnicity: Mapped[str | None] = mapped_column(Text(32), doc="Group, as in Table 1")
    height_cm: Mapped[float | None] = mapped_column(doc="cm")
    weight_kg: Mapped[float | None] = mapped_column(doc="kg")
    split: Mapped[str | None] = mapped_column(Text(12), doc="Assigned once, never changed; null before")
    stratum: Mapped[str | None] = mapped_column(Text(12), doc="positive or negative, when assigned")
    files_sha256: Mapped[str | None] = mapped_column(
        Text(64), doc="Digest of the names of the waveform files when last read"
    )

    draws: Mapped[list[Draw]] = relationship(back_populates="patient")
    strips: Mapped[list[Strip]] = relationship(back_populates="patient")


class Draw(Base):
    """One blood potassium measurement, with its label or the reason why it has none."""

    __tablename__ = "draws"
    __table_args__ = (
        UniqueConstraint("patient_id", "source_row"),
        CheckConstraint("(label is null) <> (exclusion is null)", name="label_or_reason"),
        one_of("label", LABELS),
        one_of("hemolysis", ("reported", "suspected")),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    patient_id: Mapped[int] = mapped_column(ForeignKey("patients.id"))
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"), doc="Ingest run that stored it")
    source_row: Mapped[str] = mapped_column(Text(64), doc="Row of the lab table it came from")
    specimen_time: Mapped[datetime] = mapped_column(doc="Site time, as in the lab table")
    value: Mapped[float | None] = mapped_column(doc="mEq/L")
    printed: Mapped[str | None] = mapped_column(Text(64), doc="The result as in the lab table")
    unit: Mapped[str | None] = mapped_column(Text(16), doc="As in the lab table")
    flag: Mapped[str | None] = mapped_column(Text(16), doc="As in the lab table; never used for labels")
    hemolysis: Mapped[str | None] = mapped_column(Text(12), doc="reported or suspected; null: neither")
    item: Mapped[str] = mapped_column(Text(32), doc="Item of the lab table")
    specimen: Mapped[str] = mapped_column(Text(16), doc="serum or whole_blood")
    censored: Mapped[str | None] = mapped_column(Text(8), doc="above or below, for 'GREATER THAN 10'")
    label: Mapped[str | None] = mapped_column(Text(8), doc="positive, negative or gap")
    exclusion: Mapped[str | None] = mapped_column(Text(32), doc="Reason code")
    merged_into_id: Mapped[int | None] = mapped_column(
        ForeignKey("draws.id"), doc="The earlier draw that is used instead"
    )

    patient: Mapped[Patient] = relationship(back_populates="draws")
    strip: Mapped[Strip | None] = relationship(back_populates="draw")


class Strip(Base):
    """The ECG that belongs to one label: its place in the beat store, or the reason for its exclusion."""

    __tablename__ = "strips"
    __table_args__ = (UniqueConstraint("patient_id", "start", "label"), one_of("label", LABELS))
    id: Mapped[int] = mapped_column(primary_key=True)
    patient_id: Mapped[int] = mapped_column(ForeignKey("patients.id"))
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"), doc="Ingest run that stored it")
    draw_id: Mapped[int | None] = mapped_column(
        ForeignKey("draws.id"), unique=True, doc="Null where the label is not a measurement"
    )
    label: Mapped[str] = mapped_column(Text(8), doc="positive, negative or gap")
    value: Mapped[float | None] = mapped_column(doc="mEq/L; null where the label is not a measurement")
    start: Mapped[datetime] = mapped_column(doc="Site time")
    end: Mapped[datetime] = mapped_column(doc="Site time; not included")
    record: Mapped[str | None] = mapped_column(Text(128), doc="WFDB record read, relative to the root")
    rate_hz: Mapped[float | None] = mapped_column(doc="Sampling rate of the files, Hz")
    source: Mapped[list[dict[str, Any]]] = mapped_column(
        JSON,
        default=list,
        doc="Files read: file, first and last sample, gain (units per mV), baseline, size, mtime_ns",
    )
    signal_sha256: Mapped[str | None] = mapped_column(Text(64), doc="Of the samples of the window as read")
    exclusion: Mapped[str | None] = mapped_column(Text(32), index=True, doc="Null: accepted")
    reasons: Mapped[list[str]] = mapped_column(
        JSON, default=list, doc="Every rule the strip fails, in the order in which they are asked"
    )
    beats_rejected: Mapped[dict[str, Any]] = mapped_column(
        default=dict, doc="Beats that were found and not accepted, by reason"
    )
    beat_offset: Mapped[int | None] = mapped_column(BigInteger, doc="First row in the beat store")
    n_beats: Mapped[int] = mapped_column(default=0, doc="Accepted beats")
    n_detected: Mapped[int] = mapped_column(default=0, doc="R peaks found")
    agreement: Mapped[float | None] = mapped_column(doc="Of two R-peak detectors on an excerpt, 0 to 1")
    signal_s: Mapped[float] = mapped_column(default=0.0, doc="Seconds of lead II in the window")
    heart_rate_bpm: Mapped[float | None] = mapped_column(doc="From the median RR interval, per minute")
    quality: Mapped[dict[str, Any]] = mapped_column(default=dict, doc="Every quality figure, by name")

    patient: Mapped[Patient] = relationship(back_populates="strips")
    draw: Mapped[Draw | None] = relationship(back_populates="strip")


class Review(Base):
    """What a person said about one strip, looking at it; one verdict per strip and reviewer."""

    __tablename__ = "reviews"
    __table_args__ = (
        UniqueConstraint("strip_id", "reviewer"),
        one_of("verdict", ("usable", "unusable", "unsure")),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    strip_id: Mapped[int] = mapped_column(ForeignKey("strips.id"))
    reviewer: Mapped[str] = mapped_column(Text(64), doc="Name or initials, as the reviewer gave them")
    verdict: Mapped[str] = mapped_column(Text(12), doc="usable, unusable or unsure")
    comment: Mapped[str | None] = mapped_column(Text(255))
    exclusion: Mapped[str | None] = mapped_column(
        Text(32), doc="What the software had said when the sheet was made; null: accepted"
    )
    sheet_sha256: Mapped[str] = mapped_column(Text(64), doc="Of the sheet that was looked at")
    read_at: Mapped[datetime] = mapped_column(doc="UTC; when the verdicts were read in")

    strip: Mapped[Strip] = relationship()


class Forgotten(Base):
    """A patient that was forgotten, so that no later ingest brings it back."""

    __tablename__ = "forgotten"
    id: Mapped[int] = mapped_column(primary_key=True)
    key_sha256: Mapped[str] = mapped_column(
        Text(64), unique=True, doc="Digest of site name and identifier; see the threat model"
    )
    forgotten_at: Mapped[datetime] = mapped_column(doc="UTC")
    details: Mapped[dict[str, Any]] = mapped_column(default=dict, doc="How many rows went, by table")


class CohortMember(Base):
    """A patient's role and split in a frozen cohort."""

    __tablename__ = "cohort_members"
    __table_args__ = (
        UniqueConstraint("run_id", "patient_id"),
        one_of("role", ("generic", "personal")),
        one_of("split", SPLITS),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"), doc="Cohort run")
    patient_id: Mapped[int] = mapped_column(ForeignKey("patients.id"), index=True)
    role: Mapped[str] = mapped_column(Text(8), doc="generic or personal")
    split: Mapped[str | None] = mapped_column(
        Text(12), doc="train, validation or test; null: personal, no lists"
    )
    n_positive: Mapped[int] = mapped_column(doc="Accepted positive strips")
    n_negative: Mapped[int] = mapped_column(doc="Accepted negative strips")
    n_gap: Mapped[int] = mapped_column(doc="Accepted gap strips; never trained on")

    patient: Mapped[Patient] = relationship()


class FederatedRound(Base):
    """What this site computed in one federated round."""

    __tablename__ = "federated_rounds"
    __table_args__ = (UniqueConstraint("run_id", "round"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"), doc="Federation run")
    round: Mapped[int]
    received_sha256: Mapped[str] = mapped_column(Text(64), doc="Weights that came in")
    returned_sha256: Mapped[str | None] = mapped_column(Text(64), doc="Weights that went out")
    learning_rate: Mapped[float | None]
    train_patients: Mapped[int] = mapped_column(default=0)
    train_beats: Mapped[int] = mapped_column(default=0)
    train_loss: Mapped[float | None] = mapped_column(doc="Mean beat loss")
    validation_patients: Mapped[int] = mapped_column(default=0)
    validation_loss: Mapped[float | None] = mapped_column(doc="Mean over patients of mean beat loss")
    update_norm: Mapped[float | None] = mapped_column(doc="Euclidean, of the trainable weights")
    seconds: Mapped[float] = mapped_column(doc="Time the site needed")


class Model(Base):
    """A model on disk: the generic one, or a patient's personal suffix."""

    __tablename__ = "models"
    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"), index=True)
    kind: Mapped[str] = mapped_column(Text(8), doc="generic or personal")
    sha256: Mapped[str] = mapped_column(Text(64), index=True, doc="Of the file")
    generic_sha256: Mapped[str | None] = mapped_column(Text(64), doc="Generic model a suffix belongs to")
    patient_id: Mapped[int | None] = mapped_column(ForeignKey("patients.id"), index=True)
    method: Mapped[str | None] = mapped_column(Text(16), doc="As in personalization rounds")
    round: Mapped[int | None] = mapped_column(doc="Personalization round")
    path: Mapped[str] = mapped_column(Text(255), doc="Relative to the site folder")
    architecture: Mapped[dict[str, Any]] = mapped_column(doc="Depth, width, stem")


class PersonalizationRun(Base):
    """One patient's personalization under one protocol: its outcome and what was selected."""

    __tablename__ = "personalization_runs"
    __table_args__ = (UniqueConstraint("run_id", "patient_id", "protocol"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"))
    patient_id: Mapped[int] = mapped_column(ForeignKey("patients.id"), index=True)
    protocol: Mapped[str] = mapped_column(Text(16), doc="prospective, paper or a control")
    outcome: Mapped[str] = mapped_column(Text(24), doc="How it ended, or why it was not done")
    generic_sha256: Mapped[str] = mapped_column(Text(64), doc="Generic model it began from")
    cut: Mapped[datetime | None] = mapped_column(doc="Start of the first test strip")
    gap_s: Mapped[float | None] = mapped_column(doc="Required before the first test strip")
    n_train_positive: Mapped[int] = mapped_column(default=0)
    n_train_negative: Mapped[int] = mapped_column(default=0)
    n_test_positive: Mapped[int] = mapped_column(default=0)
    n_test_negative: Mapped[int] = mapped_column(default=0)
    episodes_positive: Mapped[int] = mapped_column(default=0, doc="Separate positive episodes")
    episodes_negative: Mapped[int] = mapped_column(default=0, doc="Separate negative episodes")
    rounds: Mapped[int] = mapped_column(default=0, doc="Personalization rounds done")
    selected_method: Mapped[str | None] = mapped_column(Text(16))
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
    personalization_run_id: Mapped[int] = mapped_column(ForeignKey("personalization_runs.id"))
    round: Mapped[int] = mapped_column(doc="0 is the generic model before any personal strip")
    method: Mapped[str] = mapped_column(
        Text(16), doc="generic, threshold, closed_form, fine_tuned, selected, or a baseline"
    )
    chosen: Mapped[str | None] = mapped_column(Text(16), doc="For selected: the method behind it")
    guard_loss: Mapped[float | None] = mapped_column(doc="Log loss on pair round + 1 before training on it")
    tp: Mapped[int] = mapped_column(doc="Beats; tp, fp, tn, fn as usual")
    fp: Mapped[int]
    tn: Mapped[int]
    fn: Mapped[int]
    strip_tp: Mapped[int] = mapped_column(doc="Strips, by their vote")
    strip_fp: Mapped[int]
    strip_tn: Mapped[int]
    strip_fn: Mapped[int]
    beat_auc: Mapped[float | None]
    beat_f1: Mapped[float | None]
    strip_accuracy: Mapped[float | None]
    strip_auc: Mapped[float | None]
    brier: Mapped[float | None]
    train_beats: Mapped[int] = mapped_column(default=0)

    personalization_run: Mapped[PersonalizationRun] = relationship(back_populates="personalization_rounds")


class StripPrediction(Base):
    """What one model said about one strip. ``round`` and ``method`` as in personalization rounds."""

    __tablename__ = "strip_predictions"
    __table_args__ = (
        UniqueConstraint("run_id", "personalization_run_id", "strip_id", "method", "round", "purpose"),
        # Empty values differ from one another in the rule above.
        Index(
            "ix_strip_predictions_unseen",
            *("run_id", "strip_id", "method", "round", "purpose"),
            unique=True,
            sqlite_where=text("personalization_run_id is null"),
            postgresql_where=text("personalization_run_id is null"),
        ),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"))
    personalization_run_id: Mapped[int | None] = mapped_column(
        ForeignKey("personalization_runs.id", ondelete="CASCADE"), index=True
    )
    strip_id: Mapped[int] = mapped_column(ForeignKey("strips.id"), index=True)
    method: Mapped[str] = mapped_column(Text(16))
    round: Mapped[int]
    purpose: Mapped[str] = mapped_column(Text(8), doc="test, guard or gap")
    n_beats: Mapped[int]
    n_positive_beats: Mapped[int] = mapped_column(doc="Beats called positive; the vote is their share")
    mean_logit: Mapped[float] = mapped_column(doc="Over the beats of the strip")

    strip: Mapped[Strip] = relationship()


class Report(Base):
    """A page that was written, and the runs it was written from."""

    __tablename__ = "reports"
    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"), index=True)
    path: Mapped[str] = mapped_column(Text(255), doc="Relative to the site folder")
    sha256: Mapped[str] = mapped_column(Text(64), doc="Of the page")
    created_at: Mapped[datetime] = mapped_column(doc="UTC")
