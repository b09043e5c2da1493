"""The true potassium of a patient, hour by hour: ordinary, with kidney injury, or on dialysis."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import overload

import numpy as np
import numpy.typing as npt
from scipy.signal import lfilter

from simulation.cohort import clinical_parameters as table
from simulation.cohort.parameters import Parameter

STEP_H = 0.25

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Course:
    """Potassium on a regular grid from the start of the ICU stay.

    Attributes
    ----------
    kind : ``usual``, ``injury`` or ``dialysis``.
    values : float64 (n,), mEq/L, every ``STEP_H`` hours.
    sessions : starts of the dialysis sessions, h; they may begin before or end after the grid.
    level : mean potassium of the same patient outside the unit, mEq/L.
    """

    kind: str
    values: Array
    sessions: tuple[float, ...] = ()
    level: float = table.USUAL_MEAN.value

    @property
    def hours(self) -> float:
        """Length of the course, h."""
        return (len(self.values) - 1) * STEP_H

    @overload
    def at(self, hours: float) -> float: ...

    @overload
    def at(self, hours: Array) -> Array: ...

    def at(self, hours: float | Array) -> float | Array:
        """Potassium at one or many times, linear between grid points and constant beyond its ends, mEq/L."""
        found = np.interp(hours, np.arange(len(self.values)) * STEP_H, self.values)
        return found if isinstance(hours, np.ndarray) else float(found)

    def until(self, hours: float) -> Course:
        """Return the part of the course up to a time, rounded up to the grid."""
        return replace(self, values=self.values[: len(_grid(hours))])


def whole_steps(hours: float) -> float:
    """Round a length of time down to the grid of a course, so that stay and course end together, h."""
    return STEP_H * float(np.floor(hours / STEP_H))


def usual_course(rng: np.random.Generator, hours: float) -> Course:
    """Potassium that fluctuates around the patient's own mean within hours, and drifts over days.

    Now and then it rises for some hours: by replacement that was too much, transfusions, or acidosis.

    Source: demo tables (SCIENCE section 7): mean, between-stay and within-stay SD, lag-1 correlation.
    """
    mean = _between(table.USUAL_MEAN, table.USUAL_MEAN_RANGE, rng)
    quick = fluctuation(rng, hours, table.USUAL_SD.lognormal(rng), table.USUAL_HOURS)
    slow = fluctuation(rng, hours, table.DRIFT_SD, table.DRIFT_HOURS)
    return _course("usual", mean + quick + slow + _transients(rng, hours), mean)


def injury_course(rng: np.random.Generator, hours: float) -> Course:
    """Acute kidney injury: a rise over half a day to a day and a half, treatment, decay, perhaps a rebound.

    The peak is 5.55 + Gamma(1.5, 0.5) mEq/L. Treatment halves the excess every 2 to 4 hours. What it only
    shifted into the cells comes back 6 to 14 hours later in some patients, and is treated again. The peak
    may lie so early in the stay that the patient is admitted with it.
    """
    time = _grid(hours)
    base = _between(table.INJURY_BASE, table.INJURY_BASE_RANGE, rng)
    height = table.PEAK_FLOOR + rng.gamma(table.PEAK_SHAPE, table.PEAK_SCALE) - base
    rise, half_life = rng.uniform(*table.RISE_H), rng.uniform(*table.HALF_LIFE_H)
    summit = rng.uniform(*table.SUMMIT_SHARE) * hours
    excess = height * _hump(time, summit, rise, half_life)
    again, share = rng.uniform(*table.REBOUND_AFTER_H), rng.uniform(*table.REBOUND_HEIGHT)
    if rng.random() < table.REBOUND_SHARE:
        excess = np.maximum(excess, share * height * _hump(time, summit + again, 0.5 * again, half_life))
    wobble = fluctuation(rng, hours, table.EPISODE_SD, table.USUAL_HOURS)
    return _course("injury", base + excess + wobble, base)


def dialysis_course(
    rng: np.random.Generator,
    hours: float,
    peak: Parameter = table.SESSION_PEAK,
    peak_range: tuple[float, float] = table.SESSION_PEAK_RANGE,
) -> Course:
    """Saw-tooth of intermittent hemodialysis.

    Every other day (now and then after three) a session of four hours. Potassium falls with it, steeply at
    first; a part of the fall comes back from the cells within three hours; then it rises until the next.

    Parameters
    ----------
    rng, hours : stream, and length of the course, h.
    peak, peak_range : potassium before a session, of one patient to another, mEq/L. The default is that of
        patients who are dialysed for weeks with both labels; ``ORDINARY_PEAK`` that of all on dialysis.
    """
    trough = table.SESSION_TROUGH.normal(rng)
    own_peak = _between(peak, peak_range, rng)
    lowest_peak = peak_range[0] - 1.0
    session = rng.uniform(6.0, 40.0) - table.SESSION_EVERY_H
    sessions: list[float] = []
    knots: list[tuple[float, float]] = []
    while session < hours + 2 * table.SESSION_EVERY_H:
        top = max(own_peak + rng.normal(0.0, table.SESSION_PEAK_SD), lowest_peak)
        low = min(trough + rng.normal(0.0, table.SESSION_TROUGH_SD), top - table.SESSION_LEAST_FALL)
        fall, end = top - low, session + table.SESSION_HOURS
        knots += [
            (session, top),
            *((session + after, top - part * fall) for after, part in table.SESSION_FALL),
        ]
        knots += [(end, low), (end + table.SESSION_REBOUND_H, low + table.SESSION_REBOUND * fall)]
        sessions.append(session)
        session += table.SESSION_EVERY_H * (1.5 if rng.random() < table.LONG_BREAK_SHARE else 1.0)
    times, levels = np.array(knots).T
    values = np.interp(_grid(hours), times, levels)
    wobble = fluctuation(rng, hours, table.EPISODE_SD, table.USUAL_HOURS)
    level = 0.5 * (trough + own_peak)
    return _course("dialysis", values + wobble, level, tuple(s for s in sessions if s < hours))


def fluctuation(rng: np.random.Generator, hours: float, sd: float, relaxation_h: float) -> Array:
    """Ornstein-Uhlenbeck process on the grid of a course: stationary, standard deviation ``sd``, mEq/L."""
    keep = float(np.exp(-STEP_H / relaxation_h))
    shocks = rng.normal(0.0, sd * np.sqrt(1.0 - keep**2), len(_grid(hours)))
    shocks[0] = rng.normal(0.0, sd)
    out: Array = lfilter([1.0], [1.0, -keep], shocks)
    return out


def transient_height(rng: np.random.Generator) -> float:
    """Height of one short rise, mEq/L."""
    return float(rng.gamma(table.TRANSIENT_SHAPE, table.TRANSIENT_SCALE))


def _transients(rng: np.random.Generator, hours: float) -> Array:
    """Short rises at random times, each on its own."""
    time, out = _grid(hours), np.zeros(len(_grid(hours)))
    for _ in range(int(rng.poisson(hours / table.TRANSIENT_EVERY_H))):
        summit, rise = rng.uniform(0.0, hours), rng.uniform(*table.TRANSIENT_RISE_H)
        out += transient_height(rng) * _hump(time, summit, rise, rng.uniform(*table.HALF_LIFE_H))
    return out


def _hump(time: Array, summit: float, rise: float, half_life: float) -> Array:
    """Rise to 1 at ``summit`` and halve after it."""
    before = np.clip((time - (summit - rise)) / rise, 0.0, 1.0) ** 1.5
    after = 0.5 ** (np.maximum(time - summit, 0.0) / half_life)
    return np.where(time < summit, before, after)


def _between(parameter: Parameter, limits: tuple[float, float], rng: np.random.Generator) -> float:
    """Draw a normal value within limits: again until it fits, so that none piles up at a limit."""
    while not limits[0] <= (value := parameter.normal(rng)) <= limits[1]:
        pass
    return value


def _grid(hours: float) -> Array:
    return np.arange(int(np.ceil(hours / STEP_H)) + 1, dtype=np.float64) * STEP_H


def _course(kind: str, values: Array, level: float, sessions: tuple[float, ...] = ()) -> Course:
    return Course(kind, np.clip(values, table.LOWEST, table.HIGHEST), sessions, level)
