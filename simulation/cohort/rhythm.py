"""When the heart beats: sinus rhythm with respiration, early beats, atrial fibrillation, pacing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.signal import lfilter

from simulation.cohort import parameters as table

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Kinds = npt.NDArray[np.int8]

SINUS, ATRIAL, VENTRICULAR, PACED, FIBRILLATING = 0, 1, 2, 3, 4
LEAD_IN_S = 1.5  # beats before and after the stretch, whose T and P waves reach into it
CLOCK_S = 0.25  # step of the table that turns beats into time


@dataclass(frozen=True)
class Rhythm:
    """Beats of one stretch.

    Attributes
    ----------
    times : float64 (n_beats,), R peaks in s from the start of the stretch; from ``-LEAD_IN_S`` to
        ``duration + LEAD_IN_S``.
    kinds : int8 (n_beats,): ``SINUS``, ``ATRIAL`` (early, with another P), ``VENTRICULAR`` (early and
        wide), ``PACED`` (by a pacemaker, atrium and ventricle) or ``FIBRILLATING`` (conducted from
        fibrillating atria, without P).
    fibrillation : most beats are fibrillating.
    respiration_hz, respiration_phase : breathing, shared by RR intervals, amplitude and baseline.
    """

    times: Array
    kinds: Kinds
    fibrillation: bool
    respiration_hz: float
    respiration_phase: float

    def within(self, duration_s: float) -> Array:
        """R peaks inside the stretch, s."""
        return self.times[(self.times >= 0.0) & (self.times < duration_s)]


def make_rhythm(
    rng: np.random.Generator,
    duration_s: float,
    rate_bpm: float | Array,
    ectopic_share: float = 0.0,
    fibrillation: bool | Flags = False,
    paced: bool = False,
) -> Rhythm:
    """Draw the beats of one stretch.

    Sinus rhythm has respiratory arrhythmia, a slow oscillation around 0.1 Hz and beat-to-beat noise, small
    as in critically ill patients. Fibrillation has gamma-distributed intervals without memory. An early
    ventricular beat is followed by a full compensatory pause, an early atrial one by a shorter one. A
    pacemaker beats at its fixed rate.

    Parameters
    ----------
    rng : stream of this stretch's rhythm.
    duration_s : length, s.
    rate_bpm : heart rate; one number, or float64 (n,) at even steps from ``-LEAD_IN_S`` to
        ``duration_s + LEAD_IN_S``.
    ectopic_share : share of early beats; a third of them ventricular.
    fibrillation : atrial fibrillation, for the stretch or bool (n,) at the steps of ``rate_bpm``.
    paced : every beat is paced.
    """
    span = duration_s + 2 * LEAD_IN_S
    clock = np.arange(int(span / CLOCK_S) + 3) * CLOCK_S
    rate = np.broadcast_to(np.asarray(rate_bpm, np.float64), np.shape(rate_bpm) or (2,))
    rate = np.interp(clock, np.linspace(0.0, span, len(rate)), rate)
    atria = np.broadcast_to(np.asarray(fibrillation), np.shape(fibrillation) or (2,))
    atria = atria[np.rint(np.minimum(clock / span, 1.0) * (len(atria) - 1)).astype(np.int64)]
    hz, phase = float(rng.uniform(*table.RESPIRATION_HZ)), float(rng.uniform(0.0, 2 * np.pi))
    depth, spread = rng.uniform(*table.RESPIRATORY_ARRHYTHMIA), rng.uniform(*table.FIBRILLATION_SPREAD)
    slow_phase, first = rng.uniform(0.0, 2 * np.pi), rng.uniform()

    # Beats counted by the sinus node: the integral of a rate that breathes.
    pace = rate / 60.0
    if not paced:
        arrhythmia = depth * np.sin(2 * np.pi * hz * (clock - LEAD_IN_S) + phase)
        arrhythmia += table.SLOW_ARRHYTHMIA * np.sin(2 * np.pi * 0.1 * clock + slow_phase)
        pace = pace * (1.0 + np.where(atria, 0.0, arrhythmia))
    count = np.concatenate([[0.0], np.cumsum(0.5 * (pace[1:] + pace[:-1]) * CLOCK_S)])
    n = int(count[-1] * 1.3) + 20
    about = np.interp(np.arange(n), count, clock)  # when each beat falls, but for its jitter
    here = np.minimum((about / CLOCK_S).astype(np.int64), len(clock) - 1)
    interval = 60.0 / rate[here]

    kinds = np.zeros(n, np.int8)
    units = np.ones(n)  # from the beat before to this one, in intervals
    if paced:
        kinds[:] = PACED
    else:
        memory, none = table.BEAT_JITTER
        units += memory * lfilter([0.25], [1.0, -0.75], rng.normal(size=n)) + none * rng.normal(size=n)
        # The atrioventricular node does not conduct sooner than this.
        refractory = np.minimum(table.SHORTEST_RR_S / interval, 0.65)
        chaotic = np.maximum(rng.gamma(1 / spread**2, spread**2, n), refractory)
        in_fibrillation = atria[here]
        units = np.where(in_fibrillation, chaotic, units)
        kinds[in_fibrillation] = FIBRILLATING
        _early_beats(rng, kinds, units, interval, ectopic_share)
    beats = first + np.cumsum(units) - units[0]
    times = np.interp(beats, count, clock, right=np.inf) - LEAD_IN_S
    keep = times < duration_s + LEAD_IN_S
    kinds = kinds[keep]
    return Rhythm(times[keep], kinds, bool(np.mean(kinds == FIBRILLATING) > 0.5), hz, phase)


def _early_beats(rng: np.random.Generator, kinds: Kinds, units: Array, interval: Array, share: float) -> None:
    """Make some beats early, in place, and lengthen the pause after each. Never two in a row."""
    n = len(kinds)
    early = rng.random(n) < share
    ventricular = rng.random(n) < table.VENTRICULAR_AMONG_ECTOPIC
    coupling, to_atrium, back = (
        rng.uniform(*table.VENTRICULAR_COUPLING),  # one focus, one coupling
        rng.uniform(*table.ATRIAL_COUPLING),
        rng.uniform(*table.ATRIAL_RETURN),
    )
    early[0], early[-1] = False, False
    early[1:] &= ~early[:-1]
    sinus = kinds == SINUS
    v = np.flatnonzero(early & ventricular)
    a = np.flatnonzero(early & ~ventricular & sinus)  # fibrillating atria send no early beat of their own
    soon = np.clip(table.SHORTEST_COUPLING_S / interval[v], coupling, 0.9)
    units[v] = soon
    units[v + 1] = np.where(sinus[v], 2.0 - soon, units[v + 1] + 0.3)
    units[a] = to_atrium
    units[a + 1] = back
    kinds[v], kinds[a] = VENTRICULAR, ATRIAL
