"""Questions to the site database, answered as plain frozen values. Nothing here writes.

Everything is counted by the database in SQL both engines understand; medians and standard deviations,
for which they differ, are computed from the queried values.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

from sqlalchemy import ColumnElement, and_, distinct, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from client.database.tables import CohortMember, Draw, Patient, Run, Strip
from common.task import Label

#: Groups of Table 1, in the order a reader expects.
GROUPS = ("train", "validation", "test", "personal")
UNKNOWN = "unknown"


@dataclass(frozen=True)
class LabelCounts:
    """How many there are of each label."""

    positive: int = 0
    negative: int = 0
    gap: int = 0

    @property
    def total(self) -> int:
        """All three together."""
        return self.positive + self.negative + self.gap


@dataclass(frozen=True)
class Flowchart:
    """From the laboratory's rows to the cohort: what came in, what was left out and why.

    Attributes
    ----------
    patients : everybody in the database.
    draws, draw_patients : blood draws in all; both 0 for a task without draws.
    draw_exclusions : reason code -> draws without a label.
    labelled, labelled_patients : draws with a label.
    strips, strip_patients : windows that were looked at.
    strip_exclusions : reason code -> strips that were not accepted.
    accepted, accepted_patients, accepted_beats : strips with beats.
    generic, personal : patients of the cohort run by role; None without one.
    """

    patients: int
    draws: int
    draw_patients: int
    draw_exclusions: Mapping[str, int]
    labelled: LabelCounts
    labelled_patients: int
    strips: int
    strip_patients: int
    strip_exclusions: Mapping[str, int]
    accepted: LabelCounts
    accepted_patients: int
    accepted_beats: int
    generic: int | None = None
    personal: int | None = None


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of what is known; NaN where nothing is."""

    known: int
    missing: int
    median: float
    lower: float
    upper: float


@dataclass(frozen=True)
class MeanSd:
    """Mean and standard deviation (n - 1); NaN where there are too few values."""

    n: int
    mean: float
    sd: float


@dataclass(frozen=True)
class Group:
    """One column of Table 1."""

    name: str
    patients: int
    age: Spread
    height_cm: Spread
    weight_kg: Spread
    sex: Mapping[str, int]
    ethnicity: Mapping[str, int]
    values: Mapping[Label, MeanSd]
    strips: LabelCounts
    beats: LabelCounts


@dataclass(frozen=True)
class Member:
    """A patient of a frozen cohort, with the accepted strips it had when the cohort was frozen."""

    patient_id: int
    role: str
    split: str | None
    n_positive: int
    n_negative: int
    n_gap: int


@dataclass(frozen=True)
class CohortCounts:
    """How many patients and accepted strips a frozen cohort has, by group (see ``GROUPS``)."""

    patients: Mapping[str, int] = field(default_factory=dict)
    strips: Mapping[str, LabelCounts] = field(default_factory=dict)


def accepted() -> ColumnElement[bool]:
    """Return the condition that a strip was accepted."""
    return and_(Strip.exclusion.is_(None), Strip.n_beats > 0)


def flowchart(session: Session, cohort_run_id: int | None = None) -> Flowchart:
    """Count every step from all draws to the accepted strips, and the roles of a cohort run if given."""
    with_label, with_beats = Draw.label.is_not(None), accepted()
    roles: Counter[str] = Counter()
    if cohort_run_id is not None:
        roles.update(member.role for member in members(session, cohort_run_id))
    return Flowchart(
        patients=_count(session, Patient.id),
        draws=_count(session, Draw.id),
        draw_patients=_count(session, Draw.patient_id),
        draw_exclusions=draw_exclusions(session),
        labelled=_by_label(session, Draw.label, func.count(), with_label),
        labelled_patients=_count(session, Draw.patient_id, with_label),
        strips=_count(session, Strip.id),
        strip_patients=_count(session, Strip.patient_id),
        strip_exclusions=strip_exclusions(session),
        accepted=_by_label(session, Strip.label, func.count(), with_beats),
        accepted_patients=_count(session, Strip.patient_id, with_beats),
        accepted_beats=_by_label(session, Strip.label, func.sum(Strip.n_beats), with_beats).total,
        generic=None if cohort_run_id is None else roles["generic"],
        personal=None if cohort_run_id is None else roles["personal"],
    )


def draw_exclusions(session: Session) -> dict[str, int]:
    """Return reason code -> number of draws that have no label, most frequent first."""
    query = select(Draw.exclusion, func.count()).where(Draw.exclusion.is_not(None)).group_by(Draw.exclusion)
    return _ranked((str(reason), n) for reason, n in session.execute(query))


def strip_exclusions(session: Session, label: Label | None = None) -> dict[str, int]:
    """Return reason code -> number of strips (of one label, or all) not accepted, most frequent first."""
    query = select(Strip.exclusion, func.count()).where(Strip.exclusion.is_not(None))
    if label is not None:
        query = query.where(Strip.label == label)
    return _ranked((str(reason), n) for reason, n in session.execute(query.group_by(Strip.exclusion)))


