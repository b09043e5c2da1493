"""Read from the site database how good every strip is, accepted or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from client.database.tables import Strip


@dataclass(frozen=True)
class StripSignal:
    """The signal of one strip; figures are None where there was too little signal to measure.

    Attributes
    ----------
    patient, label : of the strip.
    exclusion : reason code; None: accepted.
    signal_share : of the window that holds lead II, 0 to 1.
    heart_rate_bpm : from the median RR interval.
    n_detected, n_beats : R peaks found, and beats accepted.
    agreement : of two R-peak detectors, 0 to 1.
    amplitude_mv, qrs_ms : median QRS peak to peak, and duration.
    pacing_suspected : whether a pacemaker may give the rhythm.
    rejected : reason -> beats that were found and not accepted.
    """

    patient: int
    label: str
    exclusion: str | None
    signal_share: float
    heart_rate_bpm: float | None
    n_detected: int
    n_beats: int
    agreement: float | None
    amplitude_mv: float | None
    qrs_ms: float | None
    pacing_suspected: bool | None
    rejected: Mapping[str, int]


def read_signals(session: Session) -> list[StripSignal]:
    """Read every strip of the site, in the order in which it was stored."""
    columns = (
        Strip.patient_id, Strip.label, Strip.exclusion, Strip.start, Strip.end, Strip.signal_s,
        Strip.heart_rate_bpm, Strip.n_detected, Strip.n_beats, Strip.agreement, Strip.quality,
        Strip.beats_rejected,
    )  # fmt: skip
    found = []
    for row in session.execute(select(*columns).order_by(Strip.id)):
        measured = row.quality or {}
        found.append(
            StripSignal(
                patient=row.patient_id,
                label=row.label,
                exclusion=row.exclusion,
                signal_share=min(1.0, row.signal_s / max((row.end - row.start).total_seconds(), 1e-9)),
                heart_rate_bpm=row.heart_rate_bpm,
                n_detected=row.n_detected,
                n_beats=row.n_beats,
                agreement=row.agreement,
                amplitude_mv=measured.get("amplitude_mv"),
                qrs_ms=measured.get("qrs_ms"),
                pacing_suspected=measured.get("pacing_suspected"),
                rejected={str(reason): int(n) for reason, n in (row.beats_rejected or {}).items()},
            )
        )
    return found
