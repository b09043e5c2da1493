"""From a labelled draw to its strip: read the window, process it, keep the beats or the reason."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from client.data.ecg.beats import BEAT_SAMPLES
from client.data.ecg.quality import StripQuality
from client.data.ecg.strip import process_strip
from client.data.exclusion import BeatRejection, Exclusion
from client.data.labels import LabelledDraw
from client.data.sources.base import Piece, Recordings, Window
from common.config import Settings
from common.errors import SignalError
from common.task import Label


def no_beats() -> npt.NDArray[np.float32]:
    """Return an empty array of beats."""
    return np.empty((0, BEAT_SAMPLES), dtype=np.float32)


def signal_digest(signal_mv: npt.NDArray[np.float64]) -> str:
    """Return the SHA-256 of a signal as float32, by which a changed file is told from one copied again."""
    return hashlib.sha256(np.asarray(signal_mv, dtype="<f4").tobytes()).hexdigest()


@dataclass(frozen=True)
class FoundStrip:
    """A strip as it goes to the beat store and the database; the columns are those of the table.

    Attributes
    ----------
    beats : float32 (n_beats, 120), mV; none where excluded.
    draw : position of its draw in the patient's list of draws, None where labels come from annotations.
    pieces : the files, samples and gains the signal came from.
    reasons : every rule the strip fails; the first is ``exclusion``.
    beats_rejected : beats found and not accepted, by reason.
    damaged : files of the window that are missing or damaged.
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
    rate_hz: float | None = None
    pieces: tuple[Piece, ...] = ()
    signal_sha256: str | None = None
    reasons: tuple[Exclusion, ...] = ()
    beats_rejected: Mapping[BeatRejection, int] = field(default_factory=dict)
    agreement: float | None = None
    damaged: frozenset[str] = frozenset()


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
        label,
        start,
        end,
        window.exclusion,
        value=draw.value,
        draw=position,
        record=window.record,
        pieces=window.pieces,
        reasons=() if window.exclusion is None else (window.exclusion,),
        damaged=frozenset(str(path) for path in window.damaged),
    )
    return strip if window.exclusion is not None else _processed(strip, window, settings)


def _processed(strip: FoundStrip, window: Window, settings: Settings) -> FoundStrip:
    strip = replace(strip, rate_hz=window.rate_hz, signal_sha256=signal_digest(window.signal_mv))
    try:
        signal = process_strip(window.signal_mv, window.rate_hz, settings)
    except SignalError:  # a sampling rate the filter cannot work at: the header is wrong
        unreadable = Exclusion.UNREADABLE_SEGMENT
        return replace(strip, exclusion=unreadable, reasons=(unreadable,))
    reason = signal.exclusion
    reasons = signal.reasons or (() if reason is None else (reason,))
    if reason is Exclusion.TOO_LITTLE_SIGNAL and window.damaged:
        reason = Exclusion.UNREADABLE_SEGMENT  # the cause, where the signal itself is not to blame
        reasons = (reason, *reasons)
    quality = signal.quality
    return replace(
        strip,
        exclusion=reason,
        reasons=reasons,
        beats=signal.beats,
        beats_rejected=dict(signal.beats_rejected),
        n_detected=signal.n_detected,
        signal_s=round(signal.signal_s, 3),
        heart_rate_bpm=_finite(quality.heart_rate_bpm, 1) if quality else None,
        agreement=_finite(quality.agreement, 6) if quality else None,
        quality=quality_figures(quality),
    )


def quality_figures(quality: StripQuality | None) -> dict[str, Any]:
    """Return the measurements by name, to six decimals; None for what could not be measured."""
    figures = asdict(quality) if quality is not None else {}
    return {name: _finite(value, 6) if isinstance(value, float) else value for name, value in figures.items()}


def _finite(value: float, digits: int) -> float | None:
    return round(float(value), digits) if math.isfinite(value) else None
