"""Read from the site database what one report is written from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session, selectinload

from client.database import reviews
from client.database.cohort_queries import inclusion
from client.database.tables import (
    CohortMember,
    FederatedRound,
    PersonalizationRun,
    Run,
    Strip,
    StripPrediction,
)
from client.learning.planning import PAPER, PROSPECTIVE
from client.learning.protocols import CONTROLS
from client.report.evidence import Evidence, Generic, Personal, Score, StripVote
from client.report.naming import Naming, own_names
from client.report.reading_cohort import cohort_notes, provenance, read_members, read_strips
from client.report.reading_quality import read_signals
from client.report.reading_votes import read_scored
from common.errors import DatabaseError, ProtocolError
from common.metrics import Confusion, ScoreHistogram


def read_evidence(
    session: Session, names: Sequence[str], naming: Naming | None = None, run: int | None = None
) -> Evidence:
    """Read the latest finished personalization of each name, and all it was made from.

    Where a name has an unfinished one alone, or a later one, ``unfinished`` of the evidence says so.

    Parameters
    ----------
    session : of the site database.
    names : of personalizations.
    naming : how patients are called; by default as in the site's own files.
    run : number of one personalization run, in place of the latest of each name.

    Raises
    ------
    DatabaseError
        If one of the names has no personalization, or there is no such run; the sentence says what to run.
    """
    chosen = [_latest(session, name) for name in names] if run is None else [_numbered(session, run)]
    runs = [one.run for one in chosen]
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
        naming=naming or own_names(session),
        unfinished=[one.note for one in chosen if one.note],
        scored=read_scored(session, [one.id for one in runs]),
        signals=read_signals(session),
    )


@dataclass(frozen=True)
class _Chosen:
    """A personalization to report, with what a reader must know about its end."""

    run: Run
    note: str = ""


def _latest(session: Session, name: str) -> _Chosen:
    """Return the latest finished personalization of a name, or an unfinished one where there is no other."""
    query = select(Run).where(Run.kind == "personalization", Run.name == name).order_by(Run.id.desc())
    runs = session.scalars(query).all()
    finished = next((run for run in runs if run.status == "finished"), None)
    if finished is None and runs:
        return _Chosen(runs[0], _not_finished(session, runs[0]))
    if finished is not None:
        later = runs[0]
        if later.id == finished.id:
            return _Chosen(finished)
        note = (
            f"a later personalization (run {later.id}) is {later.status}; this page is about the last that "
        )
        return _Chosen(finished, f"{note}finished, run {finished.id}.")
    cohort = session.scalar(
        select(func.count(Run.id)).where(Run.kind == "cohort", Run.name == name, Run.status == "finished")
    )
    known = sorted(set(session.scalars(select(Run.name).where(Run.kind == "personalization"))))
    step = (
        "the cohort is frozen: run 'fedkalemia-site personalize' next, with the generic model of a federation"
        if cohort
        else f"there are personalizations named {', '.join(known)}: choose with --name"
        if known
        else "run 'fedkalemia-site ingest', 'cohort' and 'personalize' first"
    )
    raise DatabaseError(f"there is no personalization named {name!r} to report; {step}")


def _numbered(session: Session, number: int) -> _Chosen:
    """Return one personalization run by its number."""
    run = session.get(Run, number)
    if run is None or run.kind != "personalization":
        query = select(Run.id).where(Run.kind == "personalization").order_by(Run.id)
        known = ", ".join(str(one) for one in session.scalars(query)) or "none"
        what = "does not exist" if run is None else f"is of kind {run.kind}, not a personalization"
        raise DatabaseError(f"run {number} {what}; personalization runs of this site: {known}")
    return _Chosen(run, "" if run.status == "finished" else _not_finished(session, run))


def _not_finished(session: Session, run: Run) -> str:
    """Say how far an unfinished personalization came."""
    done = session.scalar(
        select(func.count(PersonalizationRun.id)).where(
            PersonalizationRun.run_id == run.id, PersonalizationRun.protocol == PROSPECTIVE
        )
    )
    members = session.scalar(
        select(func.count(CohortMember.id)).where(
            CohortMember.run_id == run.cohort_run_id, CohortMember.role == "personal"
        )
    )
    return (
        f"personalization run {run.id} is {run.status}. {done} of {members} personal patients are in; every "
        "number may still change. Run 'fedkalemia-site personalize' again, it goes on where it stopped, and "
        "then 'report'."
    )


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
            row=row.id,
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
