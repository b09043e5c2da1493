"""Read from the site database what one report is written from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session, selectinload

from client.database import queries
from client.database.tables import (
    CohortMember,
    Draw,
    FederatedRound,
    PersonalizationRun,
    Run,
    Strip,
    StripPrediction,
)
from client.report.evidence import (
    Evidence,
    Excluded,
    Flow,
    Generic,
    Member,
    Personal,
    RunFacts,
    Score,
    StripRow,
    StripVote,
)
from common.errors import DatabaseError, ProtocolError
from common.metrics import Confusion, ScoreHistogram


def read_evidence(session: Session, names: Sequence[str]) -> Evidence:
    """Read the latest finished personalization of each name, and all it was made from.

    Raises
    ------
    DatabaseError
        If one of the names has no finished personalization; the sentence says what to run.
    """
    runs = [_personalization(session, name) for name in names]
    cohorts = [run.cohort_run_id for run in runs if run.cohort_run_id is not None]
    members = [member for run in runs for member in _members(session, run)]
    personal = [one for run in runs for one in _personal(session, run)]
    return Evidence(
        flow=_flow(session),
        members=members,
        strips=_strips(session, cohorts),
        generic=[_generic(session, run) for run in runs],
        personal=personal,
        runs=_provenance(session, runs),
        settings=runs[0].settings,
        guard=(
            sum(one.guard is True for one in personal if one.primary),
            sum(one.guard is not None for one in personal if one.primary),
        ),
        cohort_notes=_cohort_notes(session, cohorts),
        run_ids=[run.id for run in runs],
    )


def _personalization(session: Session, name: str) -> Run:
    query = (
        select(Run)
        .where(Run.kind == "personalization", Run.name == name, Run.status == "finished")
        .order_by(Run.id.desc())
    )
    run = session.scalars(query).first()
    if run is not None:
        return run
    cohort = session.scalar(
        select(func.count(Run.id)).where(Run.kind == "cohort", Run.name == name, Run.status == "finished")
    )
    step = (
        "the cohort is frozen: run 'fedkalemia-site personalize' next, with the generic model of a federation"
        if cohort
        else "run 'fedkalemia-site ingest', 'cohort' and 'personalize' first"
    )
    raise DatabaseError(f"there is no finished personalization named {name!r} to report; {step}")


def _members(session: Session, run: Run) -> list[Member]:
    query = (
        select(CohortMember)
        .where(CohortMember.run_id == run.cohort_run_id)
        .options(selectinload(CohortMember.patient))
        .order_by(CohortMember.patient_id)
    )
    return [
        Member(
            patient=row.patient_id,
            run=run.name,
            role=row.role,
            split=row.split,
            counts={"positive": row.n_positive, "negative": row.n_negative, "gap": row.n_gap},
            sex=row.patient.sex,
            age=row.patient.age,
            ethnicity=row.patient.ethnicity,
            height_cm=row.patient.height_cm,
            weight_kg=row.patient.weight_kg,
            stratum=row.patient.stratum,
        )
        for row in session.scalars(query)
    ]


def _cohort_notes(session: Session, cohorts: Sequence[int]) -> list[str]:
    """Return what the freezing of the cohorts had to say, each sentence once."""
    details = session.scalars(select(Run.details).where(Run.id.in_(cohorts)).order_by(Run.id))
    return list(dict.fromkeys(str(note) for own in details for note in own.get("notes", [])))


def _strips(session: Session, cohorts: Sequence[int]) -> list[StripRow]:
    inside = select(CohortMember.patient_id).where(CohortMember.run_id.in_(cohorts))
    query = (
        select(Strip.patient_id, Strip.label, Strip.value, Strip.n_beats, Strip.heart_rate_bpm)
        .where(queries.accepted(), Strip.patient_id.in_(inside))
        .order_by(Strip.id)
    )
    return [StripRow(*row) for row in session.execute(query)]


def _generic(session: Session, run: Run) -> Generic:
    query = (
        select(
            Strip.patient_id, Strip.label, Strip.value, StripPrediction.n_beats,
            StripPrediction.n_positive_beats, StripPrediction.mean_logit,
        )
        .join(Strip, Strip.id == StripPrediction.strip_id)
        .where(
            StripPrediction.run_id == run.id,
            StripPrediction.method == "generic",
            StripPrediction.round == 0,
            StripPrediction.purpose.in_(("test", "gap")),
            StripPrediction.personalization_run_id.is_(None),
            StripPrediction.n_beats > 0,
        )
        .order_by(Strip.id)
    )  # fmt: skip
    votes = [StripVote(*row) for row in session.execute(query)]
    digest = run.model_sha256
    rounds = session.scalars(
        select(FederatedRound)
        .join(Run, Run.id == FederatedRound.run_id)
        .where(Run.name == run.name, Run.cohort_run_id == run.cohort_run_id)
        .order_by(FederatedRound.run_id.desc(), FederatedRound.round)
    ).all()
    latest = [row for row in rounds if row.run_id == rounds[0].run_id]
    rates = [row.learning_rate for row in latest if row.learning_rate]
    falls = [after < before for before, after in pairwise(rates)]
    return Generic(
        run=run.name,
        model_sha256=digest,
        votes=votes,
        histogram=_histogram(run.details),
        # A round receives what the round before it ended with; the last exchange only evaluates.
        round=next((row.round - 1 for row in latest if row.received_sha256 == digest), None),
        rounds=max((row.round - 1 for row in latest), default=0),
        # A plateau lowers the rate now and then; a decaying schedule lowers it every round, down to a least
        # rate that long federations reach a few rounds before their end.
        decayed=len(falls) > 1 and sum(falls) >= 0.9 * len(falls),
        validation_patients=max((row.validation_patients for row in latest), default=0),
    )


def _histogram(details: Mapping[str, Any]) -> ScoreHistogram | None:
    for place in (details, details.get("sent", {})):
        try:
            return ScoreHistogram.from_flat(place, "generic.histogram")
        except ProtocolError:
            continue
    return None


def _personal(session: Session, run: Run) -> list[Personal]:
    query = (
        select(PersonalizationRun)
        .where(PersonalizationRun.run_id == run.id)
        .options(selectinload(PersonalizationRun.personalization_rounds))
        .order_by(PersonalizationRun.patient_id, PersonalizationRun.protocol)
    )
    return [
        Personal(
            patient=row.patient_id,
            run=run.name,
            protocol=row.protocol,
            outcome=row.outcome,
            train=(row.n_train_positive, row.n_train_negative),
            test=(row.n_test_positive, row.n_test_negative),
            episodes=(row.episodes_positive, row.episodes_negative),
            rounds=row.rounds,
            selected_method=row.selected_method,
            selected_round=row.selected_round,
            guard=bool(row.details.get("guard-hit")) if row.details.get("guard-decided") else None,
            scores={
                (score.method, score.round): Score(
                    method=score.method,
                    round=score.round,
                    chosen=score.chosen,
                    beats=Confusion(score.tp, score.fp, score.tn, score.fn),
                    strips=Confusion(score.strip_tp, score.strip_fp, score.strip_tn, score.strip_fn),
                    stored={
                        "beat_auc": score.beat_auc,
                        "beat_f1": score.beat_f1,
                        "strip_accuracy": score.strip_accuracy,
                        "strip_auc": score.strip_auc,
                        "brier": score.brier,
                    },
                )
                for score in row.personalization_rounds
            },
        )
        for row in session.scalars(query)
    ]


def _flow(session: Session) -> Flow:
    return Flow(queries.flowchart(session), _excluded(session, Draw), _excluded(session, Strip))


def _excluded(session: Session, table: type[Draw] | type[Strip]) -> list[Excluded]:
    number = func.count(table.id)
    query = (
        select(table.exclusion, number, func.count(table.patient_id.distinct()))
        .where(table.exclusion.is_not(None))
        .group_by(table.exclusion)
        .order_by(number.desc(), table.exclusion)
    )
    return [Excluded(str(code), n, patients) for code, n, patients in session.execute(query)]


def _provenance(session: Session, runs: Sequence[Run]) -> list[RunFacts]:
    """Return every run behind the report: ingest, cohort, federation, personalization."""
    names, cohorts = {run.name for run in runs}, {run.cohort_run_id for run in runs}
    shown = {run.id: run for run in runs}
    for run in session.scalars(select(Run).where(Run.status == "finished").order_by(Run.id)):
        used = run.id in cohorts or (run.kind == "federation" and run.cohort_run_id in cohorts)
        if run.kind == "ingest" or (used and run.name in names):
            shown[run.id] = run
    return [
        RunFacts(
            id=run.id,
            kind=run.kind,
            name=run.name,
            started=f"{run.started_at:%Y-%m-%d %H:%M}",
            finished=f"{run.finished_at:%Y-%m-%d %H:%M}" if run.finished_at else "",
            code_version=run.code_version,
            settings_sha256=run.settings_sha256,
            seed=run.seed,
            data_fingerprint=run.data_fingerprint,
            model_sha256=run.model_sha256,
        )
        for _, run in sorted(shown.items())
    ]
