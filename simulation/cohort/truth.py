"""What a reader of a site's files cannot know: true potassium, R peaks, rhythm, flags. For tests only.

Nothing of it is ever written inside the site's own folder.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from simulation.cohort.heart import Heart, heart_of
from simulation.cohort.layouts import layout_of
from simulation.cohort.rhythm import FIBRILLATING, PACED, Array, Kinds
from simulation.cohort.stay import PatientPlan, Stretch, label_of
from simulation.cohort.watch import STRIP_S

BEATS = "beats"  # folder of the R peaks
# A zip file stores a date per entry; the same beats shall give the same bytes on any day.
ENTRY_DATE = (1980, 1, 1, 0, 0, 0)

_PATIENTS = """subject_id site role course age sex ethnicity height_cm weight_kg esrd aki lvh strain
    bundle_branch_block ischemia amiodarone digoxin paced rhythm ectopic_share muscle_mv k_t_amplitude
    k_t_width k_pr k_qrs k_p k_qt dates_off_days"""
_DRAWS = """subject_id charttime itemid potassium reported text label hemolysed duplicate has_admission
    ischemia_mv record stretch lead_ii noisy rhythm rate"""
TRUTH_COLUMNS = {"patients": tuple(_PATIENTS.split()), "draws": tuple(_DRAWS.split())}


def patient_truth(plan: PatientPlan) -> dict[str, list[list[object]]]:
    """Return a patient's rows of ``patients.csv`` and ``draws.csv``, in the order of ``TRUTH_COLUMNS``.

    ``draws`` holds the potassium results of the stay; ``ischemia_mv`` is by how much ischemia shifts T then.
    Record, stretch, lead, rhythm and rate are empty where no ECG was recorded at the moment of the draw;
    ``rhythm`` and ``rate`` are those of the ten minutes before it, as far as they are in the same stretch.
    """
    layout = layout_of(plan.profile)
    paths = {
        s.index: layout.record_path(plan, record) for record in layout.records(plan) for s in record.stretches
    }
    hearts: dict[int, Heart] = {}
    draws: list[list[object]] = []
    for draw in plan.draws:
        row: list[object] = [
            layout.subject(plan.patient.subject_id),
            f"{plan.charted(draw):%Y-%m-%d %H:%M:%S}",
            draw.item,
            f"{draw.potassium:.3f}",
            "" if draw.reading is None else f"{draw.reading:g}",
            draw.text,
            label_of(draw.reading),
            int(draw.hemolysed),
            int(draw.duplicate),
            int(draw.has_admission),
            f"{plan.conditions.at(np.array([draw.minute * 60.0])).ischemia[0]:.3f}",
        ]
        stretch = plan.stretch_of(draw)
        if stretch is None:
            row += [""] * (len(TRUTH_COLUMNS["draws"]) - len(row))
        else:
            if stretch.index not in hearts:
                hearts = {stretch.index: heart_of(plan, stretch)}  # draws come in order: one is enough
            rhythm, rate = _before(hearts[stretch.index], draw.minute * 60.0 - stretch.start_s)
            row += [
                paths[stretch.index],
                stretch.index,
                int(stretch.lead_ii),
                int(stretch.noisy),
                rhythm,
                f"{rate:.1f}",
            ]
        draws.append(row)
    return {"patients": [_patient_row(plan)], "draws": draws}


def beats_file(folder: Path, subject_id: int) -> Path:
    """Path of a patient's R peaks."""
    return folder / BEATS / f"p{subject_id:06d}.npz"


