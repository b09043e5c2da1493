"""One patient is one unit of work: waveforms into place, then one part file that says the patient is done.

A part holds the patient's table rows, record paths and counts; the parts of all patients, in order, become
the tables of a site. What only the ground truth may hold goes to parts of its own, outside the site's tree.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import StorageError
from common.files import read_json, storage_errors, write_atomic
from simulation.cohort.folder import part_file, scratch_folder
from simulation.cohort.layouts import layout_of
from simulation.cohort.patient import Role
from simulation.cohort.profile import CohortSizes, SiteProfile
from simulation.cohort.stay import PatientPlan, plan_patient
from simulation.cohort.truth import patient_truth, write_beats

CLINICAL, WAVEFORMS = "clinical", "waveforms"


@dataclass(frozen=True)
class SiteOrder:
    """One site to write.

    Attributes
    ----------
    folder : data root of the site.
    profile, sizes : what kind of site, and how large.
    seed : root of every random stream.
    truth : folder outside ``folder`` for true potassium, R peaks and flags; None for none.
    """

    folder: Path
    profile: SiteProfile
    sizes: CohortSizes
    seed: int
    truth: Path | None = None


@dataclass(frozen=True)
class Member:
    """A patient of a site, and what of it is still to be written."""

    number: int
    subject_id: int
    role: Role
    site: bool = True
    truth: bool = True


def write_members(job: tuple[SiteOrder, Sequence[Member]]) -> int:
    """Write some patients of a site, one after the other; return how many."""
    order, members = job
    for member in members:
        plan = plan_patient(
            order.profile, order.sizes, order.seed, member.subject_id, member.number, member.role
        )
        if member.truth and order.truth is not None:
            _write_truth(order.truth, plan)
        if member.site:
            _write_patient(order.folder, plan, member.number)
    return len(members)


def is_done(root: Path, subject_id: int) -> bool:
    """Tell whether a patient's part is there, and every file it names in full."""
    try:
        files = read_part(root, subject_id)["files"]
        return all((root / name).stat().st_size == size for name, size in files.items())
    except (StorageError, OSError, KeyError, TypeError, AttributeError):
        return False


def read_part(root: Path, subject_id: int) -> dict[str, Any]:
    """Return what a finished patient's part holds.

    Raises
    ------
    StorageError
        If there is none, or it cannot be read.
    """
    part: dict[str, Any] = read_json(part_file(root, subject_id))
    return part


def _write_patient(root: Path, plan: PatientPlan, number: int) -> None:
    subject = plan.patient.subject_id
    layout = layout_of(plan.profile)
    scratch = _scratch(root, subject)
    try:
        with storage_errors(root):
            records = layout.write_waveforms(scratch / WAVEFORMS, plan, number)
            shutil.rmtree(root / WAVEFORMS / layout.patient_folder(subject), ignore_errors=True)
            files = _move(scratch, root)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    recorded = sum(plan.stretch_of(draw) is not None for draw in plan.draws)
    counts = Counter(
        patients=1,
        draws=len(plan.draws),
        recorded_draws=recorded,
        ecg_s=sum(stretch.end_s - stretch.start_s for stretch in plan.stretches),
        records=len(records),
        files=len(files),
        bytes=sum(files.values()),
    )
    rows = layout.patient_rows(plan)
    _write_part(root, subject, {"files": files, "records": records, "tables": rows, "counts": counts})


def _write_truth(root: Path, plan: PatientPlan) -> None:
    subject = plan.patient.subject_id
    scratch = _scratch(root, subject)
    try:
        with storage_errors(root):
            scratch.mkdir(parents=True, exist_ok=True)
            write_beats(scratch, plan)
            files = _move(scratch, root)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    rows = {name: _lines(table) for name, table in patient_truth(plan).items()}
    _write_part(root, subject, {"files": files, "tables": rows})


def _scratch(root: Path, subject_id: int) -> Path:
    # The process is in the name: a worker whose parent was killed may live for a moment beside its heir.
    return scratch_folder(root) / f"{os.getpid()}-{subject_id}"


def _move(scratch: Path, root: Path) -> dict[str, int]:
    """Move every file to the same place below ``root``; return their sizes by relative path."""
    sizes = {}
    for path in sorted(scratch.rglob("*")):
        if path.is_file():
            name = path.relative_to(scratch)
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            sizes[name.as_posix()] = path.stat().st_size
            path.replace(root / name)
    return sizes


def _write_part(root: Path, subject_id: int, content: Mapping[str, Any]) -> None:
    write_atomic(part_file(root, subject_id), json.dumps(content, sort_keys=True) + "\n")


def _lines(rows: Iterable[Sequence[object]]) -> list[str]:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().splitlines()
