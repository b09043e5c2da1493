"""From a recorded window to the beats of a strip: the one entry of ingest into the signal functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from client.data.ecg.acceptance import (
    Flags,
    base_line_jumps,
    beat_rejections,
    count_rejections,
    holds_jump,
    without_beats,
)
from client.data.ecg.arrays import FloatArray, IntArray, one_lead
from client.data.ecg.beats import BEAT_SAMPLES, RATE_HZ, cut_beats, rr_intervals
from client.data.ecg.filtering import Span, prepare
from client.data.ecg.quality import (
    RawQuality,
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
    reasons : every rule the strip fails, in the order in which they are asked; none for a usable strip.
        The search ends at the first that leaves nothing to ask about (too little signal, too few beats).
    signal_s : seconds of signal that could be used, without gaps and flat stretches.
    detected_s : (n_detected,) time of every detected R peak, seconds from the start of the window.
    rejected : for each of them, in the same order, why the beat is not accepted; None for an accepted
        beat. Also of excluded strips: the rules for beats do not depend on those for strips.
    """

    beats: npt.NDArray[np.float32]
    r_times_s: Times
    rr_prev_s: Times
    rr_next_s: Times
    quality: StripQuality | None
    reasons: tuple[Exclusion, ...]
    signal_s: float
    detected_s: Times
    rejected: tuple[BeatRejection | None, ...]

    @property
    def exclusion(self) -> Exclusion | None:
        """Reason of the exclusion: the first rule that fails; None for a strip that can be used."""
        return self.reasons[0] if self.reasons else None

    @property
    def n_detected(self) -> int:
        """R peaks detected: accepted beats and all that `beats_rejected` counts."""
        return len(self.detected_s)

    @property
    def beats_rejected(self) -> dict[BeatRejection, int]:
        """Detected beats that are not accepted, by reason; zeros are left out."""
        return count_rejections(self.rejected)


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
        return _excluded(_too_little(signal_s, raw, settings), signal_s)
    peaks = detect_in_spans(spans)
    found = _cut(spans, peaks)
    correlation = template_correlation(found.beats, typical_rr(found.rr_prev_s))
    median_beat = np.median(found.beats, axis=0) if len(found.beats) else np.zeros(BEAT_SAMPLES)
    alike = np.zeros(sum(map(len, peaks)), dtype=bool)
    alike[found.kept] = correlation >= rules.min_beat_correlation
    has_step = _steps(spans, peaks, alike, median_beat, rules.max_step_mv)
    rejected = found.rejections(beat_rejections(found.beats, correlation, has_step[found.kept], rules))
    detected_s = np.concatenate(found.detected_s)
    if len(found.beats) < settings.strip.min_beats:
        failed = (*_failed_raw(raw, settings), Exclusion.TOO_FEW_BEATS)
        return _excluded(failed, signal_s, detected_s, rejected)
    accepted = np.array([rejected[index] is None for index in found.kept], dtype=bool)
    quality = assess(
        spans,
        peaks,
        found.beats,
        median_beat,
        found.rr_prev_s,
        found.times_s,
        correlation,
        accepted,
        raw,
        rules,
    )
    failed = reasons(quality, rules) if rules.reject else ()
    if np.count_nonzero(accepted) < settings.strip.min_beats:
        failed += (Exclusion.TOO_FEW_BEATS,)
    if failed:
        return _excluded(failed, signal_s, detected_s, rejected, quality)
    return StripSignal(
        found.beats[accepted],
        found.times_s[accepted],
        found.rr_prev_s[accepted],
        found.rr_next_s[accepted],
        quality,
        (),
        signal_s,
        detected_s,
        rejected,
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


@dataclass(frozen=True)
class _Found:
    """All beats of a strip: those cut, and the R peaks of each span with those at an edge."""

    beats: npt.NDArray[np.float32]
    times_s: Times
    rr_prev_s: Times
    rr_next_s: Times
    kept: IntArray
    detected_s: list[Times]

    def rejections(self, of_cut: list[BeatRejection | None]) -> tuple[BeatRejection | None, ...]:
        """Put the reasons of the beats that were cut among those at an edge."""
        reason: list[BeatRejection | None] = [BeatRejection.EDGE] * sum(map(len, self.detected_s))
        for index, found in zip(self.kept, of_cut, strict=True):
            reason[index] = found
        return tuple(reason)


def _cut(spans: list[Span], peaks: list[IntArray]) -> _Found:
    parts, detected, before = [], [], 0
    for span, found in zip(spans, peaks, strict=True):
        beats, kept = cut_beats(span.samples, found)
        times = span.start_s + found / RATE_HZ
        rr_prev, rr_next = rr_intervals(times)
        parts.append((beats, times[kept], rr_prev[kept], rr_next[kept], before + kept))
        detected.append(times)
        before += len(times)
    beats, times, rr_prev, rr_next, kept = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return _Found(beats, times, rr_prev, rr_next, kept, detected)


def _steps(
    spans: list[Span], peaks: list[IntArray], alike: Flags, median_beat: FloatArray, max_step_mv: float
) -> Flags:
    """Say for every detected beat of a strip whether the base line jumps inside its 120 samples."""
    marked, before = [], 0
    for span, found in zip(spans, peaks, strict=True):
        # A jump can be taken for a beat itself: only what resembles the median beat is subtracted.
        beats = found[alike[before : before + len(found)]]
        rest = without_beats(span.samples, beats, median_beat)
        marked.append(holds_jump(found, base_line_jumps(rest, max_step_mv)))
        before += len(found)
    return np.concatenate(marked)


def _failed_raw(raw: RawQuality, settings: Settings) -> tuple[Exclusion, ...]:
    """Return the rules a window fails that can be asked before there are beats."""
    clipped = settings.quality.reject and raw.clipped_share > settings.quality.max_clipped_share
    return (Exclusion.CLIPPED,) if clipped else ()


def _too_little(signal_s: float, raw: RawQuality, settings: Settings) -> tuple[Exclusion, ...]:
    """Say why too little of a window is signal: flat stretches where they are to blame."""
    flat = settings.quality.reject and signal_s + raw.flat_s >= settings.strip.min_signal_s and raw.flat_s > 0
    first = Exclusion.FLAT_LINE if flat else Exclusion.TOO_LITTLE_SIGNAL
    return (first, *_failed_raw(raw, settings))


def _excluded(
    failed: tuple[Exclusion, ...],
    signal_s: float,
    detected_s: Times | None = None,
    rejected: tuple[BeatRejection | None, ...] = (),
    quality: StripQuality | None = None,
) -> StripSignal:
    none = np.empty(0)
    beats = np.empty((0, BEAT_SAMPLES), dtype=np.float32)
    return StripSignal(
        beats,
        none,
        none,
        none,
        quality,
        failed,
        signal_s,
        none if detected_s is None else detected_s,
        rejected,
    )
