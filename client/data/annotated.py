"""Strips of annotated recordings: the beats of one class in one minute of one patient.

Source: beat classes of AAMI EC57, reduced to ventricular against normal (SCIENCE section 8).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt

from client.data.ecg.beats import RATE_HZ, cut_beats
from client.data.ecg.filtering import prepare
from client.data.ecg.strip import beats_at, detect_in_spans
from client.data.exclusion import BeatRejection, Exclusion
from client.data.sources.base import AnnotatedSource, Stretch
from client.data.strips import FoundStrip, no_beats, signal_digest
from common.config import Settings
from common.task import Label

LABEL_OF_SYMBOL: Final = MappingProxyType(
    dict.fromkeys("VE", Label.POSITIVE) | dict.fromkeys("NLRej", Label.NEGATIVE)
)
MINUTE_S: Final = 60
# A detected R peak and an annotation this close are one beat, the tolerance of the standards.
MATCH_S: Final = 0.150


def annotated_strips(
    source: AnnotatedSource, key: str, settings: Settings, *, detect: bool
) -> Iterator[FoundStrip]:
    """Make all strips of one person, some minutes in memory at a time."""
    for stretch in source.stretches(key, margin_s(settings)):
        yield from minute_strips(stretch, settings, detect=detect)


def margin_s(settings: Settings) -> int:
    """Return the margin a stretch needs so that its beats are those of the whole record, in seconds."""
    return math.ceil(settings.signal.filter_s / 2) + 2


def minute_strips(stretch: Stretch, settings: Settings, *, detect: bool) -> Iterator[FoundStrip]:
    """Sort the beats of a stretch into strips.

    Parameters
    ----------
    stretch : some minutes of a record with their annotations.
    settings : signal and strip settings; a strip has at least ``strip.min_beats`` annotated beats.
    detect : place beats at detected R peaks, each named by the annotation within 150 ms; otherwise at the
        annotated R peaks.

    Yields
    ------
    `FoundStrip` in order of time, positive before negative within a minute.
    """
    rate = stretch.rate_hz
    minutes = ((stretch.r_samples - stretch.lead_in) // round(MINUTE_S * rate)).astype(np.int64)
    labels = np.array([LABEL_OF_SYMBOL.get(str(symbol), "") for symbol in stretch.symbols], dtype=np.str_)
    if stretch.has_lead:
        beats, beat_of = (_detected if detect else _annotated)(stretch, settings)
    else:
        beats, beat_of = no_beats(), np.empty(0, dtype=np.int64)
    for minute in range(stretch.n_minutes):
        here = minutes == minute
        start = stretch.start + timedelta(seconds=(stretch.first_minute + minute) * MINUTE_S)
        first = stretch.lead_in + minute * round(MINUTE_S * rate)
        signal = stretch.signal_mv[first : first + round(MINUTE_S * rate)]
        signal_s = np.count_nonzero(np.isfinite(signal)) / rate
        for label in (Label.POSITIVE, Label.NEGATIVE):
            chosen = here & (labels == label)
            n_annotated = int(np.count_nonzero(chosen))
            if n_annotated < settings.strip.min_beats:
                continue
            of_strip = beats[chosen[beat_of]]
            exclusion = None if stretch.has_lead else Exclusion.LEAD_II_ABSENT
            if exclusion is None and len(of_strip) < settings.strip.min_beats:
                exclusion = Exclusion.TOO_FEW_BEATS
            piece = stretch.piece
            if piece is not None:
                here_first = piece.first + first
                piece = replace(piece, first=here_first, last=here_first + len(signal))
            yield FoundStrip(
                label=label,
                start=start,
                end=start + timedelta(seconds=MINUTE_S),
                exclusion=exclusion,
                record=stretch.record,
                beats=of_strip if exclusion is None else no_beats(),
                n_detected=n_annotated,
                signal_s=round(signal_s, 3),
                heart_rate_bpm=_heart_rate(stretch.r_samples[here], rate),
                rate_hz=rate if piece is not None else None,
                pieces=() if piece is None else (piece,),
                signal_sha256=None if piece is None else signal_digest(signal),
                reasons=() if exclusion is None else (exclusion,),
                beats_rejected={BeatRejection.EDGE: lost} if (lost := n_annotated - len(of_strip)) else {},
            )


def pair_nearest(
    found: npt.NDArray[np.float64], reference: npt.NDArray[np.float64], tolerance: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Pair found with reference times, each at most once, where each is the other's nearest.

    Parameters
    ----------
    found, reference : ascending times.
    tolerance : largest distance of a pair, same unit.

    Returns
    -------
    positions in ``found`` and in ``reference``, ascending.
    """
    if not (len(found) and len(reference)):
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    to_reference, to_found = _nearest(found, reference), _nearest(reference, found)
    index = np.arange(len(found))
    mutual = to_found[to_reference] == index
    close = np.abs(found - reference[to_reference]) <= tolerance
    return index[mutual & close], to_reference[mutual & close]


def _annotated(stretch: Stretch, settings: Settings) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Cut beats at the annotated R peaks; return them with the annotation each belongs to."""
    return beats_at(stretch.signal_mv, stretch.rate_hz, stretch.r_samples, settings)


def _detected(stretch: Stretch, settings: Settings) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Cut beats at detected R peaks; return those with an annotation, and which it is."""
    spans = prepare(stretch.signal_mv, stretch.rate_hz, settings.signal)
    beats = [no_beats()]
    times = [np.empty(0)]
    for span, peaks in zip(spans, detect_in_spans(spans), strict=True):
        of_span, kept = cut_beats(span.samples, peaks)
        beats.append(of_span)
        times.append(span.start_s + peaks[kept] / RATE_HZ)
    found, named = pair_nearest(np.concatenate(times), stretch.r_samples / stretch.rate_hz, MATCH_S)
    return np.concatenate(beats)[found], named


def _nearest(of: npt.NDArray[np.float64], among: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    right = np.clip(np.searchsorted(among, of), 1, max(len(among) - 1, 1))
    left = right - 1
    right = np.minimum(right, len(among) - 1)
    return np.where(of - among[left] <= among[right] - of, left, right).astype(np.int64)


def _heart_rate(r_samples: npt.NDArray[np.int64], rate_hz: float) -> float | None:
    if len(r_samples) < 3:
        return None
    return round(60.0 * rate_hz / float(np.median(np.diff(r_samples))), 1)
