"""R peaks: found, moved to the peak, aligned with one another, and compared.

The detector is sleepecg's, a Pan and Tompkins detector in C; their rule against T waves is added, and rules
for tall T and P waves. It says where a QRS complex is, give or take a few samples. Two steps make that an
R peak that averages well: the nearest extremum of the filtered signal, then a shift of at most three samples
that fits the median complex best. Ectopic beats fit no median complex; they stay where they were found.
"""

from __future__ import annotations

import warnings
from typing import Final

import numpy as np
import numpy.typing as npt
from sleepecg import detect_heartbeats
from wfdb.processing import xqrs_detect

from client.data.ecg.arrays import FloatArray, IntArray, finite_signal
from client.data.ecg.beats import RATE_HZ
from client.data.ecg.local_peaks import use_local_peaks

# Below two seconds the detector has nothing to learn its thresholds from.
MIN_SAMPLES: Final = 2 * RATE_HZ
# A T wave comes within this time of its QRS complex, and is less steep by this factor.
T_WAVE_S: Final = 0.360
T_WAVE_STEEPNESS: Final = 0.5
# A slow heart's T wave comes later; there only the second detector needs the rule.
LATE_T_WAVE_S: Final = 0.500
# T waves as steep as that follow every beat or none: at least this share of the beats. A T wave is less
# sharp (steepness over height) than its QRS complex by this factor, an ectopic beat seldom comes so early.
SYSTEMATIC: Final = 0.5
T_WAVE_SHARPNESS: Final = 0.8
# Where a T wave alone was found, its QRS complex lies so long before it, is that much sharper and still has
# this share of the T wave's steepness: a P wave before a wide complex is as sharp, but flat or nearer.
QRS_BEFORE_T_S: Final = (0.200, 0.400)
QRS_STEEPNESS: Final = 0.3
# A pacing spike is a single sample: half its height from one sample to the next. No complex is that sharp.
SPIKE_SHARPNESS: Final = 0.45
# A P wave comes this long before its QRS complex at most, and is less steep by this factor.
P_WAVE_S: Final = 0.240
P_WAVE_STEEPNESS: Final = 1 / 3
# Reach of the search for an extremum: 64 ms.
SNAP_SAMPLES: Final = 8
# Two places as near as that are one complex: 40 ms.
SAME_SAMPLES: Final = 5
# Reach of the alignment, and half the length of the complex that is compared (24 and 128 ms).
SHIFT_SAMPLES: Final = 3
COMPLEX_SAMPLES: Final = 16
# Correlation with the median complex from which a complex is one of the same kind.
ALIKE: Final = 0.9
# An R peak points up unless the downward deflections are this much larger, so that an S wave of about
# the height of the R wave does not take its place in one strip and not in the next.
DOWNWARD_RATIO: Final = 1.5


def detect_r_peaks(signal: FloatArray) -> IntArray:
    """Find the R peaks of a filtered signal.

    Parameters
    ----------
    signal : (n_samples,) at 125 Hz, band-passed. The unit does not matter.

    Returns
    -------
    (n_peaks,) ascending sample numbers; empty for a flat signal and for less than two seconds.

    Raises
    ------
    SignalError
        For NaN.
    """
    values = finite_signal(signal, "R-peak detection")
    return refine_peaks(values, find_beats(values))


def find_complexes(signal: FloatArray) -> IntArray:
    """Find QRS complexes, without moving them to the R peak.

    Parameters
    ----------
    signal : (n_samples,) at 125 Hz.

    Returns
    -------
    (n_complexes,) ascending sample numbers; empty for a flat signal and for less than two seconds.

    Raises
    ------
    SignalError
        For NaN.
    """
    values = finite_signal(signal, "R-peak detection")
    if len(values) < MIN_SAMPLES or np.ptp(values) == 0:
        return np.empty(0, dtype=np.int64)
    return np.asarray(detect_heartbeats(values, RATE_HZ), dtype=np.int64)


