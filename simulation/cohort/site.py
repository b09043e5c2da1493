"""One synthetic hospital: who its patients are, and its files, written patient by patient."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.errors import ConfigurationError
from common.files import storage_errors
from common.seeding import stream
from common.workers import Workers, worker_processes
from simulation.cohort.folder import FORMAT, Claim, check_folder, claimed
from simulation.cohort.layouts import layout_of
from simulation.cohort.parts import CLINICAL, WAVEFORMS, Member, SiteOrder, is_done, read_part, write_members
from simulation.cohort.patient import Role
from simulation.cohort.profile import CohortSizes, SiteProfile, check_site
from simulation.cohort.stay import PatientPlan, plan_patient
from simulation.cohort.tables import Tables
from simulation.cohort.truth import TRUTH_COLUMNS

FIRST_SUBJECT, LAST_SUBJECT = 20, 99_998  # p00 to p09, as in the matched waveforms
JOBS_PER_WORKER, MOST_PER_JOB = 32, 8

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class SiteCounts:
    """What a written site holds.

    Attributes
    ----------
    patients, draws : in the tables; ``draws`` are potassium results.
    recorded_draws : draws during which the monitor was recorded.
    ecg_s : recorded ECG, s.
    records, files, bytes : of the waveforms; ``bytes`` holds the tables too.
    """

    patients: int
    draws: int
    recorded_draws: int
    ecg_s: int
    records: int
    files: int
    bytes: int


def roles_of(profile: SiteProfile, sizes: CohortSizes, seed: int) -> list[tuple[int, Role]]:
    """Deal roles to the patients of a site: (SUBJECT_ID, role), in order of SUBJECT_ID.

    Injury and dialysis are those shares of the patients who are not dialysed for weeks that the profile
    asks for; in a case-control cohort (``sizes.positive_share``) they share its cases in their proportion.

    Raises
    ------
    ConfigurationError
        If the site cannot be what is asked for.
    """
    check_site(profile, sizes)
    rng = stream("cohort", seed, profile.name, "patients")
    span = LAST_SUBJECT - FIRST_SUBJECT + 1
    subjects = sorted(int(i) + FIRST_SUBJECT for i in rng.choice(span, size=sizes.patients, replace=False))
    counts = role_counts(profile, sizes)
    roles = [role for role, count in counts.items() for _ in range(count)]
    order = rng.permutation(sizes.patients)
    return [(subject, roles[place]) for subject, place in zip(subjects, order, strict=True)]


def role_counts(profile: SiteProfile, sizes: CohortSizes) -> dict[Role, int]:
    """Count the patients of each role; the counts depend on no seed."""
    personal = sizes.personal_of(profile)
    others = sizes.patients - personal
    mix = profile.patients
    ill = mix.injury_share + mix.dialysis_share
    if sizes.positive_share is not None:
        cases = round(sizes.positive_share * others)
        injury = round(cases * mix.injury_share / ill) if ill else 0
        dialysis = cases - injury if ill else 0
    else:
        rest = 1.0 - mix.long_dialysis_share
        injury = min(round(others * mix.injury_share / rest), others) if rest > 0 else 0
        dialysis = min(round(others * mix.dialysis_share / rest), others - injury) if rest > 0 else 0
    return {
        "personal": personal,
        "injury": injury,
        "dialysis": dialysis,
        "usual": others - injury - dialysis,
    }


def plan_site(profile: SiteProfile, sizes: CohortSizes, seed: int) -> Iterator[PatientPlan]:
    """Plan the patients of a site one after the other, in order of SUBJECT_ID. Pure: no signal is made.

    Raises
    ------
    ConfigurationError
        If the site cannot be what is asked for.
    """
    roles = roles_of(profile, sizes, seed)
    return (
        plan_patient(profile, sizes, seed, subject, number, role)
        for number, (subject, role) in enumerate(roles)
    )


def write_site(
    folder: Path,
    profile: SiteProfile,
    sizes: CohortSizes,
    seed: int,
    progress: Progress | None = None,
    truth: Path | None = None,
    workers: int = 1,
) -> SiteCounts:
    """Write a synthetic site in the layout of its profile.

    ``folder/clinical`` holds the tables, ``folder/waveforms`` the waveforms. The same arguments give
    the same bytes, whatever the number of workers. A complete folder of the same arguments is left as it is;
    one that was interrupted goes on with the patients that are missing.

    Parameters
    ----------
    folder : data root of the site; created when missing.
    profile, sizes : what kind of site, and how large.
    seed : root of every random stream.
    progress : called with (patients done, patients in all).
    truth : folder outside ``folder`` for true potassium, R peaks and flags; None for none.
    workers : processes that write patients.

    Raises
    ------
    ConfigurationError
        If ``truth`` lies inside ``folder``, or the site cannot be what is asked for.
    StorageError
        If the folder holds anything else, another process is writing it, or it cannot be written.
    """
    with worker_processes(workers) as pool:
        return write_order(SiteOrder(folder, profile, sizes, seed, truth), pool, progress)


def write_order(order: SiteOrder, pool: Workers, progress: Progress | None = None) -> SiteCounts:
    """Write one site with the given workers; see ``write_site``."""
    check_order(order)
    identity = identity_of(order)
    with ExitStack() as held:
        site = held.enter_context(claimed(order.folder, identity))
        truth = None if order.truth is None else held.enter_context(claimed(order.truth, identity))
        if not site.whole or (truth is not None and not truth.whole):
            _write_patients(order, site, truth, pool, progress)
        elif progress is not None:
            progress(order.sizes.patients, order.sizes.patients)
        # The truth first: whoever finds a whole site finds its truth too.
        if truth is not None and not truth.whole:
            _assemble_truth(truth, order)
        counts = site.counts if site.counts is not None else _assemble_site(site, order)
    return SiteCounts(**counts)


def check_order(order: SiteOrder) -> None:
    """Refuse an impossible site, or folders that hold something else, before anything is written.

    Raises
    ------
    ConfigurationError, StorageError
        See ``write_site``.
    """
    check_site(order.profile, order.sizes)
    identity = identity_of(order)
    check_folder(order.folder, identity)
    if order.truth is None:
        return
    if order.truth.resolve().is_relative_to(order.folder.resolve()):
        raise ConfigurationError(
            f"the ground truth folder {order.truth} lies inside the site's folder {order.folder}, where a "
            "site could read it; choose one outside"
        )
    check_folder(order.truth, identity)


def identity_of(order: SiteOrder) -> dict[str, Any]:
    """Return what decides every byte of a site, as JSON values."""
    return {
        "format": FORMAT,
        "seed": order.seed,
        "profile": order.profile.model_dump(mode="json"),
        "sizes": order.sizes.model_dump(mode="json"),
    }


def missing_members(order: SiteOrder, site: bool, truth: bool) -> list[Member]:
    """List the patients of whom something is still to be written.

    Parameters
    ----------
    order : the site.
    site, truth : whether the site's own files and the ground truth are wanted.
    """
    members = []
    for number, (subject, role) in enumerate(roles_of(order.profile, order.sizes, order.seed)):
        own = site and not is_done(order.folder, subject)
        other = truth and order.truth is not None and not is_done(order.truth, subject)
        if own or other:
            members.append(Member(number, subject, role, own, other))
    return members


def _write_patients(
    order: SiteOrder, site: Claim, truth: Claim | None, pool: Workers, progress: Progress | None
) -> None:
    total = order.sizes.patients
    missing = missing_members(order, not site.whole, truth is not None and not truth.whole)
    done = total - len(missing)
    if progress is not None:
        progress(done, total)
    size = max(1, min(len(missing) // (pool.count * JOBS_PER_WORKER), MOST_PER_JOB))
    for written in pool.each(write_members, _jobs(order, missing, size)):
        done += written
        if progress is not None:
            progress(done, total)


def _jobs(
    order: SiteOrder, members: Sequence[Member], size: int
) -> Iterator[tuple[SiteOrder, Sequence[Member]]]:
    for first in range(0, len(members), size):
        yield order, members[first : first + size]


def _assemble_site(site: Claim, order: SiteOrder) -> dict[str, int]:
    """Put the parts of all patients together: tables, indexes, mark."""
    records: list[str] = []
    counts: Counter[str] = Counter()
    layout, style = layout_of(order.profile), order.profile.files
    with storage_errors(site.root):
        with Tables(site.root / CLINICAL, style, layout.columns, layout.counted) as tables:
            for table, lines in layout.item_rows(style).items():
                tables.add_lines(table, lines)
            for part in _parts(site, order):
                for table, lines in part["tables"].items():
                    tables.add_lines(table, lines)
                records += part["records"]
                counts.update(part["counts"])
        layout.write_indexes(site.root / WAVEFORMS, records)
        counts["bytes"] += sum(path.stat().st_size for path in (site.root / CLINICAL).rglob("*.csv*"))
        found = asdict(SiteCounts(**counts))
        site.finish(found)
    return found


def _assemble_truth(truth: Claim, order: SiteOrder) -> None:
    with storage_errors(truth.root), ExitStack() as files:
        open_files = {}
        for name, columns in TRUTH_COLUMNS.items():
            file = files.enter_context((truth.root / f"{name}.csv").open("w", newline="", encoding="utf-8"))
            csv.writer(file, lineterminator="\n").writerow(columns)
            open_files[name] = file
        for part in _parts(truth, order):
            for name, lines in part["tables"].items():
                open_files[name].writelines(f"{line}\n" for line in lines)
    truth.finish({})


def _parts(claim: Claim, order: SiteOrder) -> Iterator[Mapping[str, Any]]:
    for subject, _ in roles_of(order.profile, order.sizes, order.seed):
        yield read_part(claim.root, subject)
