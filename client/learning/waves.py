"""The T wave of single beats in four numbers: what a clinician looks at first when potassium is high.

They are the features of a baseline that a network has to beat. Each beat is measured by itself; nothing is
learned, and nothing is asked of the other beats of its strip.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.signal import savgol_filter

from client.data.ecg.beats import R_INDEX, RATE_HZ

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]

#: The columns of `t_wave_features`.
T_WAVE_FEATURES: Final = ("t_amplitude", "t_right_slope", "t_slope_over_amplitude", "t_over_r")
#: Differences smaller than these are the noise of single beats, in the units of the columns.
T_WAVE_RESOLUTION: Final = (0.02, 0.5, 1.0, 0.03)

#: Local fits. A line over 40 ms follows the edges of QRS; a parabola over 56 ms keeps the height of a narrow
#: T wave and leaves half of the muscle noise; for the slope of T a cubic over 104 ms, because a derivative
#: multiplies noise.
LINE_SAMPLES, TOP_SAMPLES, SLOPE_SAMPLES = 5, 7, 13

#: QRS, around the R peak: where its steepest slope is looked for, what shares of that are steep and calm, and
#: how far before the first steep sample it may begin. The level is taken within ``LEVEL_S`` before it begins.
QRS_BEFORE_S, QRS_AFTER_S = 0.12, 0.08
STEEP_SHARE, CALM_SHARE = 0.35, 0.10
LONGEST_ONSET_S = 0.09
LEVEL_S = 0.032
LEVEL_SEEN_S = 0.30

#: T, after the R peak: where it may begin to rise, and where its top is at the earliest, at an RR interval of
#: 1 s (both go with the root of RR); its top is before the lesser of 0.6 RR and 480 ms. The far side is
#: followed until the next P wave may begin to fall.
EARLIEST_RISE_S, EARLIEST_TOP_S = 0.12, 0.20
LATEST_TOP_RR, LATEST_TOP_S = 0.60, 0.48
LATEST_FALL_RR, LATEST_FALL_S = 0.65, 0.58
LONGEST_FALL_S = 0.16

#: The timing of a flatter T wave is that of the noise; a smaller QRS complex is no measure of anything.
LEAST_T_MV = 0.04
LEAST_R_MV = 0.04
R_REACH_S = 0.04
#: No T wave is so narrow; what falls faster is the side of another wave. It is that of a sigma of 10 ms.
STEEPEST_PER_S = 60.0

#: No usable strip has a rate beyond these: the nearest is taken, and 60 where the rate is not known.
RATE_RANGE_BPM, USUAL_RATE_BPM = (30.0, 200.0), 60.0


def t_wave_features(
    beats: npt.NDArray[np.floating], heart_rate_bpm: float | npt.NDArray[np.floating]
) -> Floats:
    """Measure the T wave of every beat.

    Amplitudes are over the level before the QRS complex. The T wave is the extreme, upward or downward, that
    stands out most on both sides between the ST segment and the next P wave. Multiplying a beat multiplies
    the first two features and leaves the ratios; adding to it changes nothing.

    Parameters
    ----------
    beats : (n, 120), mV, R peak at index 40.
    heart_rate_bpm : of the beats' strip, or (n,) of each beat's, per minute. NaN where it is not known;
        the T wave is then looked for where it is at 60.

    Returns
    -------
    float64 (n, 4), always finite; the columns are ``T_WAVE_FEATURES``:

    - amplitude of T, mV, negative where inverted; 0 where no extreme stands out.
    - right slope, the steepest on the far side of the top, mV/s: positive for an upright wave, negative for
      an inverted one; 0 without a wave.
    - slope over amplitude, 1/s, from 0 to 60; 0 for a wave below 0.04 mV.
    - T over R amplitude; R is the largest deflection within 40 ms of the R peak, always positive. 0 where
      that is below 0.04 mV.

    A flat beat, and one with a value that is not finite, has four zeros.

    Source: Severi (Computing in Cardiology) and Corsi 2017 for slope over amplitude, Dillon 2015 for the
    others; where the waves are looked for was chosen on the synthetic cohort's known waves.
    """
    x = np.asarray(beats, np.float64)
    if not len(x):
        return np.empty((0, len(T_WAVE_FEATURES)))
    x = np.where(np.isfinite(x).all(axis=1, keepdims=True), x, 0.0)
    rr_s = _rr(heart_rate_bpm, len(x))
    x = x - _level_before_qrs(x)[:, None]
    after = x[:, R_INDEX:]
    wave = _fitted(after, TOP_SAMPLES, 2)
    slope = _fitted(after, SLOPE_SAMPLES, 3, deriv=1) * RATE_HZ

    last = _samples(np.minimum(LATEST_FALL_RR * rr_s, LATEST_FALL_S))
    top, found = _top(wave, rr_s, last)
    amplitude = np.where(found, np.take_along_axis(wave, top[:, None], axis=1)[:, 0], 0.0)
    at = np.arange(wave.shape[1])
    far = (at >= top[:, None]) & (at <= np.minimum(last, top + round(LONGEST_FALL_S * RATE_HZ))[:, None])
    falling = -np.sign(amplitude)[:, None] * slope
    steepest = np.where(far, falling, 0.0).max(axis=1)  # at the top itself it is about zero

    reach = round(R_REACH_S * RATE_HZ)
    r = np.abs(x[:, R_INDEX - reach : R_INDEX + reach + 1]).max(axis=1)
    size = np.abs(amplitude)
    per_amplitude = np.minimum(_ratio(steepest, size, LEAST_T_MV), STEEPEST_PER_S)
    return np.column_stack(
        [amplitude, np.sign(amplitude) * steepest, per_amplitude, _ratio(amplitude, r, LEAST_R_MV)]
    )


def _fitted(x: Floats, length: int, degree: int, deriv: int = 0) -> Floats:
    """Fit a polynomial around every sample; its value, or slope per sample. The ends are never asked."""
    found: Floats = savgol_filter(x, length, degree, deriv=deriv, axis=1, mode="nearest")
    return found


def _ratio(value: Floats, over: Floats, least: float) -> Floats:
    """Divide, where the divisor is large enough; 0 elsewhere."""
    return np.divide(value, over, out=np.zeros(len(over)), where=over >= least)


def _samples(seconds: Floats) -> Places:
    return np.floor(seconds * RATE_HZ + 1e-6).astype(np.int64)


def _rr(heart_rate_bpm: float | npt.NDArray[np.floating], n: int) -> Floats:
    """Return the RR interval of every beat, s, within what a usable strip can have."""
    rate = np.broadcast_to(np.asarray(heart_rate_bpm, np.float64), (n,))
    known = np.isfinite(rate) & (rate > 0)
    return 60.0 / np.clip(np.where(known, rate, USUAL_RATE_BPM), *RATE_RANGE_BPM)


def _level_before_qrs(x: Floats) -> Floats:
    """Return the isoelectric level (n,), mV: the mean of the flattest 40 ms right before QRS.

    QRS begins where its slopes have become small, going back from its steep part; where they never do, as
    with muscle noise or a P wave that runs into it, where they are smallest.
    """
    begin, end = R_INDEX - round(LEVEL_SEEN_S * RATE_HZ), R_INDEX + round(QRS_AFTER_S * RATE_HZ)
    part = x[:, begin : end + LINE_SAMPLES]
    middle, slope = _fitted(part, LINE_SAMPLES, 1), np.abs(_fitted(part, LINE_SAMPLES, 1, deriv=1))
    near = R_INDEX - begin - round(QRS_BEFORE_S * RATE_HZ)
    searched = slope[:, near : end - begin + 1]
    most = searched.max(axis=1, keepdims=True)
    steep = near + np.argmax(searched >= STEEP_SHARE * most, axis=1)[:, None]

    middle, slope = middle[:, : R_INDEX - begin], slope[:, : R_INDEX - begin]
    at = np.arange(R_INDEX - begin)
    before = (at < steep) & (at >= steep - round(LONGEST_ONSET_S * RATE_HZ))
    calm = before & (slope < CALM_SHARE * most)
    calm[:, 1:] &= calm[:, :-1]
    latest = calm.shape[1] - 1 - np.argmax(calm[:, ::-1], axis=1)
    smallest = np.argmin(np.where(before, slope, np.inf), axis=1)
    onset = np.where(calm.any(axis=1), latest, smallest)[:, None]
    flat = (at <= onset) & (at >= onset - round(LEVEL_S * RATE_HZ))
    chosen = np.argmin(np.where(flat, slope, np.inf), axis=1)[:, None]
    level: Floats = np.take_along_axis(middle, chosen, axis=1)[:, 0]
    return level


def _top(wave: Floats, rr_s: Floats, last: Places) -> tuple[Places, npt.NDArray[np.bool_]]:
    """Find the top of T: samples after the R peak, and whether there is one.

    An extreme stands out by its height over the higher one of the lowest points before and behind it. An
    upward one has to lie above the level before QRS, a downward one below.

    Parameters
    ----------
    wave : (n, samples after the R peak), mV over the level before QRS.
    rr_s : (n,)
    last : (n,) the last sample that belongs to this beat.
    """
    first = _samples(EARLIEST_RISE_S * np.sqrt(rr_s))[:, None]
    earliest = _samples(EARLIEST_TOP_S * np.sqrt(rr_s))[:, None]
    latest = _samples(np.minimum(LATEST_TOP_RR * rr_s, LATEST_TOP_S))[:, None]
    begin, end = first.min(), last.max() + 1
    at = np.arange(begin, end)
    wave = wave[:, begin:end]
    inside = (at >= first) & (at <= last[:, None])
    allowed = (at >= earliest) & (at <= latest)
    tops, heights = [], []
    for turned in (wave, -wave):
        low = np.where(inside, turned, np.inf)
        before = np.minimum.accumulate(low, axis=1)
        behind = np.minimum.accumulate(low[:, ::-1], axis=1)[:, ::-1]
        rise = np.where(allowed & (turned > 0), turned - np.maximum(before, behind), 0.0)
        top = np.argmax(rise, axis=1)
        tops.append(top)
        heights.append(np.take_along_axis(rise, top[:, None], axis=1)[:, 0])
    up = heights[0] >= heights[1]
    return begin + np.where(up, tops[0], tops[1]), np.maximum(heights[0], heights[1]) > 0
