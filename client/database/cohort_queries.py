"""Who came in, who was left out and why, and who the patients are: what Figure 1 and Table 1 are made from.

Everything that is a count is counted by the database. Medians and quartiles are not: the two engines have no
grouping for them in common, so the values of a column are read and described in one place
(``common.page.numbers.quartiles``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from client.database.queries import Flowchart, LabelCounts, accepted, flowchart, frozen, members
from client.database.tables import Draw, Patient, Strip
from common.task import Label


@dataclass(frozen=True)
class Excluded:
    """How many draws or strips, of how many patients, were left out for one reason.

    ``labels`` counts them by label; draws that were left out have none.
    """

    code: str
    number: int
    patients: int
    labels: LabelCounts = field(default_factory=LabelCounts)


@dataclass(frozen=True)
class Beats:
    """Beats of the accepted strips.

    Attributes
    ----------
    found : R peaks found.
    accepted : beats in the store.
    rejected : reason -> number, most frequent first.
    """

    found: int
    accepted: int
    rejected: Mapping[str, int]


@dataclass(frozen=True)
class Inclusion:
    """From the laboratory's rows to the cohort.

    Attributes
    ----------
    steps : counts at every step.
    draws_excluded, strips_excluded : reasons, most frequent first.
    labelled_patients, accepted_patients : patients by label; one may be in several.
    reported : draws the laboratory reports as hemolyzed, whatever became of them.
    suspected_kept : draws a rule suspects of hemolysis that have a label all the same.
    beats : of the accepted strips.
    cohort_excluded : accepted strips that the rules of a frozen cohort left out, by rule.
    """

    steps: Flowchart
    draws_excluded: Sequence[Excluded]
    strips_excluded: Sequence[Excluded]
    labelled_patients: LabelCounts
    accepted_patients: LabelCounts
    reported: Excluded
    suspected_kept: Excluded
    beats: Beats
    cohort_excluded: Sequence[Excluded] = ()


@dataclass(frozen=True)
class Person:
    """A patient of a frozen cohort, as Table 1 needs it; None is unknown.

    Attributes
    ----------
    patient_id : of the database.
    role : generic or personal.
    sex, ethnicity, age, height_cm, weight_kg : as in the database.
    strips : label -> number of its strips in the cohort; labels without are absent.
    potassium : label -> mean of the values of its strips of that label, mEq/L.
    heart_rate_bpm : mean of its strips, per minute.
    """

    patient_id: int
    role: str
    sex: str | None
    ethnicity: str | None
    age: float | None
    height_cm: float | None
    weight_kg: float | None
    strips: Mapping[str, int] = field(default_factory=dict)
    potassium: Mapping[str, float] = field(default_factory=dict)
    heart_rate_bpm: float | None = None


def inclusion(session: Session, cohort_run_id: int | None = None) -> Inclusion:
    """Count every step from all draws to the accepted strips, and what a frozen cohort left out of them."""
    labelled, with_beats = Draw.label.is_not(None), accepted()
    return Inclusion(
        steps=flowchart(session, cohort_run_id),
        draws_excluded=_excluded(session, Draw),
        strips_excluded=_excluded(session, Strip),
        labelled_patients=_patients_by_label(session, Draw, labelled),
        accepted_patients=_patients_by_label(session, Strip, with_beats),
        reported=_hemolysis(session, "reported"),
        suspected_kept=_hemolysis(session, "suspected", labelled),
        beats=beats(session),
        cohort_excluded=[] if cohort_run_id is None else cohort_excluded(session, cohort_run_id),
    )


def beats(session: Session) -> Beats:
    """Add what became of the beats of the accepted strips; each strip keeps its rejections by reason."""
    query = select(Strip.n_detected, Strip.n_beats, Strip.beats_rejected).where(accepted())
    found = kept = 0
    rejected: Counter[str] = Counter()
    for n_detected, n_beats, reasons in session.execute(query):
        found, kept = found + n_detected, kept + n_beats
        rejected.update({str(reason): int(n) for reason, n in (reasons or {}).items() if n})
    return Beats(found, kept, dict(sorted(rejected.items(), key=lambda item: (-item[1], item[0]))))


def cohort_excluded(session: Session, cohort_run_id: int) -> list[Excluded]:
    """Count the accepted strips that the rules of a frozen cohort left out, by rule."""
    left_out = frozen(session, cohort_run_id).left_out
    rules = {strip: rule for rule, strips in left_out.items() for strip in strips}
    numbers: dict[str, Counter[str]] = {rule: Counter() for rule in left_out}
    patients: dict[str, set[int]] = {rule: set() for rule in left_out}
    if rules:  # too many for a list in SQL, so all strips come by
        for strip, patient, label in session.execute(select(Strip.id, Strip.patient_id, Strip.label)):
            if rule := rules.get(strip):
                numbers[rule][label] += 1
                patients[rule].add(patient)
    return [
        Excluded(rule, own.total(), len(patients[rule]), LabelCounts(**own))
        for rule, own in numbers.items()
        if own
    ]


def patients_at(session: Session) -> dict[str, set[int]]:
    """Return the patients left at each step, each in the one before: files, draws, labelled, accepted.

    A task without draws begins at its strips; its steps ``draws`` and ``labelled`` are empty.
    """
    queries = {
        "files": select(Patient.id),
        "draws": select(Draw.patient_id).distinct(),
        "labelled": select(Draw.patient_id).where(Draw.label.is_not(None)).distinct(),
        "accepted": select(Strip.patient_id).where(accepted()).distinct(),
    }
    return {step: set(session.scalars(query)) for step, query in queries.items()}


def people(session: Session, cohort_run_id: int) -> list[Person]:
    """Return the patients of a frozen cohort with the means of their strips, by patient."""
    roles = {member.patient_id: member.role for member in members(session, cohort_run_id)}
    inside = frozen(session, cohort_run_id)
    counts: dict[int, Counter[str]] = {}
    values: dict[tuple[int, str], list[float]] = {}
    rates: dict[int, list[float]] = {}
    strips = select(
        Strip.id, Strip.run_id, Strip.patient_id, Strip.label, Strip.value, Strip.heart_rate_bpm
    ).where(accepted())
    for strip, run, patient, label, value, rate in session.execute(strips.order_by(Strip.id)):
        if patient not in roles or not inside.holds(strip, run):
            continue
        counts.setdefault(patient, Counter())[label] += 1
        if value is not None:
            values.setdefault((patient, label), []).append(value)
        if rate is not None:
            rates.setdefault(patient, []).append(rate)
    columns = (
        Patient.id, Patient.sex, Patient.ethnicity, Patient.age, Patient.height_cm, Patient.weight_kg,
    )  # fmt: skip
    return [
        Person(
            row.id, roles[row.id], row.sex, row.ethnicity, row.age, row.height_cm, row.weight_kg,
            dict(counts.get(row.id, {})),
            {str(label): fmean(own) for label in Label if (own := values.get((row.id, label)))},
            fmean(rates[row.id]) if row.id in rates else None,
        )
        for row in session.execute(select(*columns).order_by(Patient.id))
        if row.id in roles
    ]  # fmt: skip


def _excluded(session: Session, table: type[Draw] | type[Strip]) -> list[Excluded]:
    patients = func.count(table.patient_id.distinct())
    query = select(table.exclusion, func.count(), patients).where(table.exclusion.is_not(None))
    rows = session.execute(query.group_by(table.exclusion)).all()
    labels: dict[str, dict[str, int]] = {}
    by_label = select(table.exclusion, table.label, func.count()).where(
        table.exclusion.is_not(None), table.label.is_not(None)
    )
    for code, label, n in session.execute(by_label.group_by(table.exclusion, table.label)):
        labels.setdefault(str(code), {})[str(label)] = n
    found = [Excluded(str(code), n, own, LabelCounts(**labels.get(str(code), {}))) for code, n, own in rows]
    return sorted(found, key=lambda one: (-one.number, one.code))


def _patients_by_label(
    session: Session, table: type[Draw] | type[Strip], *where: ColumnElement[bool]
) -> LabelCounts:
    label: InstrumentedAttribute[str] | InstrumentedAttribute[str | None] = table.label
    query = select(label, func.count(table.patient_id.distinct())).where(*where).group_by(label)
    return LabelCounts(**{str(name): int(n) for name, n in session.execute(query)})


def _hemolysis(session: Session, kind: str, *where: ColumnElement[bool]) -> Excluded:
    query = select(func.count(), func.count(Draw.patient_id.distinct())).where(Draw.hemolysis == kind, *where)
    number, patients = session.execute(query).one()
    labels = select(Draw.label, func.count()).where(Draw.hemolysis == kind, Draw.label.is_not(None), *where)
    counts = {str(label): int(n) for label, n in session.execute(labels.group_by(Draw.label))}
    return Excluded(kind, number, patients, LabelCounts(**counts))
