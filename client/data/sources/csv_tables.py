"""Large CSV tables, streamed: plain or gzip, upper- or lower-case headers, any order of columns.

Whatever is wrong with a file is a ``SourceError`` with its line: what stands in a row's cell goes into
``value``, never into the sentence, because sentences may be logged.
"""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import IO, Final, cast

from client.data.problems import Problem
from common.errors import SourceError
from common.logs import Stage, stage

MEGABYTE: Final = 1_000_000
# Smaller tables are read before anybody wonders.
SHOWN_FROM_BYTES: Final = 50 * MEGABYTE
# No row of a table is this long; a file without line ends would be read into memory as a whole.
MAX_LINE_BYTES: Final = 1 << 20
# Years before this are place holders of an export, not times.
MIN_YEAR: Final = 1800

SEPARATORS: Final = MappingProxyType({";": "semicolons", "\t": "tabs", "|": "bars"})

#: What is done with an error in one row: raise it, or note it and go on with the next row.
Complain = Callable[[SourceError], None]

_TIME = re.compile(r"(\d{4})-(\d{2})-(\d{2})(?:[ T](\d{2}):(\d{2})(?::(\d{2})(?:\.\d+)?)?)?")


def find_table(folder: Path, name: str) -> Path | None:
    """Return the file of a table, ``NAME.csv`` or ``NAME.csv.gz`` in any case; None if there is none."""
    wanted = (f"{name.lower()}.csv", f"{name.lower()}.csv.gz")
    found = sorted(path for path in folder.iterdir() if path.name.lower() in wanted)
    return found[0] if found else None


def need_table(folder: Path, name: str) -> Path:
    """Return the file of a table.

    Raises
    ------
    SourceError
        If the folder does not hold it.
    """
    path = find_table(folder, name)
    if path is None:
        present = ", ".join(sorted(p.name for p in folder.iterdir() if ".csv" in p.name.lower())) or "none"
        raise SourceError(
            f"{folder} holds no table {name}: looked for {name}.csv and {name}.csv.gz in any case; "
            f"tables present: {present}; put the table there or set source.clinical in site.toml",
            problem=Problem.MISSING_TABLE,
        )
    return path


def raise_at_once(error: SourceError) -> None:
    """Raise an error: what a reader does with a row it cannot read unless it is told otherwise."""
    raise error


