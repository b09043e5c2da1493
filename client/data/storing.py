"""From what was found for a patient to rows of the site database."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from client.data.labels import LabelledDraw
from client.data.news import ITEM_CHARACTERS, PRINTED_CHARACTERS, UNIT_CHARACTERS, row_names
from client.data.sources.base import Person
from client.data.strips import FoundStrip
from client.data.todo import StoredStrip, Todo
from client.database.tables import Draw, Patient, Strip

FLAG_CHARACTERS = 16


#: ``add``: a new row; ``update``: laid over its row; ``stamp``: the samples are as before, only the size and
#: time of files are noted; ``notice``: they are not, and the row stays; ``leave``: nothing came of it.
Verdict = Literal["add", "update", "stamp", "notice", "leave"]


@dataclass(frozen=True)
class PlacedStrip:
    """A strip whose beats are on the disk already; ``strip.beats`` is empty to free memory."""

    strip: FoundStrip
    verdict: Verdict
    offset: int | None
    n_beats: int


def verdict_on(todo: Todo, strip: FoundStrip, *, take_changes: bool) -> Verdict:
    """Decide what becomes of a strip that was read, before its beats are written."""
    before = _before(todo, strip)
    if before is None:
        return "add"
    position = strip.draw
    why = "changed" if position is None else todo.why[position]
    moved = position is not None and (position in todo.news.changed or position in todo.news.outdated)
    if not moved and strip.signal_sha256 == before.signal_sha256:
        return "stamp" if strip.pieces else "leave"
    if why == "files" or take_changes:
        return "update"
    return "notice"


def _before(todo: Todo, strip: FoundStrip) -> StoredStrip | None:
    if strip.draw is None:
        return todo.strips.get((strip.start, str(strip.label)))
    return todo.strips.get(todo.news.known.get(strip.draw, 0))


def store_patient(
    session: Session,
    todo: Todo,
    person: Person,
    placed: Sequence[PlacedStrip],
    run_id: int,
    *,
    take_changes: bool,
) -> tuple[Counter[str], list[tuple[int, int]]]:
    """Add and update the rows of a patient. The caller commits.

    Returns
    -------
    counts : what was done and what was noticed, by name.
    erase : (first row, rows) of beats that no strip points at any more.
    """
    counts: Counter[str] = Counter()
    if todo.patient_id is None:
        patient = _patient_row(person)
        session.add(patient)
        session.flush()
        counts["new_patients"] += 1
    else:
        patient = session.get_one(Patient, todo.patient_id)
    patient.files_sha256 = todo.files_sha256
    draw_ids = _store_draws(session, todo, patient.id, run_id, counts, take_changes)
    erase: list[tuple[int, int]] = []
    for one in placed:
        position, before = one.strip.draw, _before(todo, one.strip)
        if before is None:
            draw_id = None if position is None else draw_ids[position]
            session.add(_fill(Strip(patient_id=patient.id, draw_id=draw_id), one, run_id))
            counts["new_strips"] += 1
        elif one.verdict == "update":
            row = session.get_one(Strip, before.id)
            if row.beat_offset is not None:
                erase.append((row.beat_offset, row.n_beats))
            _fill(row, one, run_id)
            counts["updated_strips"] += 1
        elif one.verdict == "stamp":
            session.get_one(Strip, before.id).source = _pieces(one.strip)
        elif one.verdict == "notice":
            counts["changed_strips"] += 1
    session.flush()
    return counts, erase


def _store_draws(
    session: Session,
    todo: Todo,
    patient_id: int,
    run_id: int,
    counts: Counter[str],
    take_changes: bool,
) -> list[int]:
    """Add a patient's new draws, notice or take over changed ones; return the row of every position."""
    news, taken = todo.news, list[str]()
    rows: dict[int, Draw] = {}
    for position, draw_id in sorted((news.changed | news.outdated).items()):
        counts["changed_draws" if position in news.changed else "outdated_draws"] += 1
        if take_changes:
            rows[position] = _fill_draw(session.get_one(Draw, draw_id), todo.draws[position], run_id)
    counts["gone_draws"] += len(news.gone)
    if todo.patient_id is not None and news.added:
        stored_names = select(Draw.source_row).where(Draw.patient_id == todo.patient_id)
        taken = list(session.scalars(stored_names))
    names = row_names([todo.draws[position] for position in news.added], taken)
    for position, name in zip(news.added, names, strict=True):
        row = Draw(patient_id=patient_id, source_row=name)
        rows[position] = _fill_draw(row, todo.draws[position], run_id)
    session.add_all(rows[position] for position in news.added)
    session.flush()
    counts["new_draws"] += len(news.added)
    ids = [news.known.get(position, 0) or rows[position].id for position in range(len(todo.draws))]
    for position, row in rows.items():
        into = todo.draws[position].merged_into
        row.merged_into_id = None if into is None else ids[into]
        strip = todo.strips.get(row.id)
        if row.label is None and strip is not None:
            # Predictions may stand on the strip: it stays, with the reason of its draw.
            stored = session.get_one(Strip, strip.id)
            stored.exclusion, stored.reasons = row.exclusion, [str(row.exclusion)]
    return ids


def _fill_draw(row: Draw, draw: LabelledDraw, run_id: int) -> Draw:
    measurement = draw.measurement
    row.run_id = run_id
    row.specimen_time = measurement.specimen_time
    row.value = draw.value
    row.printed = measurement.text[:PRINTED_CHARACTERS]
    row.unit = measurement.unit[:UNIT_CHARACTERS] or None
    row.flag = measurement.flag[:FLAG_CHARACTERS] or None
    row.hemolysis = measurement.hemolysis
    row.item = measurement.item[:ITEM_CHARACTERS]
    row.specimen = measurement.specimen
    row.censored = draw.censored
    row.label = draw.label
    row.exclusion = draw.exclusion
    return row


def _fill(row: Strip, one: PlacedStrip, run_id: int) -> Strip:
    strip = one.strip
    row.run_id = run_id
    row.label, row.value = strip.label, strip.value
    row.start, row.end = strip.start, strip.end
    row.record = strip.record
    row.rate_hz = strip.rate_hz
    row.source = _pieces(strip)
    row.signal_sha256 = strip.signal_sha256
    row.exclusion = strip.exclusion
    row.reasons = [str(reason) for reason in strip.reasons]
    row.beats_rejected = {str(reason): n for reason, n in strip.beats_rejected.items() if n}
    row.beat_offset, row.n_beats = one.offset, one.n_beats
    row.n_detected, row.agreement = strip.n_detected, strip.agreement
    row.signal_s, row.heart_rate_bpm = strip.signal_s, strip.heart_rate_bpm
    row.quality = strip.quality
    return row


def _pieces(strip: FoundStrip) -> list[dict[str, Any]]:
    return [asdict(piece) for piece in strip.pieces]


def _patient_row(person: Person) -> Patient:
    return Patient(
        source_key=person.key,
        sex=person.sex,
        age=person.age,
        ethnicity=person.ethnicity,
        height_cm=person.height_cm,
        weight_kg=person.weight_kg,
    )
