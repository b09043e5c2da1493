"""The answer to ``query.personalize``: which groups its numbers are about, and in which order they ask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from sqlalchemy import select
from sqlalchemy.orm import Session

from client.database.queries import GROUPS, TRAINED, Member, members
from client.database.tables import PersonalizationRun, Run
from client.learning.differencing import Sizes
from client.learning.evaluation import StripScore
from client.learning.planning import PROSPECTIVE, Outcome
from client.learning.release import Release, uncounted
from client.learning.release_cohort import (
    known_groups,
    release_flow,
    release_steps,
    release_table_one,
    told_before,
)
from client.learning.release_validity import primary_result, release_validity
from client.site import Site
from common.task import Label


def answer(session: Session, site: Site, run: Run, cohort: Run, unseen: list[StripScore]) -> Release:
    """Return what may leave of a finished personalization.

    Parameters
    ----------
    session : of the site database, with the rows of the run.
    site : whose policy says what is too few.
    run, cohort : the personalization and the cohort it used.
    unseen : scores of the generic model on patients it does not know.
    """
    release = Release(site.settings.policy.min_cell)
    everybody = members(session, cohort.id)
    query = select(PersonalizationRun).where(
        PersonalizationRun.run_id == run.id, PersonalizationRun.protocol == PROSPECTIVE
    )
    # Who came after the cohort was frozen is not in it, and nobody is told of them.
    within = query.where(PersonalizationRun.outcome != Outcome.AFTER_COHORT)
    outcomes = {row.patient_id: row.outcome for row in session.scalars(within)}
    groups = {
        "primary": {patient for patient, outcome in outcomes.items() if outcome == Outcome.PERSONAL},
        "unseen": {score.patient_id for score in unseen},
        "personal": {m.patient_id for m in everybody if _group(m) == "personal"},
        "test": {m.patient_id for m in everybody if _group(m) == "test"},
    }
    silent = uncounted(groups, release.min_cell)
    _release_cohort(release, everybody, silent)
    release_flow(release, session)
    _release_outcomes(release, Counter(outcomes.values()))
    release.generic(unseen, counted="unseen" not in silent)
    primary = primary_result(session, run)
    release.personal(primary)
    # Whatever follows is asked for with all that is told so far; the later gives way.
    sizes = _known(release, session, site, cohort, groups, outcomes)
    release_validity(release, session, run, site.name, site.settings.task, primary, sizes)
    release_table_one(release, session, cohort, sizes, told_before(session, run))
    release_steps(release, session, sizes)
    return release


def _known(
    release: Release,
    session: Session,
    site: Site,
    cohort: Run,
    groups: Mapping[str, set[int]],
    outcomes: Mapping[int, str],
) -> Sizes:
    """Return the groups of patients that are known outside once the numbers so far are sent."""
    policy = site.settings.policy
    splits = {
        split: {member.patient_id for member in members(session, cohort.id, ["generic"], [split])}
        for split in TRAINED
    }
    sizes = Sizes(release.min_cell)
    by_outcome = {name: {p for p, own in outcomes.items() if own == name} for name in set(outcomes.values())}
    sizes.know(*known_groups(release, {**groups, **splits}, by_outcome), *release.told)
    # The answers to federated rounds have counted these.
    for split, least in zip(
        TRAINED, (policy.min_training_patients, policy.min_validation_patients), strict=True
    ):
        sizes.know(*([splits[split]] if len(splits[split]) >= least else []))
    return sizes


def _group(member: Member) -> str | None:
    return member.split if member.role == "generic" else "personal"


def _release_cohort(release: Release, everybody: list[Member], silent: set[str]) -> None:
    groups = {group: [m for m in everybody if _group(m) == group] for group in GROUPS}
    release.cells(
        "cohort",
        {f"{name}.patients": (len(own), len(own)) for name, own in groups.items()},
        {f"{name}.patients" for name in silent},
    )
    for label in Label:
        counts = {name: [getattr(m, f"n_{label}") for m in own] for name, own in groups.items()}
        release.cells(
            "cohort",
            {f"{name}.{label}": (sum(own), sum(n > 0 for n in own)) for name, own in counts.items()},
        )


def _release_outcomes(release: Release, outcomes: Counter[str]) -> None:
    """Count patients by outcome.

    The sums of the primary result tell its number of patients; then only the others are one table.
    """
    untold = (Outcome.NOT_COMPUTABLE, Outcome.AFTER_COHORT)  # of controls alone; of nobody in the cohort
    told = [outcome for outcome in Outcome if outcome not in untold]
    counts = {outcome.value: outcomes[outcome.value] for outcome in told}
    primary = counts[Outcome.PERSONAL]
    if primary >= release.min_cell:
        release.count("outcome.personal", counts.pop(Outcome.PERSONAL), primary)
    release.table("outcome", counts)
