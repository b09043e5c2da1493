"""From the strips of a sample to their signals: the hospital's files, read once more.

What cannot be read any more is said and does not stop the sheet: it is one of the things a review finds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

import numpy as np
import numpy.typing as npt
from sqlalchemy import select
from sqlalchemy.orm import Session

from client.data.annotated import LABEL_OF_SYMBOL, MINUTE_S, margin_s
from client.data.ecg.beats import BEAT_SAMPLES, RATE_HZ, cut_beats
from client.data.ecg.filtering import Span, prepare
from client.data.ecg.quality import flat_runs
from client.data.ecg.strip import process_strip
from client.data.exclusion import EXCLUSION_SHORT, BeatRejection, Exclusion
from client.data.sources import AnnotatedSource, LabSource, Source
from client.data.sources.base import Piece, Stretch, Window
from client.data.strips import signal_digest
from client.database.reviews import ACCEPTED
from client.database.tables import Patient, Strip
from common.config import Settings
from common.errors import SignalError, SourceError

GONE: Final = "The file cannot be read any more."
STILL_GONE: Final = "The file could not be read at ingest, and cannot be read now."
EMPTY: Final = "There is no lead II of this window, as at ingest."
EMPTIED: Final = "The files hold no lead II of this window any more."
STRANGER: Final = "The files hold nothing of this patient any more."
CHANGED: Final = "The files have changed since ingest: what is drawn is not what the software judged."


@dataclass(frozen=True)
class Mark:
    """A detected or annotated R peak.

    Attributes
    ----------
    time_s : seconds from the start of the window.
    rejected : why its beat is not accepted; None for an accepted beat.
    other : annotated as a beat that does not belong to this strip.
    """

    time_s: float
    rejected: BeatRejection | None = None
    other: bool = False


@dataclass(frozen=True)
class Seen:
    """A strip with its signal as it is in the files now.

    Attributes
    ----------
    row : what the database says; it belongs to no session.
    signal_mv : float64 (n_samples,), mV as recorded, NaN where nothing was; empty where missing.
    rate_hz : sampling rate, Hz.
    spans : the same, filtered, at 125 Hz; times in seconds from the start of the window.
    marks : R peaks in order of time.
    beats : float32 (n_beats, 120), mV: the accepted beats, or all where none is.
    pieces : the files read.
    missing : why there is nothing to draw; empty where there is.
    notes : what a reviewer should know before judging.
    verdict_now : what the software says of the signal as it is now; None where it was not asked.
    """

    row: Strip
    signal_mv: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    rate_hz: float = 0.0
    spans: Sequence[Span] = ()
    marks: Sequence[Mark] = ()
    beats: npt.NDArray[np.float32] = field(default_factory=lambda: np.empty((0, BEAT_SAMPLES), np.float32))
    pieces: Sequence[Piece] = ()
    missing: str = ""
    notes: Sequence[str] = ()
    verdict_now: str | None = None

    @property
    def window_s(self) -> float:
        """Length of the window, seconds."""
        return (self.row.end - self.row.start).total_seconds()

    @property
    def has_accepted(self) -> bool:
        """Whether any beat is accepted; otherwise ``beats`` are all beats."""
        return any(mark.rejected is None and not mark.other for mark in self.marks)

    @property
    def disagreement(self) -> str:
        """Say that the software judges the signal otherwise now; empty where it does not."""
        stored = self.row.exclusion or ACCEPTED
        if self.verdict_now in (None, stored):
            return ""
        now = _words(self.verdict_now)
        return f"Read again, the software now says: {now}. At ingest it said: {_words(stored)}."


def load_rows(session: Session, strips: Sequence[int]) -> dict[str, list[Strip]]:
    """Return the rows of some strips by the patient's identifier; they belong to no session any more."""
    query = (
        select(Strip, Patient.source_key)
        .join(Patient, Patient.id == Strip.patient_id)
        .where(Strip.id.in_(strips))
        .order_by(Strip.patient_id, Strip.id)
    )
    by_key: dict[str, list[Strip]] = {}
    for row, key in session.execute(query):
        by_key.setdefault(key, []).append(row)
    session.expunge_all()
    return by_key


def read_strips(source: Source, rows: Mapping[str, Sequence[Strip]], settings: Settings) -> Iterator[Seen]:
    """Read the signals of some strips again, patient by patient, one signal in memory at a time.

    Parameters
    ----------
    source : the hospital's files.
    rows : the patient's identifier -> strips, as `load_rows` gives them.
    settings : those the strips were made with.

    Yields
    ------
    One `Seen` per strip, in the order of the patients; a strip that cannot be read says so.
    """
    known = set(source.keys())
    for key, own in rows.items():
        if key not in known:
            yield from (Seen(row, missing=STRANGER) for row in own)
        elif isinstance(source, AnnotatedSource):
            yield from _annotated(source, key, own, settings)
        else:
            yield from _recorded(source, key, own, settings)


def _recorded(source: LabSource, key: str, rows: Sequence[Strip], settings: Settings) -> Iterator[Seen]:
    try:
        recordings = source.opener(key)()
    except SourceError:
        yield from (Seen(row, missing=GONE) for row in rows)
        return
    for row in rows:
        try:
            window = recordings.lead_ii(row.start, row.end)
        except SourceError:
            yield Seen(row, missing=GONE)
            continue
        yield _empty(row, window) if window.exclusion is not None else _looked_at(row, window, settings)


