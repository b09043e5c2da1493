"""Continuous ECG as a sum of Gaussians that follows potassium, heart rate, electrodes and posture."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.signal import lfilter

from simulation.cohort import parameters as table
from simulation.cohort.conditions import Effects
from simulation.cohort.patient import Patient
from simulation.cohort.rhythm import ATRIAL, FIBRILLATING, LEAD_IN_S, PACED, VENTRICULAR, Rhythm

Array = npt.NDArray[np.float64]
Signal = npt.NDArray[np.float32]
Lead = Literal["II", "V", "MCL1"]

REACH = 3.9  # a Gaussian is cut at this many sigmas: a two-thousandth of its height
MARGIN_S = LEAD_IN_S + 1.5
BLOCK = 256  # beats evaluated together: their windows stay in the processor's cache
ONSET_S = 0.045  # from the begin of a narrow QRS to the R peak
SMALLEST_MV = 1e-4  # waves below a tenth of a microvolt are not drawn
SPIKE_LEAD_S = 0.055  # from the pacing spike to the main deflection of the paced beat
PACED_PR_S = 0.16  # from atrial to ventricular spike


@dataclass(frozen=True)
class Shape:
    """One beat after the other: arrays (n_beats,). Amplitudes in mV, times in s; widths are sigmas.

    ``qt`` holds at an RR interval of 1 s, ``t_width`` (falling side) at 0.7 s. ``ventricular`` and the
    quantities after it are those of beats that begin in the ventricles, early or paced.
    """

    rate: Array
    p: Array
    q: Array
    r: Array
    s: Array
    t: Array
    u: Array
    st: Array
    pr: Array
    qt: Array
    qrs_width: Array
    notch: Array
    s_width: Array
    p_width: Array
    t_width: Array
    t_asymmetry: Array
    sagging: Array
    ventricular: Array
    ventricular_width: Array
    ventricular_st: Array
    ventricular_t: Array
    spike: Array


def rate_at(patient: Patient, potassium: Array, effects: Effects) -> Array:
    """Heart rate, beats per minute: float64 (n,). Slower above 5.5 mEq/L; fixed with a pacemaker."""
    if patient.paced:
        return np.full(len(potassium), patient.beat.rate)
    high = np.maximum(potassium - table.ONSET_POTASSIUM, 0.0)
    severe = np.maximum(potassium - table.SEVERE_POTASSIUM, 0.0)
    responds = min(patient.sensitivity.pr / table.K_PR.value, 2.0)
    slower = np.minimum(table.K_RATE * high + table.SEVERE_RATE * responds * severe, table.MOST_SLOWING)
    return np.clip(patient.beat.rate + effects.rate - slower, *table.RATE_RANGE)


def shape_at(patient: Patient, potassium: Array, effects: Effects) -> Shape:
    """Compute the beats of a patient at some potassium levels.

    T grows, narrows and comes earlier over the whole range. Above 5.5 mEq/L P flattens, QRS widens and most
    of the lengthening of PR begins; from 7 to 9, depending on the patient, P is lost and QRS and T become
    one wave. An inverted T loses depth instead (pseudo-normalization). Below 3.5 T is flat and U shows.

    Parameters
    ----------
    patient : baseline beat and sensitivity.
    potassium : float64 (n,), true potassium, mEq/L.
    effects : conditions at the same moments, arrays (n,).

    Source: SCIENCE sections 3 and 4.3; numbers in ``parameters``.
    """
    beat, k = patient.beat, patient.sensitivity
    potassium = np.asarray(potassium, np.float64)
    above = potassium - table.REFERENCE_POTASSIUM
    high = np.maximum(potassium - table.ONSET_POTASSIUM, 0.0)
    severe = np.maximum(potassium - table.SEVERE_POTASSIUM, 0.0)
    low = np.maximum(table.HYPOKALEMIA - potassium, 0.0)
    conducted = np.minimum(potassium, table.PR_LAST_POTASSIUM)
    delay = table.PR_BELOW_ONSET * (conducted - table.REFERENCE_POTASSIUM)
    delay += table.PR_ABOVE_ONSET * np.maximum(conducted - table.ONSET_POTASSIUM, 0.0)
    responds = float(np.clip(k.qrs / table.K_QRS.value, 0.3, 2.5)) ** 0.5
    sine = _smooth((potassium - table.SINE_POTASSIUM) / table.SINE_RANGE * responds)
    lost = _smooth((potassium - table.P_LOSS_POTASSIUM) / table.P_LOSS_RANGE * responds)
    rate = rate_at(patient, potassium, effects)

    growth = np.clip(1.0 + k.t_amplitude * _saturating(above), 0.15, 3.5)
    if beat.t > 0:
        faster = np.clip(1.0 - table.T_LESS_PER_BPM * (rate - table.HEART_RATE.value), 0.6, 1.4)
        t = beat.t * effects.t * faster * growth
    else:
        t = beat.t * effects.t + table.INVERTED_SHARE * abs(beat.t) * k.t_amplitude * _saturating(above)
    widening = np.minimum(1.0 + k.qrs * (high + table.SEVERE_QRS * severe**2), 3.0) * (1.0 + sine)
    width = beat.qrs_width * widening
    narrow = beat.t_width * effects.t_width / np.maximum(1.0 + k.t_width * np.maximum(above, -2.0), 0.7)
    u_seen = np.clip((table.U_GONE_RATE - rate) / table.U_FADES_OVER, 0.0, 1.0)
    responds_low = min(k.t_amplitude / table.K_T_AMPLITUDE.value, 2.0)
    r = beat.r * effects.r
    one = np.ones(len(potassium))
    return Shape(
        rate=rate,
        p=beat.p * effects.p * np.clip(1.0 - k.p * high, 0.1, 1.0) * (1.0 - lost),
        q=beat.q * effects.q * (1.0 - sine),
        r=r * (1.0 - table.SINE_R_LOSS * sine),
        s=beat.s * effects.s - table.SINE_S * r * sine,
        t=t + effects.ischemia + table.SINE_T * r * sine,
        u=beat.u * u_seen + table.HYPOKALEMIA_U * responds_low * low * (0.4 + 0.6 * u_seen),
        st=(beat.st + effects.st + table.ISCHEMIA_ST_SHARE * effects.ischemia + table.HYPOKALEMIA_ST * low)
        * (1.0 - sine),
        pr=np.clip(beat.pr + k.pr * delay + effects.pr, *table.PR_RANGE),
        qt=beat.qtc
        + effects.qt
        - k.qt * above
        - 2.3 * (beat.t_width * effects.t_width - narrow)
        + 4.0 * (width - beat.qrs_width),
        qrs_width=width,
        notch=beat.notch * one,
        s_width=(beat.s_width + table.SINE_S_WIDTH * sine) * one,
        p_width=beat.p_width * (1.0 + table.P_BROADER * high),
        t_width=narrow * (1.0 + table.SINE_T_WIDTH * sine),
        t_asymmetry=1.0 + (beat.t_asymmetry - 1.0) * np.exp(-table.T_SYMMETRY * high) * one,
        sagging=np.full(len(potassium), float(beat.sagging)),
        ventricular=beat.ventricular * effects.r * (1.0 - table.SINE_R_LOSS * sine),
        ventricular_width=table.VENTRICULAR_WIDTH * widening,
        ventricular_st=table.VENTRICULAR_ST * beat.ventricular * (1.0 - sine),
        ventricular_t=table.VENTRICULAR_T * beat.ventricular * effects.t * growth,
        spike=beat.spike * one,
    )


def seen_from(shape: Shape, lead: Lead) -> Shape:
    """Turn beats in lead II to another lead of the monitor: small R, deep S; taller T in V than in MCL1."""
    if lead == "II":
        return shape
    t = 1.4 if lead == "V" else 0.5
    return replace(
        shape,
        p=0.6 * shape.p,
        r=(0.5 if lead == "V" else 0.25) * shape.r,
        s=np.minimum(4.0 * shape.s, -0.5 * shape.r),
        t=t * shape.t,
        u=t * shape.u,
        ventricular=-0.8 * shape.ventricular,
        ventricular_st=-0.8 * shape.ventricular_st,
        ventricular_t=-0.8 * shape.ventricular_t,
    )


class Waves(NamedTuple):
    """One wave of every beat, a two-sided Gaussian: center s, amplitude mV, sigmas s; arrays (n_beats,)."""

    center: Array
    amplitude: Array
    left: Array
    right: Array


def waves_of(shape: Shape, rhythm: Rhythm) -> list[Waves]:
    """All waves of all beats: P, Q, two summits of R, S, ST, T and U.

    Where waves stand relative to each other, in units of their widths, is an assumption: a narrow QRS lasts
    90 ms and has no gaps, ST joins S and T, T ends 2.3 sigmas after its peak, and U follows.

    Parameters
    ----------
    shape, rhythm : of the same beats.
    """
    times, kinds = rhythm.times, rhythm.kinds
    before = np.diff(times, prepend=times[:1] - 60.0 / shape.rate[:1])
    lagged = _lagged(before)
    wide = (kinds == VENTRICULAR) | (kinds == PACED)
    breath = 1.0 + table.BREATH_AMPLITUDE * np.sin(
        2 * np.pi * rhythm.respiration_hz * times + rhythm.respiration_phase
    )
    own = np.where(wide, 0.0, breath)

    width = np.where(wide, shape.ventricular_width, shape.qrs_width)
    r = np.where(wide, shape.ventricular, shape.r) * breath
    notch = np.where(wide, 0.5, shape.notch) * r
    slur = np.where((shape.notch > 0) | wide, 1.1, 1.0)
    summit = times + np.where(wide, 2.1, 2.7) * width
    s_at = times + (1.6 + 0.9 * shape.s_width) * width

    falling = shape.t_width * (lagged / 0.7) ** 0.25
    rising = falling * shape.t_asymmetry
    peak = shape.qt * np.cbrt(lagged) - ONSET_S - 2.3 * falling + np.where(wide, table.VENTRICULAR_QT, 0.0)
    peak = np.maximum(peak, 3.5 * width)
    t = np.where(wide, shape.ventricular_t, shape.t) * breath
    # ST is highest behind the J point and runs into T; it sags halfway with digoxin.
    j = np.where(wide, 3.2, 2.0 + 0.5 * shape.s_width) * width
    st_at = j + np.where(shape.sagging > 0, 0.45, 0.20) * np.maximum(peak - j, 0.02)
    st_left = np.maximum(0.55 * (st_at - j), 0.012)
    st_right = np.maximum(0.42 * (peak - st_at), 0.012)
    st = np.where(wide, shape.ventricular_st, shape.st) * breath

    return [
        Waves(times - 2.4 * width, shape.q * own, 0.8 * width, 0.8 * width),
        Waves(times, r, width, width * slur),
        Waves(summit, notch, 1.05 * width, 1.2 * width),
        Waves(s_at, shape.s * own, shape.s_width * width, 1.1 * shape.s_width * width),
        Waves(times + st_at, st, st_left, st_right),
        Waves(times + peak, t, rising, falling),
        Waves(times + peak + 2.2 * falling + 0.075, shape.u * own, 0.9 * falling, 1.1 * falling),
        _p_waves(shape, rhythm, before, breath),
    ]


def _p_waves(shape: Shape, rhythm: Rhythm, before: Array, breath: Array) -> Waves:
    """P before each beat; flatter in early atrial beats, on time behind early ventricular ones."""
    times, kinds = rhythm.times, rhythm.kinds
    p = shape.p * breath
    center = times - ONSET_S - shape.pr + 2.4 * shape.p_width
    center = np.where(kinds == ATRIAL, center + 0.015, center)
    center = np.where(kinds == PACED, times - SPIKE_LEAD_S - PACED_PR_S + 0.045, center)
    # The sinus node does not know of the early beat: P comes when the next one was due.
    usual = 60.0 / shape.rate
    center = np.where(kinds == VENTRICULAR, center + np.maximum(usual - before, 0.0), center)
    p = np.where(kinds == ATRIAL, 0.65 * p, p)
    after_fibrillation = np.concatenate([[False], kinds[:-1] == FIBRILLATING])
    p = np.where((kinds == FIBRILLATING) | ((kinds == VENTRICULAR) & after_fibrillation), 0.0, p)
    return Waves(center, p, shape.p_width, 1.05 * shape.p_width)


def synthesize(shape: Shape, rhythm: Rhythm, duration_s: float, rate_hz: float) -> Signal:
    """Continuous ECG without noise, as an ideal amplifier would show it.

    Every wave of every beat is one two-sided Gaussian, added where they overlap, so a T wave runs into the
    next P wave at fast rates. A pacing spike lasts 2 ms; below 500 Hz it is spread over one sample interval.

    Parameters
    ----------
    shape, rhythm : of the same beats.
    duration_s : length, s.
    rate_hz : sampling rate, Hz.

    Returns
    -------
    float32 (round(duration_s · rate_hz),), mV.
    """
    n, margin = round(duration_s * rate_hz), int(MARGIN_S * rate_hz)
    total = np.zeros(n + 2 * margin, np.float32)
    for wave in waves_of(shape, rhythm):
        add_waves(total, wave, rate_hz)
    _add_spikes(total, shape, rhythm, rate_hz)
    signal = total[margin : margin + n]
    if (rhythm.kinds == FIBRILLATING).any():
        signal += fibrillatory_waves(shape, rhythm, n, rate_hz)
    return signal


def add_waves(total: Signal, waves: Waves, rate_hz: float) -> None:
    """Add two-sided Gaussians to a signal that begins ``MARGIN_S`` before time 0, in place.

    Each is evaluated on its own short window, for some hundred beats at once.

    Parameters
    ----------
    total : float32, mV.
    waves : arrays (n_beats,).
    rate_hz : sampling rate, Hz.
    """
    drawn = np.abs(waves.amplitude) > SMALLEST_MV
    if not drawn.all():
        waves = Waves(*(part[drawn] for part in waves))
    for begin in range(0, len(waves.center), BLOCK):
        center, amplitude, left, right = (part[begin : begin + BLOCK] for part in waves)
        at = (center * rate_hz) + int(MARGIN_S * rate_hz)
        first = np.ceil(at - REACH * left * rate_hz).astype(np.int64)
        length = int(np.ceil(REACH * float((left + right).max()) * rate_hz)) + 1
        # exp(-d²/2σ²) = exp(-(d/√2σ)²); the larger of the two scaled distances is that of the right side.
        distance = np.arange(length, dtype=np.float32) - (at - first).astype(np.float32)[:, None]
        scale_left = (-np.sqrt(0.5) / (left * rate_hz)).astype(np.float32)[:, None]
        scale_right = (np.sqrt(0.5) / (right * rate_hz)).astype(np.float32)[:, None]
        values = distance * scale_right
        distance *= scale_left
        np.maximum(values, distance, out=values)
        np.multiply(values, values, out=values)
        np.negative(values, out=values)
        np.exp(values, out=values)
        values *= amplitude.astype(np.float32)[:, None]
        last = len(total) - length
        for start, row in zip(first.tolist(), values, strict=True):
            if 0 <= start <= last:
                total[start : start + length] += row


def fibrillatory_waves(shape: Shape, rhythm: Rhythm, n: int, rate_hz: float) -> Signal:
    """Make the waves of fibrillating atria, 5 to 8 Hz, irregular in size and pace: float32 (n,), mV."""
    hz = 5.2 + 16.0 * (rhythm.respiration_hz - table.RESPIRATION_HZ[0])
    size = np.where(rhythm.kinds == FIBRILLATING, table.FIBRILLATORY_WAVE * shape.p, 0.0)
    coarse = np.arange(0.0, n / rate_hz + 0.5, 0.25)

    def tone(tone_hz: float, shift: float) -> Array:
        return np.sin(2 * np.pi * tone_hz * coarse + shift * rhythm.respiration_phase)

    # Slow tones without a common period stand for the wandering of the wavelets.
    phases = 2 * np.pi * hz * coarse + 1.6 * tone(0.23, 1.0) + 1.1 * tone(0.61, 2.0)
    swell = (1.0 + 0.35 * tone(0.41, 3.0) + 0.2 * tone(0.97, 0.0)) * np.interp(coarse, rhythm.times, size)
    time = np.arange(n) / rate_hz
    phase = np.interp(time, coarse, phases).astype(np.float32)
    wave: Signal = np.sin(phase)
    wave += np.float32(0.3) * np.sin(np.float32(2.0) * phase + np.float32(0.8))
    wave *= np.interp(time, coarse, swell).astype(np.float32)
    return wave


def _add_spikes(total: Signal, shape: Shape, rhythm: Rhythm, rate_hz: float) -> None:
    """Add pacing spikes of 2 ms: one for the atrium and one for the ventricle, their area kept."""
    paced = rhythm.kinds == PACED
    if not paced.any():
        return
    times, height = rhythm.times[paced], shape.spike[paced]
    height = height * min(table.PACING_SPIKE_S * rate_hz, 1.0)
    length = max(round(table.PACING_SPIKE_S * rate_hz), 1)
    for delay, share in ((SPIKE_LEAD_S + PACED_PR_S, 0.7), (SPIKE_LEAD_S, 1.0)):
        first = np.rint((times - delay + MARGIN_S) * rate_hz).astype(np.int64)
        for i in range(length):
            inside = (first + i >= 0) & (first + i < len(total))
            np.add.at(total, first[inside] + i, (share * height[inside]).astype(np.float32))


def _lagged(before: Array) -> Array:
    """RR interval that QT knows of: a part follows within some beats, the rest within about two minutes."""
    mean = float(np.median(before))
    parts = []
    for beats in table.QT_LAG_BEATS:
        kept = float(np.exp(-1.0 / beats))
        part, _ = lfilter([1.0 - kept], [1.0, -kept], before, zi=[kept * mean])
        parts.append(part)
    lagged: Array = table.QT_FAST_SHARE * parts[0] + (1.0 - table.QT_FAST_SHARE) * parts[1]
    return lagged


def _saturating(above: Array) -> Array:
    """Potassium above the reference as T amplitude sees it: proportional at first, then less and less."""
    start, more = table.T_PROPORTIONAL, table.T_SATURATION
    beyond = np.maximum(above - start, 0.0)
    return np.asarray(np.minimum(above, start) + more * -np.expm1(-beyond / more))


def _smooth(share: Array) -> Array:
    """Turn a number into a share that rises smoothly from 0 at 0 to 1 at 1."""
    inside = np.clip(share, 0.0, 1.0)
    return np.asarray(inside * inside * (3.0 - 2.0 * inside))
