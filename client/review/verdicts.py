"""Reading a reviewer's verdicts back in: every line is checked before anything is stored."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from client.data.problems import Problem
from client.database import reviews
from client.database.removal import GONE
from client.database.reviews import READ, VERDICTS, Said
from client.database.runs import SessionFactory, running
from client.site import Site
from common.config import nearest
from common.errors import ConfigurationError, SourceError

COLUMNS: Final = ("sheet", "strip", "verdict", "comment")
#: What spreadsheet programs put between fields, depending on the country.
DELIMITERS: Final = ",;\t"
MAX_COMMENT: Final = 255
MAX_REVIEWER: Final = 64
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_NUMBER: Final = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True)
class Line:
    """One line of a file, as it stands there, without blanks around the fields."""

    number: int
    sheet: str
    strip: str
    verdict: str
    comment: str


@dataclass(frozen=True)
class Told:
    """What came of reading a file.

    Attributes
    ----------
    reviewer : name or initials.
    verdicts : stored.
    replaced : earlier verdicts of the reviewer that they took the place of.
    open : strips of the sheet without a verdict.
    forgotten : verdicts on strips the site holds no more; not stored.
    """

    reviewer: str
    verdicts: int
    replaced: int
    open: int
    forgotten: int


def blank_file(digest: str, strips: Sequence[int]) -> str:
    """Return a file for verdicts with one line per strip and no verdict yet."""
    lines = [",".join(COLUMNS), *(f"{digest},{strip},," for strip in strips)]
    return "\r\n".join(lines) + "\r\n"


def holds_verdicts(path: Path) -> bool:
    """Return whether somebody wrote into a file for verdicts, or it is another file altogether."""
    if not path.exists():
        return False
    try:
        return any(line.verdict or line.comment for line in read_lines(path))
    except SourceError:
        return True


def read_verdicts(site: Site, session_factory: SessionFactory, path: Path, reviewer: str) -> Told:
    """Store the verdicts of one file, all of them or none.

    A second file of the same reviewer takes the place of the first: all verdicts on the same sheet, and those
    on the same strips of other sheets.

    Parameters
    ----------
    site : settings.
    session_factory : of the site database.
    path : CSV with the columns sheet, strip, verdict and comment. Lines without a verdict are left open.
    reviewer : name or initials.

    Raises
    ------
    SourceError
        If a line is wrong: file, line, what stands there and what is allowed.
    ConfigurationError
        If the reviewer's name cannot be used.
    """
    name = reviewer_name(reviewer)
    lines = list(read_lines(path))
    if not lines:
        raise _wrong(path, 1, "the file has no line below its header; read the file of a sheet", None)
    with session_factory() as session:
        known = reviews.reviewers(session)
        twin = next((one for one in known if one.casefold() == name.casefold() and one != name), None)
        if twin is not None:
            raise ConfigurationError(
                f"--reviewer {name!r}: there is a reviewer {twin!r}; write the name the same way, or choose "
                "one that is not mistaken for it"
            )
        digest = _one_sheet(path, lines)
        sheet = reviews.find_sheet(session, digest)
        if sheet is None:
            raise _wrong(
                path,
                lines[0].number,
                "column sheet: no sheet of this site has this digest; read the file that belongs to a sheet "
                f"made with 'fedkalemia-site review sheet {site.folder}'",
                digest,
            )
        said = _checked(path, lines, sheet)
        present = reviews.present_strips(session, sorted(said))
    # The number of a strip that went with a forgotten patient may be another strip's by now.
    stored = {strip: one for strip, one in said.items() if strip in present and sheet[strip] != GONE}
    if not said:
        raise _wrong(
            path, lines[0].number, f"no line has a verdict yet; allowed: {', '.join(VERDICTS)}", None
        )
    with running(session_factory, "review", site.settings, name=READ) as run, session_factory() as session:
        replaced = reviews.replace_verdicts(session, name, digest, stored, sheet)
        session.commit()
        run.details = {"sheet_sha256": digest, "verdicts": len(stored), "replaced": replaced}
    return Told(name, len(stored), replaced, len(sheet) - len(said), len(said) - len(stored))


def reviewer_name(text: str) -> str:
    """Return a reviewer's name without blanks around it.

    Raises
    ------
    ConfigurationError
        If it is empty, too long or holds what is no letter to print.
    """
    name = " ".join(text.split())
    if not name or len(name) > MAX_REVIEWER or not name.isprintable():
        raise ConfigurationError(
            f"--reviewer {text!r}: a name or initials of 1 to {MAX_REVIEWER} printable characters"
        )
    return name


def read_lines(path: Path) -> Iterator[Line]:
    """Read a file for verdicts as an editor or a spreadsheet program leaves it.

    Commas, semicolons or tabs between the fields; UTF-8 with or without a byte order mark; columns in any
    order; empty lines are passed over.

    Raises
    ------
    SourceError
        If the file cannot be read, is not text, or lacks a column.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise SourceError(
            f"{path} cannot be read: {(error.strerror or 'unknown').lower()}", problem=Problem.BAD_REVIEW
        ) from None
    except UnicodeDecodeError:
        raise SourceError(
            f"{path} is not UTF-8 text; save it as 'CSV UTF-8' in the spreadsheet program",
            problem=Problem.BAD_REVIEW,
        ) from None
    head = text.split("\n", 1)[0]
    delimiter = max(DELIMITERS, key=head.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    places: dict[str, int] | None = None
    try:
        for row in reader:
            fields = [field.strip() for field in row]
            if not any(fields):
                continue
            if places is None:
                places = _places(path, fields)
                continue
            fields += [""] * (max(places.values()) + 1 - len(fields))  # empty ends may be left out
            yield Line(reader.line_num, *(fields[places[column]] for column in COLUMNS))
    except csv.Error as error:
        raise _wrong(path, reader.line_num, f"cannot be read as CSV ({error})", None) from None
    if places is None:
        raise _wrong(path, 1, f"the file is empty; expected the columns {', '.join(COLUMNS)}", None)


def _places(path: Path, head: Sequence[str]) -> dict[str, int]:
    names = [name.lower() for name in head]
    missing = [column for column in COLUMNS if column not in names]
    if missing:
        raise _wrong(
            path,
            1,
            f"there is no column {missing[0]!r}; expected: {', '.join(COLUMNS)}, as beside a sheet",
            ", ".join(head),
        )
    return {column: names.index(column) for column in COLUMNS}


def _one_sheet(path: Path, lines: Sequence[Line]) -> str:
    first = lines[0]
    for line in lines:
        if not _DIGEST.fullmatch(line.sheet):
            raise _wrong(
                path, line.number, "column sheet: expected the 64 hexadecimal digits of a sheet", line.sheet
            )
        if line.sheet != first.sheet:
            raise _wrong(
                path,
                line.number,
                f"column sheet: another sheet than in line {first.number}; one file holds the verdicts of "
                "one sheet, read two files one after the other",
                line.sheet,
            )
    return first.sheet


def _checked(path: Path, lines: Sequence[Line], sheet: dict[int, str | None]) -> dict[int, Said]:
    """Return strip -> verdict of all lines that have one.

    Raises
    ------
    SourceError
        For the first line that is wrong.
    """
    seen: dict[int, int] = {}
    said: dict[int, Said] = {}
    for line in lines:
        strip = int(line.strip) if _NUMBER.fullmatch(line.strip) else None
        if strip is None or strip not in sheet:
            raise _wrong(
                path, line.number, "column strip: expected the number of a strip of this sheet", line.strip
            )
        if strip in seen:
            raise _wrong(
                path,
                line.number,
                f"column strip: the strip is in line {seen[strip]} already; keep one of the two lines",
                line.strip,
            )
        seen[strip] = line.number
        word = line.verdict.lower()
        verdict = next((one for one in VERDICTS if one == word), None)
        if verdict is None and (word or line.comment):
            told = (
                f"column verdict: unknown verdict{nearest(word, VERDICTS)}"
                if word
                else f"a comment without a verdict; allowed: {', '.join(VERDICTS)}"
            )
            raise _wrong(path, line.number, told, line.verdict or line.comment)
        if len(line.comment) > MAX_COMMENT:
            raise _wrong(
                path,
                line.number,
                f"column comment: {len(line.comment)} characters; at most {MAX_COMMENT} are kept",
                line.comment,
            )
        if verdict is not None:
            said[strip] = Said(verdict, line.comment or None)
    return said


def _wrong(path: Path, line: int, told: str, value: str | None) -> SourceError:
    return SourceError(f"{path}, line {line}: {told}", problem=Problem.BAD_REVIEW, value=value)