def _empty(row: Strip, window: Window) -> Seen:
    unreadable = Exclusion.UNREADABLE_SEGMENT
    if window.exclusion is unreadable:
        return Seen(row, missing=STILL_GONE if row.exclusion == unreadable else GONE)
    return Seen(row, missing=EMPTY if row.exclusion == window.exclusion else EMPTIED)


def _looked_at(row: Strip, window: Window, settings: Settings) -> Seen:
    signal, rate = window.signal_mv, window.rate_hz
    notes = [CHANGED] if row.signal_sha256 not in (None, signal_digest(signal)) else []
    if window.damaged:
        notes.append("A part of the window is missing: a file of it cannot be read.")
    try:
        found = process_strip(signal, rate, settings)
        spans = prepare(_without_flat(signal, rate, settings), rate, settings.signal)
    except SignalError:  # a sampling rate the filter cannot work at
        return Seen(row, signal, rate, pieces=window.pieces, notes=notes)
    marks = [
        Mark(float(time), rejected) for time, rejected in zip(found.detected_s, found.rejected, strict=True)
    ]
    verdict = str(found.exclusion or ACCEPTED)
    if found.exclusion is Exclusion.TOO_LITTLE_SIGNAL and window.damaged:
        verdict = str(Exclusion.UNREADABLE_SEGMENT)  # as ingest says it
    accepted = [mark.time_s for mark in marks if mark.rejected is None]
    beats = beats_at_times(spans, accepted or [mark.time_s for mark in marks])
    return Seen(row, signal, rate, spans, marks, beats, window.pieces, "", notes, verdict)


def beats_at_times(spans: Sequence[Span], times_s: Sequence[float]) -> npt.NDArray[np.float32]:
    """Cut the beats at some R peaks; those that reach over the end of a span are left out.

    Returns
    -------
    float32 (n_beats, 120), mV.
    """
    times = np.asarray(times_s, dtype=np.float64)
    parts = [np.empty((0, BEAT_SAMPLES), dtype=np.float32)]
    for span in spans:
        parts.append(cut_beats(span.samples, np.rint((times - span.start_s) * RATE_HZ).astype(np.int64))[0])
    return np.concatenate(parts)


def _without_flat(
    signal: npt.NDArray[np.float64], rate_hz: float, settings: Settings
) -> npt.NDArray[np.float64]:
    """Take out what the software takes for no signal."""
    cleaned = signal.copy()
    if settings.quality.reject:
        for start, stop in flat_runs(signal, rate_hz, settings.quality.max_flat_s):
            cleaned[start:stop] = np.nan
    return cleaned


def _annotated(
    source: AnnotatedSource, key: str, rows: Sequence[Strip], settings: Settings
) -> Iterator[Seen]:
    """Find the minutes of strips in a person's records; every stretch is read once."""
    left = {row.id: row for row in rows}
    try:
        for stretch in source.stretches(key, margin_s(settings)):
            here = [row for row in left.values() if _minute(row, stretch) is not None]
            for row in here:
                del left[row.id]
                yield _minute_seen(row, stretch, settings)
            if not left:
                return
    except SourceError:
        yield from (Seen(row, missing=GONE) for row in left.values())
        return
    yield from (Seen(row, missing=EMPTIED) for row in left.values())


def _minute(row: Strip, stretch: Stretch) -> int | None:
    """Return which minute of a stretch a strip is, None if none."""
    if row.record != stretch.record:
        return None
    minute = (row.start - stretch.start) // timedelta(seconds=MINUTE_S) - stretch.first_minute
    return minute if 0 <= minute < stretch.n_minutes else None


def _minute_seen(row: Strip, stretch: Stretch, settings: Settings) -> Seen:
    if not stretch.has_lead:
        return Seen(row, missing=EMPTY if row.exclusion == Exclusion.LEAD_II_ABSENT else EMPTIED)
    length = round(MINUTE_S * stretch.rate_hz)
    first = stretch.lead_in + (_minute(row, stretch) or 0) * length
    signal = stretch.signal_mv[first : first + length]
    notes = [CHANGED] if row.signal_sha256 not in (None, signal_digest(signal)) else []
    try:
        spans = prepare(stretch.signal_mv, stretch.rate_hz, settings.signal)
    except SignalError:
        return Seen(row, signal, stretch.rate_hz, notes=notes)
    offset_s = first / stretch.rate_hz
    shifted = [Span(span.start_s - offset_s, span.samples) for span in spans]
    inside = (stretch.r_samples >= first) & (stretch.r_samples < first + length)
    times = (stretch.r_samples[inside] - first) / stretch.rate_hz
    own = [LABEL_OF_SYMBOL.get(str(symbol)) == row.label for symbol in stretch.symbols[inside]]
    marks = [Mark(float(time), other=not mine) for time, mine in zip(times, own, strict=True)]
    beats = beats_at_times(shifted, [mark.time_s for mark in marks if not mark.other])
    pieces = (stretch.piece,) if stretch.piece is not None else ()
    return Seen(row, signal, stretch.rate_hz, shifted, marks, beats, pieces, "", notes)


def _words(reason: str | None) -> str:
    return ACCEPTED if reason in (None, ACCEPTED) else EXCLUSION_SHORT[Exclusion(reason)]
