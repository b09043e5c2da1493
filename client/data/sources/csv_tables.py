"""Large CSV tables, streamed: plain or gzip, upper- or lower-case headers, any order of columns."""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import IO, Final, cast

from common.errors import SourceError
from common.logs import Stage, stage

MEGABYTE: Final = 1_000_000
# Smaller tables are read before anybody wonders.
SHOWN_FROM_BYTES: Final = 50 * MEGABYTE
LINES_PER_REPORT: Final = 100_000
# Years before this are place holders of an export, not times.
MIN_YEAR: Final = 1800

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
            f"tables present: {present}; put the table there or set source.clinical in site.toml"
        )
    return path


def rows(
    path: Path, columns: Sequence[str], optional: Sequence[str] = (), containing: Sequence[str] = ()
) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Stream some columns of a table.

    Parameters
    ----------
    path : the file.
    columns : names of columns that must be there, in any case.
    optional : names of columns that may be missing; their values are then empty.
    containing : if given, rows without any of these texts may be left out. A lab table has tens of
        millions of rows; looking at their bytes first is many times faster than splitting each of them.

    Yields
    ------
    line number, values of ``columns`` and then ``optional``, without surrounding blanks.

    Raises
    ------
    SourceError
        If the file cannot be read, lacks a column, or has a row with too few fields.
    """
    with path.open("rb") as file, _progress(path) as bar:
        packed = path.name.lower().endswith(".gz")
        unpacked = cast("IO[bytes]", gzip.GzipFile(fileobj=file)) if packed else file
        try:
            yield from _columns(path, _watched(unpacked, file, bar), columns, optional, containing)
        except (OSError, EOFError, zlib.error) as error:
            raise SourceError(f"{path} is damaged or cannot be read: {error}; copy it again") from None


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
            "export the table again, without a spreadsheet program in between"
        ) from None


def parse_number(text: str) -> float | None:
    """Read a number; None for anything else, infinity and NaN included."""
    try:
        value = float(text)
    except ValueError:
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
) -> Iterator[tuple[int, tuple[str, ...]]]:
    header = next(lines, b"")
    if not header.strip():
        raise SourceError(f"{path} is empty; a table starts with a line of column names")
    places = _places(path, header, columns, optional)
    last = max(places)
    wanted = re.compile(b"|".join(re.escape(text.encode()) for text in containing)) if containing else None
    number = 1
    for line in lines:
        number += 1
        start = number
        if line.count(b'"') % 2:  # a quoted field may go on in the next line: the parser asks for it
            row = _Row(line, lines)
            fields = _split(path, start, row)
            number += row.taken - 1
        elif wanted is not None and not wanted.search(line):
            continue
        else:
            fields = _split(path, start, iter((_text(line),)))
        if not fields:
            continue
        if len(fields) <= last:
            raise SourceError(
                f"{path}, line {start}: {len(fields)} fields where the header promises more; "
                "export the table again"
            )
        yield start, tuple([fields[place].strip() if place >= 0 else "" for place in places])


class _Row:
    """Lines of one row, taken from the file as the parser asks for them."""

    def __init__(self, line: bytes, following: Iterator[bytes]) -> None:
        self.taken, self._line, self._following = 0, line, following

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._line if self.taken == 0 else next(self._following)
        self.taken += 1
        return _text(line)


def _watched(unpacked: IO[bytes], file: IO[bytes], bar: Stage | None) -> Iterator[bytes]:
    shown = 0
    for number, line in enumerate(unpacked):
        if bar is not None and number % LINES_PER_REPORT == 0:
            done = file.tell() // MEGABYTE
            bar.advance(done - shown)
            shown = done
        yield line


def _places(path: Path, header: bytes, columns: Sequence[str], optional: Sequence[str]) -> list[int]:
    text = _text(header.removeprefix(b"\xef\xbb\xbf"))
    names = [name.strip().lower() for name in _split(path, 1, iter((text,)))]
    if missing := [name for name in columns if name.lower() not in names]:
        raise SourceError(
            f"{path}: the header has no column {', '.join(missing)}; it has {', '.join(names) or 'none'}"
        )
    return [names.index(name.lower()) if name.lower() in names else -1 for name in (*columns, *optional)]


def _split(path: Path, number: int, lines: Iterator[str]) -> list[str]:
    try:
        return next(csv.reader(lines), [])
    except csv.Error as error:
        raise SourceError(f"{path}, line {number}: {error}; export the table again") from None


def _text(line: bytes) -> str:
    return line.decode("utf-8", errors="replace")
