"""The signals of one patient in a plain folder: WFDB, EDF and CSV files side by side.

Which files are recordings is decided here, and nowhere else: an ingest leaves out what cannot be read and
counts it, ``check-data`` says which file it is and why.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeAlias

from client.data.exclusion import Exclusion
from client.data.sources.base import Stay, Window
from client.data.sources.folder_csv import CsvSignal, open_csv
from client.data.sources.folder_edf import EdfSignal, open_edf
from client.data.sources.segments import Headers, Recording, read_recording, segment_header
from client.data.sources.wfdb_files import read_header
from client.data.sources.windows import LEAD_II, window_of
from common.errors import SourceError

HEADER: Final = ".hea"
# The beginning of a header is enough to see whether it lists segments.
FIRST_BYTES: Final = 512

Signal: TypeAlias = Recording | CsvSignal | EdfSignal
OPENERS: Final[Mapping[str, Callable[[Path, str], CsvSignal | EdfSignal]]] = MappingProxyType(
    {".csv": open_csv, ".edf": open_edf}
)
#: Told of every file that cannot be read: its name within the folder of the signals, and why.
CannotRead = Callable[[str, SourceError], None]


@dataclass(frozen=True)
class Opened:
    """One recording.

    Attributes
    ----------
    signal : where it lies in time, and how to read it.
    file : of its header, relative to the folder of the signals.
    has_lead_ii : False where it is known to have none.
    """

    signal: Signal
    file: str
    has_lead_ii: bool


def signal_files(root: Path, key: str) -> list[str]:
    """Name all files in a patient's folder, sorted, relative to the folder of the signals.

    Names that are not UTF-8 are left out: no database could hold them.
    """
    return [name for name in _all_files(root, key) if is_text(name)]


def recordings(root: Path, key: str, cannot_read: CannotRead) -> list[Opened]:
    """Open all recordings of a patient, in order of time.

    Parameters
    ----------
    root : folder of the signals.
    key : the patient.
    cannot_read : told of every file that is left out.
    """
    names = _all_files(root, key)
    found: list[Opened] = []
    for name in names:
        if not is_text(name):
            cannot_read(name, SourceError("the name of a file is not UTF-8; rename it"))
            continue
        opener = OPENERS.get(ending(name))
        if opener is None:
            continue
        try:
            signal = opener(root, name)
        except SourceError as error:
            cannot_read(name, error)
            continue
        lead = signal.column if isinstance(signal, CsvSignal) else signal.channel
        found.append(Opened(signal, name, lead is not None))
    headers = [name for name in names if ending(name) == HEADER and is_text(name)]
    found += _wfdb(root, headers, cannot_read)
    return sorted(found, key=lambda one: (one.signal.start, one.signal.name))


class FolderRecordings:
    """The recordings of one patient; see ``client.data.sources.base.Recordings``.

    Parameters
    ----------
    root : folder of the signals.
    key : the patient.
    stays : None where the hospital gave no table of stays; then every recording is believed.
    """

    def __init__(self, root: Path, key: str, stays: Sequence[Stay] | None) -> None:
        self.unreadable_records: list[str] = []
        opened = recordings(root, key, lambda name, error: self.unreadable_records.append(str(error)))
        self._with = [one.signal for one in opened if one.has_lead_ii]
        self._without = [one.signal for one in opened if not one.has_lead_ii]
        self._stays = stays

    def lead_ii(self, start: datetime, end: datetime) -> Window:
        """Read lead II from ``start`` up to, not including, ``end``; see ``windows.window_of``."""
        window = window_of(self._with, start, end, self._stays)
        if window.exclusion is not Exclusion.NO_WAVEFORM:
            return window
        # Recordings without lead II have a rate of their own, so they never share a window with the others.
        return window_of(self._without, start, end, self._stays)


def ending(name: str) -> str:
    """Return the ending of a file's name in lower case, with its dot."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - names, not paths


def is_text(name: str) -> bool:
    """Return whether a name is Unicode text, which names of files need not be."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def segments_of(root: Path, name: str) -> Iterator[str]:
    """Yield the names of the segments a WFDB header lists; none if it lists none or cannot be read."""
    try:
        with (root / name).open("rb") as file:
            head = file.read(FIRST_BYTES)
        lines = [line.split() for line in head.splitlines() if not line.lstrip().startswith(b"#")]
        first = next((fields for fields in lines if fields), [b""])[0]
        header = read_header(root / name) if b"/" in first else None
    except (OSError, SourceError):
        return
    if header is not None:
        yield from (segment for segment, _ in header.segments)


def _all_files(root: Path, key: str) -> list[str]:
    try:
        with os.scandir(root / key) as entries:
            return sorted(f"{key}/{entry.name}" for entry in entries if entry.is_file())
    except OSError:
        return []


def _wfdb(root: Path, names: Sequence[str], cannot_read: CannotRead) -> Iterator[Opened]:
    """Open the WFDB records among some headers: those that are not a segment of another."""
    segments = {segment for name in names for segment in segments_of(root, name)}
    headers: Headers = lru_cache(maxsize=64)(segment_header)
    for name in names:
        record = name[: -len(HEADER)]
        if record.rpartition("/")[2] in segments:
            continue
        try:
            if not name.endswith(HEADER):
                raise SourceError("a header file must end with .hea in lower case")
            signal = read_recording(root, record, headers, framed=True)
            yield Opened(signal, name, _may_have_lead_ii(root / name))
        except SourceError as error:
            cannot_read(name, error)


def _may_have_lead_ii(path: Path) -> bool:
    """Return whether a record has lead II, as far as its header and that of its layout say."""
    header = read_header(path)
    if header.segments:
        name, length = header.segments[0]
        if length:
            return True
        try:
            header = read_header(path.with_name(f"{name}{HEADER}"))
        except SourceError:
            return True
    return header.channel(*LEAD_II) is not None
