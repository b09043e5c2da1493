"""Who is in the cohort, in which role and in which split; frozen as rows before anything is trained.

Rules (SCIENCE, section 9)
--------------------------
- A patient belongs to the cohort with at least one accepted positive or negative strip. Gap strips are
  counted beside; alone they make nobody a member, because nothing may be learned from them.
- Personal patients have at least ``cohort.min_positive`` and ``cohort.min_negative`` accepted strips and
  take no part in the generic model. All others are generic.
- A generic patient gets its split once, for good: within its label stratum (has positive strips or has
  none, as it was on that day) new patients are taken in the order of a hash of site, seed and patient, and
  each goes to the split that is furthest below the shares. The stored split is used whenever the patient is
  generic. Nobody is ever moved, so no beat that trained one generic model tests the next one.
- A patient whose beats went into a generic model of this name (or chose it: validation) stays generic, in
  its split, however many strips it gets later: a personal evaluation would begin from a model that knows
  the patient. A stored split that no federation has used yet does not bind, so that freezing too early,
  before all files are in, costs no personal patient. Test patients may become personal.
- Of train and validation patients ``cohort.classes`` and ``cohort.balance`` may leave strips out
  (``client.data.choice``). The run keeps their ids; a member's counts are those of the strips that are in.
- The run also keeps the last strip there was. Strips that come later are not in, so a frozen cohort never
  changes; ``client.database.queries.frozen`` tells which strips it holds.
- With lists (folds, DS1 and DS2) the lists decide, and stored splits are neither read nor written: train
  patients are generic, test patients have the split ``test`` and are personal if they have the strips.
- Neither rule can know which model a cohort will be used with. So personalization asks again, by the hash
  of the weights, and tests nobody on a model that saw them (``queries.patients_of_model``).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from client.data.choice import LeftOut, StripChoice, leave_out
from client.data.cohort_summary import CohortSummary, summary
from client.data.made_with import check_made_with
from client.data.splits import SPLITS, Candidate, assign_splits, check_shares, small_strata
from client.database.queries import (
    accepted,
    draw_exclusions,
    members,
    strip_exclusions,
    trained_patients,
)
from client.database.runs import latest_run, running
from client.database.tables import CohortMember, Patient, Run, Strip
from client.site import Site
from common.errors import CohortError
from common.seeding import key
from common.task import Label

Lists = tuple[set[str], set[str]]  # train, test
Placed = dict[int, tuple[str, str | None]]  # patient -> role, split


def freeze_cohort(
    site: Site,
    session_factory: Callable[[], Session],
    *,
    name: str = "main",
    train_keys: Sequence[str] | None = None,
    test_keys: Sequence[str] | None = None,
) -> CohortSummary:
    """Give every patient its role and split and store them as a cohort run.

    Parameters
    ----------
    site : the site; its seed, name and cohort settings decide.
    session_factory : of the site database.
    name : name of the journey; the latest cohort of a name is the one in use.
    train_keys, test_keys : patients by source key, for folds and standard sets; None for the site's own
        split. A missing list counts as empty when the other one is given.

    Returns
    -------
    CohortSummary
        Of the new run, or of the existing one where neither data, settings nor lists have changed.

    Raises
    ------
    CohortError
        If the lists overlap, the cohort is empty or has one label only; no member and no split is stored.
    ConfigurationError
        If the shares of the split cannot be used, or the strips were made with other settings.
    """
    check_shares(site.settings.cohort.split)
    lists = None
    if train_keys is not None or test_keys is not None:
        lists = _checked_lists(name, train_keys or (), test_keys or ())
    with session_factory() as session:
        check_made_with(session, site)
        latest = latest_run(session, "cohort", name)
        if latest is not None and latest.data_fingerprint == _fingerprint(session, site, lists):
            return replace(summary(session, latest), reused=True)
    with running(session_factory, "cohort", site.settings, name=name) as run:
        with session_factory() as session, session.begin():
            # Two processes may freeze at once: SQLite waits at the first write, PostgreSQL at locked rows.
            session.execute(update(Run).where(Run.id == run.id).values(name=name))
            session.execute(select(Patient.id).order_by(Patient.id).with_for_update()).all()
            run.data_fingerprint = _fingerprint(session, site, lists)
            run.details["lists"] = lists is not None
            run.details.update(_freeze(session, site, run.id, name, lists))
        with session_factory() as session:
            return summary(session, run)


def _checked_lists(name: str, train: Sequence[str], test: Sequence[str]) -> Lists:
    if both := set(train) & set(test):
        raise CohortError(
            f"cohort {name!r}: {len(both)} patients are in both lists; a patient is trained on or tested, "
            "never both; remove them from one list"
        )
    return set(train), set(test)


def _freeze(session: Session, site: Site, run_id: int, name: str, lists: Lists | None) -> dict[str, object]:
    """Write the members of a run, and the splits of patients that had none; return the run's details."""
    rules, candidates = site.settings.cohort, _candidates(session)
    strips = Counter({label: sum(getattr(c, f"n_{label}") for c in candidates) for label in Label})
    if lists is not None:
        chosen = [c for c in candidates if c.source_key in lists[0] | lists[1]]
    else:
        chosen = candidates
    chosen = [c for c in chosen if c.n_positive + c.n_negative > 0]
    _check_labels(session, site, name, chosen, strips, lists is not None)
    if lists is None:
        placed, held_back, notes = _by_site(session, site, name, chosen)
    else:
        placed, held_back, notes = _by_lists(session, site, name, chosen, *lists)
    left_out, chosen = _choose(session, site, chosen, placed)
    notes += [
        f"{split} has strips of one label only, so cohort.balance left it as it is"
        for split in left_out.unbalanced
    ]
    session.add_all(
        CohortMember(
            run_id=run_id,
            patient_id=c.patient_id,
            role=placed[c.patient_id][0],
            split=placed[c.patient_id][1],
            n_positive=c.n_positive,
            n_negative=c.n_negative,
            n_gap=c.n_gap,
        )
        for c in chosen
    )
    if not any(role == "personal" for role, _ in placed.values()):
        notes.append(
            f"no personal patients: nobody has {rules.min_positive} positive and {rules.min_negative} "
            "negative strips" + (" outside the generic training" if held_back or lists is not None else "")
        )
    return {
        "held_back": held_back,
        "notes": notes,
        "classes": rules.classes,
        "balance": rules.balance,
        "left_out": {"classes": left_out.classes, "balance": left_out.balance},
        "last_strip": session.scalar(select(func.max(Strip.id))),
    }


