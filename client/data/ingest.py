"""Ingest: from a hospital's files to rows and beats, patient by patient.

Every draw ends with a label or a reason, every labelled draw with one strip that has beats or a reason.
A patient is one transaction: beats are on the disk before the rows that point at them are committed, so
whenever the work is stopped, the next ingest goes on with the patient that was not finished, and ends with
the same rows and the same bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from client.data.annotated import annotated_strips
from client.data.beatstore import BeatStore
from client.data.labels import LabelledDraw, label_draws
from client.data.made_with import check_made_with, source_form
from client.data.sources import AnnotatedSource, Source, open_source
from client.data.sources.base import Person, Recordings
from client.data.strips import FoundStrip, no_beats, strips_of_draws
from client.database.runs import running
from client.database.tables import Draw, Patient, Run, Strip
from client.site import Site
from common.errors import StorageError
from common.logs import site_log, stage

SessionFactory = Callable[[], Session]

ACCEPTED: Final = "accepted"


@dataclass(frozen=True)
class IngestResult:
    """What a site's database holds after an ingest.

    Attributes
    ----------
    run_id : row of this run.
    patients, new_patients : stored in all, and by this run.
    draws : number by label, or by reason of exclusion.
    strips : for each label the number by ``accepted``, or by reason of exclusion.
    beats : accepted beats.
    hours : hours of lead II that were used.
    unreadable_segments, unreadable_records : missing or damaged waveform files that were asked for.
    """

    run_id: int
    patients: int
    new_patients: int
    draws: Mapping[str, int]
    strips: Mapping[str, Mapping[str, int]]
    beats: int
    hours: float
    unreadable_segments: int
    unreadable_records: int

    @property
    def accepted_strips(self) -> int:
        """Strips with beats, of all labels."""
        return sum(reasons.get(ACCEPTED, 0) for reasons in self.strips.values())

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
        if not (self.unreadable_segments or self.unreadable_records):
            return text
        return (
            f"{text}; missing or damaged waveform files: {self.unreadable_segments} of segments, "
            f"{self.unreadable_records} of records"
        )


def ingest(site: Site, session_factory: SessionFactory) -> IngestResult:
    """Read a site's files into its database and beat store, or go on where an earlier ingest stopped.

    Parameters
    ----------
    site : whose files.
    session_factory : sessions of the site's database, whose tables exist.

    Raises
    ------
    SourceError
        If the data root or something in it is missing or damaged.
    ConfigurationError
        If the database was filled with other settings.
    StorageError
        If the disk is full, or the beat store does not belong to the database. What was finished stays.
    """
    with session_factory() as session:
        check_made_with(session, site)
    source = open_source(site)
    with (
        running(session_factory, "ingest", site.settings, data_fingerprint=source.fingerprint()) as run,
        BeatStore(site.beats) as store,
    ):
        _align(store, session_factory, run)
        with session_factory() as session:
            damage = _earlier_damage(session, run)
        run.details = {"source": source_form(site), "files": dict(source.counts()), **damage}
        new = _all_patients(site, source, session_factory, store, run)
        with session_factory() as session:
            counted = _counted(session)
        run.details = {**run.details, **counted}
        return IngestResult(
            run_id=run.id,
            new_patients=new,
            **counted,
            **{name: run.details[name] for name in damage},
        )


def _all_patients(
    site: Site, source: Source, session_factory: SessionFactory, store: BeatStore, run: Run
) -> int:
    """Ingest every patient who is not in the database yet; return how many."""
    with session_factory() as session:
        known = set(session.scalars(select(Patient.source_key)))
    keys = source.keys()
    todo = [key for key in keys if key not in known]
    strips = beats = 0
    with stage(f"Reading the files of {site.name}", total=len(keys), unit="patient") as bar:
        bar.advance(len(keys) - len(todo))
        for key in todo:
            rows = len(store)
            try:
                strips += _patient(key, site, source, session_factory, store, run)
            except BaseException:
                with suppress(StorageError):  # the next ingest would cut these rows off too
                    store.truncate(rows)
                raise
            beats += len(store) - rows
            bar.advance(1, f"{strips} strips, {beats} beats")
    return len(todo)


def _patient(
    key: str, site: Site, source: Source, session_factory: SessionFactory, store: BeatStore, run: Run
) -> int:
    """Read one patient's files, then store beats, rows and damage in one commit; return the strips."""
    draws: list[LabelledDraw] = []
    recordings: Recordings | None = None
    if isinstance(source, AnnotatedSource):
        found = annotated_strips(source, key, site.settings, detect=site.source.detect)
    else:
        draws = label_draws(source.measurements(key), source.stays(key), site.settings.label)
        recordings = source.opener(key)()
        found = strips_of_draws(draws, recordings, site.settings)
    # Signals are read before the transaction begins, so that it is short; beats leave memory at once.
    strips = []
    for strip in found:
        offset = store.append(strip.beats) if len(strip.beats) else None
        strips.append((replace(strip, beats=no_beats()), offset, len(strip.beats)))
    store.flush()
    with session_factory() as session:
        patient = _patient_row(source.person(key))
        session.add(patient)
        session.flush()
        draw_ids = _add_draws(session, patient.id, run.id, draws)
        session.add_all(_strip_row(*strip, patient.id, run.id, draw_ids) for strip in strips)
        if recordings is not None:
            _count_damage(run, recordings, site)
        session.get_one(Run, run.id).details = run.details
        session.commit()
    return len(strips)


