"""Signals in CSV files, for hospitals whose monitors export nothing better.

Lines with ``#`` say when the first sample was taken, how many there are in a second, and their unit; then
comes one line of column names and one line per sample. The file is passed through once to count its lines;
after that a window is read from where it lies. Memory is a window's, however long the file.
"""

from __future__ import annotations

import csv
import math
import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from client.data.problems import Problem
from client.data.sources.base import Piece
from client.data.sources.csv_tables import SEPARATORS, parse_number, parse_time
from client.data.sources.wfdb_files import MAX_MILLIVOLT, TO_MILLIVOLT
from client.data.sources.windows import LEAD_II, MAX_RATE_HZ, MIN_RATE_HZ, Part
from common.errors import SourceError

BLOCK_BYTES: Final = 1 << 20
# Comments and column names; a file whose samples begin later is something else.
MAX_HEAD_BYTES: Final = 1 << 16
# An hour at 1 kHz with ten columns of eight characters; more is a file without line ends.
MAX_WINDOW_BYTES: Final = 1 << 28

_SETTING = re.compile(r"#\s*(start|rate_hz|unit)\s*:\s*(.*?)\s*", re.IGNORECASE)
_FRACTION = re.compile(r"\.(\d{1,6})\d*$")
_WORDS_BEFORE = re.compile(r"(?:ECG|EKG|LEAD)[\s_:.-]*")


def lead_ii(names: Sequence[str]) -> int | None:
    """Return the position of lead II among signal names, None without it.

    ``II`` and ``MLII`` count, also as ``ECG II``, ``EKG-II`` or ``Lead II``; nothing else does.
    """
    plain = [_WORDS_BEFORE.sub("", name.strip().upper()) for name in names]
    return next((plain.index(lead) for lead in LEAD_II if lead in plain), None)


def millivolts(unit: str) -> float | None:
    """Return the factor from a unit to millivolts, None if it is no voltage."""
    return TO_MILLIVOLT.get(unit.lower().replace("μ", "µ"))


