"""Beats: 120 samples at 125 Hz around each R peak.

Source: Chiu 2022, Methods, Data Preprocessing (120 samples, 40 before the R peak).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from client.data.ecg.arrays import FloatArray, IntArray

RATE_HZ: Final = 125
BEAT_SAMPLES: Final = 120
R_INDEX: Final = 40


def cut_beats(signal: FloatArray, peaks: IntArray) -> tuple[npt.NDArray[np.float32], IntArray]:
    """Cut a window around every R peak.

    Parameters
    ----------
    signal : (n_samples,), mV at 125 Hz.
    peaks : (n_peaks,) sample numbers of R peaks.

    Returns
    -------
    beats : float32 (n_beats, 120), mV, R peak at index 40.
    kept : (n_beats,) index into ``peaks``: beats whose window leaves the signal are dropped.
    """
    peaks = np.asarray(peaks, dtype=np.int64)
    inside = (peaks >= R_INDEX) & (peaks + BEAT_SAMPLES - R_INDEX <= len(signal))
    kept = np.flatnonzero(inside)
    windows = peaks[kept, None] + np.arange(-R_INDEX, BEAT_SAMPLES - R_INDEX)
    return np.asarray(signal)[windows].astype(np.float32), kept


def rr_intervals(r_times_s: FloatArray) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the RR interval before and after every beat, in seconds.

    Parameters
    ----------
    r_times_s : (n_beats,) ascending times of all R peaks of one gap-free span, seconds.

    Returns
    -------
    rr_previous, rr_next : (n_beats,) each; NaN before the first and after the last beat.
    """
    times = np.asarray(r_times_s, dtype=np.float64)
    previous = np.full(len(times), np.nan)
    following = np.full(len(times), np.nan)
    previous[1:] = np.diff(times)
    following[:-1] = previous[1:]
    return previous, following
