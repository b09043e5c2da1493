"""What one site's database holds, counted for the run's summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from client.database.runs import latest_run
from client.database.session import open_database, sessions
from client.database.tables import (
    CohortMember,
    Draw,
    Patient,
    PersonalizationRound,
    PersonalizationRun,
    Run,
    Strip,
    StripPrediction,
)
from client.learning.evaluation import PATIENT_FIGURES
from client.learning.planning import PAPER, PROSPECTIVE
from client.learning.protocols import CONTROLS
from client.learning.results import row_figures
from client.site import Site
from common.metrics import Confusion, ScoreHistogram


@dataclass(frozen=True)
class GenericTally:
    """The generic model on a site's unseen patients."""

    patients: int
    beat: Confusion
    strip: Confusion
    histogram: ScoreHistogram


@dataclass(frozen=True)
class PatientTally:
    """One patient's figures under one protocol or control: method -> round -> figure -> value."""

    site: str
    patient: int
    fold: str
    outcome: str
    rounds: int
    test_strips: int
    test_beats: int
    selected_method: str | None
    methods: dict[str, dict[int, dict[str, float]]] = field(default_factory=dict)

    def last(self, method: str) -> dict[str, float]:
        """Figures of a method after its last round; empty if it has none."""
        by_round = self.methods.get(method, {})
        return by_round[max(by_round)] if by_round else {}

    def difference(self, a: str, b: str) -> dict[str, float]:
        """Figures of one method minus those of another, each after its last round."""
        left, right = self.last(a), self.last(b)
        return {name: left[name] - right[name] for name in left if name in right}


@dataclass(frozen=True)
class SiteTally:
    """One site, counted; ``patients`` of the primary protocol, ``beside`` of the paper's and of controls."""

    name: str
    counts: dict[str, Any]
    cohort: dict[str, dict[str, int]]
    outcomes: dict[str, int]
    generic: GenericTally | None
    patients: list[PatientTally]
    beside: dict[str, list[PatientTally]] = field(default_factory=dict)


def tally(site: Site, folds: Sequence[str]) -> SiteTally:
    """Count one site's database over the federations it took part in."""
    engine = open_database(site.database_url)
    try:
        with sessions(engine)() as session:
            runs = [run for name in folds if (run := latest_run(session, "personalization", name))]

            def under(protocol: str) -> list[PatientTally]:
                return [entry for run in runs for entry in _patients(session, site.name, run, protocol)]

            patients = under(PROSPECTIVE)
            return SiteTally(
                name=site.name,
                counts=_counts(session),
                cohort={name: _cohort(session, name) for name in folds},
                outcomes=dict(sorted(Counter(entry.outcome for entry in patients).items())),
                generic=_generic(session, runs),
                patients=patients,
                beside={name: under(name) for name in (PAPER, *CONTROLS)},
            )
    finally:
        engine.dispose()


def _counts(session: Session) -> dict[str, Any]:
    def grouped(column: Any) -> dict[str, int]:
        rows = session.execute(select(column, func.count()).where(column.is_not(None)).group_by(column))
        return {str(name): count for name, count in sorted(rows.all())}

    accepted = select(Strip.label, func.count(), func.sum(Strip.n_beats)).where(Strip.exclusion.is_(None))
    rows = session.execute(accepted.group_by(Strip.label)).all()
    return {
        "patients": session.scalar(select(func.count(Patient.id))),
        "draws": {"label": grouped(Draw.label), "exclusion": grouped(Draw.exclusion)},
        "strips": {
            "accepted": {label: count for label, count, _ in sorted(rows)},
            "beats": {label: int(beats) for label, _, beats in sorted(rows)},
            "exclusion": grouped(Strip.exclusion),
        },
    }


def _cohort(session: Session, name: str) -> dict[str, int]:
    run = latest_run(session, "cohort", name)
    if run is None:
        return {}
    columns = (CohortMember.role, CohortMember.split)
    rows = session.execute(
        select(*columns, func.count()).where(CohortMember.run_id == run.id).group_by(*columns)
    )
    return {f"{role} {split or ''}".strip(): count for role, split, count in sorted(rows.all(), key=str)}


def _generic(session: Session, runs: Sequence[Run]) -> GenericTally | None:
    beat, strip, histogram = Confusion(), Confusion(), ScoreHistogram()
    patients: set[int] = set()
    for run in runs:
        rows = session.execute(
            select(Strip, StripPrediction)
            .join(StripPrediction, StripPrediction.strip_id == Strip.id)
            .where(
                StripPrediction.run_id == run.id,
                StripPrediction.personalization_run_id.is_(None),
                StripPrediction.purpose == "test",
            )
        ).all()
        for tested, said in rows:
            positive, called = tested.label == "positive", 2 * said.n_positive_beats > said.n_beats
            yes, no = said.n_positive_beats, said.n_beats - said.n_positive_beats
            beat += Confusion(tp=yes, fn=no) if positive else Confusion(fp=yes, tn=no)
            strip += Confusion(
                tp=positive and called,
                fn=positive and not called,
                fp=not positive and called,
                tn=not positive and not called,
            )
            patients.add(tested.patient_id)
        if "generic.histogram.positive" in run.details:
            histogram += ScoreHistogram.from_flat(run.details, "generic.histogram")
    return GenericTally(len(patients), beat, strip, histogram) if patients else None


def _patients(session: Session, site: str, run: Run, protocol: str) -> list[PatientTally]:
    rows = session.scalars(
        select(PersonalizationRun)
        .where(PersonalizationRun.run_id == run.id, PersonalizationRun.protocol == protocol)
        .order_by(PersonalizationRun.patient_id)
    ).all()
    return [_patient(site, run.name, row) for row in rows]


def _patient(site: str, fold: str, row: PersonalizationRun) -> PatientTally:
    methods: dict[str, dict[int, dict[str, float]]] = {}
    beats = 0
    for entry in sorted(row.personalization_rounds, key=lambda entry: (entry.method, entry.round)):
        methods.setdefault(entry.method, {})[entry.round] = figures(entry)
        beats = entry.tp + entry.fp + entry.tn + entry.fn
    return PatientTally(
        site=site,
        patient=row.patient_id,
        fold=fold,
        outcome=row.outcome,
        rounds=row.rounds,
        test_strips=row.n_test_positive + row.n_test_negative,
        test_beats=beats,
        selected_method=row.selected_method,
        methods=methods,
    )


def figures(row: PersonalizationRound) -> dict[str, float]:
    """Return the figures of one method after one round; NaN where one is undefined.

    Without the Brier score, which says nothing about the few strips of one patient (SCIENCE section 9).
    """
    return {
        name.replace("-", "_"): value for name, value in row_figures(row).items() if name in PATIENT_FIGURES
    }
