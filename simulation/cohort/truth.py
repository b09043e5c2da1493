"""What a reader of the site's files cannot know: true potassium, R peaks, flags. For tests only."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np

from simulation.cohort.recording import beats_of, span_of
from simulation.cohort.stay import PatientPlan, label_of
from simulation.cohort.waveforms import patient_folder, record_name


@dataclass(frozen=True)
class SiteTruth:
    """The plans behind a written site.

    Attributes
    ----------
    site : name.
    folder : the site's data root.
    plans : one per patient, in order of SUBJECT_ID.
    """

    site: str
    folder: Path
    plans: tuple[PatientPlan, ...]

    def labels(self) -> dict[int, dict[str, int]]:
        """Draws with undisturbed lead II per patient and label, before any quality or cohort rule."""
        out: dict[int, dict[str, int]] = {}
        for plan in self.plans:
            counts = dict.fromkeys(("positive", "negative", "gap", "excluded"), 0)
            for draw in plan.draws:
                stretch = plan.stretch_of(draw)
                if stretch is not None and stretch.lead_ii and not stretch.noisy:
                    counts[label_of(draw.reading)] += 1
            out[plan.patient.subject_id] = counts
        return out

    @property
    def recorded_hours(self) -> float:
        """ECG that was written, h."""
        return sum(s.seconds for plan in self.plans for s in plan.stretches) / 3600


_DRAW_TEXT = """subject_id charttime itemid potassium reading text label hemolysed record stretch lead_ii
    noisy rate"""
_PATIENT_TEXT = """subject_id role course age sex esrd aki lvh strain bundle_branch_block amiodarone digoxin
    fibrillation ectopic_share muscle_mv k_t_amplitude k_t_width"""
DRAW_COLUMNS, PATIENT_COLUMNS = _DRAW_TEXT.split(), _PATIENT_TEXT.split()


def write_truth(folder: Path, plans: tuple[PatientPlan, ...]) -> None:
    """Write ``patients.csv``, ``draws.csv`` and ``r_times.npz``.

    The archive holds one float64 array per stretch, R peaks in s from the start of the recording, under
    ``p00/p000878/p000878-2137-10-26-16-57/3`` (record, stretch).
    """
    folder.mkdir(parents=True, exist_ok=True)
    peaks: dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]] = {}
    with (
        (folder / "patients.csv").open("w", newline="") as file_p,
        (folder / "draws.csv").open("w", newline="") as file_d,
    ):
        patients, draws = csv.writer(file_p, lineterminator="\n"), csv.writer(file_d, lineterminator="\n")
        patients.writerow(PATIENT_COLUMNS)
        draws.writerow(DRAW_COLUMNS)
        for plan in plans:
            patients.writerow(_patient_row(plan))
            records = {number: _record(plan, number) for number in {s.record for s in plan.stretches}}
            rates = {}
            for stretch in plan.stretches:
                shape, rhythm = beats_of(plan, stretch)
                rates[stretch.index] = shape.rate
                offset = stretch.start_s - span_of(plan, stretch.record)[0]
                peaks[f"{records[stretch.record]}/{stretch.index}"] = rhythm.within(stretch.seconds) + offset
            for draw in plan.draws:
                row = [
                    plan.patient.subject_id,
                    f"{plan.stay.base + timedelta(minutes=draw.minute):%Y-%m-%d %H:%M:%S}",
                    draw.item,
                    f"{draw.potassium:.3f}",
                    draw.reading,
                    draw.text,
                    label_of(draw.reading),
                    int(draw.hemolysed),
                ]
                found = plan.stretch_of(draw)
                if found is not None:
                    row += [
                        records[found.record],
                        found.index,
                        int(found.lead_ii),
                        int(found.noisy),
                        f"{rates[found.index]:.1f}",
                    ]
                draws.writerow(row + [""] * (len(DRAW_COLUMNS) - len(row)))
    np.savez(folder / "r_times.npz", **peaks)  # type: ignore[arg-type]


def _record(plan: PatientPlan, number: int) -> str:
    start = plan.stay.base + timedelta(seconds=span_of(plan, number)[0])
    subject = plan.patient.subject_id
    return f"{patient_folder(subject)}/{record_name(subject, start)}"


def _patient_row(plan: PatientPlan) -> list[object]:
    patient = plan.patient
    flags = (
        patient.esrd,
        patient.aki,
        patient.lvh,
        patient.strain,
        patient.bundle_branch_block,
        patient.amiodarone,
        patient.digoxin,
        patient.fibrillation,
    )
    return [
        patient.subject_id,
        patient.role,
        plan.course.kind,
        f"{patient.age:.1f}",
        patient.sex,
        *(int(flag) for flag in flags),
        f"{patient.ectopic_share:.4f}",
        f"{patient.muscle_mv:.4f}",
        f"{patient.sensitivity.t_amplitude:.4f}",
        f"{patient.sensitivity.t_width:.4f}",
    ]