def _choose(
    session: Session, site: Site, chosen: list[Candidate], placed: Placed
) -> tuple[LeftOut, list[Candidate]]:
    """Leave strips out as the settings say; return who is left, with the strips that are in.

    A patient without a labelled strip is no member, whether it never had one or all were left out.
    """
    rules = site.settings.cohort
    if rules.classes == "both" and rules.balance == "none":
        return LeftOut(), chosen
    sources = {c.patient_id: c.source_key for c in chosen}
    query = select(Strip.id, Strip.patient_id, Strip.label, Strip.start).where(accepted())
    strips = [
        StripChoice(strip, patient, label, _queue(site, sources[patient], start.isoformat(), label))
        for strip, patient, label, start in session.execute(query)
        if patient in sources
    ]
    splits = {patient: split for patient, (role, split) in placed.items() if role == "generic" and split}
    left_out = leave_out(strips, splits, rules)
    counts = Counter((s.patient_id, s.label) for s in strips if s.strip_id not in left_out.strips)
    inside = [
        replace(
            c,
            n_positive=counts[c.patient_id, Label.POSITIVE],
            n_negative=counts[c.patient_id, Label.NEGATIVE],
            n_gap=counts[c.patient_id, Label.GAP],
        )
        for c in chosen
    ]
    return left_out, [c for c in inside if c.n_positive + c.n_negative > 0]


def _queue(site: Site, *names: str) -> int:
    return key("cohort strip", site.name, site.settings.seed, *names)


def _by_site(
    session: Session, site: Site, name: str, chosen: Sequence[Candidate]
) -> tuple[Placed, int, list[str]]:
    """Place patients by the site's own, stored split."""
    rules = site.settings.cohort
    trained = trained_patients(session, name)
    enough = [c for c in chosen if c.enough(rules)]
    held_back = [c for c in enough if c.patient_id in trained]
    personal = {c.patient_id for c in enough} - trained
    generic = [c for c in chosen if c.patient_id not in personal]
    shares = dict(zip(SPLITS, rules.split, strict=True))
    splits = assign_splits(generic, shares, lambda source: _place(site, source))
    new = [
        dict(zip(("id", "split", "stratum"), (c.patient_id, *splits[c.patient_id]), strict=True))
        for c in generic
        if c.split is None
    ]
    if new:
        session.execute(update(Patient), new)
    notes = small_strata(splits) if sum(rules.split[1:]) > 0 else []
    if held_back:
        notes.append(
            f"{len(held_back)} patients with enough strips stay generic, because their beats went into a "
            "generic model before"
        )
    placed: Placed = dict.fromkeys(personal, ("personal", None))
    placed.update({patient: ("generic", split) for patient, (split, _) in splits.items()})
    return placed, len(held_back), notes


