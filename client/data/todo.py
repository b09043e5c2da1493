"""What an ingest has to do for one patient: everything for a new one, only what is new for a known one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from client.data.jobs import AnnotatedJob, Job, draw_jobs
from client.data.labels import LabelledDraw, label_draws
from client.data.news import FOR_LACK_OF_FILES, News, StoredDraw, beside_stored, compare
from client.data.sources import AnnotatedSource, Source
from client.database.tables import Draw, Patient, Strip
from client.site import Site

#: ``new``: there is no strip yet; ``files``: files came that may take its reason away; ``changed``: a file it
#: was read from, or its row, is not what it was.
Why = Literal["new", "files", "changed"]


@dataclass(frozen=True, slots=True)
class StoredStrip:
    """A strip as the database has it."""

    id: int
    draw_id: int | None
    label: str
    start: Any
    exclusion: str | None
    signal_sha256: str | None
    source: Sequence[Mapping[str, Any]]


@dataclass
class Todo:
    """One patient.

    Attributes
    ----------
    key : identifier in the site's files.
    patient_id : row of a known patient, None for a new one.
    draws : all draws as the files have them now, with their outcome.
    news : how they differ from the stored ones.
    why : position of each draw whose window is read, and why; empty for annotated recordings.
    strips : stored strips, by draw, or by start and label where there are no draws.
    files_sha256 : digest of the names of the waveform files.
    jobs : what the workers read.
    """

    key: str
    patient_id: int | None
    draws: list[LabelledDraw]
    news: News
    files_sha256: str
    why: dict[int, Why] = field(default_factory=dict)
    strips: dict[Any, StoredStrip] = field(default_factory=dict)
    jobs: list[Job] = field(default_factory=list)


def plan_patient(
    key: str, site: Site, source: Source, session: Session, patient: Patient | None, *, take_changes: bool
) -> Todo | None:
    """Find out what is to be done for a patient.

    Parameters
    ----------
    key : identifier in the site's files.
    patient : its row, None for a new patient.
    take_changes : read again what is not what it was.

    Returns
    -------
    None where nothing is new.
    """
    names = "\n".join(source.waveform_files(key))
    digest = hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest()
    if isinstance(source, AnnotatedSource):
        return _annotated(key, site, source, session, patient, digest)
    draws = label_draws(source.measurements(key), source.stays(key), site.settings.label)
    if patient is None:
        todo = Todo(key, None, draws, News(added=list(range(len(draws)))), digest)
        todo.why = {position: "new" for position, draw in enumerate(draws) if draw.label is not None}
    else:
        stored = _stored_draws(session, patient.id)
        news = compare(draws, stored)
        if not take_changes:
            draws = beside_stored(draws, news, stored, site.settings.label.merge_s)
        todo = Todo(key, patient.id, draws, news, digest, strips=_stored_strips(session, patient.id))
        todo.why = _reasons_to_read(todo, source.waveform_root, digest != patient.files_sha256, take_changes)
        anything = todo.why or news.added or news.changed or news.outdated or news.gone
        if not anything and digest == patient.files_sha256:
            return None
    if todo.why or patient is None:
        chosen = [(position, todo.draws[position]) for position in sorted(todo.why)]
        todo.jobs = list(draw_jobs(source.opener(key), chosen, site.settings))
    return todo


def files_changed(strip: StoredStrip, root: Path) -> bool:
    """Tell whether a file a strip was read from has another size or time than it had, or is gone."""
    for piece in strip.source:
        try:
            found = (root / str(piece["file"])).stat()
            # A signal file need not be named like its header: MIMIC-IV has several files to one.
            header = str(piece.get("header", ""))
            written = max(found.st_mtime_ns, (root / header).stat().st_mtime_ns if header else 0)
        except OSError:
            return True
        if found.st_size != piece["size"] or written != piece["mtime_ns"]:
            return True
    return False


def _reasons_to_read(todo: Todo, root: Path, files_differ: bool, take_changes: bool) -> dict[int, Why]:
    why: dict[int, Why] = {
        position: "new" for position in todo.news.added if todo.draws[position].label is not None
    }
    for position, draw_id in todo.news.known.items():
        strip, draw = todo.strips.get(draw_id), todo.draws[position]
        if draw.label is None:
            continue
        taken = take_changes and (position in todo.news.changed or position in todo.news.outdated)
        if strip is None:
            if taken:
                why[position] = "new"
        elif taken or files_changed(strip, root):
            why[position] = "changed"
        elif files_differ and strip.exclusion in FOR_LACK_OF_FILES:
            why[position] = "files"
    return why


def _annotated(
    key: str, site: Site, source: AnnotatedSource, session: Session, patient: Patient | None, digest: str
) -> Todo | None:
    strips = {} if patient is None else _stored_strips(session, patient.id)
    if patient is not None and digest == patient.files_sha256:
        root = source.waveform_root
        if not any(files_changed(strip, root) for strip in strips.values()):
            return None
    job = AnnotatedJob(source, key, site.settings, site.source.detect)
    return Todo(key, patient.id if patient else None, [], News(), digest, strips=strips, jobs=[job])


def _stored_draws(session: Session, patient_id: int) -> list[StoredDraw]:
    query = (
        select(
            Draw.id, Draw.source_row, Draw.specimen_time, Draw.item, Draw.printed, Draw.unit, Draw.value,
            Draw.label, Draw.exclusion,
        )
        .where(Draw.patient_id == patient_id)
        .order_by(Draw.id)
    )  # fmt: skip
    return [StoredDraw(*row) for row in session.execute(query)]


def _stored_strips(session: Session, patient_id: int) -> dict[Any, StoredStrip]:
    query = (
        select(
            Strip.id, Strip.draw_id, Strip.label, Strip.start, Strip.exclusion, Strip.signal_sha256,
            Strip.source,
        )
        .where(Strip.patient_id == patient_id)
        .order_by(Strip.id)
    )  # fmt: skip
    found = [StoredStrip(*row) for row in session.execute(query)]
    return {(s.start, s.label) if s.draw_id is None else s.draw_id: s for s in found}