def _patient_row(person: Person) -> Patient:
    return Patient(
        source_key=person.key,
        sex=person.sex,
        age=person.age,
        ethnicity=person.ethnicity,
        height_cm=person.height_cm,
        weight_kg=person.weight_kg,
    )


def _add_draws(session: Session, patient_id: int, run_id: int, draws: Sequence[LabelledDraw]) -> list[int]:
    """Add a patient's draws and return their row numbers, in the order given."""
    rows, seen = [], Counter[str]()
    for draw in draws:
        measurement = draw.measurement
        # An export may hold a row twice; both are kept, and told apart.
        name = measurement.source_row[:48]
        seen[name] += 1
        rows.append(
            Draw(
                patient_id=patient_id,
                run_id=run_id,
                source_row=name if seen[name] == 1 else f"{name} ({seen[name]})",
                specimen_time=measurement.specimen_time,
                value=draw.value,
                unit=measurement.unit[:16] or None,
                item=measurement.item[:32],
                specimen=measurement.specimen,
                censored=draw.censored,
                label=draw.label,
                exclusion=draw.exclusion,
            )
        )
    session.add_all(rows)
    session.flush()
    for row, draw in zip(rows, draws, strict=True):
        if draw.merged_into is not None:
            row.merged_into_id = rows[draw.merged_into].id
    return [row.id for row in rows]


def _strip_row(
    strip: FoundStrip, offset: int | None, n_beats: int, patient_id: int, run_id: int, draw_ids: Sequence[int]
) -> Strip:
    return Strip(
        patient_id=patient_id,
        run_id=run_id,
        draw_id=None if strip.draw is None else draw_ids[strip.draw],
        label=strip.label,
        value=strip.value,
        start=strip.start,
        end=strip.end,
        record=strip.record,
        exclusion=strip.exclusion,
        beat_offset=offset,
        n_beats=n_beats,
        n_detected=strip.n_detected,
        signal_s=strip.signal_s,
        heart_rate_bpm=strip.heart_rate_bpm,
        quality=strip.quality,
    )


def _count_damage(run: Run, recordings: Recordings, site: Site) -> None:
    for sentence in recordings.unreadable_records:
        site_log(site.log).warning("%s; the record is left out", sentence)
    run.details = {
        **run.details,
        "unreadable_segments": run.details["unreadable_segments"] + recordings.n_unreadable_segments,
        "unreadable_records": run.details["unreadable_records"] + len(recordings.unreadable_records),
    }


def _align(store: BeatStore, session_factory: SessionFactory, run: Run) -> None:
    """Cut off the beats an interrupted ingest left behind.

    Raises
    ------
    StorageError
        If the store belongs to another database: it is never cut for a database that knows none of it.
    """
    store.lock()
    with session_factory() as session:
        rows = session.scalar(select(func.max(Strip.beat_offset + Strip.n_beats))) or 0
        earlier = session.scalar(select(func.count()).where(Run.kind == "ingest", Run.id != run.id))
    if not earlier and len(store):
        raise StorageError(
            f"{store.path} holds {len(store)} beats of another database; point the database URL at that "
            "database, or delete the folder and ingest again"
        )
    store.truncate(rows)


def _earlier_damage(session: Session, run: Run) -> dict[str, int]:
    """Return the damage earlier runs met: files are counted once, by the run that asked for them."""
    damage = {"unreadable_segments": 0, "unreadable_records": 0}
    earlier = select(Run.details).where(Run.kind == "ingest", Run.id != run.id).order_by(Run.id)
    for details in session.scalars(earlier):
        damage |= {name: details[name] for name in damage if name in details}
    return damage


def _counted(session: Session) -> dict[str, Any]:
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
