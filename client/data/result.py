"""What a site holds after an ingest, for people and for machines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from client.database.tables import Draw, Patient, Strip
from common.wording import plural

ACCEPTED: Final = "accepted"
#: What a run did, and what it noticed and left alone; see `IngestResult`.
NOTICED: Final = (
    "new_patients",
    "new_draws",
    "new_strips",
    "updated_strips",
    "changed_strips",
    "changed_draws",
    "outdated_draws",
    "gone_draws",
    "gone_patients",
)


@dataclass(frozen=True)
class IngestResult:
    """What a site's database holds after an ingest, and what this run did.

    Attributes
    ----------
    run_id, site, seconds : row of this run, whose, and how long it took.
    files : what the files hold as a whole, such as records, and laboratory rows without a time.
    patients : stored in all.
    draws : number by label, or by reason of exclusion.
    strips : for each label the number by ``accepted``, or by reason of exclusion.
    beats : accepted beats.
    hours : hours of lead II that were used.
    unreadable_segments, unreadable_records : missing or damaged waveform files that were asked for.
    new_patients, new_draws, new_strips : added by this run.
    updated_strips : laid over stored ones, because files came or changes were taken over.
    changed_strips : made of files that are not what they were; the strips are.
    changed_draws, outdated_draws : whose row says something else now, or would get another label now.
    gone_draws, gone_patients : stored, and not in the files any more.
    """

    run_id: int
    site: str
    seconds: float
    files: Mapping[str, int]
    patients: int
    draws: Mapping[str, int]
    strips: Mapping[str, Mapping[str, int]]
    beats: int
    hours: float
    unreadable_segments: int
    unreadable_records: int
    new_patients: int
    new_draws: int
    new_strips: int
    updated_strips: int
    changed_strips: int
    changed_draws: int
    outdated_draws: int
    gone_draws: int
    gone_patients: int

    @property
    def accepted_strips(self) -> int:
        """Strips with beats, of all labels."""
        return sum(reasons.get(ACCEPTED, 0) for reasons in self.strips.values())

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        return {**asdict(self), "accepted_strips": self.accepted_strips}

    def sentence(self) -> str:
        """Say it to a person."""
        total = sum(sum(reasons.values()) for reasons in self.strips.values())
        by_label = ", ".join(f"{self.strips[label].get(ACCEPTED, 0)} {label}" for label in self.strips)
        draws = f"{sum(self.draws.values())} draws, " if self.draws else ""
        text = (
            f"{self.patients} patients ({self.new_patients} new), {draws}{total} strips, "
            f"{self.accepted_strips} accepted ({by_label or 'none'}), {self.beats} beats from "
            f"{self.hours:.1f} h of ECG"
        )
        if self.unreadable_segments or self.unreadable_records:
            text += (
                f"; missing or damaged waveform files: {self.unreadable_segments} of segments, "
                f"{self.unreadable_records} of records"
            )
        return text

    def notices(self) -> list[str]:
        """Say what somebody should know, a line each; none where nothing but new files came."""
        take = "'--take-changes' reads them again"
        lines = [
            (self.files.get("draws_without_time", 0), "laboratory row", "left out: no time of the specimen"),
            (self.updated_strips, "strip", "updated: files came or changed"),
            (
                self.changed_strips,
                "strip",
                f"left as it was, though its files changed since: {take}",
            ),
            (self.changed_draws, "draw", f"changed in the tables since it was read: {take}"),
            (self.outdated_draws, "draw", f"would get another label or reason now: {take}"),
            (self.gone_draws, "draw", "no longer in the tables; what was read of it stays"),
            (self.gone_patients, "patient", "no longer in the files; 'fedkalemia-site forget' removes one"),
        ]
        return [f"{plural(n, unit)} {text}" for n, unit, text in lines if n]


def counted(session: Session) -> dict[str, Any]:
    """Count what the database holds, whichever run put it there."""
    draws = session.execute(
        select(func.coalesce(Draw.label, Draw.exclusion), func.count()).group_by(Draw.label, Draw.exclusion)
    ).all()
    strips: dict[str, dict[str, int]] = {}
    for label, reason, n in session.execute(
        select(Strip.label, Strip.exclusion, func.count())
        .group_by(Strip.label, Strip.exclusion)
        .order_by(Strip.label, Strip.exclusion)
    ):
        strips.setdefault(label, {})[reason or ACCEPTED] = n
    # Strips of two labels may share a window: annotated minutes do.
    window = select(func.max(Strip.signal_s).label("s")).group_by(Strip.patient_id, Strip.start).subquery()
    seconds = session.scalar(select(func.sum(window.c.s)))
    beats = session.scalar(select(func.sum(Strip.n_beats)))
    return {
        "patients": session.scalar(select(func.count(Patient.id))),
        "draws": dict(sorted((name, n) for name, n in draws)),
        "strips": strips,
        "beats": int(beats or 0),
        "hours": round((seconds or 0.0) / 3600, 4),
    }
