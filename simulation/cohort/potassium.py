"""The true potassium of a patient, hour by hour."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.signal import lfilter

from simulation.cohort import parameters as table

STEP_H = 0.25
LOWEST, HIGHEST = 2.2, 9.5

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Course:
    """Potassium on a regular grid from the start of the ICU stay.

    Attributes
    ----------
    kind : ``usual``, ``injury`` or ``dialysis``.
    values : float64 (n,), mEq/L, every ``STEP_H`` hours.
    """

    kind: str
    values: Array

    @property
    def hours(self) -> float:
        """Length of the course, h."""
        return (len(self.values) - 1) * STEP_H

    def at(self, hours: float) -> float:
        """Potassium at a time, linear between grid points, mEq/L."""
        return float(np.interp(hours, np.arange(len(self.values)) * STEP_H, self.values))


def usual_course(rng: np.random.Generator, hours: float) -> Course:
    """Potassium that fluctuates around the patient's own mean (SCIENCE section 7, demo tables)."""
    mean = table.USUAL_MEAN.normal(rng)
    return _course("usual", mean + fluctuation(rng, hours, table.USUAL_SD))


def injury_course(rng: np.random.Generator, hours: float) -> Course:
    """Acute kidney injury: a rise over half a day to a day and a half, treatment, decay.

    Peaks follow 5.55 + Gamma(1.5, 0.5), raised a little because draws fall before and after the peak too.
    """
    time = _grid(hours)
    base = float(np.clip(table.USUAL_MEAN.normal(rng) + 0.3, 3.6, 4.9))
    peak = 5.55 + table.PEAK_DWELL + rng.gamma(table.EPISODE_PEAK_SHAPE, table.EPISODE_PEAK_SCALE)
    rise = rng.uniform(12.0, 36.0)
    summit = rng.uniform(0.3, 0.75) * hours
    half_life = rng.uniform(*table.HALF_LIFE_H)
    before = base + (peak - base) * np.clip((time - (summit - rise)) / rise, 0.0, 1.0) ** 1.5
    after = base + (peak - base) * 0.5 ** (np.maximum(time - summit, 0.0) / half_life)
    values = np.where(time < summit, before, after)
    return _course("injury", values + fluctuation(rng, hours, table.EPISODE_SD))


def dialysis_course(rng: np.random.Generator, hours: float) -> Course:
    """Saw-tooth of intermittent hemodialysis.

    Every other day (now and then after three) a session of four hours; potassium falls with it and rises
    until the next.
    """
    time = _grid(hours)
    trough = table.SESSION_TROUGH.normal(rng)
    patient_peak = float(np.clip(table.SESSION_PEAK.normal(rng), *table.SESSION_PEAK_RANGE))
    knots_h: list[float] = []
    knots_k: list[float] = []
    session = rng.uniform(6.0, 40.0) - 48.0
    while session < hours + 72.0:
        peak = max(patient_peak + rng.normal(0.0, table.SESSION_PEAK_SD), 5.2)
        knots_h += [session, session + 1.0, session + 2.5, session + 4.0]
        low = trough + rng.normal(0.0, 0.15)
        fall = peak - low
        knots_k += [peak, peak - 0.45 * fall, peak - 0.85 * fall, low]
        session += 48.0 if rng.random() < 0.8 else 72.0
    values = np.interp(time, knots_h, knots_k).astype(np.float64)
    return _course("dialysis", values + fluctuation(rng, hours, table.EPISODE_SD))


def fluctuation(rng: np.random.Generator, hours: float, sd: float) -> Array:
    """Ornstein-Uhlenbeck fluctuation on the grid of a course: standard deviation ``sd``, mEq/L."""
    keep = float(np.exp(-STEP_H / table.USUAL_HOURS))
    shocks = rng.normal(0.0, sd * np.sqrt(1.0 - keep**2), len(_grid(hours)))
    shocks[0] = rng.normal(0.0, sd)
    out: Array = lfilter([1.0], [1.0, -keep], shocks)
    return out


def _grid(hours: float) -> Array:
    return np.arange(int(np.ceil(hours / STEP_H)) + 1, dtype=np.float64) * STEP_H


def _course(kind: str, values: Array) -> Course:
    return Course(kind, np.clip(values, LOWEST, HIGHEST))