def write_beats(folder: Path, plan: PatientPlan) -> Path:
    """Write the R peaks of every recorded stretch of one patient; return the file.

    The archive holds, per beat, ``stretch`` (int32), ``time`` (float64, s from the first sample of the
    record, as the record's samples count time) and ``kind`` (int8, see ``Rhythm``); and, per stretch,
    ``stretches`` (int32) and ``records`` (path). ``read_beats`` takes it apart.

    Parameters
    ----------
    folder : truth folder, outside the site's.
    plan : the patient.
    """
    stretches, records = [], []
    parts: list[tuple[npt.NDArray[np.int32], Array, Kinds]] = []
    for record in layout_of(plan.profile).records(plan):
        for stretch in record.stretches:
            stretches.append(stretch.index)
            records.append(layout_of(plan.profile).record_path(plan, record))
            times, kinds = _beats(plan, stretch)
            times = times + record.first_sample(stretch) / record.rate_hz
            parts.append((np.full(len(times), stretch.index, np.int32), times, kinds))
    columns: dict[str, npt.NDArray[np.generic]] = {
        "stretches": np.array(stretches, np.int32),
        "records": np.array(records, np.str_),
    }
    empty = (np.empty(0, np.int32), np.empty(0, np.float64), np.empty(0, np.int8))
    for position, name in enumerate(("stretch", "time", "kind")):
        columns[name] = np.concatenate([empty[position], *(part[position] for part in parts)])
    path = beats_file(folder, plan.patient.subject_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_archive(path, columns)
    return path


def read_beats(path: Path) -> dict[tuple[str, int], tuple[Array, Kinds]]:
    """Read R peaks and kinds of a patient, by record path and stretch."""
    with np.load(path) as archive:
        which, times, kinds = archive["stretch"], archive["time"], archive["kind"]
        return {
            (str(record), int(stretch)): (times[which == stretch], kinds[which == stretch])
            for record, stretch in zip(archive["records"], archive["stretches"], strict=True)
        }


def _beats(plan: PatientPlan, stretch: Stretch) -> tuple[Array, Kinds]:
    """R peaks inside a stretch, s from its start, and their kinds."""
    rhythm = heart_of(plan, stretch).rhythm
    inside = (rhythm.times >= 0.0) & (rhythm.times < stretch.seconds)
    return rhythm.times[inside], rhythm.kinds[inside]


def _before(heart: Heart, moment_s: float) -> tuple[str, float]:
    """Rhythm and mean rate of the ten minutes before a moment of a stretch."""
    start = max(moment_s - STRIP_S, 0.0)
    end = max(moment_s, start + 5.0)
    times = heart.rhythm.times
    kinds = heart.rhythm.kinds[(times >= start) & (times < end)]
    name = "sinus"
    if len(kinds) and np.mean(kinds == FIBRILLATING) > 0.5:
        name = "fibrillation"
    elif len(kinds) and np.mean(kinds == PACED) > 0.5:
        name = "paced"
    return name, 60.0 * len(kinds) / (end - start)


def _patient_row(plan: PatientPlan) -> list[object]:
    patient, k = plan.patient, plan.patient.sensitivity
    flags = (
        patient.esrd,
        patient.aki,
        patient.lvh,
        patient.strain,
        patient.bundle_branch_block,
        patient.ischemia,
        patient.amiodarone,
        patient.digoxin,
        patient.paced,
    )
    return [
        layout_of(plan.profile).subject(patient.subject_id),
        plan.site,
        patient.role,
        plan.course.kind,
        f"{patient.age:.1f}",
        patient.sex,
        patient.ethnicity,
        f"{patient.height_cm:.0f}",
        f"{patient.weight_kg:.1f}",
        *(int(flag) for flag in flags),
        patient.rhythm,
        f"{patient.ectopic_share:.4f}",
        f"{patient.muscle_mv:.4f}",
        *(f"{value:.4f}" for value in (k.t_amplitude, k.t_width, k.pr, k.qrs, k.p, k.qt)),
        (plan.stay.monitor_base - plan.stay.base).days,
    ]


def _write_archive(path: Path, arrays: dict[str, npt.NDArray[np.generic]]) -> None:
    """Write arrays as ``numpy.savez_compressed`` does, with a fixed date."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy", ENTRY_DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(entry, "w") as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
