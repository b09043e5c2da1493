"""Who is at a site, as far as it may be told: patients at each step of inclusion, reasons, Table 1.

Every number is asked for with the group behind it (``client.learning.differencing``): it leaves if at least
``min_cell`` patients are behind it and no smaller group follows from it together with what the same answer,
the rounds before it and earlier runs tell. Table 1 is sent as counts, sums and sums of squares, which add
across sites; medians do not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet

from sqlalchemy import select
from sqlalchemy.orm import Session

from client.data.exclusion import BeatRejection
from client.database.cohort_queries import Person, patients_at, people
from client.database.queries import accepted, members
from client.database.tables import Draw, Run, Strip
from client.learning.differencing import Group, Item, Sizes
from client.learning.release import Release, shown_cells
from common.metrics import Moments
from common.task import Label

ROLES = ("generic", "personal")
SEXES = {"F": "female", "M": "male"}
#: Groups of the paper's Table 1; whatever else a site calls them is other.
ORIGINS = {
    "White": "white", "African American": "african-american", "Hispanic": "hispanic", "Asian": "asian",
    "American Indian": "american-indian", "unknown": "unknown",
}  # fmt: skip
#: Steps of inclusion by how much a reader needs them; the later give way.
STEPS = ("labelled", "accepted", "draws", "files")


def release_table_one(
    release: Release, session: Session, cohort: Run, sizes: Sizes, previous: Iterable[AbstractSet[int]] = ()
) -> None:
    """Send Table 1 of the generic and of the personal patients.

    Parameters
    ----------
    release : what is sent.
    session : of the site database.
    cohort : the frozen cohort of the run.
    sizes : groups of patients that are known outside.
    previous : groups whose Table 1 earlier runs have sent.
    """
    sizes.know(*previous)
    everybody = people(session, cohort.id)
    for role in ROLES:
        own = {person.patient_id: person for person in everybody if person.role == role}
        if own and sizes.tell(own.keys()):
            _table_one(release, f"table-one.{role}", own, sizes)
        else:
            release.withheld += 1 if own else 0


def _table_one(release: Release, prefix: str, own: Mapping[int, Person], sizes: Sizes) -> None:
    release.numbers[f"{prefix}.patients"] = len(own)
    for label in Label:
        _told(release, f"{prefix}.label.{label}", {p for p, one in own.items() if label in one.strips}, sizes)
    groups = {name: {p for p, one in own.items() if SEXES.get(one.sex or "", "unknown") == name}
              for name in (*SEXES.values(), "unknown")}  # fmt: skip
    cells(release, f"{prefix}.sex", groups, sizes)
    origins: dict[str, set[int]] = {name: set() for name in (*ORIGINS.values(), "other")}
    for patient, one in own.items():
        origins[ORIGINS.get(one.ethnicity or "unknown", "other")].add(patient)
    cells(release, f"{prefix}.ethnicity", origins, sizes)
    _figure(release, f"{prefix}.age", {p: one.age for p, one in own.items()}, sizes)
    _figure(release, f"{prefix}.weight", {p: one.weight_kg for p, one in own.items()}, sizes)
    _figure(release, f"{prefix}.height", {p: one.height_cm for p, one in own.items()}, sizes)
    _figure(release, f"{prefix}.heart-rate", {p: one.heart_rate_bpm for p, one in own.items()}, sizes)
    for label in Label:
        values = {p: one.potassium[label] for p, one in own.items() if label in one.potassium}
        if values:
            _figure(release, f"{prefix}.potassium-{label}", values, sizes)


def _told(release: Release, key: str, group: Group, sizes: Sizes) -> None:
    if sizes.tell(group):
        release.numbers[key] = len(group)
    else:
        release.withheld += 1


def _figure(release: Release, prefix: str, values: Mapping[int, float | None], sizes: Sizes) -> None:
    """Send the moments of the known values, and of how many patients there is none."""
    known = {patient for patient, value in values.items() if value is not None}
    if not sizes.tell(known):
        release.withheld += 1
        return
    told = release.numbers
    if known:
        release.moments(prefix, [math.nan if value is None else value for value in values.values()])
    else:
        told.update(Moments().as_flat(prefix))
    if f"{prefix}.n" in told:
        told[f"{prefix}.missing"] = len(values) - len(known)


def release_steps(release: Release, session: Session, sizes: Sizes) -> None:
    """Send how many patients are left at each step of inclusion."""
    at = patients_at(session)
    for step in STEPS:
        if at[step]:
            _told(release, f"flow.patients.{step}", at[step], sizes)


def release_flow(release: Release, session: Session) -> None:
    """Send draws and strips by what became of them, those left by label, and beats.

    A strip is its draw here, so that numbers of draws and of strips cannot be subtracted either.
    """
    draws: dict[str, set[Item]] = {}
    labelled: dict[str, set[Item]] = {str(label): set() for label in Label}
    suspected: set[Item] = set()
    owner: dict[Item, int] = {}
    columns = (Draw.id, Draw.patient_id, Draw.label, Draw.exclusion, Draw.hemolysis)
    for draw, patient, label, reason, hemolysis in session.execute(select(*columns)):
        owner[draw] = patient
        draws.setdefault(str(reason or "labelled"), set()).add(draw)
        if label is not None:
            labelled[label].add(draw)
            suspected |= {draw} if hemolysis == "suspected" else set()
    strips: dict[str, set[Item]] = {}
    kept: dict[str, set[Item]] = {str(label): set() for label in Label}
    strip_columns = (Strip.id, Strip.draw_id, Strip.patient_id, Strip.label, Strip.exclusion)
    for strip, draw_id, patient, label, reason in session.execute(select(*strip_columns)):
        item: Item = draw_id if draw_id is not None else ("strip", strip)
        owner[item] = patient
        strips.setdefault(str(reason or "accepted"), set()).add(item)
        if reason is None:
            kept[label].add(item)
    sizes = Sizes(release.min_cell, owner)
    for table in (draws, strips):
        cells(release, "flow", table, sizes)
    for step, by_label in (("labelled", labelled), ("accepted", kept)):
        if f"flow.{step}" in release.numbers:
            cells(release, f"flow.by-label.{step}", by_label, sizes)
    if draws:
        _told(release, "flow.suspected-kept", suspected, sizes)
    _beats(release, session)


def _beats(release: Release, session: Session) -> None:
    """Send what became of the beats of the accepted strips."""
    names = ("accepted", *BeatRejection)
    numbers = {str(name): 0 for name in names}
    patients: dict[str, set[int]] = {str(name): set() for name in names}
    columns = (Strip.patient_id, Strip.n_beats, Strip.beats_rejected)
    for patient, n_beats, rejected in session.execute(select(*columns).where(accepted())):
        for name, n in {"accepted": n_beats, **(rejected or {})}.items():
            if n and name in numbers:
                numbers[name] += n
                patients[name].add(patient)
    for name, n in numbers.items():
        release.count(f"flow.beats.{name}", n, len(patients[name]))


def cells(release: Release, prefix: str, groups: Mapping[str, Group], sizes: Sizes) -> None:
    """Send the sizes of groups that divide a whole; what may not be told takes others with it.

    Whether the whole is known or not: at least two cells are hidden, with enough patients behind them.
    """
    refused: set[str] = set()
    while True:
        patients = {name: sizes.patients(group) for name, group in groups.items()}
        shown = _enough_hidden(groups, shown_cells(patients, sizes.min_cell, refused), sizes)
        trial = Sizes(sizes.min_cell, sizes.owner, list(sizes.known))
        again = {name for name in sorted(shown) if not trial.tell(groups[name])}
        if not again:
            break
        refused |= again
    sizes.known = trial.known
    release.withheld += len(groups) - len(shown)
    release.numbers.update({f"{prefix}.{name}": len(groups[name]) for name in groups if name in shown})


def _enough_hidden(groups: Mapping[str, Group], shown: frozenset[str], sizes: Sizes) -> frozenset[str]:
    """Hide more cells where the same few patients are behind several hidden ones."""
    hidden = [name for name, group in groups.items() if name not in shown and group]
    more = sorted((sizes.patients(groups[name]), name) for name in shown if groups[name])
    for _, name in more if hidden else ():
        union: set[Item] = set().union(*(groups[cell] for cell in hidden))
        if sizes.patients(union) >= sizes.min_cell:
            break
        hidden.append(name)
    return shown - frozenset(hidden)


def known_groups(
    release: Release, groups: Mapping[str, AbstractSet[int]], outcomes: Mapping[str, AbstractSet[int]]
) -> Sequence[AbstractSet[int]]:
    """Return the groups of patients that the rest of the same answer counts.

    Parameters
    ----------
    release : with what is sent of the cohort, of outcomes and of the generic and personal results.
    groups : train, validation, test, personal, unseen and primary patients.
    outcomes : patients by outcome of their personalization.
    """
    sent = release.numbers
    found = [group for name, group in groups.items() if f"cohort.{name}.patients" in sent]
    found += [group for name, group in outcomes.items() if f"outcome.{name}" in sent]
    found += [groups["unseen"]] if "generic.patients" in sent else []
    found += [groups["primary"]] if any(key.startswith("last.") for key in sent) else []
    return found


def told_before(session: Session, run: Run) -> list[set[int]]:
    """Return the groups whose Table 1 an earlier run has sent, as they were frozen then."""
    query = select(Run).where(Run.kind == "personalization", Run.id < run.id).order_by(Run.id)
    found = []
    for earlier in session.scalars(query):
        sent = earlier.details.get("sent", {})
        for role in ROLES:
            if f"table-one.{role}.patients" in sent and earlier.cohort_run_id is not None:
                own = members(session, earlier.cohort_run_id, roles=[role])
                found.append({member.patient_id for member in own})
    return found