def find_beats(signal: FloatArray) -> IntArray:
    """Find QRS complexes whichever way the lead was put on, without the P and T waves among them.

    The detector takes complexes to point up. Where the larger deflections of a signal point down, it is
    asked once more with the signal upside down; the answer that catches more steep complexes is kept,
    where each complex costs half of a typical one.

    Parameters
    ----------
    signal : (n_samples,) at 125 Hz, finite.

    Returns
    -------
    (n_complexes,) ascending sample numbers.
    """
    upright = _heartbeats(signal, find_complexes(signal))
    if not _points_down(signal):
        return upright
    inverted = _heartbeats(signal, find_complexes(-np.asarray(signal)))
    steepness = [_steepness(signal, found) for found in (upright, inverted)]
    typical = np.median(np.concatenate(steepness)) if len(upright) + len(inverted) else 0.0
    # One motion spike is steeper than many complexes; it must not buy the answer.
    caught = [(np.minimum(steep, 1.5 * typical) - 0.5 * typical).sum() for steep in steepness]
    return upright if caught[0] >= caught[1] else inverted


def direction(signal: FloatArray, peaks: IntArray) -> int:
    """Return 1 where the R peaks of a signal point up, -1 where they point down.

    One direction holds for the whole signal: a peak that changes sides would move by tens of
    milliseconds from beat to beat.
    """
    if not len(peaks):
        return 1
    windows = _windows(signal, peaks, SNAP_SAMPLES)
    middle = np.median(signal)
    up = np.median(windows.max(axis=1)) - middle
    down = middle - np.median(windows.min(axis=1))
    return -1 if down > DOWNWARD_RATIO * up else 1


def without_t_waves(
    signal: FloatArray,
    complexes: IntArray,
    steepness_ratio: float = T_WAVE_STEEPNESS,
    within_s: float = T_WAVE_S,
) -> IntArray:
    """Drop what follows a QRS complex within 360 ms and is less than half as steep: its T wave.

    Source: Pan and Tompkins 1985, IEEE Trans Biomed Eng 32:230, with their two constants. The detector
    leaves this rule out; tall T waves are what this project looks for.

    Parameters
    ----------
    signal : (n_samples,) at 125 Hz, finite.
    complexes : (n,) ascending sample numbers.
    steepness_ratio : a T wave is less steep than its QRS complex by this factor.
    within_s : a T wave comes within this time, seconds.
    """
    complexes = np.asarray(complexes, dtype=np.int64)
    if len(complexes) < 2:
        return complexes
    steepness = _steepness(signal, complexes)
    early = np.diff(complexes) < within_s * RATE_HZ
    t_wave = early & (steepness[1:] < steepness_ratio * steepness[:-1])
    kept: IntArray = complexes[np.concatenate([[True], ~t_wave])]
    return kept


def without_tall_t_waves(signal: FloatArray, complexes: IntArray) -> IntArray:
    """Drop T waves of severe hyperkalemia: taller than their QRS complexes, sometimes as steep.

    What one steep T wave is cannot be told from an early ectopic beat, but they come in rows: where half
    of the beats or more are followed within 360 ms by a complex that is less sharp, that is, less steep for
    its height, all of these are T waves. In a fast rhythm every beat is as sharp as the last.

    Parameters
    ----------
    signal : (n_samples,) at 125 Hz, finite.
    complexes : (n,) ascending sample numbers.
    """
    complexes = np.asarray(complexes, dtype=np.int64)
    if len(complexes) < 2:
        return complexes
    sharpness = _sharpness(signal, complexes)
    early = np.diff(complexes) < T_WAVE_S * RATE_HZ
    follows = early & (sharpness[1:] < T_WAVE_SHARPNESS * sharpness[:-1])
    n_follow = int(np.count_nonzero(follows))
    if n_follow < SYSTEMATIC * (len(complexes) - n_follow):
        return complexes
    kept: IntArray = complexes[np.concatenate([[True], ~follows])]
    return kept


def before_t_waves(signal: FloatArray, complexes: IntArray) -> IntArray:
    """Move to its QRS complex what is a T wave so tall that the complex itself was not found.

    Where half of the beats or more are preceded, 200 to 400 ms before, by something sharper (steeper for its
    height) that is nearly as steep and was not found, these are T waves.

    Parameters
    ----------
    signal : (n_samples,) at 125 Hz, finite.
    complexes : (n,) ascending sample numbers.

    Returns
    -------
    (at most n,) ascending sample numbers.
    """
    complexes = np.asarray(complexes, dtype=np.int64)
    if len(complexes) < 2:
        return complexes
    nearest, farthest = (round(seconds * RATE_HZ) for seconds in QRS_BEFORE_T_S)
    slope = np.abs(np.gradient(signal))
    # A detector may give the beginning of a T wave; times are from its top.
    away = np.abs(_windows(signal, complexes, SNAP_SAMPLES) - np.median(signal))
    top = np.clip(complexes + np.argmax(away, axis=1) - SNAP_SAMPLES, 0, len(signal) - 1)
    before = _windows(slope, top, farthest)[:, : farthest - nearest + 1]
    earlier = np.clip(top - farthest + np.argmax(before, axis=1), 0, len(signal) - 1)
    alone = np.diff(complexes, prepend=-len(signal)) > farthest + SNAP_SAMPLES
    steep = before.max(axis=1) > QRS_STEEPNESS * _steepness(signal, complexes)
    sharpness = _sharpness(signal, earlier)
    sharp = (T_WAVE_SHARPNESS * sharpness > _sharpness(signal, complexes)) & (sharpness < SPIKE_SHARPNESS)
    t_wave = alone & steep & sharp
    if np.count_nonzero(t_wave) < SYSTEMATIC * len(complexes):
        return complexes
    return np.unique(np.where(t_wave, earlier, complexes))


