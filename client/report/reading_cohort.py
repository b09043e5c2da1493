"""Read from the site database who is in, who is not, and which runs say so; usable before any training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session, selectinload

from client.database import reviews
from client.database.cohort_queries import inclusion
from client.database.queries import accepted, frozen
from client.database.runs import latest_run
from client.database.tables import CohortMember, Patient, Run, Strip
from client.report.evidence import CohortEvidence, Member, RunFacts, StripRow
from common.errors import DatabaseError


def read_cohort(session: Session, name: str) -> CohortEvidence:
    """Read the inclusion of a site, with the latest cohort of a name if one is frozen.

    Raises
    ------
    DatabaseError
        If nothing was ingested yet.
    """
    cohort = latest_run(session, "cohort", name)
    if cohort is not None:
        members = read_members(session, cohort.id, name)
        strips, notes = read_strips(session, [cohort.id]), cohort_notes(session, [cohort.id])
        runs = provenance(session, [cohort])
    else:
        members, strips, notes = _everybody(session), _accepted_strips(session), []
        runs = provenance(session, [])
    ingest = session.scalars(select(Run).where(Run.kind == "ingest").order_by(Run.id.desc())).first()
    if ingest is None:
        raise DatabaseError("the database holds nothing yet: run 'fedkalemia-site ingest SITE' first")
    if ingest.status != "finished":
        notes = [f"the last ingest is {ingest.status}: more may come in when it is run again", *notes]
    if cohort is None:
        notes = [*notes, "no cohort is frozen yet: everybody with an accepted strip is shown"]
    elif ingest.id > cohort.id:
        notes = [*notes, "files were ingested after this cohort was frozen: it does not hold their strips"]
    flow = inclusion(session, cohort.id if cohort else None)
    settings = (cohort or ingest).settings
    return CohortEvidence(flow, members, strips, runs, settings, notes, reviews=reviews.counts(session))


def _everybody(session: Session) -> list[Member]:
    """Return everybody with an accepted strip, before there is a cohort."""
    query = select(Patient).where(Patient.id.in_(select(Strip.patient_id).where(accepted())))
    return [_member(patient, "", "", None, {}) for patient in session.scalars(query.order_by(Patient.id))]


def _member(patient: Patient, run: str, role: str, split: str | None, counts: Mapping[str, int]) -> Member:
    return Member(
        patient=patient.id,
        run=run,
        role=role,
        split=split,
        counts=counts,
        sex=patient.sex,
        age=patient.age,
        ethnicity=patient.ethnicity,
        height_cm=patient.height_cm,
        weight_kg=patient.weight_kg,
        stratum=patient.stratum,
    )


def _accepted_strips(session: Session) -> list[StripRow]:
    columns = (Strip.patient_id, Strip.label, Strip.value, Strip.n_beats, Strip.heart_rate_bpm)
    return [StripRow(*row) for row in session.execute(select(*columns).where(accepted()).order_by(Strip.id))]


def read_members(session: Session, cohort_run_id: int | None, name: str) -> list[Member]:
    """Return the patients of a frozen cohort, whose run has this name."""
    query = (
        select(CohortMember)
        .where(CohortMember.run_id == cohort_run_id)
        .options(selectinload(CohortMember.patient))
        .order_by(CohortMember.patient_id)
    )
    return [
        _member(
            row.patient,
            name,
            row.role,
            row.split,
            {"positive": row.n_positive, "negative": row.n_negative, "gap": row.n_gap},
        )
        for row in session.scalars(query)
    ]


def cohort_notes(session: Session, cohorts: Sequence[int]) -> list[str]:
    """Return what the freezing of the cohorts had to say, each sentence once."""
    details = session.scalars(select(Run.details).where(Run.id.in_(cohorts)).order_by(Run.id))
    return list(dict.fromkeys(str(note) for own in details for note in own.get("notes", [])))


def read_strips(session: Session, cohort_run_ids: Sequence[int]) -> list[StripRow]:
    """Return the strips that frozen cohorts hold of their members."""
    inside = select(CohortMember.patient_id).where(CohortMember.run_id.in_(cohort_run_ids))
    query = (
        select(
            Strip.id, Strip.run_id, Strip.patient_id, Strip.label, Strip.value, Strip.n_beats,
            Strip.heart_rate_bpm,
        )
        .where(accepted(), Strip.patient_id.in_(inside))
        .order_by(Strip.id)
    )  # fmt: skip
    cohorts = [frozen(session, run) for run in cohort_run_ids]
    return [
        StripRow(*row[2:])
        for row in session.execute(query)
        if any(cohort.holds(row.id, row.run_id) for cohort in cohorts)
    ]


def provenance(session: Session, runs: Sequence[Run]) -> list[RunFacts]:
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
