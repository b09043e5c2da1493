"""What a patient's files say now that the database does not know yet.

What is stored stays as it was read: results stand on it. New rows and new recordings are added. A row that
says something else than before, a row that is gone, and a label that would be another one today are noticed,
and taken over only where that is asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from client.data.exclusion import Exclusion
from client.data.labels import LabelledDraw

#: Reasons that new or repaired files may take away.
FOR_LACK_OF_FILES = frozenset(
    {
        Exclusion.NO_WAVEFORM,
        Exclusion.NO_CLINICAL_OVERLAP,
        Exclusion.UNREADABLE_SEGMENT,
        Exclusion.LEAD_II_ABSENT,
        Exclusion.TOO_LITTLE_SIGNAL,
    }
)

PRINTED_CHARACTERS, UNIT_CHARACTERS, ITEM_CHARACTERS, ROW_CHARACTERS = 64, 16, 32, 48


@dataclass(frozen=True, slots=True)
class StoredDraw:
    """A draw as the database has it."""

    id: int
    source_row: str
    time: datetime
    item: str
    printed: str | None
    unit: str | None
    value: float | None
    label: str | None
    exclusion: str | None


@dataclass
class News:
    """How a patient's draws differ from the stored ones.

    Attributes
    ----------
    added : positions of draws that are not stored.
    changed : position -> stored draw, where the row says something else now.
    outdated : position -> stored draw, where the same row would get another label or reason today.
    gone : stored draws without a row.
    known : position -> stored draw, of all rows that are stored.
    """

    added: list[int] = field(default_factory=list)
    changed: dict[int, int] = field(default_factory=dict)
    outdated: dict[int, int] = field(default_factory=dict)
    gone: list[int] = field(default_factory=list)
    known: dict[int, int] = field(default_factory=dict)


def row_names(draws: Sequence[LabelledDraw], taken: Sequence[str] = ()) -> list[str]:
    """Name the row of each draw; an export may hold a row twice: both are kept, and told apart.

    >>> from types import SimpleNamespace as Row
    >>> row_names([Row(measurement=Row(source_row=name)) for name in ("7", "7", "8")], taken=["8"])
    ['7', '7 (2)', '8 (2)']
    """
    used, names = set(taken), []
    for draw in draws:
        name = base = draw.measurement.source_row[:ROW_CHARACTERS]
        number = 1
        while name in used:
            number += 1
            name = f"{base} ({number})"
        used.add(name)
        names.append(name)
    return names


def compare(draws: Sequence[LabelledDraw], stored: Sequence[StoredDraw]) -> News:
    """Find what is new among a patient's draws.

    A stored draw and a row are the same where both name and content agree; then where the content does (the
    numbers of rows move when a table is exported again); then where only the name does: a changed row.

    Parameters
    ----------
    draws : all draws of the patient, labelled, as the files have them now.
    stored : the patient's rows of the database.
    """
    news = News()
    names = row_names(draws)
    text = {name: draw.measurement.text[:PRINTED_CHARACTERS] for name, draw in zip(names, draws, strict=True)}
    # Earlier versions did not store what was printed: such a row is the same where the rest agrees.
    stored = [
        replace(draw, printed=text.get(draw.source_row)) if draw.printed is None else draw for draw in stored
    ]
    left = {draw.id: draw for draw in stored}
    for key in (
        lambda name, content: (name, content),
        lambda _, content: content,
    ):
        waiting: dict[object, list[int]] = {}
        for row in left.values():
            waiting.setdefault(key(row.source_row, _stored_content(row)), []).append(row.id)
        for position, draw in enumerate(draws):
            if position in news.known:
                continue
            found = waiting.get(key(names[position], _content(draw)))
            if found:
                news.known[position] = found.pop(0)
                del left[news.known[position]]
    by_name = {row.source_row: row.id for row in left.values()}
    for position in range(len(draws)):
        if position not in news.known and (same := by_name.pop(names[position], None)) is not None:
            news.known[position] = news.changed[position] = same
            del left[same]
    news.added = [position for position in range(len(draws)) if position not in news.known]
    news.gone = sorted(left)
    before = {draw.id: draw for draw in stored}
    for position, same in news.known.items():
        outcome = (draws[position].label, draws[position].exclusion)
        if position not in news.changed and outcome != (before[same].label, before[same].exclusion):
            news.outdated[position] = same
    return news


def beside_stored(
    draws: Sequence[LabelledDraw], news: News, stored: Sequence[StoredDraw], merge_s: float
) -> list[LabelledDraw]:
    """Judge new draws with regard to stored ones that keep their label.

    A new draw closer to a labelled stored one than ``merge_s`` would share its ECG with it: it is merged into
    it, or conflicts with it. The stored one stays what it is.

    Parameters
    ----------
    draws, news : as in ``compare``.
    stored : the patient's rows of the database.
    merge_s : seconds within which draws are one measurement.

    Returns
    -------
    The draws, with new outcomes for those in ``news.added`` where a stored one is near.
    """
    apart = max(timedelta(seconds=merge_s), timedelta.resolution)
    labelled = [draw for draw in stored if draw.label is not None]
    position_of = {same: position for position, same in news.known.items()}
    out = list(draws)
    for position in news.added:
        draw = out[position]
        near = [one for one in labelled if abs(one.time - draw.measurement.specimen_time) < apart]
        if draw.label is None or not near:
            continue
        if all(one.label == draw.label for one in near):
            # The one it is merged into has a row in the files, or has lost it since.
            into = next((position_of[one.id] for one in near if one.id in position_of), None)
            out[position] = replace(draw, label=None, exclusion=Exclusion.MERGED_INTO, merged_into=into)
        else:
            out[position] = replace(draw, label=None, exclusion=Exclusion.CONFLICTING_DRAWS)
    return out


def told(news: Sequence[News]) -> Counter[str]:
    """Count what was noticed and not taken over."""
    return Counter(
        changed_draws=sum(len(one.changed) for one in news),
        outdated_draws=sum(len(one.outdated) for one in news),
        gone_draws=sum(len(one.gone) for one in news),
    )


def _content(draw: LabelledDraw) -> tuple[object, ...]:
    measurement = draw.measurement
    return (
        measurement.specimen_time,
        measurement.item[:ITEM_CHARACTERS],
        measurement.text[:PRINTED_CHARACTERS],
        measurement.unit[:UNIT_CHARACTERS] or None,
    )


def _stored_content(draw: StoredDraw) -> tuple[object, ...]:
    return draw.time, draw.item, draw.printed, draw.unit
