"""When the heart beats: sinus rhythm with respiration, ectopic beats, atrial fibrillation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.signal import lfilter

Array = npt.NDArray[np.float64]

SINUS, ATRIAL, VENTRICULAR = 0, 1, 2
LEAD_IN_S = 1.5  # beats before and after the stretch, whose T and P waves reach into it


@dataclass(frozen=True)
class Rhythm:
    """Beats of one stretch.

    Attributes
    ----------
    times : float64 (n_beats,), R peaks in s from the start of the stretch; from ``-LEAD_IN_S`` to
        ``duration + LEAD_IN_S``.
    kinds : int8 (n_beats,): ``SINUS``, ``ATRIAL`` (early) or ``VENTRICULAR`` (early and wide).
    fibrillation : no P waves, irregular.
    respiration_hz, respiration_phase : breathing, shared by RR intervals, amplitude and baseline.
    """

    times: Array
    kinds: npt.NDArray[np.int8]
    fibrillation: bool
    respiration_hz: float
    respiration_phase: float

    def within(self, duration_s: float) -> Array:
        """R peaks inside the stretch, s."""
        return self.times[(self.times >= 0.0) & (self.times < duration_s)]


def make_rhythm(
    rng: np.random.Generator,
    duration_s: float,
    rate_bpm: float,
    ectopic_share: float = 0.0,
    fibrillation: bool = False,
) -> Rhythm:
    """Draw the beats of one stretch.

    Sinus rhythm has respiratory arrhythmia, a slow oscillation around 0.1 Hz and beat-to-beat noise, small
    as in critically ill patients. Fibrillation has gamma-distributed intervals without memory.

    Parameters
    ----------
    rng : stream of this stretch's rhythm.
    duration_s : length, s.
    rate_bpm : mean heart rate.
    ectopic_share : share of early beats; a third of them ventricular.
    fibrillation : atrial fibrillation.
    """
    mean = 60.0 / rate_bpm
    n = int((duration_s + 2 * LEAD_IN_S) / mean * 1.5) + 12
    hz, phase = float(rng.uniform(0.20, 0.35)), float(rng.uniform(0.0, 2 * np.pi))
    kinds = np.zeros(n, np.int8)
    if fibrillation:
        spread = rng.uniform(0.20, 0.28)
        intervals = np.maximum(rng.gamma(1 / spread**2, mean * spread**2, n), 0.30)
    else:
        start = np.arange(n) * mean
        depth = rng.uniform(0.008, 0.03)
        slow: Array = lfilter([0.25], [1.0, -0.75], rng.normal(size=n))
        intervals = mean * (
            1.0
            + depth * np.sin(2 * np.pi * hz * start + phase)
            + 0.012 * np.sin(2 * np.pi * 0.1 * start + rng.uniform(0, 2 * np.pi))
            + 0.012 * slow
            + 0.006 * rng.normal(size=n)
        )
        early = rng.random(n) < ectopic_share
        early[1:] &= ~early[:-1]
        kinds[early] = np.where(rng.random(int(early.sum())) < 1 / 3, VENTRICULAR, ATRIAL)
        ventricular, atrial = kinds == VENTRICULAR, kinds == ATRIAL
        intervals[ventricular] *= 0.65
        intervals[1:][ventricular[:-1]] *= 1.35  # full compensatory pause
        intervals[atrial] *= 0.75
        intervals[1:][atrial[:-1]] *= 1.05
    times = -LEAD_IN_S + rng.uniform(0.0, mean) + np.cumsum(intervals) - intervals[0]
    keep = times < duration_s + LEAD_IN_S
    return Rhythm(times[keep], kinds[keep], fibrillation, hz, phase)
