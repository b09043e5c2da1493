"""Which detected beats of a strip are accepted: one reason for every beat that is not.

The rules are asked in the order of `client.data.exclusion.BeatRejection`, and the first that fails is the
reason. A step is looked for in the recorded signal: the filter turns it into a wave that is over within a
second, by which it could be taken for an ectopic beat.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from client.data.ecg.arrays import FloatArray, one_lead, positive_rate
from client.data.ecg.beats import BEAT_SAMPLES, R_INDEX, RATE_HZ
from client.data.exclusion import BeatRejection
from common.config import QualitySettings

# Reach of the QRS complex around the R peak, for its amplitude: 80 ms.
QRS_SAMPLES: Final = 10
# The base line of a beat is the median of its cycle, which starts at this share of RR before R.
CYCLE_BEFORE_R: Final = 0.4
# So many samples of a cycle are enough for its median.
CYCLE_POINTS: Final = 25
# A step lasts: it still shows in the median of so many beats on either side. An ectopic beat does not.
LASTING_BEATS: Final = 3

Times = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


def qrs_amplitude(beats: FloatArray) -> npt.NDArray[np.float64]:
    """Return the peak-to-peak amplitude of the QRS complex of every beat.

    Parameters
    ----------
    beats : (n_beats, 120), mV, R peak at index 40.

    Returns
    -------
    (n_beats,), mV: largest less smallest sample within 80 ms of the R peak.
    """
    qrs = np.asarray(beats)[:, R_INDEX - QRS_SAMPLES : R_INDEX + QRS_SAMPLES + 1]
    return np.asarray(np.ptp(qrs, axis=1), dtype=np.float64)


def base_line(signal: FloatArray, rate_hz: float, r_times_s: Times, rr_s: float) -> Times:
    """Return the level of the recorded signal around every R peak: the median over one cardiac cycle.

    Over one whole cycle the median does not depend on how tall the waves are.

    Parameters
    ----------
    signal : (n_samples,), raw, mV; NaN where nothing was recorded.
    rate_hz : sampling rate, Hz.
    r_times_s : (n_beats,) times of R peaks, seconds from the first sample.
    rr_s : typical RR interval, seconds; NaN where it is not known.

    Returns
    -------
    (n_beats,), mV; NaN where the whole cycle is a gap, and where there is no RR interval.
    """
    values, rate = one_lead(signal, "base line"), positive_rate(rate_hz, "base line")
    if not len(values) or not len(r_times_s) or not np.isfinite(rr_s):
        return np.full(len(r_times_s), np.nan)
    share = np.linspace(-CYCLE_BEFORE_R, 1 - CYCLE_BEFORE_R, CYCLE_POINTS)
    index = np.rint((np.asarray(r_times_s)[:, None] + rr_s * share) * rate).astype(np.int64)
    cycles = np.sort(values[np.clip(index, 0, len(values) - 1)], axis=1)  # NaN goes to the end
    middle = np.maximum(np.isfinite(cycles).sum(axis=1) - 1, 0) // 2
    return np.asarray(cycles[np.arange(len(cycles)), middle])


def steps(level_mv: Times, r_times_s: Times, max_step_mv: float) -> Flags:
    """Say for every beat whether the base line jumps inside its 120 samples.

    A jump shows twice: between the beat before and the beat after, and, because it lasts, between the
    medians of the three before and the three after. Where exactly it was is not known; every beat is
    marked that may hold it.

    Parameters
    ----------
    level_mv : (n_beats,) base line of all beats of one span, in time order, mV.
    r_times_s : (n_beats,) their times, seconds.
    max_step_mv : largest difference that is no jump, mV.

    Returns
    -------
    bool (n_beats,).
    """
    n = len(level_mv)
    if n < 2:
        return np.zeros(n, dtype=bool)
    padded = np.pad(np.asarray(level_mv, dtype=np.float64), LASTING_BEATS, mode="edge")
    groups = np.sort(np.lib.stride_tricks.sliding_window_view(padded, LASTING_BEATS), axis=1)
    medians = groups[:, LASTING_BEATS // 2]
    lasting = medians[LASTING_BEATS + 1 : LASTING_BEATS + 1 + n] - medians[:n]
    sudden = (
        padded[LASTING_BEATS + 1 : LASTING_BEATS + 1 + n] - padded[LASTING_BEATS - 1 : LASTING_BEATS - 1 + n]
    )
    near = np.minimum(sudden * np.sign(lasting), np.abs(lasting)) > max_step_mv
    # The 120 samples of a fast heart hold more than one beat: whichever reaches a marked one is marked.
    times = np.asarray(r_times_s)
    of_step = times[near]
    first = np.searchsorted(of_step, times - R_INDEX / RATE_HZ)
    last = np.searchsorted(of_step, times + (BEAT_SAMPLES - R_INDEX) / RATE_HZ)
    return np.asarray(last > first)


def beat_rejections(
    beats: FloatArray, correlation: FloatArray, has_step: Flags, settings: QualitySettings
) -> list[BeatRejection | None]:
    """Return why each beat is not accepted, or None where it is.

    Parameters
    ----------
    beats : (n_beats, 120), mV.
    correlation : (n_beats,) with the median beat.
    has_step : (n_beats,) as `steps` gives it.
    settings : the limits; with ``reject`` off every beat is accepted.
    """
    if not settings.reject:
        return [None] * len(beats)
    amplitude = qrs_amplitude(beats)
    outside = (amplitude < settings.min_amplitude_mv) | (amplitude > settings.max_amplitude_mv)
    fails = (
        (BeatRejection.STEP, has_step),
        (BeatRejection.AMPLITUDE, outside),
        (BeatRejection.UNLIKE, ~(np.asarray(correlation) >= settings.min_beat_correlation)),
    )
    found: list[BeatRejection | None] = [None] * len(beats)
    for reason, failed in reversed(fails):
        for beat in np.flatnonzero(failed):
            found[beat] = reason
    return found


def count_rejections(rejected: Sequence[BeatRejection | None]) -> dict[BeatRejection, int]:
    """Count beats by the reason why they are not accepted, in the order of the rules; zeros are left out."""
    counted = ((reason, sum(found is reason for found in rejected)) for reason in BeatRejection)
    return {reason: n for reason, n in counted if n}
