"""From a recorded lead II to clean 125 Hz spans: gaps, band-pass filter, resampling.

The filter is a finite impulse response with linear phase, applied once with its delay taken out, so
that no wave of the ECG is moved. A filter of 4 seconds is what 0.5 Hz needs: with half the length the
baseline between 0.1 and 0.3 Hz passes at a quarter of its amplitude.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.signal import firwin, oaconvolve, resample_poly

from client.data.ecg.arrays import FloatArray, finite_signal, one_lead, positive_rate
from client.data.ecg.beats import RATE_HZ
from common.config import SignalSettings
from common.errors import SignalError

# How far the last sample may drift where a ratio of rates is approximated, in output samples.
MAX_DRIFT_SAMPLES: Final = 0.1
# Zero crossings of the anti-aliasing filter on each side, and its Kaiser window (those of SciPy).
RESAMPLE_CROSSINGS: Final = 10
RESAMPLE_KAISER: Final = 5.0


@dataclass(frozen=True)
class Span:
    """A stretch of filtered lead II without gaps.

    Attributes
    ----------
    start_s : time of the first sample, seconds from the start of the window.
    samples : float32 (n_samples,), mV at 125 Hz.
    """

    start_s: float
    samples: npt.NDArray[np.float32]

    @property
    def length_s(self) -> float:
        """Length in seconds."""
        return len(self.samples) / RATE_HZ


def bandpass(signal: FloatArray, rate_hz: float, settings: SignalSettings) -> npt.NDArray[np.float64]:
    """Filter a signal to 0.5–40 Hz without moving it in time.

    One symmetric convolution (Hamming window, ``filter_s`` seconds long, an odd number of taps); the
    ends are continued by reflection. At 125 Hz: 501 taps; gain -48 dB at 0 Hz, -6 dB at 0.5 and 40 Hz,
    0 dB from 1 Hz, below -70 dB from 50 Hz, so that mains needs no notch.

    Parameters
    ----------
    signal : (n_samples,), mV, finite.
    rate_hz : sampling rate, above twice the upper corner.
    settings : corners and length of the filter.

    Returns
    -------
    float64 (n_samples,), mV.

    Raises
    ------
    SignalError
        For NaN, fewer than 2 samples, or a sampling rate too low for the upper corner.
    """
    values = finite_signal(signal, "band-pass filter")
    rate = positive_rate(rate_hz, "band-pass filter")
    if len(values) < 2:
        raise SignalError(f"band-pass filter: at least 2 samples are needed, got {len(values)}")
    if rate <= 2 * settings.high_hz:
        raise SignalError(
            f"band-pass filter: a signal at {rate:g} Hz cannot be filtered up to {settings.high_hz:g} Hz; "
            f"a rate above {2 * settings.high_hz:g} Hz is needed"
        )
    half = half_taps(rate, settings)
    taps = _bandpass_taps(half, settings.low_hz, settings.high_hz, rate)
    filtered: npt.NDArray[np.float64] = oaconvolve(np.pad(values, half, mode="reflect"), taps, mode="valid")
    return filtered


def half_taps(rate_hz: float, settings: SignalSettings) -> int:
    """Return (N - 1) / 2 for the N taps of the filter: the samples an edge reaches into the signal."""
    return round(settings.filter_s * rate_hz / 2)


def resample(signal: FloatArray, rate_hz: float, target_hz: float = RATE_HZ) -> npt.NDArray[np.float64]:
    """Bring a signal to another sampling rate by a polyphase filter; sample 0 stays at time 0.

    Any pair of rates: the ratio is taken as the simplest fraction that lets the last sample drift by
    less than a tenth of an output sample.

    Parameters
    ----------
    signal : (n_samples,), finite.
    rate_hz, target_hz : sampling rates, Hz.

    Returns
    -------
    float64 (ceil(n_samples * target_hz / rate_hz),), the same unit.

    Raises
    ------
    SignalError
        For NaN or a rate that is not positive.
    """
    values = finite_signal(signal, "resampling")
    rate, target = positive_rate(rate_hz, "resampling"), positive_rate(target_hz, "resampling")
    if rate == target or not len(values):
        return values.copy()
    ratio = _simplest_ratio(rate, target, len(values))
    up, down = ratio.numerator, ratio.denominator
    resampled: npt.NDArray[np.float64] = resample_poly(
        values, up, down, window=_resample_taps(max(up, down)), padtype="line"
    )
    return resampled


def spans(
    signal: FloatArray, rate_hz: float, max_bridge_s: float
) -> list[tuple[int, npt.NDArray[np.float64]]]:
    """Split a signal at its gaps; short gaps are bridged by straight lines first.

    Parameters
    ----------
    signal : (n_samples,); NaN where nothing was recorded.
    rate_hz : sampling rate, Hz.
    max_bridge_s : longest gap that is bridged, seconds.

    Returns
    -------
    list of (start sample, float64 samples), in time order, without NaN. Empty where all is NaN.

    Raises
    ------
    SignalError
        If the signal has more than one dimension or holds infinity.
    """
    values = one_lead(signal, "splitting at gaps")
    missing = np.isnan(values)
    finite_signal(values[~missing], "splitting at gaps")
    if missing.all():
        return []
    values = values.copy()
    max_bridge = math.floor(max_bridge_s * positive_rate(rate_hz, "splitting at gaps") + 1e-9)
    present = np.flatnonzero(~missing)
    # A gap is where two recorded samples are not neighbours.
    jump = np.diff(present)
    for left in np.flatnonzero((jump > 1) & (jump - 1 <= max_bridge)):
        a, b = present[left], present[left + 1]
        values[a : b + 1] = np.linspace(values[a], values[b], b - a + 1)
    breaks = np.flatnonzero(jump - 1 > max_bridge)
    starts = [int(present[0]), *(int(present[i + 1]) for i in breaks)]
    stops = [*(int(present[i]) + 1 for i in breaks), int(present[-1]) + 1]
    return [(start, values[start:stop]) for start, stop in zip(starts, stops, strict=True)]


def prepare(signal: FloatArray, rate_hz: float, settings: SignalSettings) -> list[Span]:
    """Turn a recorded window into filtered 125 Hz spans.

    Half a filter length is dropped on the sides of a gap, where the filter would show what the
    electrode did when it came off; the two ends of the window itself are continued by reflection and
    kept. Spans shorter than the filter are dropped.

    Parameters
    ----------
    signal : (n_samples,), mV; NaN where nothing was recorded.
    rate_hz : sampling rate, Hz.
    settings : filter and gap settings.

    Returns
    -------
    list of `Span`, in time order.

    Raises
    ------
    SignalError
        For infinity, or a sampling rate the filter cannot work at.
    """
    half = half_taps(positive_rate(rate_hz, "preparing a strip"), settings)
    prepared = []
    for start, values in spans(signal, rate_hz, settings.max_bridge_s):
        head = half if start > 0 else 0
        tail = half if start + len(values) < len(signal) else 0
        if len(values) - head - tail < 2 * half:
            continue
        filtered = bandpass(values, rate_hz, settings)[head : len(values) - tail]
        samples = resample(filtered, rate_hz, settings.rate_hz).astype(np.float32)
        prepared.append(Span((start + head) / rate_hz, samples))
    return prepared


@lru_cache(maxsize=32)
def _bandpass_taps(half: int, low_hz: float, high_hz: float, rate_hz: float) -> npt.NDArray[np.float64]:
    taps: npt.NDArray[np.float64] = firwin(
        2 * half + 1, [low_hz, high_hz], window="hamming", pass_zero=False, fs=rate_hz
    )
    return taps


@lru_cache(maxsize=32)
def _resample_taps(factor: int) -> npt.NDArray[np.float64]:
    taps: npt.NDArray[np.float64] = firwin(
        2 * RESAMPLE_CROSSINGS * factor + 1, 1 / factor, window=("kaiser", RESAMPLE_KAISER)
    )
    return taps


def _simplest_ratio(rate: float, target: float, n_samples: int) -> Fraction:
    exact = Fraction(target / rate)
    for largest in (10, 100, 1_000, 10_000, 100_000):
        ratio = exact.limit_denominator(largest)
        if ratio and abs(float(ratio) - target / rate) * n_samples < MAX_DRIFT_SAMPLES:
            return ratio
    raise SignalError(f"resampling: no ratio was found between {rate:g} Hz and {target:g} Hz")
