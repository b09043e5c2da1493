"""Continuous lead II as a sum of Gaussians that follows potassium, heart rate, day and posture."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.signal import lfilter

from simulation.cohort import parameters as table
from simulation.cohort.patient import Patient
from simulation.cohort.rhythm import ATRIAL, LEAD_IN_S, VENTRICULAR, Rhythm

Array = npt.NDArray[np.float64]
Signal = npt.NDArray[np.float32]

REACH = 3.5  # a Gaussian is cut at this many sigmas: two thousandths of its height
MARGIN_S = LEAD_IN_S + 1.0


@dataclass(frozen=True)
class Shape:
    """The beat of one stretch. Amplitudes in mV, times in s; widths are sigmas.

    ``qt`` holds at an RR interval of 1 s, ``t_width`` (falling side) at 0.7 s.
    """

    rate: float
    p: float
    q: float
    r: float
    s: float
    t: float
    st: float
    pr: float
    qrs_width: float
    qt: float
    t_width: float
    t_asymmetry: float


@dataclass(frozen=True)
class StripEffects:
    """What differs between two strips of one patient and day: standard normals, and ischemia in mV."""

    normals: Array
    ischemia: float = 0.0


NO_DAY = np.zeros(4)
NO_EFFECTS = StripEffects(np.zeros(8))


def draw_day(rng: np.random.Generator) -> Array:
    """Draw the effect of one day's electrodes: standard normals (4,) for R, S, Q with P, and T."""
    return rng.normal(size=4)


def draw_effects(rng: np.random.Generator) -> StripEffects:
    """Draw posture, autonomic tone and, in one strip of twenty, ischemia."""
    normals = rng.normal(size=8)
    shift = table.ISCHEMIA_T.normal(rng)
    return StripEffects(normals, shift if rng.random() < table.ISCHEMIA_SHARE else 0.0)


def shape_at(
    patient: Patient, potassium: float, day: Array = NO_DAY, effects: StripEffects = NO_EFFECTS
) -> Shape:
    """Compute the beat of a patient at a potassium level.

    T grows, narrows and comes earlier over the whole range; the loss of P, the widening of QRS and most of
    the lengthening of PR begin above 5.5 mEq/L. An inverted T loses depth instead (pseudo-normalization).

    Parameters
    ----------
    patient : baseline beat and sensitivity.
    potassium : true potassium, mEq/L.
    day : float64 (4,), standard normals of the day's electrodes.
    effects : standard normals and ischemia of the strip.

    Source: SCIENCE sections 3 and 4.3; numbers in ``parameters``.
    """
    beat, k, n = patient.beat, patient.sensitivity, effects.normals
    above = potassium - table.REFERENCE_POTASSIUM
    high = max(potassium - table.ONSET_POTASSIUM, 0.0)
    rate = float(np.clip(beat.rate + table.STRIP_RATE.spread * n[0] - table.K_RATE * high, 45.0, 150.0))

    t_factor = table.DAY_T.factor(day[3]) * table.STRIP_T.factor(n[2])
    if beat.t > 0:
        slower = float(np.clip(1.0 - 0.004 * (rate - 85.0), 0.6, 1.4))
        t = beat.t * t_factor * slower * max(1.0 + k.t_amplitude * above, 0.15)
    else:
        t = beat.t * t_factor + 0.6 * abs(beat.t) * k.t_amplitude * above
    return Shape(
        rate=rate,
        p=beat.p
        * table.DAY_P.factor(day[1])
        * table.STRIP_P.factor(n[3])
        * float(np.clip(1.0 - k.p * high, 0.1, 1.3)),
        q=beat.q * table.DAY_QS.factor(day[2]),
        r=beat.r * table.DAY_R.factor(day[0]) * table.STRIP_R.factor(n[1]),
        s=beat.s * table.DAY_QS.factor(day[1]),
        t=t + effects.ischemia,
        st=beat.st + table.STRIP_ST.spread * n[1] + table.ISCHEMIA_ST_SHARE * effects.ischemia,
        pr=beat.pr + k.pr * (0.5 * above + 0.8 * high) + table.STRIP_PR.spread * n[3],
        qrs_width=beat.qrs_width * (1.0 + k.qrs * high),
        qt=beat.qtc - k.qt * above + table.STRIP_QT.spread * n[4],
        t_width=beat.t_width * table.STRIP_T_WIDTH.factor(n[5]) / (1.0 + k.t_width * max(above, -2.0)),
        t_asymmetry=beat.t_asymmetry,
    )


def seen_from_v(shape: Shape) -> Shape:
    """Turn a beat to the second lead of the monitor, V: small R, deep S, taller T."""
    return replace(shape, p=0.6 * shape.p, r=0.5 * shape.r, s=4.0 * shape.s, t=1.4 * shape.t)


