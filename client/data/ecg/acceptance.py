"""Which detected beats of a strip are accepted: one reason for every beat that is not.

The rules are asked in the order of `client.data.exclusion.BeatRejection`, and the first that fails is the
reason. A jump of the base line is looked for in what is left of the signal without its beats: no wave
of the heart is sudden and stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from client.data.ecg.arrays import FloatArray, IntArray
from client.data.ecg.beats import BEAT_SAMPLES, R_INDEX
from client.data.exclusion import BeatRejection
from common.config import QualitySettings

# Reach of the QRS complex around the R peak, for its amplitude: 80 ms.
QRS_SAMPLES: Final = 10
# A beat reaches from this share of the RR interval before its R peak to the same point of the next.
CYCLE_BEFORE_R: Final = 0.4
# A jump takes at most 24 ms (the filter lets nothing be faster) and is still there after 160 ms: no QRS
# complex is that wide, and no T wave that sudden.
SUDDEN_SAMPLES: Final = 3
LASTING_SAMPLES: Final = 20

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


def without_beats(samples: FloatArray, peaks: IntArray, median_beat: FloatArray) -> npt.NDArray[np.float64]:
    """Return what is left of a span where the median beat is subtracted at every R peak.

    Parameters
    ----------
    samples : (n_samples,) filtered span, mV at 125 Hz.
    peaks : (n_peaks,) ascending sample numbers of its R peaks.
    median_beat : (120,), mV, R peak at index 40.

    Returns
    -------
    float64 (n_samples,), mV. Each sample belongs to one beat; those over 640 ms after one and over 320 ms
    before the next are left as they are.
    """
    rest = np.asarray(samples, dtype=np.float64).copy()
    if not len(peaks):
        return rest
    peaks = np.asarray(peaks)
    ends = np.rint(peaks[1:] - CYCLE_BEFORE_R * np.diff(peaks)).astype(np.int64)
    # Sample numbers at which the next beat begins, and with it another place of index 0 of the beat.
    first = np.repeat(peaks - R_INDEX, np.diff(np.concatenate([[0], ends, [len(rest)]])))
    index = np.arange(len(rest)) - first
    inside = (index >= 0) & (index < BEAT_SAMPLES)
    rest[inside] -= np.asarray(median_beat)[index[inside]]
    return rest


def base_line_jumps(rest: FloatArray, max_step_mv: float) -> IntArray:
    """Find where a signal without its beats jumps: all it does for 160 ms after lies beyond all before.

    Parameters
    ----------
    rest : (n_samples,) as `without_beats` gives it, mV at 125 Hz.
    max_step_mv : largest difference that is no jump, mV.

    Returns
    -------
    (n,) ascending sample numbers, several for one jump.
    """
    rest = np.asarray(rest)
    sudden = np.abs(rest[SUDDEN_SAMPLES:] - rest[:-SUDDEN_SAMPLES]) > max_step_mv
    candidates = np.flatnonzero(sudden)
    reach = np.arange(LASTING_SAMPLES)
    before = rest[np.maximum(candidates[:, None] - reach, 0)]
    after = rest[np.minimum(candidates[:, None] + SUDDEN_SAMPLES + reach, len(rest) - 1)]
    up = after.min(axis=1, initial=np.inf) - before.max(axis=1, initial=-np.inf)
    down = before.min(axis=1, initial=np.inf) - after.max(axis=1, initial=-np.inf)
    jumps: IntArray = candidates[np.maximum(up, down) > max_step_mv]
    return jumps


def holds_jump(peaks: IntArray, jumps: IntArray) -> Flags:
    """Say for every beat whether a jump lies inside its 120 samples.

    Parameters
    ----------
    peaks : (n_peaks,) sample numbers of R peaks.
    jumps : (n,) ascending sample numbers, as `base_line_jumps` gives them.

    Returns
    -------
    bool (n_peaks,).
    """
    first = np.searchsorted(jumps, np.asarray(peaks) - R_INDEX)
    last = np.searchsorted(jumps, np.asarray(peaks) + BEAT_SAMPLES - R_INDEX)
    return np.asarray(last > first)


def beat_rejections(
    beats: FloatArray, correlation: FloatArray, has_step: Flags, settings: QualitySettings
) -> list[BeatRejection | None]:
    """Return why each beat is not accepted, or None where it is.

    Parameters
    ----------
    beats : (n_beats, 120), mV.
    correlation : (n_beats,) with the median beat.
    has_step : (n_beats,) as `holds_jump` gives it.
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