def past_p_waves(signal: FloatArray, complexes: IntArray) -> IntArray:
    """Move what is a P wave to its QRS complex: the steepest place within 240 ms, if three times as steep.

    Parameters
    ----------
    signal : (n_samples,) at 125 Hz, finite.
    complexes : (n,) ascending sample numbers.

    Returns
    -------
    (at most n,) ascending sample numbers; what lands within 40 ms of another complex is that complex.
    """
    complexes = np.asarray(complexes, dtype=np.int64)
    if not len(complexes):
        return complexes
    reach = round(P_WAVE_S * RATE_HZ)
    slope = np.abs(np.gradient(signal))
    after = _windows(slope, complexes, reach)[:, reach + SNAP_SAMPLES + 1 :]
    steepness = _windows(slope, complexes, SNAP_SAMPLES).max(axis=1)
    p_wave = steepness < P_WAVE_STEEPNESS * after.max(axis=1)
    moved = complexes + np.where(p_wave, np.argmax(after, axis=1) + SNAP_SAMPLES + 1, 0)
    moved = np.unique(np.clip(moved, 0, len(signal) - 1))
    kept: IntArray = moved[np.concatenate([[True], np.diff(moved) > SAME_SAMPLES])]
    return kept


def refine_peaks(signal: FloatArray, complexes: IntArray) -> IntArray:
    """Move every QRS complex that looks like the others to its R peak, and align these beats.

    First to the extremum within 64 ms, then by at most three samples to where the complex fits the
    median complex best. A complex that resembles it nowhere (correlation below 0.9: an ectopic beat,
    or noise) has no R peak in that sense and stays where the detector put it.

    Parameters
    ----------
    signal : (n_samples,) at 125 Hz, finite.
    complexes : (n,) ascending sample numbers.

    Returns
    -------
    (at most n,) ascending sample numbers; complexes that land on the same sample become one.
    """
    complexes = np.asarray(complexes, dtype=np.int64)
    if len(complexes) < 2:
        return complexes
    signal = np.asarray(signal)
    sign = direction(signal, complexes)
    snapped = complexes + np.argmax(sign * _windows(signal, complexes, SNAP_SAMPLES), axis=1) - SNAP_SAMPLES
    snapped = np.clip(snapped, 0, len(signal) - 1)
    windows = _windows(signal, snapped, COMPLEX_SAMPLES + SHIFT_SAMPLES)
    template = np.median(windows[:, SHIFT_SAMPLES:-SHIFT_SAMPLES], axis=0)
    candidates = np.lib.stride_tricks.sliding_window_view(windows, template.size, axis=1)
    correlation = correlate_with(candidates, template)
    shift = np.argmax(correlation, axis=1) - SHIFT_SAMPLES
    # A best fit at the end of the reach is a slope, not a fit.
    shift[np.abs(shift) == SHIFT_SAMPLES] = 0
    alike = correlation.max(axis=1) >= ALIKE
    return np.unique(np.clip(np.where(alike, snapped + shift, complexes), 0, len(signal) - 1))


def correlate_with(windows: FloatArray, template: FloatArray) -> FloatArray:
    """Return Pearson's correlation of every window (last axis) with one template; 0 where one is flat."""
    centred = template - template.mean()
    norms = windows.std(axis=-1) * np.sqrt(template.size) * np.linalg.norm(centred)
    product = windows @ centred
    correlation: FloatArray = np.divide(product, norms, out=np.zeros_like(product), where=norms > 0)
    return correlation


