"""Ingest: from a hospital's files to rows and beats, patient by patient.

Every draw ends with a label or a reason, every labelled draw with one strip that has beats or a reason.
Worker processes read and compute; this process alone writes, in the order of the patients, so that the result
does not depend on the number of workers. A patient is one transaction: beats are on the disk before the rows
that point at them are committed. Whenever the work is stopped, the next ingest goes on with the patient that
was not finished, and ends with the same rows and the same bytes.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from client.data.beatstore import BeatStore
from client.data.jobs import Job, JobResult, run_job
from client.data.made_with import check_made_with, source_form
from client.data.result import NOTICED, IngestResult, counted
from client.data.sources import Source, open_source
from client.data.storing import PlacedStrip, store_patient, verdict_on
from client.data.strips import no_beats
from client.data.todo import Todo, plan_patient
from client.database.forgotten import forgotten_filter
from client.database.runs import now, running
from client.database.tables import Patient, Run, Strip
from client.site import Site
from common.errors import StorageError
from common.files import write_json
from common.logs import Stage, site_log, stage
from common.workers import Workers, worker_processes

SessionFactory = Callable[[], Session]

SUMMARY: Final = "ingest.json"
#: Key of a run's details: beats that no row points at any more, until they are gone from the disk.
ERASE: Final = "erase"


def ingest(
    site: Site, session_factory: SessionFactory, *, workers: int = 1, take_changes: bool = False
) -> IngestResult:
    """Read a site's files into its database and beat store, or go on where an earlier ingest stopped.

    Patients and draws that are stored already are not read again, unless files came that may complete them.
    Files and rows that changed since they were read are counted, and the strips made of them stay.

    Parameters
    ----------
    site : whose files.
    session_factory : sessions of the site's database, whose tables exist.
    workers : processes that read and compute; never changes a row or a byte.
    take_changes : read again what changed, and lay it over what is stored.

    Raises
    ------
    SourceError
        If the data root or something in it is missing or damaged.
    ConfigurationError
        If the database was filled with other settings.
    StorageError
        If the disk is full, or the beat store does not belong to the database. What was finished stays.
    """
    began = time.monotonic()
    with session_factory() as session:
        check_made_with(session, site)
    source = open_source(site)
    with (
        running(session_factory, "ingest", site.settings, data_fingerprint=source.fingerprint()) as run,
        BeatStore(site.beats) as store,
        worker_processes(workers) as pool,
    ):
        _align(store, session_factory, run)
        with session_factory() as session:
            damage = _earlier_damage(session, run)
        run.details = {"source": source_form(site), "files": dict(source.counts()), **damage}
        work = _Work(site, source, session_factory, store, run, take_changes)
        work.all_patients(pool)
        run.details = {**run.details, **work.told()}
        with session_factory() as session:
            totals = counted(session)
        run.details = {**run.details, **totals}
        seconds = round(time.monotonic() - began, 1)
        found: dict[str, Any] = {**totals, **{name: run.details[name] for name in damage}, **work.told()}
        result = IngestResult(
            run_id=run.id, site=site.name, seconds=seconds, files=run.details["files"], **found
        )
    write_json(site.folder / SUMMARY, result.as_json())
    return result


@dataclass
class _Progress:
    """How fast it goes, for the line under the bar."""

    bar: Stage
    began: float = field(default_factory=time.monotonic)
    strips: int = 0
    beats: int = 0
    seconds_read: float = 0.0

    def add(self, strip: bool, beats: int, seconds: float) -> None:
        """Count a strip that was read."""
        self.strips += strip
        self.beats += beats
        self.seconds_read += seconds

    def patient(self) -> None:
        """Report that one more patient is complete."""
        took = time.monotonic() - self.began
        pace = f", {self.seconds_read / took:,.0f} times real time" if took > 1 and self.seconds_read else ""
        self.bar.advance(1, f"{self.strips:,} strips, {self.beats:,} beats{pace}")


@dataclass
class _Patient:
    """A patient whose files are being read; complete when all its jobs are."""

    todo: Todo
    waiting: int
    placed: list[PlacedStrip] = field(default_factory=list)
    damaged: set[str] = field(default_factory=set)
    unreadable_records: list[str] = field(default_factory=list)


@dataclass
class _Work:
    """The state of one ingest while it runs."""

    site: Site
    source: Source
    session_factory: SessionFactory
    store: BeatStore
    run: Run
    take_changes: bool
    counts: Counter[str] = field(default_factory=Counter)
    open: deque[_Patient] = field(default_factory=deque)

    def told(self) -> dict[str, int]:
        """Return what was done and noticed, every name with a number."""
        return {name: self.counts[name] for name in NOTICED}

    def all_patients(self, pool: Workers) -> None:
        """Do what is to be done for every patient, in order."""
        with self.session_factory() as session:
            known = {patient.source_key: patient for patient in session.scalars(select(Patient))}
            forgotten = forgotten_filter(session)
        keys = [key for key in self.source.keys() if not forgotten(key)]  # noqa: SIM118
        self.counts["gone_patients"] = len(known.keys() - set(keys))
        rows = len(self.store)
        with stage(f"Reading the files of {self.site.name}", total=len(keys), unit="patient") as bar:
            progress = _Progress(bar)
            try:
                for result in pool.in_order(run_job, self._jobs(keys, known, progress)):
                    rows = self._store_complete(progress, rows)  # those who need no reading
                    self._collect(self.open[0], result, progress)
                    rows = self._store_complete(progress, rows)
                self._store_complete(progress, rows)
            except BaseException:
                with suppress(StorageError):  # the next ingest would cut these rows off too
                    self.store.truncate(rows)
                raise

    def _jobs(self, keys: list[str], known: Mapping[str, Patient], progress: _Progress) -> Iterator[Job]:
        """Plan patients one after the other, and yield what the workers are to read for them."""
        for key in keys:
            with self.session_factory() as session:
                todo = plan_patient(
                    key, self.site, self.source, session, known.get(key), take_changes=self.take_changes
                )
            if todo is None:
                progress.bar.advance(1)
                continue
            self.open.append(_Patient(todo, len(todo.jobs)))
            yield from todo.jobs

    def _collect(self, patient: _Patient, result: JobResult, progress: _Progress) -> None:
        """Write the beats of some strips; their rows follow when the patient is complete."""
        for strip in result.strips:
            verdict = verdict_on(patient.todo, strip, take_changes=self.take_changes)
            keep = verdict in ("add", "update")
            offset = self.store.append(strip.beats) if keep and len(strip.beats) else None
            n_beats = 0 if offset is None else len(strip.beats)
            patient.placed.append(PlacedStrip(replace(strip, beats=no_beats()), verdict, offset, n_beats))
            patient.damaged |= strip.damaged
            progress.add(keep, n_beats, strip.signal_s)
        patient.unreadable_records = list(result.unreadable_records)
        patient.waiting -= 1

    def _store_complete(self, progress: _Progress, rows: int) -> int:
        """Store the patients at the head of the line who are complete; return the rows that are safe."""
        while self.open and self.open[0].waiting == 0:
            self._store(self.open.popleft())
            rows = len(self.store)
            progress.patient()
        return rows

    def _store(self, patient: _Patient) -> None:
        """Store beats, rows and damage of a patient in one commit, then wipe beats it no longer has."""
        self.store.flush()
        person = self.source.person(patient.todo.key)
        with self.session_factory() as session:
            counts, erase = store_patient(
                session, patient.todo, person, patient.placed, self.run.id, take_changes=self.take_changes
            )
            self._count_damage(patient)
            if erase:
                self.run.details = {**self.run.details, ERASE: [*self.run.details.get(ERASE, []), *erase]}
            session.get_one(Run, self.run.id).details = self.run.details
            session.commit()
        self.counts += counts
        if erase:
            _erase(self.store, self.session_factory, self.run)

    def _count_damage(self, patient: _Patient) -> None:
        for sentence in patient.unreadable_records:
            site_log(self.site.log).warning("%s; the record is left out", sentence)
        if patient.todo.patient_id is not None:
            return  # counted when the patient was read first
        details = self.run.details
        self.run.details = {
            **details,
            "unreadable_segments": details["unreadable_segments"] + len(patient.damaged),
            "unreadable_records": details["unreadable_records"] + len(patient.unreadable_records),
        }


def _align(store: BeatStore, session_factory: SessionFactory, run: Run) -> None:
    """Clear up behind an ingest that was killed: beats nobody knows, a run that seems to go on.

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
    # The lock says that no other ingest is running, whatever its row says.
    stale = (Run.kind == "ingest", Run.id != run.id, Run.status == "running")
    with session_factory() as session:
        session.execute(update(Run).where(*stale).values(status="interrupted", finished_at=now()))
        session.commit()
        unfinished = [
            one for one in session.scalars(select(Run).where(Run.kind == "ingest")) if one.details.get(ERASE)
        ]
    for one in unfinished:
        _erase(store, session_factory, one)


def _erase(store: BeatStore, session_factory: SessionFactory, run: Run) -> None:
    """Wipe beats that no row points at any more, then forget that this was to be done."""
    for first, n in run.details.get(ERASE, []):
        store.erase(first, n)
    run.details = {name: value for name, value in run.details.items() if name != ERASE}
    with session_factory() as session:
        session.get_one(Run, run.id).details = run.details
        session.commit()


def _earlier_damage(session: Session, run: Run) -> dict[str, int]:
    """Return the damage earlier runs met: files are counted once, by the run that asked for them."""
    damage = {"unreadable_segments": 0, "unreadable_records": 0}
    earlier = select(Run.details).where(Run.kind == "ingest", Run.id != run.id).order_by(Run.id)
    for details in session.scalars(earlier):
        damage |= {name: details[name] for name in damage if name in details}
    return damage
