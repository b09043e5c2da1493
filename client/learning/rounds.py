"""What a site does when the server asks: take part in a federated round, or personalize.

This is where learning meets the site's database, beat store and model folder. A request is checked first
(cohort, schema, settings; the site's app has applied the site's policy to it before), rows are written as the
work goes on, and only weights and sums are answered.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from client.data.beatstore import BeatStore
from client.database.runs import finish_run, latest_run, start_run
from client.database.tables import FederatedRound, Run
from client.learning.access import check_preprocessing, cohort_run, generic_strips, opened, run_settings
from client.learning.clipping import clip_update
from client.learning.dataset import BeatSource, StripRef
from client.learning.evaluation import patient_loss, score_strips
from client.learning.models import build_network
from client.learning.patients import personalize_site
from client.learning.training import train_generic
from client.site import Site
from common.errors import PolicyError
from common.logs import site_log
from common.metrics import Flat
from common.model import ResNet1d
from common.protocol import RoundPlan, RoundReply
from common.weights import Weights, pack

__all__ = ["federated_round", "personalize_site"]


def federated_round(site: Site, weights: Weights, plan: RoundPlan) -> RoundReply:
    """Validate the weights received, train them further, and answer both.

    With fewer training patients than its policy asks for, the site only validates; with fewer validation
    patients, no validation numbers leave; an update longer than the policy allows is scaled down, and the
    row tells of the one that leaves. Asked again for the same round with the same weights, it gives the same
    answer and keeps one row.

    Parameters
    ----------
    site : the site asked.
    weights : the global weights.
    plan : what the server asks for, within the site's policy.

    Raises
    ------
    PreprocessingError, CohortError, ModelError, PolicyError
        Before any work, where the request does not fit the site, or the site has answered this cohort often
        enough.
    """
    began = time.monotonic()
    policy = site.settings.policy
    check_preprocessing(site, plan)
    network = build_network(plan.model, plan.schema, weights)
    store = BeatStore(site.beats)
    with opened(site) as factory:
        with factory() as session:
            cohort = cohort_run(session, site, plan.name)
            _check_answered(session, site, cohort, plan, weights)
            train = generic_strips(site, session, cohort, "train")
            validation = generic_strips(site, session, cohort, "validation")
        row = FederatedRound(round=plan.round, received_sha256=weights.digest())
        if plan.train:
            # Also where the site's own policy lets it only validate: the report names the schedule by it.
            row.learning_rate = plan.training.learning_rate
        numbers: Flat = {}
        if _patients(validation) >= policy.min_validation_patients:
            numbers |= _validate(network, validation, store, plan, row)
        returned = None
        if plan.train and _patients(train) >= policy.min_training_patients:
            numbers |= _train(site, network, train, store, plan, row)
            returned, norm = _within(site, weights, pack(network))
            row.update_norm = numbers["update-norm"] = norm
            row.returned_sha256 = returned.digest()
        row.seconds = numbers["seconds"] = time.monotonic() - began
        with factory() as session:
            _keep(session, site, plan, cohort, row)
            session.commit()
    return RoundReply(returned, numbers)


def _check_answered(session: Session, site: Site, cohort: Run, plan: RoundPlan, weights: Weights) -> None:
    """Refuse to train for a cohort that has given as many answers as the site's policy allows.

    What counts is what left, not the number that a message gives its round. The same question again is not
    counted twice.
    """
    if not plan.train:
        return
    again = (FederatedRound.round == plan.round) & (FederatedRound.received_sha256 == weights.digest())
    asked = (
        select(func.count())
        .select_from(FederatedRound)
        .join(Run, FederatedRound.run_id == Run.id)
        .where(Run.cohort_run_id == cohort.id, FederatedRound.returned_sha256.is_not(None), ~again)
    )
    limit = site.settings.policy.max_rounds
    if (answered := session.scalar(asked) or 0) >= limit:
        raise PolicyError(
            f"cohort {plan.name!r} of site {site.name} has answered {answered} times with weights; "
            f"policy.max_rounds is {limit}: raise it, or freeze a new cohort"
        )


def _patients(strips: Sequence[StripRef]) -> int:
    return len({strip.patient_id for strip in strips})


def _validate(
    network: ResNet1d, strips: Sequence[StripRef], store: BeatSource, plan: RoundPlan, row: FederatedRound
) -> Flat:
    """Score validation strips on as many beats of each as training draws, evenly spread."""
    scores = score_strips(network, strips, store, plan.training.beats_per_strip)
    loss = patient_loss(scores)
    row.validation_patients, row.validation_loss = loss.patients, loss.mean
    return loss.as_flat("validation") | {"validation-beats": sum(score.n_beats for score in scores)}


def _train(
    site: Site,
    network: ResNet1d,
    strips: Sequence[StripRef],
    store: BeatSource,
    plan: RoundPlan,
    row: FederatedRound,
) -> Flat:
    names = (plan.seed, "train", site.name, plan.round)
    outcome = train_generic(network, strips, store, plan.training, names)
    row.train_patients, row.train_beats = outcome.patients, outcome.beats
    row.train_loss = outcome.loss_total / outcome.beats
    return {
        "train-patients": outcome.patients,
        "train-strips": outcome.strips,
        "train-beats": outcome.beats,
        "train-loss-total": outcome.loss_total,
    }


def _within(site: Site, received: Weights, trained: Weights) -> tuple[Weights, float]:
    """Scale the update down to the longest the site's policy allows; return it and its length."""
    clipped = clip_update(received.trainable, trained.trainable, site.settings.policy.max_update_norm)
    if not clipped.changed:
        return trained, clipped.norm
    site_log(site.log).warning("%s", clipped.note)
    return Weights(clipped.trainable, trained.statistics), clipped.norm


def _keep(session: Session, site: Site, plan: RoundPlan, cohort: Run, row: FederatedRound) -> None:
    """Store a round; the same round with the same weights replaces its row."""
    run = _federation_run(session, site, plan, cohort)
    known = _stored(session, run, plan.round)
    if known is not None and not _same(known, row):
        # The server began anew: what it did before stays, as a run that did not end.
        finish_run(session, run, status="interrupted")
        run, known = _new_run(session, site, plan, cohort), None
    if known is not None:
        session.delete(known)
        session.flush()
    row.run_id = run.id
    session.add(row)


def _same(known: FederatedRound, row: FederatedRound) -> bool:
    """Whether a row answers the same question; another answer to the same weights is another question."""
    trained = (known.returned_sha256, row.returned_sha256)
    return known.received_sha256 == row.received_sha256 and (None in trained or trained[0] == trained[1])


def _federation_run(session: Session, site: Site, plan: RoundPlan, cohort: Run) -> Run:
    """Return the federation that is going on, or begin one."""
    run = latest_run(session, "federation", plan.name, status="running")
    if run is None:
        return _new_run(session, site, plan, cohort)
    if (run.cohort_run_id, run.seed, run.settings["model"]) != (
        cohort.id,
        plan.seed,
        plan.model.model_dump(mode="json"),
    ):
        finish_run(session, run, status="interrupted")
        return _new_run(session, site, plan, cohort)
    return run


def _new_run(session: Session, site: Site, plan: RoundPlan, cohort: Run) -> Run:
    return start_run(
        session,
        "federation",
        run_settings(site, plan, plan.training),
        name=plan.name,
        cohort_run_id=cohort.id,
        data_fingerprint=cohort.data_fingerprint,
    )


def _stored(session: Session, run: Run, round_: int) -> FederatedRound | None:
    return session.scalars(
        select(FederatedRound).where(FederatedRound.run_id == run.id, FederatedRound.round == round_)
    ).first()
