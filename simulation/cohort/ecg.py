"""Continuous ECG from the beat at every moment: a sum of Gaussians, wave by wave."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.signal import lfilter

from simulation.cohort import parameters as table
from simulation.cohort.rhythm import ATRIAL, FIBRILLATING, LEAD_IN_S, PACED, VENTRICULAR, Rhythm
from simulation.cohort.shape import T_END_SIGMAS, Array, Shape

Signal = npt.NDArray[np.float32]

REACH = 3.9  # a Gaussian is cut at this many sigmas: a two-thousandth of its height
MARGIN_S = LEAD_IN_S + 1.5
BLOCK = 256  # beats evaluated together: their windows stay in the processor's cache
ONSET_S = 0.045  # from the begin of a narrow QRS to the R peak
SMALLEST_MV = 1e-4  # waves below a tenth of a microvolt are not drawn
SPIKE_LEAD_S = 0.055  # from the pacing spike to the main deflection of the paced beat
PACED_PR_S = 0.16  # from atrial to ventricular spike


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
    peak = (
        shape.qt * np.cbrt(lagged)
        - ONSET_S
        - T_END_SIGMAS * falling
        + np.where(wide, table.VENTRICULAR_QT, 0.0)
    )
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