@dataclass(frozen=True)
class CsvSignal:
    """One CSV file; see ``client.data.sources.windows.Timeline``.

    Attributes
    ----------
    root, name : folder of the signals, and the file relative to it.
    start, end : time of the first sample and after the last one.
    rate_hz : samples per second.
    columns : number of columns.
    column : position of lead II among them, None without it.
    factor : from the file's unit to millivolts.
    first_line : line number of the first sample.
    n_samples : lines after the column names.
    data_start : byte at which the samples begin.
    before : (n_blocks + 1,) line ends before each block of the samples, and in all of them.
    """

    root: Path
    name: str
    start: datetime
    end: datetime
    rate_hz: float
    columns: int
    column: int | None
    factor: float
    first_line: int
    n_samples: int
    data_start: int
    before: npt.NDArray[np.int64]

    @property
    def path(self) -> Path:
        """The file."""
        return self.root / self.name

    def parts(self, first: int, last: int) -> Iterator[Part]:
        """Read lead II between two samples."""
        a, b = max(first, 0), min(last, self.n_samples)
        if a >= b:
            return
        if self.column is None:
            yield Part(self.path, "absent")
            return
        try:
            samples, piece = self.read(a, b), self._piece(a, b)
        except (OSError, SourceError):
            yield Part(self.path, "damaged")
            return
        yield Part(self.path, "read", a, samples, piece)

    def read(self, a: int, b: int) -> npt.NDArray[np.float64]:
        """Read samples ``a`` up to, not including, ``b`` of lead II, mV; NaN where a field is empty.

        Raises
        ------
        SourceError
            If a line has no number where lead II is. The sentence names the line, not the file.
        OSError
            If the file cannot be read.
        """
        lines = self._lines(a, b)
        if len(lines) != b - a:
            raise SourceError(
                "a signal file became shorter while it was read", problem=Problem.BAD_SIGNAL_FILE
            )
        samples = self._numbers(lines)
        if samples is None:  # something is missing, quoted or wrong: slower, and it finds the line
            numbered = enumerate(lines, start=self.first_line + a)
            samples = np.array([self._number(line, number) for number, line in numbered])
        samples *= self.factor
        samples[~(np.abs(samples) < MAX_MILLIVOLT)] = np.nan
        return samples

    def problems(self, a: int, b: int) -> Iterator[SourceError]:
        """Yield what is wrong with each of some lines."""
        lines = self._lines(a, b)
        if self.column is None or self._numbers(lines) is not None:
            return
        for number, line in enumerate(lines, start=self.first_line + a):
            try:
                self._number(line, number)
            except SourceError as error:
                yield error

    def _numbers(self, lines: list[bytes]) -> npt.NDArray[np.float64] | None:
        """Read lead II from lines that all hold a number for it; None where one does not."""
        place, commas = self.column or 0, self.columns - 1
        if any(line.count(b",") != commas for line in lines):
            return None
        fields = lines if not commas else [line.split(b",", place + 1)[place] for line in lines]
        try:
            return np.fromiter(map(float, fields), np.float64, len(fields))
        except ValueError:
            return None

    def _number(self, line: bytes, number: int) -> float:
        """Read lead II from a line; NaN where nothing stands there.

        Raises
        ------
        SourceError
            If it has another number of fields than the column names, or text where lead II is.
        """
        if not line.strip():
            return math.nan
        fields = line.split(b",")
        if len(fields) != self.columns:
            raise SourceError(
                f"line {number}: {len(fields)} fields, but the line of column names has {self.columns}; "
                "write numbers with a decimal point",
                problem=Problem.SHORT_ROW,
                value=_shown(line),
            )
        text = fields[self.column or 0].strip(b' "\r\t')
        try:
            return float(text) if text else math.nan
        except ValueError:
            raise SourceError(
                f"line {number}: lead II is not a number; leave the field empty where nothing was recorded",
                problem=Problem.BAD_NUMBER,
                value=_shown(text),
            ) from None

    def _lines(self, a: int, b: int) -> list[bytes]:
        """Read whole lines by number, from the block in which the first one begins."""
        block = max(bisect_left(self.before, a) - 1, 0)
        stop = bisect_left(self.before, b)
        size = (stop - block) * BLOCK_BYTES
        if size > MAX_WINDOW_BYTES:
            raise SourceError("lines of a signal file are too long", problem=Problem.BAD_SIGNAL_FILE)
        with self.path.open("rb") as file:
            file.seek(self.data_start + block * BLOCK_BYTES)
            skip = a - int(self.before[block])
            return file.read(size).split(b"\n", skip + b - a)[skip : skip + b - a]

    def _piece(self, a: int, b: int) -> Piece:
        found = self.path.stat()
        return Piece(
            file=self.name,
            first=a,
            last=b,
            gain=None if self.factor == 1.0 else 1.0 / self.factor,
            baseline=0.0,
            size=found.st_size,
            mtime_ns=found.st_mtime_ns,
        )


def open_csv(root: Path, name: str) -> CsvSignal:
    """Read the head of a CSV signal and count its samples.

    Parameters
    ----------
    root : folder of the signals.
    name : the file, relative to it.

    Raises
    ------
    SourceError
        If the head lacks something or is wrong. The sentence names the line, not the file.
    """
    path = root / name
    try:
        with path.open("rb") as file:
            head = file.read(MAX_HEAD_BYTES)
        found = path.stat()
        settings, names, first_line, data_start = _head(head)
        n_samples, before = _index(path, data_start, found.st_size, found.st_mtime_ns)
    except OSError as error:
        raise SourceError(
            f"a signal file cannot be read: {(error.strerror or 'unknown').lower()}",
            problem=Problem.DAMAGED_FILE,
        ) from None
    start, rate_hz, factor = _start(settings), _rate(settings), _factor(settings)
    try:
        end = start + timedelta(seconds=n_samples / rate_hz)
    except OverflowError:
        raise SourceError("the recording ends after the year 9999", problem=Problem.BAD_TIME) from None
    return CsvSignal(
        root=root,
        name=name,
        start=start,
        end=end,
        rate_hz=rate_hz,
        columns=len(names),
        column=lead_ii(names),
        factor=factor,
        first_line=first_line,
        n_samples=n_samples,
        data_start=data_start,
        before=before,
    )


