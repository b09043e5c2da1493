"""Which strips a model learns from or is scored on, and which of their beats.

A strip's beats lie side by side in the beat store, so a strip is a place (first row, number of beats) and a
label; beats themselves are read only when a batch needs them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from sqlalchemy import select
from sqlalchemy.orm import Session

from client.database.queries import Member, frozen, members
from client.database.tables import CohortMember, Strip
from common.errors import CohortError
from common.task import Label

Rows: TypeAlias = npt.NDArray[np.int64]
Beats: TypeAlias = npt.NDArray[np.float32]

#: Strips that may be trained on and counted; gap strips may not.
LABELLED = (Label.POSITIVE, Label.NEGATIVE)


class BeatSource(Protocol):
    """Where beats are read from: ``client.data.beatstore.BeatStore``, or an array in a test."""

    def read(self, offset: int, n: int) -> Beats:
        """Return ``n`` beats from row ``offset``, (n, 120) mV."""

    def gather(self, rows: npt.NDArray[np.integer[Any]]) -> Beats:
        """Return the beats of these rows, (len(rows), 120) mV."""


@dataclass(frozen=True)
class StripRef:
    """A strip as learning sees it.

    Attributes
    ----------
    strip_id, patient_id : database ids.
    label : positive, negative or gap.
    start, end : the strip's window.
    offset, n_beats : its place in the beat store.
    value : potassium in mEq/L, None where the label is not a measurement.
    heart_rate_bpm : from the median RR interval, None where unknown.
    """

    strip_id: int
    patient_id: int
    label: Label
    start: datetime
    end: datetime
    offset: int
    n_beats: int
    value: float | None = None
    heart_rate_bpm: float | None = None

    @property
    def positive(self) -> bool:
        """Whether the label is positive."""
        return self.label == Label.POSITIVE


def cohort_strips(
    session: Session,
    cohort_run_id: int,
    roles: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
) -> list[StripRef]:
    """Return the strips of a frozen cohort, sorted by patient, start and label.

    They are the accepted strips there were when it was frozen, but for those its rules left out
    (``cohort.classes``, ``cohort.balance``). Every member's strips are counted against what the cohort says.

    Parameters
    ----------
    session : of the site database.
    cohort_run_id : the run that froze the cohort.
    roles : ``generic`` and ``personal``, or None for both.
    splits : ``train``, ``validation`` and ``test``, or None for every split, also that of patients without.

    Raises
    ------
    CohortError
        If a member's strips are not those it had when the cohort was frozen.
    """
    query = (
        select(
            Strip.id, Strip.patient_id, Strip.label, Strip.start, Strip.end, Strip.beat_offset, Strip.n_beats,
            Strip.value, Strip.heart_rate_bpm, Strip.run_id,
        )
        .join(CohortMember, CohortMember.patient_id == Strip.patient_id)
        .where(CohortMember.run_id == cohort_run_id, Strip.exclusion.is_(None), Strip.n_beats > 0)
        .order_by(Strip.patient_id, Strip.start, Strip.label)
    )  # fmt: skip
    if roles is not None:
        query = query.where(CohortMember.role.in_(roles))
    if splits is not None:
        query = query.where(CohortMember.split.in_(splits))
    inside = frozen(session, cohort_run_id)
    strips = [
        StripRef(strip_id, patient, Label(label), start, end, offset, n_beats, value, rate)
        for strip_id, patient, label, start, end, offset, n_beats, value, rate, run in session.execute(query)
        if offset is not None and inside.holds(strip_id, run)
    ]
    if inside.last_strip is not None:
        _check_counts(members(session, cohort_run_id, roles, splits), strips)
    return strips


def _check_counts(everybody: Sequence[Member], strips: Sequence[StripRef]) -> None:
    found = Counter((strip.patient_id, strip.label) for strip in strips)
    changed = sum(
        any(found[member.patient_id, label] != getattr(member, f"n_{label}") for label in Label)
        for member in everybody
    )
    if changed:
        raise CohortError(
            f"{changed} of {len(everybody)} patients of the frozen cohort have other strips than when it was "
            "frozen, because files were read again; freeze it again: fedkalemia-site cohort SITE"
        )


def labelled(strips: Iterable[StripRef]) -> list[StripRef]:
    """Return the strips with a positive or negative label, in the same order."""
    return [strip for strip in strips if strip.label in LABELLED]


def by_patient(strips: Iterable[StripRef]) -> dict[int, list[StripRef]]:
    """Group strips by patient; patients ascending, strips in the order given."""
    ordered = sorted(strips, key=lambda strip: strip.patient_id)
    return {patient: list(group) for patient, group in groupby(ordered, lambda strip: strip.patient_id)}


def check_both_labels(strips: Sequence[StripRef], purpose: str) -> None:
    """Refuse strips from which nothing can be learned.

    Raises
    ------
    CohortError
        With the counts, if a label is absent.
    """
    positive = sum(strip.label == Label.POSITIVE for strip in strips)
    negative = sum(strip.label == Label.NEGATIVE for strip in strips)
    if not positive or not negative:
        raise CohortError(
            f"{purpose}: {positive} positive and {negative} negative strips; both labels are needed. "
            "Ingest more recordings, or freeze the cohort again with other patients"
        )


def spread(n_beats: int, count: int, phase: float = 0.5) -> Rows:
    """Return ``count`` of ``n_beats`` positions, evenly spread over a strip; 0 or too many means all.

    Parameters
    ----------
    n_beats : beats of the strip.
    count : beats wanted.
    phase : 0 to below 1, where in its part of the strip each beat is taken.
    """
    if count <= 0 or count >= n_beats:
        return np.arange(n_beats, dtype=np.int64)
    places: Rows = np.floor((np.arange(count) + phase) * (n_beats / count)).astype(np.int64)
    return places


def draw_rows(strips: Sequence[StripRef], count: int, generator: np.random.Generator) -> tuple[Rows, Rows]:
    """Draw beats for one epoch: from each strip ``count`` of them, evenly spread from a random phase.

    Returns
    -------
    rows : place of every drawn beat in the beat store.
    owner : index into ``strips`` of every drawn beat.
    """
    phases = generator.random(len(strips))
    rows = [
        strip.offset + spread(strip.n_beats, count, phase)
        for strip, phase in zip(strips, phases, strict=True)
    ]
    sizes = [len(part) for part in rows]
    empty = np.empty(0, dtype=np.int64)
    return np.concatenate([empty, *rows]), np.repeat(np.arange(len(strips), dtype=np.int64), sizes)


def read_strip(store: BeatSource, strip: StripRef, count: int = 0) -> Beats:
    """Return a strip's beats in time order, or ``count`` of them evenly spread: (n, 120) mV, a copy."""
    beats = store.read(strip.offset, strip.n_beats)
    return np.array(beats[spread(strip.n_beats, count)], dtype=np.float32)
