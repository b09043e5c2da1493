"""What nurses chart: height, weight, heart rhythm, and copies of potassium from the laboratory."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

import numpy as np

from simulation.cohort.labs import SERUM
from simulation.cohort.stay import PatientPlan

HEIGHT_CM, WEIGHT_KG, RHYTHM, SERUM_COPY, WHOLE_COPY = 226730, 226512, 220048, 227442, 227464
ROUND_H = 4  # a nurse looks at the rhythm every four hours, and when it changes
COPY_SHARE, LATE_COPY_SHARE, LATE_COPY_MIN = 0.8, 0.6, 60
ERROR_SHARE = 0.02  # weights entered wrongly and marked as errors: assumption
FIBRILLATION, PACED = "AF (Atrial Fibrillation)", "V Paced"
SLOW, NORMAL, FAST = "SB (Sinus Bradycardia)", "SR (Sinus Rhythm)", "ST (Sinus Tachycardia)"

Row = tuple[str | int | float | datetime | None, ...]


def chart_rows(plan: PatientPlan) -> Iterator[Row]:
    """Rows of CHARTEVENTS of one patient in order of time, without ROW_ID.

    Copies of potassium stand there in addition to the laboratory's own table, many of them exactly an hour
    late, so that a reader who labels by them labels the wrong hour.
    """
    rng = plan.rng("tables", "charts")
    found = [*_body(plan, rng), *_copies(plan, rng), *_rhythms(plan, rng)]
    nurse = 20_000 + plan.patient.subject_id % 97
    numbers = plan.patient.subject_id, plan.stay.hadm_id, plan.stay.icustay_id
    for when, item, text, number, unit, error in sorted(found, key=lambda row: row[:2]):
        stored = when + timedelta(minutes=3)
        yield *numbers, item, when, stored, nurse, text, number, unit, 0, error, None, None


_Event = tuple[datetime, int, str, float | None, str | None, int]


def _body(plan: PatientPlan, rng: np.random.Generator) -> Iterator[_Event]:
    patient, mix = plan.patient, plan.profile.patients
    when = plan.stay.base + timedelta(minutes=int(rng.integers(5, 120)))
    height, weight = round(patient.height_cm), round(patient.weight_kg, 1)
    no_height, no_weight, error = rng.random(3)
    if no_height >= mix.height_missing:
        yield when, HEIGHT_CM, f"{height}", height, "cm", 0
    if no_weight >= mix.weight_missing:
        if error < ERROR_SHARE:
            wrong = round(weight * 10.0, 1)
            yield when - timedelta(minutes=2), WEIGHT_KG, f"{wrong}", wrong, "kg", 1
        yield when, WEIGHT_KG, f"{weight}", weight, "kg", 0


def _copies(plan: PatientPlan, rng: np.random.Generator) -> Iterator[_Event]:
    for draw in plan.draws:
        copied, late = rng.random(2)
        if draw.value is not None and copied < COPY_SHARE:
            delay = timedelta(minutes=LATE_COPY_MIN if late < LATE_COPY_SHARE else 0)
            item = SERUM_COPY if draw.item == SERUM else WHOLE_COPY
            yield plan.charted(draw) + delay, item, draw.text, draw.value, "mEq/L", 0


def _rhythms(plan: PatientPlan, rng: np.random.Generator) -> Iterator[_Event]:
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
        text = SLOW if rate < 60.0 else FAST if rate > 100.0 else NORMAL
        if effects.fibrillation[minute]:
            text = FIBRILLATION
        if patient.paced:
            text = PACED
        yield base + timedelta(minutes=int(minute)), RHYTHM, text, None, None, 0
