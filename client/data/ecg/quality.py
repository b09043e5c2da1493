"""Strip and beat quality, in place of the paper's inspection by eye.

Two numbers carry most of it: do two detectors with different errors find the same beats, and do the
beats look like one another. Limits come from the settings; nothing here decides on its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from client.data.ecg.acceptance import qrs_amplitude
from client.data.ecg.arrays import FloatArray, IntArray, positive_rate
from client.data.ecg.beats import R_INDEX, RATE_HZ
from client.data.ecg.filtering import Span
from client.data.ecg.rhythm import median_sample_entropy, pacing_suspected, qrs_width_ms
from client.data.ecg.rpeaks import agreement, correlate_with, second_opinion
from client.data.exclusion import Exclusion
from common.config import QualitySettings

# A beat as two detectors see it is one beat within 150 ms, the tolerance of the standards.
AGREEMENT_TOLERANCE_S: Final = 0.150
# A detector needs this long to find its thresholds; nothing is compared before.
LEARNING_S: Final = 1.0
# The comparison of beats ends here: at this share of the RR interval, at most this long after R.
CYCLE_AFTER_R: Final = 0.6
MAX_AFTER_R_S: Final = 0.400
# Equal values in a row at the largest or smallest value that make a clipped stretch.
CLIPPED_RUN: Final = 3
# A limit of the recorder is this share of the signal's whole range away from its median, or more.
RAIL_DISTANCE: Final = 0.25


@dataclass(frozen=True)
class StripQuality:
    """What was measured on a strip; every number is kept, whether it led to an exclusion or not.

    NaN means that it could not be measured.

    Attributes
    ----------
    heart_rate_bpm : from the median RR interval.
    agreement : beats found by both detectors over beats found by either, in an excerpt (in the median of
        three where they disagree in the first).
    median_correlation : median over the beats of the correlation with the median beat.
    accepted_share : share of the beats that pass every rule for beats.
    sample_entropy : coefficient of sample entropy, median over two-minute windows.
    clipped_share : share of the recorded samples at the limits of the recorder.
    longest_flat_s : longest run of one value, seconds.
    amplitude_mv : median peak-to-peak amplitude of the QRS complexes, mV.
    qrs_ms : width of the median beat's QRS complex, milliseconds (an estimate).
    pacing_suspected : wide QRS complexes at a fixed rate.
    kurtosis : of the filtered signal; 3 for Gaussian noise, large where sharp complexes stand out. Kept as
        a figure and never asked: wide complexes have little of it (3.8 to 5 in clean paced recordings of
        MIT-BIH) and severe hyperkalemia widens them, while artifacts have much.
    """

    heart_rate_bpm: float
    agreement: float
    median_correlation: float
    accepted_share: float
    sample_entropy: float
    clipped_share: float
    longest_flat_s: float
    amplitude_mv: float
    qrs_ms: float
    pacing_suspected: bool
    kurtosis: float


@dataclass(frozen=True)
class RawQuality:
    """What can only be seen before the filter."""

    clipped_share: float
    longest_flat_s: float
    flat_s: float


def template_correlation(beats: FloatArray, rr_s: float) -> npt.NDArray[np.float64]:
    """Correlate every beat with the median beat, over at most one cardiac cycle.

    The window starts 0.4 RR before the R peak and stops at the lesser of 0.6 RR and 400 ms after it:
    above 95 beats a minute the neighbours reach into the 120 samples, and their place varies.

    Parameters
    ----------
    beats : (n_beats, 120), mV, R peak at index 40.
    rr_s : typical RR interval, seconds; NaN takes the longest window.

    Returns
    -------
    (n_beats,) Pearson's correlation; 0 for a flat beat.
    """
    beats = np.asarray(beats, dtype=np.float64)
    if not len(beats):
        return np.empty(0)
    after = min(CYCLE_AFTER_R * rr_s, MAX_AFTER_R_S) if math.isfinite(rr_s) else MAX_AFTER_R_S
    before = (1 - CYCLE_AFTER_R) * rr_s if math.isfinite(rr_s) else math.inf
    first = max(0, R_INDEX - round(min(before * RATE_HZ, R_INDEX)))
    window = beats[:, first : R_INDEX + max(1, round(after * RATE_HZ)) + 1]
    return np.asarray(correlate_with(window, np.median(window, axis=0)), dtype=np.float64)


def flat_runs(signal: FloatArray, rate_hz: float, longer_than_s: float) -> list[tuple[int, int]]:
    """Return the runs of one constant value that last longer than a limit.

    By the length of the run: where a recorder resolves 1/26 mV, seven of ten neighbours are equal in
    a perfectly good ECG.

    Parameters
    ----------
    signal : (n_samples,), raw, as recorded; NaN ends a run.
    rate_hz : sampling rate, Hz.
    longer_than_s : limit, seconds.

    Returns
    -------
    list of (first sample, sample after the last), in time order.
    """
    limit = longer_than_s * positive_rate(rate_hz, "flat line")
    runs = _runs(np.asarray(signal))
    return [(int(start), int(stop)) for start, stop in runs[runs[:, 1] - runs[:, 0] > limit]]


def raw_quality(signal: FloatArray, rate_hz: float, max_flat_s: float) -> RawQuality:
    """Measure flat stretches and clipping on the signal as it was recorded.

    A clipped stretch is three or more equal samples at the largest or the smallest value, where that
    value lies far from the median: the base line of a clean signal is no limit of the recorder.

    Parameters
    ----------
    signal : (n_samples,), raw, mV; NaN where nothing was recorded.
    rate_hz : sampling rate, Hz.
    max_flat_s : longest constant run that counts as signal, seconds.
    """
    values, rate = np.asarray(signal, dtype=np.float64), positive_rate(rate_hz, "raw signal")
    recorded = values[np.isfinite(values)]
    if not len(recorded):
        return RawQuality(0.0, 0.0, 0.0)
    runs = _runs(values)
    lengths = runs[:, 1] - runs[:, 0]
    low, middle, high = float(recorded.min()), float(np.median(recorded)), float(recorded.max())
    distance = RAIL_DISTANCE * (high - low)
    rails = [rail for rail in (low, high) if high > low and abs(rail - middle) > distance]
    at_rail = np.isin(values[runs[:, 0]], rails) & (lengths >= CLIPPED_RUN)
    return RawQuality(
        clipped_share=float(lengths[at_rail].sum()) / len(recorded),
        longest_flat_s=float(lengths.max(initial=0)) / rate,
        flat_s=float(lengths[lengths > max_flat_s * rate].sum()) / rate,
    )


def detector_agreement(
    spans: Sequence[Span], peaks: Sequence[IntArray], excerpt_s: float, enough: float = 0.0
) -> float:
    """Compare the peaks with a second detector's in an excerpt of the longest span.

    The excerpt is the middle of the span. Where the detectors agree less than ``enough`` there, it may be
    a passing noise: the middles of the halves before and after are asked too, and the median is the answer.

    Parameters
    ----------
    spans : filtered spans of the strip.
    peaks : for each span, the sample numbers of its R peaks.
    excerpt_s : length of an excerpt, seconds.
    enough : agreement with which one excerpt is enough.

    Returns
    -------
    Beats found by both over beats found by either; NaN without a span.
    """
    if not spans:
        return math.nan
    longest = max(range(len(spans)), key=lambda i: len(spans[i].samples))
    samples, found = spans[longest].samples, peaks[longest]
    length = min(len(samples), round(excerpt_s * RATE_HZ))
    rest = len(samples) - length
    first = _agreement_in(samples, found, rest // 2, length)
    # Three excerpts that are the same stretch are one.
    if not first < enough or rest < 2 * length:
        return first
    return float(
        np.nanmedian(
            [first, *(_agreement_in(samples, found, at, length) for at in (rest // 4, 3 * rest // 4))]
        )
    )


def _agreement_in(samples: FloatArray, found: IntArray, start: int, length: int) -> float:
    stop = start + length
    # A beat at the very edge may be seen by one and not by the other.
    first, last = start + round(LEARNING_S * RATE_HZ), stop - R_INDEX
    seen = [
        peaks[(peaks >= first) & (peaks < last)]
        for peaks in (found, start + second_opinion(samples[start:stop]))
    ]
    return agreement(seen[0], seen[1], AGREEMENT_TOLERANCE_S * RATE_HZ)


def assess(
    spans: Sequence[Span],
    peaks: Sequence[IntArray],
    beats: FloatArray,
    median_beat: FloatArray,
    rr_s: FloatArray,
    times_s: FloatArray,
    correlation: FloatArray,
    accepted: npt.NDArray[np.bool_],
    raw: RawQuality,
    settings: QualitySettings,
) -> StripQuality:
    """Measure the quality of a strip.

    Parameters
    ----------
    spans, peaks : filtered spans, and for each the sample numbers of its R peaks.
    beats : (n_beats, 120) all beats of the strip, mV.
    median_beat : (120,) their median, mV.
    rr_s, times_s : (n_beats,) the RR interval before each beat (NaN beside a gap) and its time, seconds.
    correlation : (n_beats,) as `template_correlation` gives it.
    accepted : (n_beats,) whether each beat passes the rules for beats.
    raw : flat stretches and clipping.
    settings : length of the excerpt.
    """
    width = qrs_width_ms(median_beat, R_INDEX) if len(beats) else math.nan
    return StripQuality(
        heart_rate_bpm=60.0 / typical_rr(rr_s),
        agreement=detector_agreement(spans, peaks, settings.agreement_s, settings.min_agreement),
        median_correlation=_median(correlation),
        accepted_share=_mean(accepted),
        sample_entropy=median_sample_entropy(rr_s, times_s),
        clipped_share=raw.clipped_share,
        longest_flat_s=raw.longest_flat_s,
        amplitude_mv=_median(qrs_amplitude(beats)),
        qrs_ms=width,
        pacing_suspected=pacing_suspected(width, rr_s, times_s),
        kurtosis=kurtosis([span.samples for span in spans]),
    )


def kurtosis(parts: Sequence[FloatArray]) -> float:
    """Return the kurtosis of a signal in parts (fourth central moment over the squared variance).

    Parameters
    ----------
    parts : arrays of samples, finite, any unit.

    Returns
    -------
    3 for Gaussian noise; NaN for a flat signal.
    """
    if not parts:
        return math.nan
    values = np.concatenate(parts).astype(np.float64)
    squared = np.square(values - values.mean()) if len(values) else values
    variance = squared.mean() if len(values) else 0.0
    return float(np.square(squared).mean() / variance**2) if variance > 0 else math.nan


def reasons(quality: StripQuality, settings: QualitySettings) -> tuple[Exclusion, ...]:
    """Return every rule that a strip fails, in the order in which they are asked; none for a usable strip.

    The signal comes before the rhythm, because noise is irregular too: the first is the reason of the
    exclusion. What could not be measured (NaN) excludes nothing.

    Parameters
    ----------
    quality : measurements of the strip.
    settings : the limits.
    """
    asked = {
        Exclusion.CLIPPED: quality.clipped_share > settings.max_clipped_share,
        Exclusion.AMPLITUDE_OUT_OF_RANGE: _outside(
            quality.amplitude_mv, settings.min_amplitude_mv, settings.max_amplitude_mv
        ),
        Exclusion.DETECTORS_DISAGREE: quality.agreement < settings.min_agreement,
        Exclusion.HEART_RATE_OUT_OF_RANGE: _outside(
            quality.heart_rate_bpm, settings.min_rate_bpm, settings.max_rate_bpm
        ),
        Exclusion.BEATS_UNLIKE: quality.accepted_share < settings.min_accepted_share,
        Exclusion.ATRIAL_FIBRILLATION: quality.sample_entropy > settings.max_sample_entropy,
    }
    return tuple(reason for reason, failed in asked.items() if failed)


def typical_rr(rr_s: FloatArray) -> float:
    """Return the median of the known RR intervals, seconds; NaN where none is known."""
    known = np.asarray(rr_s)[np.isfinite(rr_s)]
    return float(np.median(known)) if len(known) else math.nan


def _outside(value: float, low: float, high: float) -> bool:
    return value < low or value > high


def _median(values: FloatArray) -> float:
    return float(np.median(values)) if len(values) else math.nan


def _mean(values: npt.NDArray[np.bool_]) -> float:
    return float(values.mean()) if len(values) else math.nan


def _runs(values: FloatArray) -> npt.NDArray[np.int64]:
    """Return (n_runs, 2): first and after-last sample of every run of at least two equal values."""
    equal = np.concatenate([[False], np.equal(values[1:], values[:-1]), [False]]).view(np.int8)
    change = np.diff(equal)
    return np.stack([np.flatnonzero(change == 1), np.flatnonzero(change == -1) + 1], axis=1)