def second_opinion(signal: FloatArray) -> IntArray:
    """Find QRS complexes with a second, independent detector (wfdb's XQRS).

    Its errors are others than the first detector's: where both agree, the signal is an ECG. It is
    some thirty times slower, so it is asked about a minute, not about a strip. It counts tall T waves
    as beats of their own, and tall T waves are what potassium makes: left in, the comparison would
    throw away the strips this project looks for. Whatever follows a complex within 360 ms and is less
    steep than it is therefore dropped (a T wave can be as high as its R wave, seldom as steep), within
    500 ms, for slow hearts, what is less than half as steep, and in rows also T waves that are as steep. A
    tall P or T wave it can take for the QRS complex, and then does not see the complex itself: such a beat
    is moved.

    Parameters
    ----------
    signal : (n_samples,) at 125 Hz.

    Returns
    -------
    (n_complexes,) ascending sample numbers; empty for a flat signal and for less than two seconds.

    Raises
    ------
    SignalError
        For NaN.
    """
    values = finite_signal(signal, "second R-peak detector")
    if len(values) < MIN_SAMPLES or np.ptp(values) == 0:
        return np.empty(0, dtype=np.int64)
    # On noise it divides by zero on the way to finding nothing.
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        use_local_peaks()
        found = xqrs_detect(values, RATE_HZ, verbose=False)
    found = before_t_waves(values, past_p_waves(values, np.asarray(found, dtype=np.int64)))
    beats = without_t_waves(values, without_tall_t_waves(values, found), steepness_ratio=1.0)
    return without_t_waves(values, beats, within_s=LATE_T_WAVE_S)


def match(found: npt.ArrayLike, reference: npt.ArrayLike, tolerance: float) -> tuple[int, int, int]:
    """Pair found peaks with reference peaks, each at most once.

    Parameters
    ----------
    found, reference : ascending times or sample numbers.
    tolerance : largest distance of a pair, same unit; the standard's is 150 ms.

    Returns
    -------
    true_positives, n_found, n_reference : the first over the third is the sensitivity, over the second
        the positive predictive value.
    """
    a, b = np.asarray(found).tolist(), np.asarray(reference).tolist()
    i = j = pairs = 0
    # With one tolerance for all, pairing the earliest possible gives the largest number of pairs.
    while i < len(a) and j < len(b):
        if abs(a[i] - b[j]) <= tolerance:
            pairs, i, j = pairs + 1, i + 1, j + 1
        elif a[i] < b[j]:
            i += 1
        else:
            j += 1
    return pairs, len(a), len(b)


def agreement(a: npt.ArrayLike, b: npt.ArrayLike, tolerance: float) -> float:
    """Return the share of all beats found by either detector that both found; NaN where none was."""
    both, n_a, n_b = match(a, b, tolerance)
    either = n_a + n_b - both
    return both / either if either else float("nan")


def _heartbeats(signal: FloatArray, complexes: IntArray) -> IntArray:
    """Move P waves, and T waves found alone, to their complexes; drop other T waves."""
    beats = before_t_waves(signal, past_p_waves(signal, complexes))
    return without_tall_t_waves(signal, without_t_waves(signal, beats))


def _points_down(signal: FloatArray) -> bool:
    """Say whether the larger deflection of a typical two seconds points down."""
    values = np.asarray(signal)
    pieces = values[: len(values) // MIN_SAMPLES * MIN_SAMPLES].reshape(-1, MIN_SAMPLES)
    middle = np.median(values) if len(values) else 0.0
    if not len(pieces):
        return False
    return bool(middle - np.median(pieces.min(axis=1)) > np.median(pieces.max(axis=1)) - middle)


def _steepness(signal: FloatArray, complexes: IntArray) -> FloatArray:
    if not len(complexes):
        return np.empty(0)
    slopes: FloatArray = np.abs(_windows(np.gradient(signal), complexes, SNAP_SAMPLES)).max(axis=1)
    return slopes


def _sharpness(signal: FloatArray, complexes: IntArray) -> FloatArray:
    """Return how steep each complex is for its height, per sample; 0 for a flat one."""
    steepness = _steepness(signal, complexes)
    height = np.ptp(_windows(signal, complexes, SNAP_SAMPLES), axis=1)
    sharpness: FloatArray = np.divide(steepness, height, out=np.zeros_like(steepness), where=height > 0)
    return sharpness


def _windows(signal: FloatArray, peaks: IntArray, reach: int) -> FloatArray:
    places = np.asarray(peaks)[:, None] + np.arange(-reach, reach + 1)
    picked: FloatArray = np.asarray(signal)[np.clip(places, 0, len(signal) - 1)]
    return picked
