"""Waves and intervals of a strip, measured on the signal alone.

Nothing here knows how a signal was made: the input is what a reader finds in the files, the first steps
(filter, R peaks) are those of the site software, and the same function measures real recordings. Beats of
regular rhythm are aligned and averaged; waves are then found on the mean beat by their extremes and slopes.
A wave that cannot be told from what surrounds it gives NaN, never a guess.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
from scipy.signal import find_peaks, savgol_coeffs

from client.data.ecg.beats import RATE_HZ
from client.data.ecg.filtering import Span, prepare, resample
from client.data.ecg.strip import detect_in_spans
from common.config import SignalSettings

FINE_HZ = 500  # rate of the mean beat: four times that of the spans, so that edges are not on a 8 ms grid
BEFORE_S, AFTER_S = 0.40, 0.80  # reach of the mean beat around the R peak
LEAST_BEATS = 5
RR_TOLERANCE = 0.20  # beats whose RR intervals differ more from the median are ectopic or beside such a beat
ALIKE = 0.85  # correlation of QRS and T with the median beat
LEAST_T_MV = 0.04  # timing of a flatter T wave is a matter of chance
LEAST_P_MV = 0.02
SLOPE_SAMPLES, T_SLOPE_SAMPLES = 15, 23  # a local cubic over 28 ms, and over 44 ms where noise counts most
QRS_SLOPE_SHARE = 0.05  # of the steepest slope: below it, a QRS complex has not begun or is over
QRS_CALM_S = 0.010  # for so long
ST_DELAY_S = 0.060
EARLIEST_T_S = 0.22  # peak of T after R at a rate of 60; it scales with the root of RR
NOISE_FACTOR = 3.0
REACH = 6  # samples by which an R peak may be moved to fit the mean complex: 12 ms

Array = npt.NDArray[np.float64]
NAN = float("nan")
_SMOOTH = savgol_coeffs(T_SLOPE_SAMPLES, 3)


@dataclass(frozen=True)
class Measures:
    """Lead II of one strip in the numbers of a cardiologist; NaN for what cannot be measured.

    Amplitudes in mV from the level before the QRS complex, times and intervals in ms.

    Attributes
    ----------
    beats : beats averaged.
    rate_bpm : from the median RR interval.
    r_mv, t_mv, p_mv : amplitude of the R, T (negative where inverted) and P wave.
    st_mv : level 60 ms after the end of QRS.
    pr_ms : onset of P (tangent to its steepest rise) to onset of QRS.
    qrs_ms : onset to end of QRS, where slopes stay below 5 % of the steepest.
    qt_ms : onset of QRS to end of T (tangent to its steepest part).
    t_peak_ms : peak of T after the R peak.
    t_half_ms : width of T at half its height.
    t_base_ms : width of T between the tangents to both sides.
    t_slope : steepest part of the right side of T, mV/s, positive for an upright wave that falls.
    """

    beats: float
    rate_bpm: float
    r_mv: float
    t_mv: float
    p_mv: float
    st_mv: float
    pr_ms: float
    qrs_ms: float
    qt_ms: float
    t_peak_ms: float
    t_half_ms: float
    t_base_ms: float
    t_slope: float

    @property
    def t_over_r(self) -> float:
        """T over R amplitude."""
        return self.t_mv / self.r_mv

    @property
    def slope_over_amplitude(self) -> float:
        """Right slope of T over its amplitude, 1/s."""
        return self.t_slope / self.t_mv

    @property
    def qtc_ms(self) -> float:
        """QT by Bazett, as the clinical studies report it, ms."""
        return self.qt_ms * float(np.sqrt(self.rate_bpm / 60.0))


NOTHING = Measures(**{field.name: NAN for field in fields(Measures)})


@dataclass(frozen=True)
class MeanBeat:
    """The mean beat of a strip.

    Attributes
    ----------
    samples : float64 (n,), mV at ``FINE_HZ``.
    r : index of the R peak.
    rr_s : median RR interval, s.
    beats : beats averaged.
    error_mv : standard error of one sample of the mean.
    """

    samples: Array
    r: int
    rr_s: float
    beats: int
    error_mv: float

    @property
    def times_ms(self) -> Array:
        """Time of every sample from the R peak: float64 (n,), ms."""
        return (np.arange(len(self.samples)) - self.r) * 1e3 / FINE_HZ


def measure_strip(signal_mv: npt.ArrayLike, rate_hz: float) -> Measures:
    """Measure the lead II of one strip.

    Parameters
    ----------
    signal_mv : (n_samples,), mV as recorded; NaN where nothing was recorded.
    rate_hz : sampling rate, Hz.

    Returns
    -------
    Measures; all NaN with fewer than five beats of regular rhythm.
    """
    beat = mean_beat(signal_mv, rate_hz)
    return NOTHING if beat is None else measure_beat(beat)


def mean_beat(signal_mv: npt.ArrayLike, rate_hz: float) -> MeanBeat | None:
    """Average the beats of regular rhythm of a strip; None with fewer than five."""
    spans = prepare(np.asarray(signal_mv, np.float64), rate_hz, SignalSettings())
    windows, intervals = [], []
    for span, peaks in zip(spans, detect_in_spans(spans), strict=True):
        cut, rr = _windows(span, peaks)
        windows.append(cut)
        intervals.append(rr)
    if not windows or not sum(len(cut) for cut in windows):
        return None
    beats, rr = np.concatenate(windows), np.concatenate(intervals)
    typical = float(np.median(rr))
    beats = beats[(np.abs(rr - typical) <= RR_TOLERANCE * typical).all(axis=1)]
    if len(beats) < LEAST_BEATS:
        return None
    r = _samples(BEFORE_S)
    body = slice(r - _samples(0.10), r + _samples(min(0.40, 0.6 * typical)))
    beats = beats[_correlation(beats[:, body], np.median(beats[:, body], axis=0)) >= ALIKE]
    if len(beats) < LEAST_BEATS:
        return None
    beats = _aligned(beats, r)
    mean = beats.mean(axis=0)
    residual = beats - mean
    # Slow wander moves whole beats; what blurs a mean beat is the rest.
    spread = float(np.median((residual - residual.mean(axis=1, keepdims=True)).std(axis=0)))
    return MeanBeat(mean, r - REACH, typical, len(beats), spread / np.sqrt(len(beats)))


def measure_beat(beat: MeanBeat) -> Measures:
    """Find the waves of a mean beat and measure them."""
    x, r, noise = beat.samples, beat.r, NOISE_FACTOR * beat.error_mv
    edges = _qrs(x, r)
    if edges is None:
        return NOTHING
    onset, end = edges
    level = _level_before(x, onset)
    y = x - level
    smooth = np.convolve(np.pad(y, T_SLOPE_SAMPLES // 2, mode="edge"), _SMOOTH, mode="valid")
    peak = _t_peak(smooth, end, r, beat.rr_s)
    t = float(smooth[peak]) if peak is not None else NAN
    timed = peak is not None and abs(t) >= max(LEAST_T_MV, noise)
    sides = _t_sides(smooth, peak, end, r, beat.rr_s) if peak is not None and timed else _Sides()
    p_onset, p = _p_wave(y, _slope(y), onset, r, beat.rr_s, sides.end, noise)
    return Measures(
        beats=float(beat.beats),
        rate_bpm=60.0 / beat.rr_s,
        r_mv=float(y[onset : end + 1].max()),
        t_mv=t,
        p_mv=p,
        st_mv=float(y[min(end + _samples(ST_DELAY_S), len(y) - 1)]),
        pr_ms=_ms(onset - p_onset),
        qrs_ms=_ms(end - onset),
        qt_ms=_ms(sides.end - onset),
        t_peak_ms=_ms(peak - r) if peak is not None and timed else NAN,
        t_half_ms=_ms(sides.half),
        t_base_ms=_ms(sides.end - sides.onset),
        t_slope=sides.slope,
    )


def _samples(seconds: float) -> int:
    return round(seconds * FINE_HZ)


def _ms(samples: float) -> float:
    return float(samples) * 1e3 / FINE_HZ


def _windows(span: Span, peaks: npt.NDArray[np.int64]) -> tuple[Array, Array]:
    """Cut fine windows around the R peaks of a span: (n, width) mV, with (n, 2) RR intervals in s."""
    before, after = _samples(BEFORE_S), _samples(AFTER_S)
    fine = resample(span.samples, RATE_HZ, FINE_HZ)
    rr = np.diff(peaks) / RATE_HZ
    inner = np.arange(1, len(peaks) - 1)
    at = peaks[inner] * (FINE_HZ // RATE_HZ)
    inside = (at >= before) & (at + after < len(fine))
    inner, at = inner[inside], at[inside]
    windows: Array = fine[at[:, None] + np.arange(-before, after)]
    return windows, np.stack([rr[inner - 1], rr[inner]], axis=1)


def _aligned(beats: Array, r: int) -> Array:
    """Shift beats by at most 12 ms to where their QRS complex fits the mean complex best."""
    half = _samples(0.05)
    template = beats[:, r - half : r + half + 1].mean(axis=0)
    template = template - template.mean()
    shifts = np.arange(-REACH, REACH + 1)
    wide = beats[:, r - half - REACH : r + half + REACH + 1]
    views = np.lib.stride_tricks.sliding_window_view(wide, 2 * half + 1, axis=1)
    best = shifts[np.argmax(views @ template, axis=1)]
    columns = np.arange(REACH, beats.shape[1] - REACH) + best[:, None]
    aligned: Array = np.take_along_axis(beats, columns, axis=1)
    return aligned


def _correlation(beats: Array, template: Array) -> Array:
    centred = template - template.mean()
    moved = beats - beats.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(moved, axis=1) * np.linalg.norm(centred)
    found: Array = np.divide(moved @ centred, norms, out=np.zeros(len(beats)), where=norms > 0)
    return found


def _slope(y: Array, length: int = SLOPE_SAMPLES) -> Array:
    """First derivative of a local cubic over ``length`` samples, mV/s."""
    taps = savgol_coeffs(length, 3, deriv=1, delta=1.0 / FINE_HZ)
    slope: Array = np.convolve(np.pad(y, length // 2, mode="edge"), taps, mode="valid")
    return slope


def _qrs(x: Array, r: int) -> tuple[int, int] | None:
    """Onset and end of QRS: outward from its steep part until slopes stay small."""
    slope = np.abs(_slope(x, 9))
    near = slice(r - _samples(0.12), r + _samples(0.16))
    most = float(slope[near].max())
    if most == 0.0:
        return None
    steep = np.flatnonzero(slope[near] >= 0.35 * most) + near.start
    calm = slope < QRS_SLOPE_SHARE * most
    length = _samples(QRS_CALM_S)
    onset = _first_calm(calm[: steep[0]][::-1], length, slope[: steep[0]][::-1])
    end = _first_calm(calm[steep[-1] + 1 :], length, slope[steep[-1] + 1 :])
    return steep[0] - 1 - onset, steep[-1] + 1 + end


def _level_before(x: Array, onset: int) -> float:
    """Return the isoelectric level: the flattest 16 ms of the last 40 ms before QRS, mV."""
    length, reach = _samples(0.016), _samples(0.040)
    windows = np.lib.stride_tricks.sliding_window_view(x[max(onset - reach, 0) : onset + 1], length)
    return float(windows[np.argmin(np.ptp(windows, axis=1))].mean())


def _first_calm(calm: npt.NDArray[np.bool_], length: int, slope: Array) -> int:
    """Where slopes first stay small; where they never do within 90 ms, where they are smallest."""
    reach = min(_samples(0.09), len(calm) - length)
    runs = np.convolve(calm[: reach + length].astype(int), np.ones(length, int), mode="valid")
    found = np.flatnonzero(runs == length)
    return int(found[0]) if len(found) else int(np.argmin(slope[:reach]))


def _t_peak(y: Array, end: int, r: int, rr_s: float) -> int | None:
    """Most prominent extreme from where T can be at the earliest to where the next P wave may begin.

    The dip behind an S wave and a sagging ST segment come before 220 ms times the root of RR in seconds.
    """
    first = max(end + _samples(0.04), r + _samples(EARLIEST_T_S * float(np.sqrt(rr_s))))
    last = min(r + _samples(min(0.62 * rr_s, 0.60)), len(y) - 2)
    best, most = None, 0.0
    for sign in (1.0, -1.0):
        part = sign * y[end : r + _samples(min(0.85 * rr_s, AFTER_S)) - REACH]
        found, about = find_peaks(part, prominence=LEAST_T_MV / 2)
        for peak, prominence in zip(found + end, about["prominences"], strict=True):
            if first <= peak <= last and prominence > most and sign * y[peak] > 0:
                best, most = int(peak), float(prominence)
    return best


@dataclass(frozen=True)
class _Sides:
    """Both sides of a T wave: onset and end by tangent, width at half height (samples); slope, mV/s."""

    onset: float = NAN
    end: float = NAN
    half: float = NAN
    slope: float = NAN


def _t_sides(y: Array, peak: int, qrs_end: int, r: int, rr_s: float) -> _Sides:
    """Follow a T wave down on both sides of its peak, an inverted one up."""
    sign = float(np.sign(y[peak]))
    wave, rate = sign * y, sign * _slope(y, T_SLOPE_SAMPLES)
    height = float(wave[peak])
    last = min(r + _samples(min(0.85 * rr_s, AFTER_S)) - REACH, len(y) - 1)
    turn = peak + 2 + _turn(-rate[peak + 2 : last])
    at = peak + int(np.argmin(rate[peak : turn + 1]))
    fall = float(rate[at])
    if fall >= 0:
        return _Sides()
    end = at - wave[at] / fall * FINE_HZ
    if end > last + _samples(0.06):
        end = NAN
    right = _crossing(wave[peak : turn + 1], 0.5 * height)
    left = _crossing(wave[qrs_end : peak + 1][::-1], 0.5 * height)
    onset = NAN
    if np.isfinite(left):
        # Not further: behind half height the return of S or a steep ST segment is no part of T.
        low = max(peak - int(left) - _samples(0.03), qrs_end)
        at = low + int(np.argmax(rate[low : peak + 1]))
        onset = at - wave[at] / float(rate[at]) * FINE_HZ if rate[at] > 0 else NAN
        if onset < qrs_end - _samples(0.02):
            onset = NAN  # ST runs into T
    return _Sides(onset, end, left + right, -sign * fall)


def _turn(falling: Array) -> int:
    """Count samples until a side of a wave is over: its slope changes sign."""
    over = np.flatnonzero(falling <= 0)
    return int(over[0]) if len(over) else len(falling)


def _crossing(side: Array, level: float) -> float:
    """Return samples from a peak to where its side crosses a level; NaN if it never does."""
    below = np.flatnonzero(side < level)
    if not len(below):
        return NAN
    i = int(below[0])
    return i - (level - side[i]) / (side[i - 1] - side[i]) if i else NAN


def _p_wave(
    y: Array, slope: Array, onset: int, r: int, rr_s: float, t_end: float, noise: float
) -> tuple[float, float]:
    """Onset of P by tangent (samples) and its amplitude; NaN without a P wave that stands out."""
    first = max(r - _samples(min(0.36, 0.62 * rr_s)), _samples(0.004))
    if np.isfinite(t_end):
        first = max(first, int(t_end - rr_s * FINE_HZ))  # the T wave before this beat
    last = onset - _samples(0.012)
    if last - first < _samples(0.04):
        return NAN, NAN
    part = y[first:last]
    tops = np.flatnonzero((part[1:-1] >= part[:-2]) & (part[1:-1] > part[2:])) + 1
    if not len(tops):
        return NAN, NAN
    top = int(tops[np.argmax(part[tops])])
    foot = int(np.argmin(part[: top + 1]))
    height = float(part[top] - max(part[foot], part[top:].min()))
    if height < max(LEAST_P_MV, noise):
        return NAN, NAN
    rising = slope[first + foot : first + top + 1]
    at = int(np.argmax(rising))
    if rising[at] <= 0:
        return NAN, height
    p_onset = first + foot + at - (part[foot + at] - part[foot]) / rising[at] * FINE_HZ
    return float(p_onset), height