def _by_lists(
    session: Session, site: Site, name: str, chosen: Sequence[Candidate], train: set[str], test: set[str]
) -> tuple[Placed, int, list[str]]:
    """Place patients by two lists; validation patients, if any, come from the training list.

    A training patient keeps the split it had in the latest cohort of this name.
    """
    rules = site.settings.cohort
    latest = latest_run(session, "cohort", name)
    shares = {"train": rules.split[0], "validation": rules.split[1]}
    earlier = [] if latest is None else members(session, latest.id, splits=list(shares))
    before = {member.patient_id: member.split for member in earlier}
    generic = [
        replace(c, split=before.get(c.patient_id), stratum=None) for c in chosen if c.source_key in train
    ]
    splits = assign_splits(generic, shares, lambda source: _place(site, source))
    placed: Placed = {patient: ("generic", split) for patient, (split, _) in splits.items()}
    for c in chosen:
        if c.source_key in test:
            placed[c.patient_id] = ("personal" if c.enough(rules) else "generic", "test")
    known = set(session.scalars(select(Patient.source_key)))
    notes = []
    if unknown := (train | test) - known:
        notes.append(f"{len(unknown)} patients of the lists are not at this site")
    if without := len((train | test) & known) - len(chosen):
        notes.append(f"{without} patients of the lists have no accepted strips")
    trained = trained_patients(session, name)
    if again := sum(c.patient_id in trained for c in chosen if c.source_key in test):
        notes.append(
            f"{again} patients of the test list helped to make an earlier generic model of this name and are "
            "not tested on that one"
        )
    return placed, 0, notes


def _candidates(session: Session) -> list[Candidate]:
    """Return every patient with accepted strips, by source key: the order of rows must not matter."""
    counts: dict[int, Counter[str]] = {}
    for patient, label in session.execute(select(Strip.patient_id, Strip.label).where(accepted())):
        counts.setdefault(patient, Counter())[label] += 1
    query = select(Patient.id, Patient.source_key, Patient.split, Patient.stratum)
    return sorted(
        (
            Candidate(
                patient,
                source,
                counts[patient][Label.POSITIVE],
                counts[patient][Label.NEGATIVE],
                counts[patient][Label.GAP],
                split,
                stratum,
            )
            for patient, source, split, stratum in session.execute(query)
            if patient in counts
        ),
        key=lambda candidate: candidate.source_key,
    )


def _fingerprint(session: Session, site: Site, lists: Lists | None) -> str:
    """Return the SHA-256 of everything a cohort depends on: accepted strips, rules, seed, site and lists."""
    query = (
        select(Patient.source_key, Strip.start, Strip.label, Strip.n_beats)
        .join(Patient, Patient.id == Strip.patient_id)
        .where(accepted())
    )
    rules = {
        "site": site.name,
        "seed": site.settings.seed,
        "cohort": site.settings.cohort.model_dump(mode="json"),
        "lists": None if lists is None else [sorted(keys) for keys in lists],
    }
    digest = hashlib.sha256(json.dumps(rules, sort_keys=True).encode())
    strips = [
        f"{source}\t{start.isoformat()}\t{label}\t{n_beats}"
        for source, start, label, n_beats in session.execute(query)
    ]
    digest.update("\n".join(sorted(strips)).encode())
    return digest.hexdigest()


def _place(site: Site, source_key: str) -> int:
    return key("cohort", site.name, site.settings.seed, source_key)


def _check_labels(
    session: Session,
    site: Site,
    name: str,
    chosen: Sequence[Candidate],
    all_strips: Mapping[Label, int],
    by_lists: bool,
) -> None:
    """Refuse a cohort that nothing can be learned from, saying where its strips went."""
    positive = sum(candidate.n_positive for candidate in chosen)
    negative = sum(candidate.n_negative for candidate in chosen)
    if positive and negative:
        return
    where = f"cohort {name!r} at site {site.name!r}"
    draws, strips = draw_exclusions(session), strip_exclusions(session)
    lost = f"draws left out: {_listed(draws)}; strips left out: {_listed(strips)}"
    if by_lists and all_strips[Label.POSITIVE] and all_strips[Label.NEGATIVE]:
        advice = "the site has both labels, so name other patients in the lists"
    elif not draws and not strips and not sum(all_strips.values()):
        advice = "the database holds nothing yet: run 'fedkalemia-site ingest SITE' first"
    else:
        advice = (
            "add recordings and run 'fedkalemia-site ingest SITE' again, or look at the most frequent reason"
        )
    if not positive and not negative:
        raise CohortError(f"{where} is empty: no patient has an accepted strip; {lost}; {advice}")
    missing = Label.NEGATIVE if positive else Label.POSITIVE
    raise CohortError(
        f"{where} has one label only: {positive} positive and {negative} negative strips of {len(chosen)} "
        f"patients; {missing} strips left out: {_listed(strip_exclusions(session, missing))}; {lost}; "
        f"{advice}"
    )


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {reason}" for reason, n in counts.items()) or "none"
