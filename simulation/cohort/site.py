"""Write one synthetic hospital: clinical tables, waveforms, and the mark that it is complete."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.errors import ConfigurationError, StorageError
from common.seeding import stream
from simulation.cohort.patient import Role
from simulation.cohort.profile import CohortSizes, SiteProfile
from simulation.cohort.recording import recordings_of
from simulation.cohort.stay import PatientPlan, plan_patient
from simulation.cohort.tables import Tables, write_items, write_patient
from simulation.cohort.truth import SiteTruth, write_truth
from simulation.cohort.waveforms import write_indexes, write_recording

FORMAT = 1
STARTED, COMPLETE = ".fedkalemia-cohort", ".complete"
CLINICAL, WAVEFORMS = "clinical", "waveforms"

Progress = Callable[[int, int], None]


def plan_site(profile: SiteProfile, sizes: CohortSizes, seed: int) -> tuple[PatientPlan, ...]:
    """Plan every patient of a site, in order of SUBJECT_ID. Pure, and quick: no signal is made.

    Raises
    ------
    ConfigurationError
        If the site would have no patients.
    """
    total = sizes.generic_patients + sizes.personal_patients
    if total == 0:
        raise ConfigurationError(
            f"site {profile.name}: generic_patients and personal_patients are both 0; ask for at least one"
        )
    rng = stream("cohort", seed, profile.name, "patients")
    subjects = sorted(int(i) for i in rng.choice(99_979, size=total, replace=False) + 20)
    episodes = round(sizes.generic_patients * profile.positive_share)
    usual = sizes.generic_patients - episodes
    counts: dict[Role, int] = {"personal": sizes.personal_patients, "episode": episodes, "usual": usual}
    roles = [role for role, count in counts.items() for _ in range(count)]
    order = rng.permutation(total)
    return tuple(
        plan_patient(profile, sizes, seed, subject, number, roles[order[number]])
        for number, subject in enumerate(subjects)
    )


def write_site(
    folder: Path,
    profile: SiteProfile,
    sizes: CohortSizes,
    seed: int,
    progress: Progress | None = None,
    truth: Path | None = None,
) -> SiteTruth:
    """Write a synthetic site in the MIMIC-III layout.

    ``folder/clinical`` holds the tables, ``folder/waveforms`` the matched waveforms. The same arguments
    give the same bytes. A complete folder of the same arguments is left as it is; one that was
    interrupted is written again from the start.

    Parameters
    ----------
    folder : data root of the site; created when missing.
    profile, sizes : what kind of site, and how large.
    seed : root of every random stream.
    progress : called with (patients done, patients in all).
    truth : folder outside ``folder`` for true potassium, R peaks and flags; None for none.

    Raises
    ------
    ConfigurationError
        If ``truth`` lies inside ``folder``, or the site would have no patients.
    StorageError
        If the folder holds anything else, or cannot be written.
    """
    if truth is not None and truth.resolve().is_relative_to(folder.resolve()):
        raise ConfigurationError(
            f"the ground truth folder {truth} lies inside the site's folder {folder}, where a site could "
            "read it; choose one outside"
        )
    plans = plan_site(profile, sizes, seed)
    identity = _identity(profile, sizes, seed)
    try:
        if not _is_complete(folder, identity):
            _begin(folder, identity)
            _write_files(folder, profile, plans, progress)
            _write_json(folder / COMPLETE, identity)
        if progress is not None:
            progress(len(plans), len(plans))
        if truth is not None:
            write_truth(truth, plans)
    except OSError as error:
        raise StorageError(
            f"the synthetic site could not be written to {folder}: {error.strerror or error}; free some "
            "space or choose another folder, then run the same command again"
        ) from error
    return SiteTruth(profile.name, folder, plans)


def _write_files(
    folder: Path, profile: SiteProfile, plans: tuple[PatientPlan, ...], progress: Progress | None
) -> None:
    records = []
    with Tables(folder / CLINICAL, profile.upper_case, profile.compressed) as tables:
        write_items(tables)
        for number, plan in enumerate(plans):
            if progress is not None:
                progress(number, len(plans))
            write_patient(tables, profile, plan)
            for run, recording in enumerate(recordings_of(plan, profile)):
                records.append(
                    write_recording(
                        folder / WAVEFORMS,
                        plan.patient.subject_id,
                        3_000_000 + 11 * number + run,
                        recording,
                        profile.location,
                        plan.rng("numerics", run),
                    )
                )
    write_indexes(folder / WAVEFORMS, records)


def _identity(profile: SiteProfile, sizes: CohortSizes, seed: int) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "seed": seed,
        "profile": profile.model_dump(mode="json"),
        "sizes": sizes.model_dump(mode="json"),
    }


def _is_complete(folder: Path, identity: dict[str, Any]) -> bool:
    """Tell whether the folder holds exactly this site; refuse one that holds another."""
    mark = folder / COMPLETE
    if not mark.is_file():
        return False
    try:
        found = json.loads(mark.read_text())
    except ValueError:
        found = {}
    if not isinstance(found, dict) or "profile" not in found:
        raise StorageError(
            f"{mark} is not a mark of a synthetic site; choose an empty folder, or remove it yourself if "
            f"{folder} is not needed"
        )
    other = [key for key in identity if found.get(key) != identity[key]]
    if other:
        raise StorageError(
            f"{folder} holds a synthetic site with another {' and '.join(other)}; choose another folder, or "
            "remove this one first"
        )
    return True


def _begin(folder: Path, identity: dict[str, Any]) -> None:
    """Take an empty or interrupted folder and mark it as started; refuse any other."""
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / STARTED).is_file():
        # An interrupted run left these; nothing else in the folder is ever touched.
        for name in (CLINICAL, WAVEFORMS):
            shutil.rmtree(folder / name, ignore_errors=True)
    elif any(folder.iterdir()):
        raise StorageError(
            f"{folder} is not empty and not a synthetic site; nothing was written. Choose an "
            "empty or new folder"
        )
    _write_json(folder / STARTED, identity)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_name(path.name + ".part")
    partial.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    partial.replace(path)
