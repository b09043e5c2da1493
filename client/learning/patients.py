"""The second phase at a site: test the generic model on unseen patients, then fit it to each personal one."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import numpy as np
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from client.data.beatstore import BeatStore
from client.database.queries import TRAINED, Member, accepted, members, patients_of_model
from client.database.runs import SessionFactory, code_version, finish_run, latest_run, start_run
from client.database.tables import Model, Patient, PersonalizationRun, Run, Strip, StripPrediction
from client.learning.access import check_preprocessing, cohort_run, generic_strips, opened, run_settings
from client.learning.answer import answer
from client.learning.controls import with_two_stretches_of_days
from client.learning.dataset import BeatSource, StripRef, by_patient, cohort_strips, read_strip
from client.learning.evaluation import StripScore, embed, histogram, score_strips
from client.learning.models import build_network, generic_path, keep_generic, personal_path, save_personal
from client.learning.patient_jobs import PatientJob, Personalized, run_patient
from client.learning.personalizers import Scaling
from client.learning.planning import PROSPECTIVE, Outcome, Plan
from client.learning.protocols import DAYS, Procedure, procedures
from client.learning.results import add_result, outcome_row, prediction_row, prediction_rows
from client.site import Site
from common.logs import stage
from common.model import ResNet1d
from common.protocol import Metrics, RunPlan
from common.task import Label
from common.weights import Weights
from common.workers import current_workers

#: Beats of each generic training strip that measure the scale of the embedding.
SCALING_BEATS = 20


def personalize_site(site: Site, weights: Weights, plan: RunPlan) -> Metrics:
    """Personalize the generic model for every patient of the frozen cohort, and answer sums.

    Patients are computed by the worker processes that this process shares (``common.workers``), each with
    the site's number of threads, or here where it shares none; this process alone writes, patient by
    patient and in their order, so that rows and models do not depend on the number of processes. A run that
    was interrupted goes on where it stopped if generic model, settings, code and cohort are the same, and
    ends with the same rows. Everything is computed on processors, also where there is a GPU. Nobody is
    tested on a model that saw them, under whatever name and in whatever cohort that was.

    Parameters
    ----------
    site : the site asked.
    weights : the generic model the server selected.
    plan : the run it belongs to.

    Returns
    -------
    Flat counts and sums, suppressed by the site's ``policy.min_cell``; keys as in ``common.protocol``.

    Raises
    ------
    PreprocessingError, CohortError, ModelError
        Before any work, where the request does not fit the site.
    """
    began = time.monotonic()
    check_preprocessing(site, plan)
    network = build_network(plan.model, plan.schema, weights)
    store = BeatStore(site.beats)
    with opened(site) as factory:
        with factory() as session:
            cohort = cohort_run(session, site, plan.name)
            _close_federation(session, plan, weights)
            session.commit()
            known = patients_of_model(session, weights.digest())
        with _run(factory, site, plan, weights, cohort) as run:
            _keep_generic_model(factory, site, plan, weights, run)
            unseen = _test_generic(factory, network, store, run, cohort, known)
            _personalize_patients(factory, site, plan, network, store, run, cohort, known)
            with factory() as session:
                release = answer(session, site, run, cohort, unseen)
            # The whole histogram stays here; what was sent of it may be nothing.
            run.details = histogram(unseen).as_flat("generic.histogram") | {"sent": release.flat()}
    return release.flat() | {"seconds": time.monotonic() - began}


@contextmanager
def _run(factory: SessionFactory, site: Site, plan: RunPlan, weights: Weights, cohort: Run) -> Iterator[Run]:
    """Go on with an unfinished run of the same model, settings, code and cohort, or begin one."""
    settings = run_settings(site, plan)
    same = (weights.digest(), settings.digest(), code_version(), cohort.id)
    with factory() as session:
        run = latest_run(session, "personalization", plan.name, status=None)
        if (
            run is None
            or run.status == "finished"
            or (run.model_sha256, run.settings_sha256, run.code_version, run.cohort_run_id) != same
        ):
            run = start_run(
                session,
                "personalization",
                settings,
                name=plan.name,
                cohort_run_id=cohort.id,
                model_sha256=weights.digest(),
                data_fingerprint=cohort.data_fingerprint,
            )
        run.status, run.finished_at = "running", None
        session.commit()
        session.refresh(run)
        session.expunge(run)
    try:
        yield run
    except BaseException as error:
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        with suppress(Exception), factory() as session:
            finish_run(session, run, {"error": type(error).__name__}, status=status)  # type: ignore[arg-type]
            session.commit()
        raise
    with factory() as session:
        finish_run(session, run)
        session.commit()


def _close_federation(session: Session, plan: RunPlan, weights: Weights) -> None:
    """End the federation of this name, and note the generic model it made.

    The site may have missed the round in which these weights came by.
    """
    run = latest_run(session, "federation", plan.name, status="running")
    if run is not None:
        run.model_sha256 = weights.digest()
        finish_run(session, run)


def _keep_generic_model(
    factory: SessionFactory, site: Site, plan: RunPlan, weights: Weights, run: Run
) -> None:
    path, digest = keep_generic(site, weights, plan)
    with factory() as session:
        session.execute(delete(Model).where(Model.run_id == run.id, Model.kind == "generic"))
        session.add(
            Model(
                run_id=run.id,
                kind="generic",
                sha256=digest,
                generic_sha256=weights.digest(),
                path=str(path.relative_to(site.folder)),
                architecture=plan.model.model_dump(),
            )
        )
        session.commit()


def _test_generic(
    factory: SessionFactory, network: ResNet1d, store: BeatSource, run: Run, cohort: Run, known: set[int]
) -> list[StripScore]:
    """Score the generic model on all beats of the test patients it does not know, and keep what it said.

    Gap strips are scored and kept too, and not returned.
    """
    with factory() as session:
        strips = cohort_strips(session, cohort.id, splits=["test"])
    scores = score_strips(network, [strip for strip in strips if strip.patient_id not in known], store)
    stored = select(StripPrediction.id).where(
        StripPrediction.run_id == run.id, StripPrediction.personalization_run_id.is_(None)
    )
    with factory() as session:
        # One transaction: a run that goes on has all of these rows or none.
        if session.scalars(stored.limit(1)).first() is None:
            for score in scores:
                purpose = "gap" if score.label == Label.GAP else "test"
                session.add(prediction_row(run.id, None, score, "generic", 0, purpose))
            session.commit()
    return [score for score in scores if score.label != Label.GAP]


def _personalize_patients(
    factory: SessionFactory,
    site: Site,
    plan: RunPlan,
    network: ResNet1d,
    store: BeatSource,
    run: Run,
    cohort: Run,
    known: set[int],
) -> None:
    """Give the patients to the workers, and write what comes back, in the order of the patients."""
    settings = site.settings.personalization
    work = procedures(settings)
    with factory() as session:
        everybody = members(session, cohort.id)
        strips = by_patient(cohort_strips(session, cohort.id))
        sources = {row.id: row.source_key for row in session.execute(select(Patient.id, Patient.source_key))}
        columns = (PersonalizationRun.patient_id, PersonalizationRun.protocol)
        rows = session.execute(select(*columns).where(PersonalizationRun.run_id == run.id))
        done = {(patient, protocol) for patient, protocol in rows}
        scaling = _scaling(site, session, network, store, cohort)
        late = _after_cohort(session, site, {member.patient_id for member in everybody})
    candidates = _candidates(site, everybody, known)
    others = _for_the_day_control(everybody, known, strips) if any(p.name == DAYS for p in work) else []
    jobs = [
        PatientJob(
            patient_id=member.patient_id,
            generic=generic_path(site, plan.name, str(run.model_sha256)),
            beats=site.beats,
            strips=strips.get(member.patient_id, []),
            procedures=wanted,
            seen=_seen(member, known),
            settings=settings,
            threads=site.settings.threads,
            scaling=scaling,
            names=(plan.seed, "personalize", site.name, sources[member.patient_id]),
        )
        for member in (*candidates, *others)
        if (wanted := [p for p in _wanted(work, member, known) if (member.patient_id, p.name) not in done])
    ]
    for patient in late:
        if (patient, PROSPECTIVE) not in done:
            nothing = Personalized(work[0], Plan(Outcome.AFTER_COHORT))
            _keep_patient(factory, site, plan, run, patient, nothing)
    with stage(f"Personalizing at {site.name}", total=len(candidates) + len(others), unit="patient") as told:
        if len(jobs) < len(candidates) + len(others):
            told.advance(len(candidates) + len(others) - len(jobs))
        for job, found in zip(jobs, current_workers().in_order(run_patient, jobs), strict=True):
            for one in found:
                _keep_patient(factory, site, plan, run, job.patient_id, one)
            told.advance()


def _candidates(site: Site, everybody: Sequence[Member], known: set[int]) -> list[Member]:
    """Return the personal patients, and those who would be had the generic model not seen them."""
    rules = site.settings.cohort
    return [
        member
        for member in everybody
        if member.role == "personal"
        or (
            _seen(member, known)
            and member.n_positive >= rules.min_positive
            and member.n_negative >= rules.min_negative
        )
    ]


def _after_cohort(session: Session, site: Site, members_: set[int]) -> list[int]:
    """Return patients outside the cohort who have enough strips by now: ingested after it was frozen."""
    rules = site.settings.cohort
    query = select(Strip.patient_id, Strip.label, func.count()).where(accepted())
    counts: dict[int, dict[str, int]] = {}
    for patient, label, n in session.execute(query.group_by(Strip.patient_id, Strip.label)):
        counts.setdefault(patient, {})[label] = n
    return sorted(
        patient
        for patient, own in counts.items()
        if patient not in members_
        and own.get(Label.POSITIVE, 0) >= rules.min_positive
        and own.get(Label.NEGATIVE, 0) >= rules.min_negative
    )


def _wanted(work: Sequence[Procedure], member: Member, known: set[int]) -> Sequence[Procedure]:
    """Return what is run for a patient: of a generic one the day control, of one who trained a row alone."""
    if _seen(member, known):
        return work[:1]
    return [one for one in work if member.role == "personal" or one.name == DAYS]


def _for_the_day_control(
    everybody: Sequence[Member], known: set[int], strips: Mapping[int, list[StripRef]]
) -> list[Member]:
    """Return generic test patients with enough negative strips on different days."""
    return [
        member
        for member in everybody
        if member.role == "generic"
        and not _seen(member, known)
        and with_two_stretches_of_days(strips.get(member.patient_id, [])) is not None
    ]


def _seen(member: Member, known: set[int]) -> bool:
    """Whether a patient may have helped to make the generic model: in this cohort, or known to it at all."""
    return member.split in TRAINED or member.patient_id in known


def _scaling(site: Site, session: Session, network: ResNet1d, store: BeatSource, cohort: Run) -> Scaling:
    """Measure the generic embedding on the site's training strips, or on those of validation.

    Never on strips of test patients. A site without either leaves the embedding as it is.
    """
    strips = generic_strips(site, session, cohort, "train")
    strips = strips or generic_strips(site, session, cohort, "validation")
    beats = [read_strip(store, strip, SCALING_BEATS) for strip in strips]
    if not beats:
        return Scaling.of(np.empty((0, network.features), np.float32))
    return Scaling.of(embed(network, np.concatenate(beats)))


def _keep_patient(
    factory: SessionFactory,
    site: Site,
    plan: RunPlan,
    run: Run,
    patient_id: int,
    found: Personalized,
) -> None:
    """Write the models of one patient, then all rows of a protocol in one transaction."""
    generic = str(run.model_sha256)
    procedure, own, result = found.procedure, found.plan, found.result
    row = outcome_row(run.id, patient_id, procedure.name, own, site.settings.personalization, generic)
    models = []
    # Whoever opens a patient's model means that of the primary protocol.
    for method, suffix in result.suffixes.items() if result and procedure.name == PROSPECTIVE else ():
        path = personal_path(site, plan.name, run.id, patient_id, method, generic)
        digest = save_personal(
            path, suffix, generic_sha256=generic, model=plan.model, method=method, round_=row.rounds
        )
        models.append(
            Model(
                run_id=run.id,
                kind="personal",
                sha256=digest,
                generic_sha256=generic,
                patient_id=patient_id,
                method=method,
                round=row.rounds,
                path=str(path.relative_to(site.folder)),
                architecture=plan.model.model_dump(),
            )
        )
    with factory() as session:
        if result:
            add_result(row, result, site.settings.personalization)
        session.add(row)
        session.flush()
        if result and procedure.keeps:
            session.add_all(prediction_rows(run.id, row.id, result.rounds))
        session.add_all(models)
        session.commit()
