"""What nurses chart: height, weight, heart rhythm, and copies of potassium from the laboratory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

import numpy as np

from simulation.cohort import clinical_parameters as table
from simulation.cohort.labs import SERUM
from simulation.cohort.stay import PatientPlan

ROUND_H = 4  # a nurse looks at the rhythm every four hours, and when it changes
COPY_SHARE, LATE_COPY_SHARE, LATE_COPY_MIN = 0.8, 0.6, 60
ERROR_SHARE = 0.02  # weights entered wrongly and marked as errors: assumption
CM_PER_INCH = 2.54

Row = tuple[str | int | float | datetime | None, ...]
System = Literal["carevue", "metavision"]


@dataclass(frozen=True)
class Charting:
    """Items and words of one of the two charting systems of MIMIC-III, and the columns only it fills."""

    height: int
    weight: int
    rhythm: int
    serum_copy: int
    whole_copy: int
    height_unit: str
    slow: str
    normal: str
    fast: str
    fibrillation: str
    paced: str
    marks_errors: bool
    stopped: str | None


SYSTEMS: dict[System, Charting] = {
    "metavision": Charting(
        height=226730,
        weight=226512,
        rhythm=220048,
        serum_copy=227442,
        whole_copy=227464,
        height_unit="cm",
        slow="SB (Sinus Bradycardia)",
        normal="SR (Sinus Rhythm)",
        fast="ST (Sinus Tachycardia)",
        fibrillation="AF (Atrial Fibrillation)",
        paced="V Paced",
        marks_errors=True,
        stopped=None,
    ),
    # CareVue has no mark for a wrong entry. Which of its potassium items copies which specimen, and the
    # printed unit of height, are assumptions.
    "carevue": Charting(
        height=920,
        weight=762,
        rhythm=212,
        serum_copy=829,
        whole_copy=1535,
        height_unit="in",
        slow="Sinus Brady",
        normal="Normal Sinus",
        fast="Sinus Tachy",
        fibrillation="Atrial Fib",
        paced="V Paced",
        marks_errors=False,
        stopped="NotStopd",
    ),
}


def charting_system(plan: PatientPlan) -> System:
    """DBSOURCE of a stay: the hospital charted in CareVue first and in MetaVision later."""
    old = plan.rng("tables", "system").random() < table.CAREVUE_SHARE
    return "carevue" if old else "metavision"


def chart_rows(plan: PatientPlan, charted_in: System | None = None) -> Iterator[Row]:
    """Rows of CHARTEVENTS of one patient in order of time, without ROW_ID.

    ``charted_in`` names the charting system; by default it is the one of the stay.

    Copies of potassium stand there in addition to the laboratory's own table, many of them exactly an hour
    late, so that a reader who labels by them labels the wrong hour.
    """
    rng, system = plan.rng("tables", "charts"), SYSTEMS[charted_in or charting_system(plan)]
    found = [*_body(plan, rng, system), *_copies(plan, rng, system), *_rhythms(plan, rng, system)]
    nurse = 20_000 + plan.patient.subject_id % 97
    numbers = plan.patient.subject_id, plan.stay.hadm_id, plan.stay.icustay_id
    for when, item, text, number, unit, error in sorted(found, key=lambda row: row[:2]):
        stored = when + timedelta(minutes=3)
        marks = (0, error) if system.marks_errors else (None, None)
        yield *numbers, item, when, stored, nurse, text, number, unit, *marks, None, system.stopped


_Event = tuple[datetime, int, str, float | None, str | None, int]


def _body(plan: PatientPlan, rng: np.random.Generator, system: Charting) -> Iterator[_Event]:
    patient, mix = plan.patient, plan.profile.patients
    when = plan.stay.base + timedelta(minutes=int(rng.integers(5, 120)))
    inch = CM_PER_INCH if system.height_unit == "in" else 1.0
    height, weight = round(patient.height_cm / inch), round(patient.weight_kg, 1)
    no_height, no_weight, error = rng.random(3)
    if no_height >= mix.height_missing:
        yield when, system.height, f"{height}", height, system.height_unit, 0
    if no_weight >= mix.weight_missing:
        if error < ERROR_SHARE and system.marks_errors:
            wrong = round(weight * 10.0, 1)
            yield when - timedelta(minutes=2), system.weight, f"{wrong}", wrong, "kg", 1
        yield when, system.weight, f"{weight}", weight, "kg", 0


def _copies(plan: PatientPlan, rng: np.random.Generator, system: Charting) -> Iterator[_Event]:
    for draw in plan.draws:
        copied, late = rng.random(2)
        if draw.value is not None and copied < COPY_SHARE:
            delay = timedelta(minutes=LATE_COPY_MIN if late < LATE_COPY_SHARE else 0)
            item = system.serum_copy if draw.item == SERUM else system.whole_copy
            yield plan.charted(draw) + delay, item, draw.text, draw.value, "mEq/L", 0


def _rhythms(plan: PatientPlan, rng: np.random.Generator, system: Charting) -> Iterator[_Event]:
    """Rhythm at each round, and within ten minutes of each begin and end of fibrillation."""
    patient, base = plan.patient, plan.stay.base
    seconds = np.arange(0.0, plan.course.hours * 3600, 60.0)
    effects = plan.conditions.at(seconds)
    first = ROUND_H * 60 - (base.hour * 60 + base.minute) % (ROUND_H * 60)
    minutes = np.arange(first, len(seconds), ROUND_H * 60) + rng.integers(-15, 16, size=1)
    changes = np.flatnonzero(np.diff(effects.fibrillation.astype(np.int8))) + 1
    changes = changes + rng.integers(1, 10, size=len(changes))
    noticed = np.unique(np.concatenate([[5], minutes, changes]).astype(np.int64))
    for minute in noticed[(noticed >= 0) & (noticed < len(seconds))]:
        rate = patient.beat.rate + float(effects.rate[minute])
        text = system.slow if rate < 60.0 else system.fast if rate > 100.0 else system.normal
        if effects.fibrillation[minute]:
            text = system.fibrillation
        if patient.paced:
            text = system.paced
        yield base + timedelta(minutes=int(minute)), system.rhythm, text, None, None, 0