def rows(
    path: Path,
    columns: Sequence[str],
    optional: Sequence[str] = (),
    containing: Sequence[str] = (),
    *,
    exact: bool = False,
    complain: Complain = raise_at_once,
) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Stream some columns of a table.

    Parameters
    ----------
    path : the file.
    columns : names of columns that must be there, in any case.
    optional : names of columns that may be missing; their values are then empty.
    containing : if given, rows without any of these texts may be left out. A lab table has tens of
        millions of rows; looking at their bytes first is many times faster than splitting each of them.
    exact : refuse rows with more fields than the header and columns that are there twice. A comma as the
        decimal sign makes such rows, and every column after it would hold something else.
    complain : told of every row that cannot be read; if it returns, the row is left out.

    Yields
    ------
    line number, values of ``columns`` and then ``optional``, without surrounding blanks.

    Raises
    ------
    SourceError
        If the file cannot be read, lacks a column, or has a row with too few fields.
    """
    try:
        with path.open("rb") as file, _progress(path) as bar:
            packed = path.name.lower().endswith(".gz")
            unpacked = cast("IO[bytes]", gzip.GzipFile(fileobj=file)) if packed else file
            lines = _lines(path, unpacked, file, bar)
            yield from _columns(path, lines, columns, optional, containing, exact, complain)
    except (OSError, EOFError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise SourceError(
            f"{path} is damaged or cannot be read: {reason}; copy it again", problem=Problem.DAMAGED_FILE
        ) from None


def parse_time(text: str, path: Path, line: int) -> datetime | None:
    """Read a date and time; None for an empty field. Any year from 1800 to 9999.

    Raises
    ------
    SourceError
        For any other form, such as those a spreadsheet program leaves behind.
    """
    if not text:
        return None
    match = _TIME.fullmatch(text)
    try:
        if match is None or int(match[1]) < MIN_YEAR:
            raise ValueError(text)
        return datetime(*(int(part or 0) for part in match.groups()))  # type: ignore[arg-type]
    except ValueError:
        raise SourceError(
            f"{path}, line {line}: a time is not written like 2150-01-31 08:05:00; "
            "export the table again, without a spreadsheet program in between",
            problem=Problem.BAD_TIME,
            value=text,
        ) from None


def parse_number(text: str) -> float | None:
    """Read a number; None for anything else, infinity and NaN included."""
    try:
        value = float(text)
    except ValueError:
        return None
    if "_" in text:  # Python reads 1_000 as a number; laboratories do not
        return None
    return value if abs(value) < float("inf") else None


def _progress(path: Path) -> AbstractContextManager[Stage | None]:
    size = path.stat().st_size
    if size < SHOWN_FROM_BYTES:
        return nullcontext()
    return stage(f"Reading {path.name}", size // MEGABYTE, "megabyte")


def _columns(
    path: Path,
    lines: Iterator[bytes],
    columns: Sequence[str],
    optional: Sequence[str],
    containing: Sequence[str],
    exact: bool,
    complain: Complain,
) -> Iterator[tuple[int, tuple[str, ...]]]:
    names = _names(path, next(lines, b""), exact)
    places = _places(path, names, columns, optional)
    last, width = max(places), len(names)
    wanted = re.compile(b"|".join(re.escape(text.encode()) for text in containing)) if containing else None
    number = 1
    for line in lines:
        number += 1
        # With a quote left open, a field may go on in the next line: then the parser asks for it.
        if wanted is not None and line.count(b'"') % 2 == 0 and not wanted.search(line):
            continue
        row = _Row(line, lines)
        try:
            fields = _split(path, number, row)
            if 0 < len(fields) <= last:
                raise _short(path, number, len(fields), width)
            if exact and any(fields[width:]):
                raise _long(path, number, len(fields), width)
        except SourceError as error:
            complain(error)
            fields = []
        if fields:
            yield number, tuple([fields[place].strip() if place >= 0 else "" for place in places])
        number += row.taken - 1


class _Row:
    """Lines of one row, taken from the file as the parser asks for them."""

    def __init__(self, line: bytes, following: Iterator[bytes]) -> None:
        self.taken, self._line, self._following = 0, line, following

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._line if self.taken == 0 else next(self._following)
        self.taken += 1
        return f"{_text(line)}\n"


def _lines(path: Path, unpacked: IO[bytes], file: IO[bytes], bar: Stage | None) -> Iterator[bytes]:
    """Yield the lines of a file without their line feed, none of them longer than memory allows."""
    shown = number = 0
    rest = b""
    while block := unpacked.read(MAX_LINE_BYTES):
        lines = (rest + block).split(b"\n")
        rest = lines.pop()
        yield from lines
        number += len(lines)
        if len(rest) > MAX_LINE_BYTES:
            _refuse_carriage_returns(path, rest)
            raise SourceError(
                f"{path}, line {number + 1}: longer than {MAX_LINE_BYTES} bytes, which no row of a table is; "
                "export the table again",
                problem=Problem.BAD_CSV,
            )
        if bar is not None:
            done = file.tell() // MEGABYTE
            bar.advance(done - shown)
            shown = done
    if rest:
        yield rest


def _names(path: Path, header: bytes, exact: bool) -> list[str]:
    """Read the line of column names."""
    header = header.removeprefix(b"\xef\xbb\xbf")
    if not header.strip():
        raise SourceError(
            f"{path} is empty; a table starts with a line of column names", problem=Problem.EMPTY_TABLE
        )
    if b"\x00" in header or header.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise SourceError(
            f"{path} is not plain text in UTF-8; export the table again as CSV, UTF-8",
            problem=Problem.BAD_CSV,
        )
    _refuse_carriage_returns(path, header)
    names = [name.strip().lower() for name in _split(path, 1, iter((_text(header),)))]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if exact and twice:
        raise SourceError(
            f"{path}: the header has a column more than once; keep the right one",
            problem=Problem.BAD_CSV,
            value=", ".join(twice),
        )
    return names


def _refuse_carriage_returns(path: Path, line: bytes) -> None:
    if b"\r" in line.rstrip(b"\r\n"):
        raise SourceError(
            f"{path}: its lines end with a carriage return alone, as on old computers; "
            "export the table again, with lines that end with a line feed",
            problem=Problem.BAD_CSV,
        )


def _places(path: Path, names: list[str], columns: Sequence[str], optional: Sequence[str]) -> list[int]:
    """Return the positions of columns; -1 for an optional one that is missing."""
    if missing := [name for name in columns if name.lower() not in names]:
        separated = next((word for sign, word in SEPARATORS.items() if sign in names[0]), None)
        hint = f"; its fields are separated by {separated} in place of commas" if separated else ""
        # What was found goes where values go: without a header it is a patient's row.
        raise SourceError(
            f"{path}: the header has no column {', '.join(missing)}{hint}",
            problem=Problem.MISSING_COLUMN,
            value=", ".join(names),
        )
    return [names.index(name.lower()) if name.lower() in names else -1 for name in (*columns, *optional)]


def _short(path: Path, number: int, found: int, promised: int) -> SourceError:
    return SourceError(
        f"{path}, line {number}: {found} fields where the header promises {promised}; export the table again",
        problem=Problem.SHORT_ROW,
    )


def _long(path: Path, number: int, found: int, promised: int) -> SourceError:
    return SourceError(
        f"{path}, line {number}: {found} fields where the header promises {promised}; write numbers with a "
        "decimal point, and put texts that hold a comma in quotes",
        problem=Problem.BAD_CSV,
    )


def _split(path: Path, number: int, lines: Iterator[str]) -> list[str]:
    try:
        # Strict: a quote that was never closed would otherwise swallow the rows after it without a word.
        return next(csv.reader(lines, strict=True), [])
    except csv.Error as error:
        raise SourceError(
            f"{path}, line {number}: {error}; export the table again", problem=Problem.BAD_CSV
        ) from None


def _text(line: bytes) -> str:
    return line.decode("utf-8", errors="replace")
