"""Questions to the site database, answered as plain frozen values. Nothing here writes.

Everything is counted by the database, in SQL both engines understand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from sqlalchemy import ColumnElement, and_, distinct, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from client.database.tables import CohortMember, Draw, FederatedRound, Model, Patient, Run, Strip
from common.task import Label

#: Groups of a cohort, in the order a reader expects: the splits of generic patients, then personal ones.
GROUPS = ("train", "validation", "test", "personal")

#: Splits whose patients make the generic model: the one trains it, the other chooses it.
TRAINED = ("train", "validation")


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
class Member:
    """A patient of a frozen cohort, with the accepted strips it had when the cohort was frozen."""

    patient_id: int
    role: str
    split: str | None
    n_positive: int
    n_negative: int
    n_gap: int


@dataclass(frozen=True)
class Frozen:
    """Which strips a frozen cohort holds, of the accepted ones of its members.

    Attributes
    ----------
    run_id : the run that froze it.
    last_strip : the last strip there was; None for a cohort that did not note it, which holds all.
    left_out : ids of accepted strips that a rule left out, by rule.
    """

    run_id: int
    last_strip: int | None = None
    left_out: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def holds(self, strip_id: int, ingest_run_id: int) -> bool:
        """Whether an accepted strip of a member is in.

        A database may give the id of a strip that was removed to a new one; its ingest run tells them apart.
        """
        if self.last_strip is None:
            return True
        known = strip_id <= self.last_strip and ingest_run_id < self.run_id
        return known and strip_id not in self._out

    @cached_property
    def _out(self) -> frozenset[int]:
        return frozenset(strip for strips in self.left_out.values() for strip in strips)


def frozen(session: Session, cohort_run_id: int) -> Frozen:
    """Return which strips a frozen cohort holds."""
    details = session.scalar(select(Run.details).where(Run.id == cohort_run_id)) or {}
    return Frozen(cohort_run_id, details.get("last_strip"), details.get("left_out", {}))


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
        .where(Run.name == name, CohortMember.split.in_(TRAINED))
    )
    if None not in used:
        query = query.where(CohortMember.run_id.in_(used))
    return set(session.scalars(query))


def patients_of_model(session: Session, sha256: str) -> set[int]:
    """Return this site's patients whose beats went into weights of this hash, or helped to choose them.

    A federated round receives what the rounds before it made, so weights that came in after round 1 are the
    work of the train and validation members of that federation's cohort, under whatever name they are used
    now. Those of round 1 are nobody's. A federation also counts if the server ended it with these weights.
    """
    federations = {
        run.id: run for run in session.scalars(select(Run).where(Run.kind == "federation").order_by(Run.id))
    }
    received = select(FederatedRound.run_id).where(
        FederatedRound.received_sha256 == sha256, FederatedRound.round > 1
    )
    found = set(session.scalars(received))
    found |= {run.id for run in federations.values() if run.model_sha256 == sha256}
    for run_id in sorted(found):
        found |= _continued(session, federations, run_id)
    cohorts = {federations[run_id].cohort_run_id for run_id in found} - {None}
    query = select(CohortMember.patient_id).where(
        CohortMember.run_id.in_(cohorts), CohortMember.split.in_(TRAINED)
    )
    return set(session.scalars(query))


def _continued(session: Session, federations: Mapping[int, Run], run_id: int) -> set[int]:
    """Return the earlier runs that a federation went on from.

    A site that freezes its cohort anew in the middle of a federation begins another run, whose first round
    is not round 1: what it receives was also made by the run of the same name before it.
    """
    query = select(FederatedRound.run_id, func.min(FederatedRound.round)).group_by(FederatedRound.run_id)
    first = {run: int(round_) for run, round_ in session.execute(query)}
    found: set[int] = set()
    while first.get(run_id, 1) > 1:
        name = federations[run_id].name
        before = [run.id for run in federations.values() if run.name == name and run.id < run_id]
        if not before:
            break
        run_id = max(before)
        found.add(run_id)
    return found


def latest_generic(session: Session, name: str) -> str | None:
    """Return where the generic model last used under a name lies, relative to the site folder."""
    query = (
        select(Model.path)
        .join(Run, Run.id == Model.run_id)
        .where(Model.kind == "generic", Run.name == name)
        .order_by(Model.id.desc())
        .limit(1)
    )
    return session.scalars(query).first()


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
