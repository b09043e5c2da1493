"""From a recorded window to the beats of a strip: the one entry of ingest into the signal functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from client.data.ecg.arrays import FloatArray, IntArray, one_lead
from client.data.ecg.beats import BEAT_SAMPLES, RATE_HZ, cut_beats, rr_intervals
from client.data.ecg.filtering import Span, prepare
from client.data.ecg.quality import (
    StripQuality,
    assess,
    flat_runs,
    raw_quality,
    reasons,
    template_correlation,
    typical_rr,
)
from client.data.ecg.rpeaks import find_beats, refine_peaks
from client.data.exclusion import BeatRejection, Exclusion
from common.config import Settings

# Zeros between spans where they are looked at together: more than any search around a peak reaches.
SEPARATOR_SAMPLES: Final = 64

Times = npt.NDArray[np.float64]


@dataclass(frozen=True)
class StripSignal:
    """What the signal of one window came to.

    Attributes
    ----------
    beats : float32 (n_beats, 120), mV, accepted beats in time order; none where the strip is excluded.
    r_times_s : (n_beats,) time of each R peak, seconds from the start of the window.
    rr_prev_s, rr_next_s : (n_beats,) RR interval before and after each beat, seconds, to the
        neighbour that was detected, accepted or not; NaN beside a gap.
    quality : measurements; None where there was too little signal or too few beats to measure.
    exclusion : reason, or None for a strip that can be used.
    n_detected : R peaks detected.
    signal_s : seconds of signal that could be used, without gaps and flat stretches.
    reasons : every rule the strip fails, in the order in which they are asked; the first is ``exclusion``.
    beats_rejected : detected beats that are not among ``beats``, by reason; zeros are left out.
    """

    beats: npt.NDArray[np.float32]
    r_times_s: Times
    rr_prev_s: Times
    rr_next_s: Times
    quality: StripQuality | None
    exclusion: Exclusion | None
    n_detected: int
    signal_s: float
    reasons: tuple[Exclusion, ...] = ()
    beats_rejected: Mapping[BeatRejection, int] = field(default_factory=dict)


def process_strip(signal_mv: FloatArray, rate_hz: float, settings: Settings) -> StripSignal:
    """Turn the lead II of one window into accepted beats, or a reason why there are none.

    Parameters
    ----------
    signal_mv : (n_samples,), mV as recorded; NaN where nothing was recorded.
    rate_hz : sampling rate, Hz; above 80 Hz with the default filter.
    settings : signal, strip and quality settings. With ``quality.reject`` off, no strip or beat is
        rejected for its quality or rhythm; the minima of ``strip`` still hold.

    Raises
    ------
    SignalError
        For infinite samples, or a sampling rate the filter cannot work at.
    """
    rules = settings.quality
    signal = one_lead(signal_mv, "strip")
    raw = raw_quality(signal, rate_hz, rules.max_flat_s)
    if rules.reject and raw.flat_s:
        signal = signal.copy()
        for start, stop in flat_runs(signal, rate_hz, rules.max_flat_s):
            signal[start:stop] = np.nan
    spans = prepare(signal, rate_hz, settings.signal)
    signal_s = sum(span.length_s for span in spans)
    if signal_s < settings.strip.min_signal_s or not spans:
        flat = rules.reject and signal_s + raw.flat_s >= settings.strip.min_signal_s and raw.flat_s > 0
        return _excluded(Exclusion.FLAT_LINE if flat else Exclusion.TOO_LITTLE_SIGNAL, 0, signal_s)
    peaks = detect_in_spans(spans)
    n_detected = sum(len(found) for found in peaks)
    beats, times, rr_prev, rr_next = _cut(spans, peaks)
    if len(beats) < settings.strip.min_beats:
        return _excluded(Exclusion.TOO_FEW_BEATS, n_detected, signal_s)
    correlation = template_correlation(beats, typical_rr(rr_prev))
    quality = assess(spans, peaks, beats, rr_prev, times, correlation, raw, rules)
    accepted = np.ones(len(beats), dtype=bool)
    if rules.reject:
        accepted = correlation >= rules.min_beat_correlation
        reason = reasons(quality, rules)
        if reason is None and np.count_nonzero(accepted) < settings.strip.min_beats:
            reason = Exclusion.TOO_FEW_BEATS
        if reason is not None:
            return _excluded(reason, n_detected, signal_s, quality)
    return StripSignal(
        beats[accepted],
        times[accepted],
        rr_prev[accepted],
        rr_next[accepted],
        quality,
        None,
        n_detected,
        signal_s,
    )


def beats_at(
    signal_mv: FloatArray, rate_hz: float, r_samples: IntArray, settings: Settings
) -> tuple[npt.NDArray[np.float32], IntArray]:
    """Cut beats at R peaks that an expert annotated.

    The signal is filtered and resampled as in a strip; the annotated positions are kept.

    Parameters
    ----------
    signal_mv : (n_samples,), mV; NaN where nothing was recorded.
    rate_hz : sampling rate, Hz.
    r_samples : (n,) ascending sample numbers of R peaks, at ``rate_hz``.
    settings : signal settings.

    Returns
    -------
    beats : float32 (n_beats, 120), mV.
    kept : (n_beats,) index into ``r_samples``: beats whose window leaves the record or reaches a gap are
        dropped.

    Raises
    ------
    SignalError
        For infinite samples, or a sampling rate the filter cannot work at.
    """
    r_times = np.asarray(r_samples, dtype=np.int64) / rate_hz
    beats, kept = [np.empty((0, BEAT_SAMPLES), dtype=np.float32)], [np.empty(0, dtype=np.int64)]
    for span in prepare(signal_mv, rate_hz, settings.signal):
        of_span, index = cut_beats(span.samples, np.rint((r_times - span.start_s) * RATE_HZ).astype(np.int64))
        beats.append(of_span)
        kept.append(index)
    return np.concatenate(beats), np.concatenate(kept)


def detect_in_spans(spans: list[Span]) -> list[IntArray]:
    """Find the R peaks of all spans of a strip, with one direction and one median complex for all.

    Parameters
    ----------
    spans : filtered spans.

    Returns
    -------
    For each span the (n_peaks,) ascending sample numbers of its R peaks.
    """
    pieces, complexes, offsets = [np.zeros(SEPARATOR_SAMPLES, dtype=np.float32)], [], []
    position = SEPARATOR_SAMPLES
    for span in spans:
        offsets.append(position)
        complexes.append(position + find_beats(span.samples))
        pieces += [span.samples, np.zeros(SEPARATOR_SAMPLES, dtype=np.float32)]
        position += len(span.samples) + SEPARATOR_SAMPLES
    if not spans:
        return []
    peaks = refine_peaks(np.concatenate(pieces), np.concatenate(complexes))
    found = []
    for span, offset in zip(spans, offsets, strict=True):
        inside = (peaks >= offset) & (peaks < offset + len(span.samples))
        found.append(peaks[inside] - offset)
    return found


def _cut(spans: list[Span], peaks: list[IntArray]) -> tuple[npt.NDArray[np.float32], Times, Times, Times]:
    parts = []
    for span, found in zip(spans, peaks, strict=True):
        beats, kept = cut_beats(span.samples, found)
        times = span.start_s + found / RATE_HZ
        rr_prev, rr_next = rr_intervals(times)
        parts.append((beats, times[kept], rr_prev[kept], rr_next[kept]))
    beats, times, rr_prev, rr_next = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return beats, times, rr_prev, rr_next


def _excluded(
    reason: Exclusion, n_detected: int, signal_s: float, quality: StripQuality | None = None
) -> StripSignal:
    none = np.empty(0)
    beats = np.empty((0, BEAT_SAMPLES), dtype=np.float32)
    return StripSignal(beats, none, none, none, quality, reason, n_detected, signal_s)
