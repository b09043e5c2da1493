"""The second phase at a site: test the generic model on unseen patients, then fit it to each personal one."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from client.data.beatstore import BeatStore
from client.database.queries import GROUPS, Member, members
from client.database.runs import SessionFactory, code_version, finish_run, latest_run, start_run
from client.database.tables import Draw, Model, Patient, PersonalizationRun, Run, Strip, StripPrediction
from client.learning.access import check_preprocessing, cohort_run, generic_strips, opened, run_settings
from client.learning.dataset import BeatSource, StripRef, by_patient, cohort_strips, labelled, read_strip
from client.learning.evaluation import StripScore, embed, histogram, score_strips
from client.learning.models import build_network, keep_generic, personal_path, save_personal
from client.learning.personalization import PersonalResult, personalize
from client.learning.personalizers import Scaling
from client.learning.planning import Outcome, Plan, plan_patient
from client.learning.release import Release
from client.learning.results import add_result, outcome_row, prediction_row, prediction_rows, primary_result
from client.site import Site
from common.logs import stage
from common.model import ResNet1d
from common.protocol import Metrics, RunPlan
from common.task import Label
from common.weights import Weights

#: Beats of each generic training strip that measure the scale of the embedding.
SCALING_BEATS = 20

TRAINED = ("train", "validation")


def personalize_site(site: Site, weights: Weights, plan: RunPlan) -> Metrics:
    """Personalize the generic model for every patient of the frozen cohort, and answer sums.

    Rows are committed patient by patient. A run that was interrupted goes on where it stopped if generic
    model, settings, code and cohort are the same, and ends with the same rows.

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
            _close_federation(session, plan)
            session.commit()
        with _run(factory, site, plan, weights, cohort) as run:
            _keep_generic_model(factory, site, plan, weights, run)
            unseen = _test_generic(factory, network, store, run, cohort)
            _personalize_patients(factory, site, plan, network, store, run, cohort)
            with factory() as session:
                release = _release(session, site, run, cohort, unseen)
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


def _close_federation(session: Session, plan: RunPlan) -> None:
    """End the federation of this name: the server has chosen its generic model."""
    run = latest_run(session, "federation", plan.name, status="running")
    if run is not None:
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
    factory: SessionFactory, network: ResNet1d, store: BeatSource, run: Run, cohort: Run
) -> list[StripScore]:
    """Score the generic model on all beats of the patients nobody trained on, and keep what it said.

    Gap strips are scored and kept too, and not returned.
    """
    with factory() as session:
        strips = cohort_strips(session, cohort.id, splits=["test"])
    scores = score_strips(network, strips, store)
    known = select(StripPrediction.id).where(
        StripPrediction.run_id == run.id, StripPrediction.personalization_run_id.is_(None)
    )
    with factory() as session:
        # One transaction: a run that goes on has all of these rows or none.
        if session.scalars(known.limit(1)).first() is None:
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
) -> None:
    settings = site.settings.personalization
    with factory() as session:
        candidates = _candidates(session, site, cohort)
        strips = by_patient(cohort_strips(session, cohort.id))
        sources = {row.id: row.source_key for row in session.execute(select(Patient.id, Patient.source_key))}
        done = set(
            session.scalars(select(PersonalizationRun.patient_id).where(PersonalizationRun.run_id == run.id))
        )
        scaling = _scaling(site, session, network, store, cohort)
    with stage(f"Personalizing at {site.name}", total=len(candidates), unit="patient") as progress:
        for member in candidates:
            if member.patient_id not in done:
                own = _plan(member, strips.get(member.patient_id, []), site)
                result = None
                if own.pairs:
                    names = (plan.seed, "personalize", site.name, sources[member.patient_id])
                    result = personalize(network, own, store, settings, scaling, names)
                _keep_patient(factory, site, plan, run, member.patient_id, own, result)
            progress.advance()


def _candidates(session: Session, site: Site, cohort: Run) -> list[Member]:
    """Return the personal patients, and those who would be had the generic model not seen them."""
    rules = site.settings.cohort
    return [
        member
        for member in members(session, cohort.id)
        if member.role == "personal"
        or (
            member.split in TRAINED
            and member.n_positive >= rules.min_positive
            and member.n_negative >= rules.min_negative
        )
    ]


def _plan(member: Member, strips: list[StripRef], site: Site) -> Plan:
    if member.split in TRAINED:
        return Plan(Outcome.TRAINED_GENERIC)
    return plan_patient(strips, site.settings.personalization)


def _scaling(site: Site, session: Session, network: ResNet1d, store: BeatSource, cohort: Run) -> Scaling:
    """Measure the generic embedding on the site's training strips, or on all its generic strips."""
    strips = generic_strips(site, session, cohort, "train")
    if not strips:
        strips = tuple(labelled(cohort_strips(session, cohort.id, roles=["generic"])))
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
    own: Plan,
    result: PersonalResult | None,
) -> None:
    """Write the models of one patient, then all rows in one transaction."""
    generic = str(run.model_sha256)
    row = outcome_row(run.id, patient_id, own, site.settings.personalization, generic)
    models = []
    for method, suffix in result.suffixes.items() if result else ():
        path = personal_path(site, plan.name, patient_id, method)
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
        if result:
            session.add_all(prediction_rows(run.id, row.id, result.rounds))
        session.add_all(models)
        session.commit()


def _release(session: Session, site: Site, run: Run, cohort: Run, unseen: list[StripScore]) -> Release:
    release = Release(site.settings.policy.min_cell)
    _release_cohort(release, members(session, cohort.id))
    _release_flow(release, session)
    rows = session.scalars(select(PersonalizationRun.outcome).where(PersonalizationRun.run_id == run.id))
    outcomes = Counter(rows)
    release.table("outcome", {outcome.value: outcomes[outcome.value] for outcome in Outcome})
    release.generic(unseen)
    release.personal(primary_result(session, run.id))
    return release


def _release_cohort(release: Release, everybody: list[Member]) -> None:
    groups = {
        group: [m for m in everybody if (m.split if m.role == "generic" else "personal") == group]
        for group in GROUPS
    }
    release.cells("cohort", {f"{name}.patients": (len(own), len(own)) for name, own in groups.items()})
    for label in Label:
        counts = {name: [getattr(m, f"n_{label}") for m in own] for name, own in groups.items()}
        release.cells(
            "cohort",
            {f"{name}.{label}": (sum(own), sum(n > 0 for n in own)) for name, own in counts.items()},
        )


def _release_flow(release: Release, session: Session) -> None:
    """Count draws and strips by what became of them: a reason, or accepted."""
    cells: dict[str, tuple[int, int]] = {}
    for table in (Draw, Strip):
        patients = func.count(table.patient_id.distinct())
        query = select(table.exclusion, func.count(), patients).group_by(table.exclusion)
        for reason, n, own in session.execute(query):
            name = str(reason or ("labelled" if table is Draw else "accepted"))
            before = cells.get(name, (0, 0))
            cells[name] = (before[0] + n, max(before[1], own))
    release.cells("flow", cells)