def synthesize(shape: Shape, rhythm: Rhythm, duration_s: float, rate_hz: float = 125.0) -> Signal:
    """Continuous ECG without noise.

    Every wave of every beat is one, for T two-sided, Gaussian; windows of all beats are evaluated at once
    and added where they overlap, so a T wave runs into the next P wave at fast rates.

    Parameters
    ----------
    shape : the stretch's beat.
    rhythm : R peaks.
    duration_s : length, s.
    rate_hz : sampling rate, Hz.

    Returns
    -------
    float32 (round(duration_s · rate_hz),), mV.
    """
    times = rhythm.times
    before = np.diff(times, prepend=times[0] - 60.0 / shape.rate)
    # QT follows the RR intervals of the last dozen beats, not the last one alone.
    lagged, _ = lfilter([0.15], [1.0, -0.85], before, zi=[0.85 * 60.0 / shape.rate])
    ventricular = rhythm.kinds == VENTRICULAR
    width = shape.qrs_width * np.where(ventricular, 2.4, 1.0)
    breath = 1.0 + 0.05 * np.sin(2 * np.pi * rhythm.respiration_hz * times + rhythm.respiration_phase)
    r = shape.r * breath * np.where(ventricular, 1.3, 1.0)
    falling = shape.t_width * (lagged / 0.7) ** 0.25
    rising = falling * shape.t_asymmetry
    peak = shape.qt * np.cbrt(lagged) - 0.045 - 2.3 * falling + np.where(ventricular, 0.04, 0.0)
    t = np.where(ventricular, -0.35 * r, shape.t * breath)
    conducted = np.where(ventricular, 0.0, breath)
    st_from, st_to = 2.5 * width + 0.02, np.maximum(peak - 0.5 * rising, 2.5 * width + 0.06)
    st_sigma = 0.4 * (st_to - st_from)

    waves = [
        (times - 2.4 * width, shape.q * conducted, 0.8 * width, 0.8 * width),
        (times, r, width, width),
        (times + 2.5 * width, shape.s * conducted, width, 1.1 * width),
        (times + 0.5 * (st_from + st_to), shape.st * conducted, st_sigma, st_sigma),
        (times + peak, t, rising, falling),
    ]
    if not rhythm.fibrillation:
        present = np.choose(rhythm.kinds, [1.0, 0.8, 0.0])
        early = np.where(rhythm.kinds == ATRIAL, 0.01, 0.0)
        sigma = np.full(len(times), 0.021)
        waves.append((times - shape.pr + 0.055 + early, shape.p * present * breath, sigma, sigma))
    signal = overlap_add(waves, duration_s, rate_hz)
    if rhythm.fibrillation:
        signal += fibrillation_waves(rhythm, len(signal), rate_hz, 0.4 * shape.p)
    return signal


def overlap_add(waves: list[tuple[Array, Array, Array, Array]], duration_s: float, rate_hz: float) -> Signal:
    """Add two-sided Gaussians, given as (centers s, amplitudes mV, left sigmas s, right sigmas s).

    Returns
    -------
    float32 (round(duration_s · rate_hz),), mV.
    """
    n, margin = round(duration_s * rate_hz), int(MARGIN_S * rate_hz)
    places, values = [], []
    for centers, amplitudes, left, right in waves:
        at = centers * rate_hz
        first = np.floor(at).astype(np.int64)
        low = int(np.ceil(REACH * left.max() * rate_hz))
        high = int(np.ceil(REACH * right.max() * rate_hz)) + 1
        offsets = np.arange(-low, high + 1)
        distance = offsets.astype(np.float32) - (at - first).astype(np.float32)[:, None]
        sides = np.where(offsets <= 0, (left * rate_hz)[:, None], (right * rate_hz)[:, None])
        distance /= sides.astype(np.float32)
        np.square(distance, out=distance)
        distance *= np.float32(-0.5)
        np.exp(distance, out=distance)
        distance *= amplitudes.astype(np.float32)[:, None]
        places.append((first[:, None] + (offsets + margin)).ravel())
        values.append(distance.ravel())
    place, value = np.concatenate(places), np.concatenate(values)
    inside = (place >= 0) & (place < n + 2 * margin)
    if not inside.all():
        place, value = place[inside], value[inside]
    total = np.bincount(place, value, minlength=n + 2 * margin)
    return total[margin : margin + n].astype(np.float32)


def fibrillation_waves(rhythm: Rhythm, n: int, rate_hz: float, amplitude: float) -> Signal:
    """Fibrillatory waves of 5 to 8 Hz that wax and wane with breathing: float32 (n,), mV."""
    time = np.arange(n, dtype=np.float32) / np.float32(rate_hz)
    hz = 5.0 + 20.0 * (rhythm.respiration_hz - 0.20)
    wobble = 1.5 * np.sin(np.float32(2 * np.pi * rhythm.respiration_hz) * time)
    wave = np.sin(np.float32(2 * np.pi * hz) * time + wobble)
    out: Signal = (amplitude * wave).astype(np.float32)
    return out
