"""Rhythm from RR intervals: atrial fibrillation by the coefficient of sample entropy, and pacing.

Source: Lake and Moorman 2011, Am J Physiol Heart Circ Physiol 300:H319, with m = 1 and a tolerance of
30 ms. Real RR intervals carry missed and ectopic beats, so the answer for a strip is the median over
its two-minute windows.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from client.data.ecg.arrays import FloatArray
from client.data.ecg.beats import RATE_HZ
from common.errors import SignalError

WINDOW_S: Final = 120.0
# Fewer RR intervals than this in a window do not show a rhythm.
MIN_INTERVALS: Final = 30
# Fewer matches than this make the entropy a matter of chance; the tolerance is then widened.
MIN_MATCHES: Final = 5
# Pacing: a wide QRS complex at a rate no sinus node keeps.
PACED_QRS_MS: Final = 140.0
PACED_RR_SD_S: Final = 0.010
# A QRS complex lasts from where its slope first exceeds this share of its steepest slope.
QRS_SLOPE_SHARE: Final = 0.08


def coefficient_of_sample_entropy(rr_s: FloatArray, m: int = 1, r_s: float = 0.030) -> float:
    """Return the coefficient of sample entropy (CosEn) of a series of RR intervals.

    With B pairs of stretches of m intervals that match within r, and A of them that still match with
    the next interval: ``ln(B / A) + ln(2 r) - ln(mean RR)``. High is irregular: above about -1 in
    atrial fibrillation, below in sinus rhythm. Where fewer than five pairs match, r is doubled, which the
    second term makes up for.

    Parameters
    ----------
    rr_s : (n,) RR intervals, seconds.
    m : length of the matched stretches.
    r_s : tolerance, seconds.

    Returns
    -------
    CosEn; NaN for too short a series (fewer than m + 2 intervals).

    Raises
    ------
    SignalError
        For an RR interval that is not a positive number, or m or r that is not positive.
    """
    rr = np.asarray(rr_s, dtype=np.float64)
    if m < 1 or not r_s > 0:
        raise SignalError(f"sample entropy: m and r must be positive, got m = {m} and r = {r_s} s")
    if not (np.isfinite(rr) & (rr > 0)).all():
        raise SignalError("sample entropy: every RR interval must be a positive number of seconds")
    stretches = len(rr) - m
    if stretches < 2:
        return math.nan
    # Largest distance within a stretch, for every pair of stretches of m and of m + 1 intervals.
    distance = np.abs(rr[:, None] - rr[None, :])
    short = distance[:stretches, :stretches]
    for step in range(1, m):
        short = np.maximum(short, distance[step : step + stretches, step : step + stretches])
    long = np.maximum(short, distance[m:, m:])
    pairs = np.triu_indices(stretches, k=1)
    short, long = short[pairs], long[pairs]
    tolerance = r_s
    needed = min(MIN_MATCHES, len(long))
    while np.count_nonzero(long <= tolerance) < needed:
        tolerance *= 2
    matches, continued = np.count_nonzero(short <= tolerance), np.count_nonzero(long <= tolerance)
    return float(math.log(matches / continued) + math.log(2 * tolerance) - math.log(rr.mean()))


def median_sample_entropy(rr_s: FloatArray, times_s: FloatArray) -> float:
    """Return the median CosEn over the two-minute windows of a strip.

    Parameters
    ----------
    rr_s : (n,) RR intervals, seconds; NaN (beside a gap) is left out.
    times_s : (n,) time of each interval from the start of the strip, seconds.

    Returns
    -------
    Median; NaN where no window holds 30 intervals.
    """
    values = list(window_entropies(rr_s, times_s).values())
    return float(np.median(values)) if values else math.nan


def window_entropies(rr_s: FloatArray, times_s: FloatArray) -> dict[int, float]:
    """Return the CosEn of every two-minute window of a strip that holds enough intervals.

    Parameters
    ----------
    rr_s, times_s : (n,) RR intervals (NaN beside a gap) and their times from the start of the strip, seconds.

    Returns
    -------
    CosEn by the number of the window, 0 for the first two minutes.
    """
    windows = _windows(rr_s, times_s)
    return {number: coefficient_of_sample_entropy(window) for number, window in windows.items()}


def atrial_fibrillation(rr_s: FloatArray, times_s: FloatArray, max_sample_entropy: float) -> bool:
    """Say whether the RR intervals of a strip are as irregular as in atrial fibrillation.

    Parameters
    ----------
    rr_s, times_s : (n,) RR intervals and their times, seconds.
    max_sample_entropy : CosEn above which the rhythm counts as atrial fibrillation.

    Returns
    -------
    True above the threshold; False where there are too few intervals to tell.
    """
    return median_sample_entropy(rr_s, times_s) > max_sample_entropy


def qrs_width_ms(beat: FloatArray, r_index: int) -> float:
    """Return the width of the QRS complex of an averaged beat, in milliseconds.

    From the first to the last sample around the R peak whose slope exceeds 8 % of the steepest, turning
    points between them allowed. An estimate: a filter to 40 Hz rounds the corners.

    Parameters
    ----------
    beat : (n_samples,) at 125 Hz, usually the median beat.
    r_index : index of the R peak.
    """
    reach = round(0.16 * RATE_HZ)
    start = max(0, r_index - reach)
    part = np.asarray(beat, dtype=np.float64)[start : r_index + reach + 1]
    slope = np.abs(np.gradient(part))
    steep = slope >= QRS_SLOPE_SHARE * slope.max()
    left = right = r_index - start
    pause = round(0.024 * RATE_HZ)  # a turning point is no end
    while left > 0 and steep[max(0, left - pause) : left].any():
        left -= 1
    while right < len(part) - 1 and steep[right + 1 : right + 1 + pause].any():
        right += 1
    return 1000.0 * (right - left) / RATE_HZ


def pacing_suspected(qrs_ms: float, rr_s: FloatArray, times_s: FloatArray) -> bool:
    """Say whether a strip looks paced: QRS above 140 ms at an RR standard deviation below 10 ms.

    The spikes of a pacemaker are gone at 125 Hz. This is a flag, never a reason for exclusion: severe
    hyperkalemia widens the QRS complex too.

    Parameters
    ----------
    qrs_ms : width of the median beat's QRS complex, milliseconds.
    rr_s, times_s : (n,) RR intervals and their times, seconds.
    """
    spread = [float(np.std(window)) for window in _windows(rr_s, times_s).values()]
    return bool(spread) and qrs_ms > PACED_QRS_MS and float(np.median(spread)) < PACED_RR_SD_S


def _windows(rr_s: FloatArray, times_s: FloatArray) -> dict[int, FloatArray]:
    rr, times = np.asarray(rr_s, dtype=np.float64), np.asarray(times_s, dtype=np.float64)
    known = np.isfinite(rr)
    rr, number = rr[known], np.floor(times[known] / WINDOW_S)
    windows = {int(k): rr[number == k] for k in np.unique(number)}
    return {k: window for k, window in windows.items() if len(window) >= MIN_INTERVALS}
