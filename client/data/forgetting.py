"""Forgetting a patient: rows, beats, personal models and pages, in an order that survives a crash.

First one transaction removes all rows and leaves a tombstone that is marked as unfinished. From then on
nothing knows the patient, and no ingest brings it back. Then beats are overwritten, files deleted and the
database compacted. None of that needs to know who the patient was, so the next call completes what a crash
left. At last the mark is taken off.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from sqlalchemy import ColumnElement, Engine, select
from sqlalchemy.orm import Session

from client.data.beatstore import BeatStore
from client.data.ingest import ERASE
from client.database.forgotten import find_tombstone, mark_finished, set_tombstone, unfinished
from client.database.removal import Beyond, beyond_recall, compact, remove_patient
from client.database.session import sessions
from client.database.tables import Forgotten as Tombstone
from client.database.tables import Patient, Report, Run, Strip
from client.site import Site
from common.errors import CohortError, DatabaseError
from common.files import storage_errors

#: Files of a patient's personal models, finished or begun; the number is the database's.
PERSONAL_FILE: Final = re.compile(r"\.?patient-(\d+)-.+")
#: Folders of a site that hold pages; a page may show any patient, so all of them go.
PAGES: Final = ("report", "report-pseudonymous", "review")
#: Runs that read or write patients while they are marked as running.
AT_WORK: Final = ("cohort", "federation", "personalization", "report", "review")


@dataclass(frozen=True)
class Forgotten:
    """What became of one request to forget a patient.

    Attributes
    ----------
    rows : removed or changed, by table, and ``beats`` overwritten; by an earlier call where it was ``again``.
    models, pages : files that this call deleted, relative to the site folder.
    elsewhere : pages that were written outside the site folder, which this does not touch.
    beyond : what left before and cannot be called back.
    since : when the patient was forgotten, UTC.
    again : the rows were removed by an earlier call.
    completed : this call did what was left to do; False if nothing was.
    running : kinds and numbers of runs that are marked as running.
    """

    rows: Mapping[str, int]
    models: tuple[str, ...]
    pages: tuple[str, ...]
    elsewhere: tuple[str, ...]
    beyond: Beyond
    since: datetime
    again: bool
    completed: bool
    running: tuple[str, ...] = ()


def need_known(site: Site, engine: Engine, key: str) -> None:
    """Refuse an identifier that no patient has and none had before.

    Raises
    ------
    CohortError
        It does not quote the identifier: what a command prints may be kept.
    """
    with sessions(engine)() as session:
        if _patient(session, key) is None and find_tombstone(session, key) is None:
            raise CohortError(
                f"site {site.name} knows no patient with this identifier; give it exactly as in the "
                "hospital's files (SUBJECT_ID in the MIMIC layouts, a number without letters before it)"
            )


def forget(site: Site, engine: Engine, key: str) -> Forgotten:
    """Remove everything this site's software keeps about a patient.

    Called again, it completes what was interrupted; where nothing is left to do it only says so.

    Parameters
    ----------
    engine : of the site's database.
    key : the patient's identifier in the hospital's files.

    Raises
    ------
    CohortError
        If no patient has this identifier and none had it before.
    StorageError
        If an ingest is running, or a file cannot be written or deleted.
    DatabaseError
        If another process keeps the database busy.
    """
    need_known(site, engine, key)
    factory = sessions(engine)
    with BeatStore(site.beats) as store:
        store.lock()  # an ingest writes under the same lock: none is running from here on
        again = not _remove_rows(site, factory, key)
        with factory() as session:
            todo = unfinished(session)
            known = frozenset(session.scalars(select(Patient.id)))
            running = tuple(_running(session))
        if todo is not None:
            _erase(store, factory, todo)
        # A personalization that was at work meanwhile may have written files of a patient nobody knows.
        models = tuple(_delete(site, _personal_files(site, known)))
        pages = tuple(_delete(site, page_files(site))) if todo is not None else ()
        if todo is not None:
            compact(engine)
        with factory() as session:
            mark_finished(session)
            session.commit()
            row = _tombstone(session, key)
    return Forgotten(
        rows=row.details["rows"],
        models=models,
        pages=pages,
        elsewhere=tuple(row.details["elsewhere"]),
        beyond=Beyond.of_json(row.details["beyond"]),
        since=row.forgotten_at,
        again=again,
        completed=todo is not None,
        running=running,
    )


def _remove_rows(site: Site, factory: Callable[[], Session], key: str) -> bool:
    """Remove the rows and leave a tombstone, in one transaction; return False if an earlier call did."""
    with factory() as session, session.begin():
        patient = _patient(session, key)
        if patient is None:
            return False
        beyond = beyond_recall(session, patient.id)
        written = session.scalars(select(Report.path).distinct().order_by(Report.path))
        elsewhere = [path for path in written if not (site.folder / path).is_relative_to(site.folder)]
        beats = _placed(session, Strip.patient_id == patient.id)
        rows = remove_patient(session, patient, site.settings.policy.min_cell)
        rows |= {"beats": sum(n for _, n in beats)}
        details = {"rows": rows, "beyond": beyond.as_json(), "elsewhere": elsewhere}
        set_tombstone(session, site.name, key, details, beats)
    return True


def _tombstone(session: Session, key: str) -> Tombstone:
    row = find_tombstone(session, key)
    if row is None:
        raise DatabaseError("the tombstone of the patient is gone: another program changed the database")
    return row


def _patient(session: Session, key: str) -> Patient | None:
    return session.scalars(select(Patient).where(Patient.source_key == key)).one_or_none()


def _placed(session: Session, *conditions: ColumnElement[bool]) -> list[tuple[int, int]]:
    """Return first row and number of rows of the beats of strips, in order; neighbours are joined."""
    query = select(Strip.beat_offset, Strip.n_beats).where(Strip.n_beats > 0, *conditions)
    joined: list[tuple[int, int]] = []
    for first, n in session.execute(query.order_by(Strip.beat_offset)):
        if joined and first == sum(joined[-1]):
            joined[-1] = (joined[-1][0], joined[-1][1] + n)
        elif first is not None:
            joined.append((first, n))
    return joined


def _erase(store: BeatStore, factory: Callable[[], Session], todo: Sequence[tuple[int, int]]) -> None:
    """Overwrite the beats of forgotten patients, and what killed ingests left; all others keep their places.

    An ingest may have given some of the rows to another patient since the list was made: what a strip points
    at is left alone.
    """
    with factory() as session:
        kept = _placed(session)
        runs = session.scalars(select(Run.details).where(Run.kind == "ingest"))
        left = [(int(first), int(n)) for details in runs for first, n in details.get(ERASE, [])]
    end = sum(kept[-1]) if kept else 0
    ranges = [*todo, *left, (end, len(store) - end)]
    place = 0
    for first, n in [*kept, (len(store), 0)]:
        for begin, rows in ranges:
            start, stop = max(begin, place), min(begin + rows, first)
            if start < stop:
                store.erase(start, stop - start)
        place = first + n


def _personal_files(site: Site, known: Collection[int]) -> Iterator[Path]:
    """Yield the files of personal models of patients the database does not know."""
    for path in sorted(site.models.rglob("*")):
        match = PERSONAL_FILE.fullmatch(path.name)
        if match is not None and int(match[1]) not in known:
            yield path


def page_files(site: Site) -> Iterator[Path]:
    """Yield the pages and review sheets of a site, with all that lies beside them."""
    for folder in PAGES:
        yield from sorted(path for path in (site.folder / folder).rglob("*") if not path.is_dir())


def _delete(site: Site, paths: Iterable[Path]) -> Iterator[str]:
    """Delete files, and say of each where it was."""
    for path in paths:
        with storage_errors(path):
            path.unlink(missing_ok=True)
        yield path.relative_to(site.folder).as_posix()


def _running(session: Session) -> list[str]:
    query = select(Run).where(Run.kind.in_(AT_WORK), Run.status == "running").order_by(Run.id)
    return [f"{run.kind} (run {run.id})" for run in session.scalars(query)]
