"""Read from the site database what one report is written from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session, selectinload

from client.database import reviews
from client.database.cohort_queries import inclusion
from client.database.tables import (
    FederatedRound,
    PersonalizationRun,
    Run,
    Strip,
    StripPrediction,
)
from client.learning.planning import PAPER, PROSPECTIVE
from client.learning.protocols import CONTROLS
from client.report.evidence import Evidence, Generic, Personal, Score, StripVote
from client.report.reading_cohort import cohort_notes, provenance, read_members, read_strips
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
    members = [member for run in runs for member in read_members(session, run.cohort_run_id, run.name)]
    everything = [one for run in runs for one in _personal(session, run)]
    personal = [one for one in everything if one.protocol == PROSPECTIVE]
    return Evidence(
        flow=inclusion(session, cohorts[0] if len(cohorts) == 1 else None),
        members=members,
        strips=read_strips(session, cohorts),
        generic=[_generic(session, run) for run in runs],
        personal=personal,
        runs=provenance(session, runs),
        settings=runs[0].settings,
        guard=(
            sum(one.guard is True for one in personal if one.primary),
            sum(one.guard is not None for one in personal if one.primary),
        ),
        cohort_notes=cohort_notes(session, cohorts),
        run_ids=[run.id for run in runs],
        reviews=reviews.counts(session),
        beside=[one for one in everything if one.protocol == PAPER],
        controls=[one for one in everything if one.protocol in CONTROLS],
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
