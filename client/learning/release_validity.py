"""What could fool a reader, as far as it may be told: simpler ways, the paper's protocol, controls.

Simpler ways and the paper's protocol are sent as sums over exactly the patients of the primary result, whose
number the answer tells anyway: no further group becomes known, and the server compares like with like. Where
one of these patients lacks a figure, it stays. Controls cannot be computed for everybody, and the control of
days is also computed for test patients of the generic cohort. So they have a group of their own, which is
sent if nothing small follows from it; else some patients more are left out until nothing does, always the
same ones first. Fewer figures than of the primary result are sent: that of the task, and the beat AUC.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

from sqlalchemy import select
from sqlalchemy.orm import Session, selectinload

from client.database.tables import PersonalizationRun, Run
from client.learning.differencing import Sizes
from client.learning.planning import PAPER, PERSONALIZED, PROSPECTIVE, Outcome
from client.learning.release import PatientFigures, Release, differences
from client.learning.results import patient_figures
from common.procedures import BEAT_AUC, CONTROLS, HEADLINES, LEARNING, PAPER_METHODS, SIMPLER
from common.seeding import key

Patients = Mapping[int, PatientFigures]


def results_of(
    session: Session, run: Run, protocol: str, outcomes: Sequence[Outcome] = (Outcome.PERSONAL,)
) -> dict[int, PatientFigures]:
    """Read what a run found under one protocol or control, by patient.

    Parameters
    ----------
    session : of the site database.
    run : the personalization.
    protocol : as in ``client.learning.protocols``.
    outcomes : of the patients wanted; one without any result is left out.
    """
    query = (
        select(PersonalizationRun)
        .where(
            PersonalizationRun.run_id == run.id,
            PersonalizationRun.protocol == protocol,
            PersonalizationRun.outcome.in_([outcome.value for outcome in outcomes]),
        )
        .order_by(PersonalizationRun.patient_id)
        .options(selectinload(PersonalizationRun.personalization_rounds))
    )
    return {
        row.patient_id: patient_figures(row) for row in session.scalars(query) if row.personalization_rounds
    }


def primary_result(session: Session, run: Run) -> dict[int, PatientFigures]:
    """Read the patients of the comparison that was declared before the run."""
    return results_of(session, run, PROSPECTIVE)


def release_validity(
    release: Release, session: Session, run: Run, site: str, task: str, primary: Patients, sizes: Sizes
) -> None:
    """Send simpler ways, the paper's protocol and controls.

    Parameters
    ----------
    release : what is sent, with the primary result.
    session, run : the site database and the personalization in it.
    site, task : names.
    primary : patients of the primary result.
    sizes : groups of patients that are known outside.
    """
    headline = HEADLINES[task]
    _release_simpler(release, primary, headline)
    paper = results_of(session, run, PAPER)
    _release_paper(release, {p: paper[p] for p in primary if p in paper}, len(primary), headline)
    for name in CONTROLS:
        control = results_of(session, run, f"control_{name}", PERSONALIZED)
        release_control(release, name, control, headline, site, primary.keys(), sizes)


def _release_simpler(release: Release, primary: Patients, headline: str) -> None:
    for way in SIMPLER:
        for name in (headline, BEAT_AUC):
            values = {p: one.figure(way, name) for p, one in primary.items()}
            _of_everybody(release, f"last.{way}.{name}", values, len(primary))
        apart = differences(primary, "selected", way, headline)
        _of_everybody(release, f"difference.selected-{way}.{headline}", apart, len(primary))


def _release_paper(release: Release, paper: Patients, everybody: int, headline: str) -> None:
    for method in PAPER_METHODS:
        for name in (headline, BEAT_AUC):
            values = {p: one.figure(method, name) for p, one in paper.items()}
            _of_everybody(release, f"paper.{method}.{name}", values, everybody)


def _of_everybody(release: Release, prefix: str, values: Mapping[int, float], everybody: int) -> None:
    """Send the sums of a figure that every patient of the primary result has; nothing of one not run."""
    known = [value for value in values.values() if not math.isnan(value)]
    if known and len(known) < everybody:
        release.withheld += 1
    elif known:
        release.moments(prefix, known)


def release_control(
    release: Release,
    name: str,
    control: Patients,
    headline: str,
    site: str,
    primary: AbstractSet[int],
    sizes: Sizes,
) -> None:
    """Send one control: the gain on the generic model, and the beat AUC of what could learn.

    Parameters
    ----------
    release : what is sent.
    name : ``permuted`` or ``days``.
    control : its results, by patient.
    headline : the figure the gain is in.
    site : name.
    primary : patients of the primary result.
    sizes : groups of patients that are known outside; the group that is sent is noted there.
    """
    figures = {f"control.{name}.gain.{headline}": differences(control, "selected", "generic", headline)}
    for method in LEARNING:
        values = {p: one.figure(method, BEAT_AUC) for p, one in control.items()}
        if not all(map(math.isnan, values.values())):  # else it was not run
            figures[f"control.{name}.{method}.{BEAT_AUC}"] = values
    whole = {p for p in control if not any(math.isnan(values[p]) for values in figures.values())}
    group = tellable(whole, primary, sizes, (site, name))
    if not group:
        release.withheld += len(figures) if control else 0
        return
    for prefix, values in figures.items():
        release.moments(prefix, [values[p] for p in sorted(group)])


def tellable(
    whole: AbstractSet[int], primary: AbstractSet[int], sizes: Sizes, names: tuple[object, ...]
) -> frozenset[int]:
    """Return the largest part of a group that may be told, and note it; empty if there is none.

    Tried are the whole and its patients of the primary result, each without a few of the latter: if two of
    nine have no control, the sums of seven would tell of two, the sums of four others of five.

    Parameters
    ----------
    whole : patients a number could be about.
    primary : patients of the primary result.
    sizes : groups that are known outside.
    names : decide who is left out first. Whatever is asked and however often, it is the same patients.
    """
    shared = sorted(whole & primary, key=lambda patient: key("left out", *names, patient))
    parts = [
        frozenset(base) - frozenset(shared[:few])
        for few in range(sizes.min_cell)
        for base in (whole, whole & primary)
    ]
    for part in sorted(parts, key=len, reverse=True):
        if part and sizes.tell(part):
            return part
    return frozenset()
