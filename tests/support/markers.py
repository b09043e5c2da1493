"""Identifiers that can be told from anything else, put into sites, and a search for every trace of them.

A marked site's patients, lab rows, waveform records and dates occur nowhere else. Whatever leaves such a
site, and whatever is written to a log, is searched for them in every spelling a program might give them.
"""

from __future__ import annotations

import base64
import os
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

from sqlalchemy import select

from client.data.cohort import freeze_cohort
from client.database.session import open_database, sessions
from client.database.tables import Draw, Patient, Strip
from client.site import Site

KEY, RECORD, ROW, NOTE = "MARK-7781", "p77/p077810-note-of-mrs-marker", "MARKROW", "marker"
#: No other date of the tests lies in this year, and no draw at this second.
FIRST_DAY = datetime(2187, 6, 3, 4, 17, 29)
CONTEXT = 40
#: A file larger than this is searched in pieces.
PIECE = 1 << 24
DAY_S = 86_400
SECONDS = re.compile(rb"(?<![0-9a-fA-F.])([0-9]{9,11}|[0-9]{12,14})(?![0-9a-fA-F])")
#: Bytes of a packed instant that stay the same for days on end: they are looked for first, then the rest.
SAME = {"<q": slice(3, 7), ">q": slice(1, 5), "<d": slice(5, 8), ">d": slice(0, 3)}
#: First digits of seconds since 1970 that stay the same for a day; zeros may stand before them.
LEADING, LONGEST = 4, 14
_MONTHS = "(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*"
#: A day of the marked years, as people and programs write it, in lower case.
DATES = (
    r"(?<![0-9a-f.])(?:YEAR)(?:[-/._: ](?:0?[1-9]|1[0-2])[-/._: ](?:0?[1-9]|[12][0-9]|3[01])"
    r"|(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01]))(?![0-9a-f])"
    r"|(?<![0-9a-f])[0-3]?[0-9][-/._ ][0-3]?[0-9][-/._ ](?:YEAR)(?![0-9a-f])"
    r"|(?:YEAR), [0-9]{1,2}, [0-9]{1,2}"
    rf"|[0-3]?[0-9][-. ]{{1,2}}{_MONTHS}[-., ]{{1,2}}(?:YEAR)|{_MONTHS}[-. ]{{1,2}}[0-3]?[0-9],? (?:YEAR)"
)


#: No date with its year is longer.
DATE_REACH = 64