def members(
    session: Session,
    cohort_run_id: int,
    roles: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
) -> list[Member]:
    """Return the patients of a frozen cohort, by patient; ``None`` takes every role or split."""
    query = (
        select(
            CohortMember.patient_id,
            CohortMember.role,
            CohortMember.split,
            CohortMember.n_positive,
            CohortMember.n_negative,
            CohortMember.n_gap,
        )
        .where(CohortMember.run_id == cohort_run_id)
        .order_by(CohortMember.patient_id)
    )
    if roles is not None:
        query = query.where(CohortMember.role.in_(roles))
    if splits is not None:
        query = query.where(CohortMember.split.in_(splits))
    return [Member(*row) for row in session.execute(query)]


def cohort_counts(session: Session, cohort_run_id: int) -> CohortCounts:
    """Return patients and accepted strips of a frozen cohort by group."""
    everybody = members(session, cohort_run_id)
    by_group = {
        name: [member for member in everybody if _group(member.role, member.split) == name] for name in GROUPS
    }
    return CohortCounts(
        patients={name: len(group) for name, group in by_group.items()},
        strips={
            name: LabelCounts(
                sum(member.n_positive for member in group),
                sum(member.n_negative for member in group),
                sum(member.n_gap for member in group),
            )
            for name, group in by_group.items()
        },
    )


def table_one(session: Session, cohort_run_id: int) -> list[Group]:
    """Return Table 1: one column per group of ``GROUPS`` that has patients, in that order."""
    people = session.execute(
        select(
            CohortMember.role,
            CohortMember.split,
            Patient.age,
            Patient.height_cm,
            Patient.weight_kg,
            Patient.sex,
            Patient.ethnicity,
        )
        .join(Patient, Patient.id == CohortMember.patient_id)
        .where(CohortMember.run_id == cohort_run_id)
    ).all()
    ecg = session.execute(
        select(CohortMember.role, CohortMember.split, Strip.label, Strip.value, Strip.n_beats)
        .join(CohortMember, CohortMember.patient_id == Strip.patient_id)
        .where(CohortMember.run_id == cohort_run_id, accepted())
    ).all()
    groups = []
    for name in GROUPS:
        mine = [row for row in people if _group(row.role, row.split) == name]
        strips = [row for row in ecg if _group(row.role, row.split) == name]
        if not mine:
            continue
        beats: Counter[str] = Counter()
        for row in strips:
            beats[row.label] += row.n_beats
        groups.append(
            Group(
                name=name,
                patients=len(mine),
                age=spread([row.age for row in mine]),
                height_cm=spread([row.height_cm for row in mine]),
                weight_kg=spread([row.weight_kg for row in mine]),
                sex=_ranked(Counter(row.sex or UNKNOWN for row in mine).items()),
                ethnicity=_ranked(Counter(row.ethnicity or UNKNOWN for row in mine).items()),
                values={
                    label: mean_sd([row.value for row in strips if row.label == label]) for label in Label
                },
                strips=LabelCounts(**Counter(row.label for row in strips)),
                beats=LabelCounts(**beats),
            )
        )
    return groups


def trained_patients(session: Session, name: str) -> set[int]:
    """Return the patients whose beats went into a generic model of this name, or helped to choose it.

    They are the train and validation members of every cohort of the name that a federation run used,
    however that run ended. A federation run that does not say which cohort it used counts for all of them.
    """
    federation = select(Run.cohort_run_id).where(
        Run.kind == "federation", or_(Run.cohort_run_id.is_not(None), Run.name == name)
    )
    used = set(session.scalars(federation))
    query = (
        select(CohortMember.patient_id)
        .join(Run, Run.id == CohortMember.run_id)
        .where(Run.name == name, CohortMember.split.in_(("train", "validation")))
    )
    if None not in used:
        query = query.where(CohortMember.run_id.in_(used))
    return set(session.scalars(query))


def spread(values: Sequence[float | None]) -> Spread:
    """Return median and quartiles (linear between neighbours) of the values that are there."""
    known = sorted(value for value in values if value is not None)
    return Spread(
        known=len(known),
        missing=len(values) - len(known),
        median=_quantile(known, 0.5),
        lower=_quantile(known, 0.25),
        upper=_quantile(known, 0.75),
    )


def mean_sd(values: Sequence[float | None]) -> MeanSd:
    """Return mean and standard deviation of the values that are there."""
    known = [value for value in values if value is not None]
    return MeanSd(
        n=len(known),
        mean=fmean(known) if known else math.nan,
        sd=stdev(known) if len(known) > 1 else math.nan,
    )


def _quantile(ordered: Sequence[float], share: float) -> float:
    if not ordered:
        return math.nan
    place = share * (len(ordered) - 1)
    below, above = ordered[math.floor(place)], ordered[math.ceil(place)]
    return below + (above - below) * (place - math.floor(place))


def _group(role: str, split: str | None) -> str | None:
    return "personal" if role == "personal" else split


def _ranked(counts: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Order counts from many to few; equal ones by name, so that the answer never depends on rows' order."""
    return dict(sorted(counts, key=lambda item: (-item[1], item[0])))


def _count(session: Session, column: InstrumentedAttribute[int], *where: ColumnElement[bool]) -> int:
    return session.scalar(select(func.count(distinct(column))).where(*where)) or 0


def _by_label(
    session: Session,
    label: InstrumentedAttribute[Any],
    figure: ColumnElement[int],
    *where: ColumnElement[bool],
) -> LabelCounts:
    query = select(label, figure).where(*where).group_by(label)
    return LabelCounts(**{str(name): int(n) for name, n in session.execute(query)})