Settings = Mapping[str, tuple[int, str]]


def _head(head: bytes) -> tuple[Settings, list[str], int, int]:
    """Return settings with their lines, column names, line of the first sample, and its byte."""
    settings: dict[str, tuple[int, str]] = {}
    place = 3 if head.startswith(b"\xef\xbb\xbf") else 0
    number = 0
    while (stop := head.find(b"\n", place)) >= 0:
        number += 1
        text = head[place:stop].decode("utf-8", errors="replace").strip()
        place = stop + 1
        if not text.startswith("#"):
            if not text:
                continue
            return settings, _column_names(text, number), number + 1, place
        if match := _SETTING.fullmatch(text):
            settings.setdefault(match[1].lower(), (number, match[2]))
    raise SourceError(
        "there is no line of column names: a CSV signal has lines with #, then the column names, then a line "
        "per sample, each ending with a line feed",
        problem=Problem.BAD_HEADER,
    )


def _column_names(text: str, number: int) -> list[str]:
    try:
        names = next(csv.reader([text], strict=True))
    except csv.Error:
        names = []
    separated = next((word for sign, word in SEPARATORS.items() if sign in text), None)
    if len(names) == 1 and separated is not None:
        raise SourceError(
            f"line {number}: the columns are separated by {separated}; write commas, and a decimal point in "
            "numbers",
            problem=Problem.BAD_CSV,
        )
    if not names or all(parse_number(name.strip()) is not None for name in names):
        raise SourceError(
            f"line {number}: column names are missing before the first sample; write a line with II",
            problem=Problem.BAD_HEADER,
        )
    return names


def _setting(settings: Settings, name: str, example: str) -> tuple[int, str]:
    if name not in settings:
        raise SourceError(
            f"a line '# {name}: {example}' is missing before the column names", problem=Problem.BAD_HEADER
        )
    return settings[name]


def _start(settings: Settings) -> datetime:
    line, text = _setting(settings, "start", "2150-01-31 08:00:00")
    try:
        time = parse_time(text, Path(), line)
    except SourceError:
        time = None
    if time is None:
        raise SourceError(
            f"line {line}: start is not written like 2150-01-31 08:00:00",
            problem=Problem.BAD_TIME,
            value=text,
        )
    fraction = _FRACTION.search(text)
    return time.replace(microsecond=int(fraction[1].ljust(6, "0"))) if fraction else time


def _rate(settings: Settings) -> float:
    line, text = _setting(settings, "rate_hz", "125")
    rate_hz = parse_number(text)
    if rate_hz is None or not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise SourceError(
            f"line {line}: rate_hz is not a number from {MIN_RATE_HZ:g} to {MAX_RATE_HZ:g}, as an ECG has",
            problem=Problem.BAD_NUMBER,
            value=text,
        )
    return rate_hz


def _factor(settings: Settings) -> float:
    line, text = _setting(settings, "unit", "mV")
    factor = millivolts(text)
    if factor is None:
        raise SourceError(f"line {line}: unit is one of mV, uV and V", problem=Problem.BAD_UNIT, value=text)
    return factor


@lru_cache(maxsize=256)
def _index(path: Path, data_start: int, size: int, mtime_ns: int) -> tuple[int, npt.NDArray[np.int64]]:
    """Count the lines of a file block by block; kept as long as the file is the same."""
    counts, last = [0], b"\n"
    with path.open("rb") as file:
        file.seek(data_start)
        while block := file.read(BLOCK_BYTES):
            counts.append(block.count(b"\n"))
            last = block[-1:]
    before = np.cumsum(counts, dtype=np.int64)
    before.setflags(write=False)
    return int(before[-1]) + (last != b"\n"), before


def _shown(text: bytes) -> str:
    return text.decode("utf-8", errors="replace").strip()
