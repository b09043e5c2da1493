"""From a labelled draw to its strip: read the window, process it, keep the beats or the reason."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from client.data.ecg.beats import BEAT_SAMPLES
from client.data.ecg.quality import StripQuality
from client.data.ecg.strip import process_strip
from client.data.exclusion import Exclusion
from client.data.labels import LabelledDraw
from client.data.sources.base import Recordings, Window
from common.config import Settings
from common.errors import SignalError
from common.task import Label


def no_beats() -> npt.NDArray[np.float32]:
    """Return an empty array of beats."""
    return np.empty((0, BEAT_SAMPLES), dtype=np.float32)


@dataclass(frozen=True)
class FoundStrip:
    """A strip as it goes to the beat store and the database; the columns are those of the table.

    Attributes
    ----------
    beats : float32 (n_beats, 120), mV; none where excluded.
    draw : position of its draw in the patient's list of draws, None where labels come from annotations.
    """

    label: Label
    start: datetime
    end: datetime
    exclusion: Exclusion | None
    value: float | None = None
    draw: int | None = None
    record: str | None = None
    beats: npt.NDArray[np.float32] = field(default_factory=no_beats)
    n_detected: int = 0
    signal_s: float = 0.0
    heart_rate_bpm: float | None = None
    quality: dict[str, Any] = field(default_factory=dict)


def strips_of_draws(
    draws: Sequence[LabelledDraw], recordings: Recordings, settings: Settings
) -> Iterator[FoundStrip]:
    """Make the strips of all labelled draws of one patient, one in memory at a time."""
    for position, draw in enumerate(draws):
        if draw.label is not None:
            yield strip_of_draw(draw, draw.label, position, recordings, settings)


def strip_of_draw(
    draw: LabelledDraw, label: Label, position: int, recordings: Recordings, settings: Settings
) -> FoundStrip:
    """Make the strip of a labelled draw: the lead II of the window before the specimen was taken.

    Parameters
    ----------
    draw, label : the draw and its label.
    position : of the draw in the patient's list.
    recordings : the patient's waveform records.
    settings : window, signal and quality settings.
    """
    end = draw.measurement.specimen_time
    start = end - timedelta(seconds=settings.strip.window_s)
    window = recordings.lead_ii(start, end)
    strip = FoundStrip(
        label, start, end, window.exclusion, value=draw.value, draw=position, record=window.record
    )
    return strip if window.exclusion is not None else _processed(strip, window, settings)


def _processed(strip: FoundStrip, window: Window, settings: Settings) -> FoundStrip:
    try:
        signal = process_strip(window.signal_mv, window.rate_hz, settings)
    except SignalError:  # a sampling rate the filter cannot work at: the header is wrong
        return replace(strip, exclusion=Exclusion.UNREADABLE_SEGMENT)
    reason = signal.exclusion
    if reason is Exclusion.TOO_LITTLE_SIGNAL and window.unreadable_segments:
        reason = Exclusion.UNREADABLE_SEGMENT  # the cause, where the signal itself is not to blame
    return replace(
        strip,
        exclusion=reason,
        beats=signal.beats,
        n_detected=signal.n_detected,
        signal_s=round(signal.signal_s, 3),
        heart_rate_bpm=_finite(signal.quality.heart_rate_bpm, 1) if signal.quality else None,
        quality=quality_figures(signal.quality),
    )


def quality_figures(quality: StripQuality | None) -> dict[str, Any]:
    """Return the measurements by name, to six decimals; None for what could not be measured."""
    figures = asdict(quality) if quality is not None else {}
    return {name: _finite(value, 6) if isinstance(value, float) else value for name, value in figures.items()}


def _finite(value: float, digits: int) -> float | None:
    return round(float(value), digits) if math.isfinite(value) else None
