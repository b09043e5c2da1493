"""Simulated patients in the designs of published studies, measured on the files the monitor wrote.

Each design plans the visits of one patient at a time: which potassium, on which day, for how long ECG is
recorded. What the signal looks like is the generator's business, what it shows the delineator's; a visit's
potassium is what a laboratory with the profile's assay error reports.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt

from client.data.sources.base import Stay as ClinicalStay
from client.data.sources.mimic3_waveforms import MatchedRecordings
from common.logs import stage
from common.seeding import key, stream
from common.workers import Workers, worker_processes
from simulation.cohort.patient import Patient, Role, make_patient
from simulation.cohort.potassium import STEP_H, Course
from simulation.cohort.profile import SiteProfile
from simulation.cohort.proof.delineate import NOTHING, Measures, measure_strip
from simulation.cohort.stay import PatientPlan, Stay
from simulation.cohort.watch import Stretch
from simulation.cohort.waveforms import write_waveforms

STRIP_S = 60
SESSION_STRIP_S = 300  # beats were averaged over five minutes
FIRST_S = 1800  # when the first strip of a visit begins
ARRIVAL = datetime(2150, 3, 1, 9, 0)
# Means and standard deviations of potassium, mEq/L, with the limits that make a visit one of its kind.
NORMAL_VISIT = (4.5, 0.4, 3.5, 5.4)
HIGH_VISIT = (6.1, 0.5, 5.5, 8.0)
PREDIALYSIS = (4.9, 0.71, 3.3, 7.5)  # 74 stable hemodialysis patients: 4.9 (.71), Aslam 2002
SEVERE_MEAN_ABOVE = 0.5  # above 7 mEq/L, exponential: assumption
# Before a session, and the share a session leaves. The published r and errors are those of potassium with a
# standard deviation of about 1 mEq/L, .7 of it inside sessions: so has this design.
SESSION_START, SESSION_LEFT = (5.4, 0.95, 3.8, 8.0), (0.65, 0.07, 0.5, 0.85)
SESSION_MINUTES = (0, 30, 60, 120, 180, 240)  # as published
SESSION_FALL = (0.0, 0.25, 0.45, 0.72, 0.88, 1.0)  # share of the fall by then: quick first, assumption
MOST_TRIES = 200

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Table = Mapping[str, Array]  # per quantity (n_patients, n_strips); with "potassium", "male", "severe"


@dataclass(frozen=True)
class Visit:
    """ECG of one patient on one day.

    Attributes
    ----------
    plan : patient, potassium course and the stretches in which ECG is written, one per strip.
    potassium : reported by the laboratory for each stretch, mEq/L.
    """

    plan: PatientPlan
    potassium: tuple[float, ...]


Row = dict[str, list[float]]
Design = Callable[[SiteProfile, int, int], list[Visit]]


def paired(profile: SiteProfile, seed: int, index: int) -> list[Visit]:
    """One dialysis patient with normal and with high potassium, months apart; see ``_subject``."""
    patient, rng = _subject(profile, "dialysis", ("paired", seed, index), narrow=True)
    return [
        plan_visit(profile, patient, ("paired", seed, index, i), [_limited(rng, *kind)])
        for i, kind in enumerate((NORMAL_VISIT, HIGH_VISIT))
    ]


def session(profile: SiteProfile, seed: int, index: int) -> list[Visit]:
    """One dialysis patient at six times of one session; see ``_subject``."""
    patient, rng = _subject(profile, "dialysis", ("session", seed, index), narrow=True)
    start, left = _limited(rng, *SESSION_START), _limited(rng, *SESSION_LEFT)
    levels = [start * (1.0 - share * (1.0 - left)) for share in SESSION_FALL]
    return [plan_visit(profile, patient, ("session", seed, index), levels, SESSION_MINUTES, SESSION_STRIP_S)]


def predialysis(profile: SiteProfile, seed: int, index: int) -> list[Visit]:
    """One dialysis patient once, with whatever potassium and whatever else the patient has."""
    patient, rng = _subject(profile, "dialysis", ("predialysis", seed, index), narrow=False)
    return [plan_visit(profile, patient, ("predialysis", seed, index), [_limited(rng, *PREDIALYSIS)])]


def severe(profile: SiteProfile, seed: int, index: int) -> list[Visit]:
    """One patient above 7 mEq/L (injury or dialysis), and another one with normal potassium."""
    role: Role = "injury" if index % 2 else "dialysis"
    ill, rng = _subject(profile, role, ("severe", seed, index), narrow=False)
    well, _ = _subject(profile, "usual", ("normal", seed, index), narrow=False)
    high = min(7.0 + rng.exponential(SEVERE_MEAN_ABOVE), 9.0)
    return [
        plan_visit(profile, well, ("normal", seed, index), [_limited(rng, 4.2, 0.4, 3.5, 5.0)]),
        plan_visit(profile, ill, ("severe", seed, index), [high]),
    ]


DESIGNS: Mapping[str, Design] = {
    "paired": paired,
    "session": session,
    "predialysis": predialysis,
    "severe": severe,
}


def run_study(
    design: str, profile: SiteProfile, patients: int, seed: int, workers: Workers | None = None
) -> dict[str, Array]:
    """Write, read back and measure the strips of one study.

    Parameters
    ----------
    design : one of ``DESIGNS``.
    profile : the monitors and the laboratory.
    patients, seed : number of patients (of pairs of patients in ``severe``), and the seed.
    workers : processes, None for this one; the result is the same for any number.

    Returns
    -------
    Per quantity of ``Measures``, and for ``potassium`` (mEq/L) and ``male``: float64 (patients, strips).
    """
    one = partial(_measured, design, profile, seed)
    rows: list[Row] = [{}] * patients
    with worker_processes(1) as here, stage(f"Simulated study: {design}", patients, "patient") as progress:
        for index, row in (workers or here).each(one, range(patients)):
            rows[index] = row
            progress.advance()
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def plan_visit(
    profile: SiteProfile,
    patient: Patient,
    names: tuple[object, ...],
    levels: Sequence[float],
    minutes: Sequence[int] = (0,),
    seconds: int = STRIP_S,
) -> Visit:
    """Plan a visit with a strip at each level.

    Parameters
    ----------
    profile, patient : where, and who.
    names : of the random streams; other names are another day with other electrodes.
    levels : true potassium in the middle of each strip, mEq/L; straight lines between.
    minutes : start of each strip, from the first.
    seconds : length of a strip.
    """
    starts = [FIRST_S + 60 * minute for minute in minutes]
    hours = (starts[-1] + seconds + 600) / 3600
    grid = np.arange(int(np.ceil(hours / STEP_H)) + 1) * STEP_H
    course = Course("dialysis", np.interp(grid * 3600, np.array(starts) + seconds / 2, levels))
    stay = Stay(
        hadm_id=100_001,
        icustay_id=200_001,
        admitted=ARRIVAL - timedelta(hours=1),
        base=ARRIVAL,
        icu_out=ARRIVAL + timedelta(hours=hours),
        discharged=ARRIVAL + timedelta(hours=hours + 2),
        died=None,
        monitor_base=ARRIVAL,
    )
    stretches = tuple(
        Stretch(index=i, start_s=start, end_s=start + seconds, lead_ii=True, noisy=False, record=0)
        for i, start in enumerate(starts)
    )
    plan = PatientPlan(profile, key("proof", *names), patient, stay, course, (), stretches)
    assay = stream("proof", *names, "assay").normal(0.0, profile.laboratory.assay_sd, len(levels))
    true = course.at((np.array(starts) + seconds / 2) / 3600)
    return Visit(plan, tuple(float(value) for value in true + assay))


def record_visit(root: Path, visit: Visit, number: int = 0) -> list[tuple[Array, float]]:
    """Write the ECG of a visit below a folder and read every strip back as a site would.

    Returns
    -------
    Per strip float64 (n_samples,), mV, NaN where nothing was stored, and the rate in Hz; an empty signal
    where the reader finds none.
    """
    plan = visit.plan
    records = write_waveforms(root, plan, number)
    recordings = MatchedRecordings(root, records, [ClinicalStay(plan.stay.base, plan.stay.icu_out)])
    strips = []
    for stretch in plan.stretches:
        start = plan.stay.monitor_base + timedelta(seconds=stretch.start_s)
        window = recordings.lead_ii(start, start + timedelta(seconds=stretch.seconds))
        strips.append((window.signal_mv, window.rate_hz))
    return strips


def measure(signal_mv: Array, rate_hz: float) -> Measures:
    """Measure a strip that was read; all NaN where there was none."""
    return measure_strip(signal_mv, rate_hz) if len(signal_mv) else NOTHING


def _measured(design: str, profile: SiteProfile, seed: int, index: int) -> tuple[int, Row]:
    """Return the number and the row of one patient: every quantity for every strip."""
    visits = DESIGNS[design](profile, seed, index)
    with TemporaryDirectory(prefix="fedkalemia-proof-") as folder:
        strips = [
            (visit, potassium, measure(*strip))
            for number, visit in enumerate(visits)
            for potassium, strip in zip(
                visit.potassium, record_visit(Path(folder, str(number)), visit), strict=True
            )
        ]
    row = {
        field.name: [getattr(measures, field.name) for _, _, measures in strips] for field in fields(Measures)
    }
    row["potassium"] = [potassium for _, potassium, _ in strips]
    row["male"] = [float(visit.plan.patient.sex == "M") for visit, _, _ in strips]
    return index, row


def _subject(
    profile: SiteProfile, role: Role, names: tuple[object, ...], narrow: bool
) -> tuple[Patient, np.random.Generator]:
    """Draw a patient a study would take: never one with a pacemaker.

    If ``narrow``, none with bundle branch block, as the fistula study, and none in atrial fibrillation, who
    has no PR, or on digoxin, whose ST segment runs into T: both assumptions about the published patients.
    """
    for attempt in range(MOST_TRIES):
        rng = stream("proof", *names, attempt)
        patient = make_patient(profile, role, 1 + attempt, rng)
        free = patient.rhythm == "sinus" and not (patient.bundle_branch_block or patient.digoxin)
        if not patient.paced and (free or not narrow):
            break
    return patient, rng


def _limited(rng: np.random.Generator, mean: float, sd: float, low: float, high: float) -> float:
    """Draw a normal value between limits, by drawing again."""
    while True:
        value = float(rng.normal(mean, sd))
        if low <= value <= high:
            return value