@dataclass(frozen=True)
class Markers:
    """What must not be found.

    Attributes
    ----------
    texts : identifiers, names of files and records; found in any case, in hexadecimal and base64 too.
    dates : found by the days of their years in every usual spelling; themselves as seconds since 1970.
    """

    texts: tuple[str, ...]
    dates: tuple[datetime, ...] = ()

    def __post_init__(self) -> None:
        texts = {spelling for text in self.texts for spelling in _spellings(text)}
        instants = {int(date.replace(tzinfo=UTC).timestamp()) for date in self.dates}
        packed: dict[tuple[int, bytes], set[bytes]] = {}
        for one, (form, same) in product(instants, SAME.items()):
            whole = struct.pack(form, one)
            packed.setdefault((same.start, whole[same]), set()).add(whole)
        days = {instant // DAY_S for instant in instants}
        ends = (str(second) for day in days for second in (day * DAY_S, (day + 1) * DAY_S - 1))
        years = "|".join(sorted({f"{date.year:04d}" for date in self.dates}))
        object.__setattr__(self, "_texts", sorted(texts))
        object.__setattr__(self, "_packed", packed)
        object.__setattr__(self, "_days", days)
        object.__setattr__(self, "_leading", {end[:LEADING].encode() for end in ends})
        object.__setattr__(self, "_years", {year.encode() for year in years.split("|")})
        object.__setattr__(
            self, "_dates", re.compile(DATES.replace("YEAR", years).encode()) if years else None
        )

    def found(self, data: bytes | str, where: str = "") -> list[str]:
        """Return every place at which something is found, with what is around it; nothing in a clean text."""
        raw = data.encode("utf-8", "replace") if isinstance(data, str) else data
        places = sorted(self._places(raw))
        return [f"{where}: ...{raw[max(0, at - CONTEXT) : at + 2 * CONTEXT]!r}..." for at in places]

    def _places(self, raw: bytes) -> set[int]:
        known: Any = self  # the fields that are made of the two
        small = raw.lower()
        found = {at for text in known._texts for at in _all(small, text)}
        if not self.dates:
            return found
        for (offset, part), whole in known._packed.items():
            begins = (at - offset for at in _all(raw, part) if at >= offset)
            found |= {begin for begin in begins if raw[begin : begin + 8] in whole}
        for at in (at for year in known._years for at in _all(small, year)):
            near = known._dates.finditer(small, max(0, at - DATE_REACH), at + DATE_REACH)
            found |= {hit.start() for hit in near if hit.start() <= at < hit.end()}
        for at in (at for leading in known._leading for at in _all(raw, leading)):
            begin = len(raw[max(0, at - LONGEST) : at].rstrip(b"0")) + max(0, at - LONGEST)
            if hit := SECONDS.match(raw, begin):
                seconds = int(hit[1]) // (1000 if len(hit[1]) > 11 else 1)
                if seconds // DAY_S in known._days:
                    found.add(begin)
        return found

    def in_files(self, places: Iterable[Path]) -> list[str]:
        """Search files, and all files below folders, with their names."""
        return [hit for path in _files(places) for hit in self._in_file(path)]

    def _in_file(self, path: Path) -> Iterator[str]:
        yield from self.found(os.fsencode(path), f"name of {path}")
        with path.open("rb") as file:
            rest = b""
            while piece := file.read(PIECE):
                yield from self.found(rest + piece, str(path))
                rest = piece[-200:]

    def __or__(self, other: Markers) -> Markers:
        """Return both sets as one."""
        return Markers(self.texts + other.texts, self.dates + other.dates)


def make_marked_site(make_site: Callable[..., Site], folder: Path, name: str, **options: Any) -> Site:
    """Make a tiny site whose identifiers are ``markers_of(name)``, with its cohort frozen.

    Parameters
    ----------
    make_site : ``make_tiny_site`` of ``tests/support/sites.py``.
    options : its further arguments.
    """
    site = make_site(folder, name, cohort=False, **options)
    mark(site)
    engine = open_database(site.database_url)
    freeze_cohort(site, sessions(engine))
    engine.dispose()
    return site


def mark(site: Site) -> None:
    """Give the patients, rows, records and dates in a site's database the marked ones; before any cohort."""
    engine = open_database(site.database_url)
    with sessions(engine)() as session:
        first = min(session.scalars(select(Strip.start)), default=FIRST_DAY)
        move = FIRST_DAY - first
        for patient in session.scalars(select(Patient)):
            patient.source_key = f"{KEY}-{site.name}-{patient.id:03d}"
        for draw in session.scalars(select(Draw)):
            draw.source_row, draw.specimen_time = f"{ROW}-{draw.id}", draw.specimen_time + move
        for strip in session.scalars(select(Strip)):
            strip.start, strip.end = strip.start + move, strip.end + move
            strip.record = f"{RECORD}-{strip.id}"
            strip.quality = {**strip.quality, NOTE: f"{KEY} seen by the ward"}
        session.commit()
    engine.dispose()


def markers(days: int = 40) -> Markers:
    """Return what a marked site must keep: its keys, rows, records, and that many days from the first."""
    dates = [FIRST_DAY + timedelta(days=day) for day in range(-1, days)]
    return Markers(
        (KEY, KEY.replace("-", ""), KEY.replace("-", "_"), RECORD, Path(RECORD).name, ROW), tuple(dates)
    )


def _spellings(text: str) -> Iterator[bytes]:
    raw = text.encode()
    yield raw.lower()
    yield raw.hex().encode()
    yield text.lower().encode("utf-16-le")
    for shift in range(3):  # a text may begin at each of three places of a base64 group
        coded = base64.b64encode(b"\0" * shift + raw)
        yield coded[(shift * 4 + 2) // 3 : (shift + len(raw)) * 4 // 3 - 1].lower()


def _all(data: bytes, part: bytes) -> Iterator[int]:
    at = data.find(part)
    while at >= 0:
        yield at
        at = data.find(part, at + len(part))


def _files(places: Iterable[Path]) -> Iterator[Path]:
    for place in places:
        if place.is_dir():
            yield from sorted(path for path in place.rglob("*") if path.is_file())
        elif place.is_file():
            yield place


def left_in(texts: Sequence[str]) -> str:
    """Return findings as lines, for the message of an assertion."""
    return "\n".join(texts[:20]) + (f"\n... {len(texts) - 20} more" if len(texts) > 20 else "")
