"""The matched waveforms of MIMIC-III: which lead II was recorded when, read window by window.

A record is a list of segments, often thousands, each with its own signals and gains. Its master header
says where each segment lies; a segment's own header is opened only when a window reaches into it.

Source: MIMIC-III Waveform Database Matched Subset 1.0 (PhysioNet); SCIENCE section 2.2.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from client.data.sources.base import Stay, Window
from client.data.sources.wfdb_files import Header, piece_of, read_header, read_lead
from client.data.sources.windows import LEAD_II, MAX_RATE_HZ, MIN_RATE_HZ, Part, window_of
from common.errors import SourceError

INDEX: Final = "RECORDS-waveforms"
# p000020-2183-04-28-17-47; the numerics record of the same time ends with n and is not meant.
RECORD_NAME: Final = re.compile(r"[ps](\d+)-\d{4}-\d\d-\d\d-\d\d-\d\d")
GAP: Final = "~"

Headers = Callable[[Path], Header]


@dataclass(frozen=True)
class Recording:
    """Where the segments of one record lie; see ``client.data.sources.windows.Timeline``.

    Attributes
    ----------
    root : folder of the waveforms.
    name : record, relative to the waveform folder.
    start, end : time of the first sample and after the last one.
    rate_hz : sampling rate, Hz.
    segments : names; gaps and the layout header are left out.
    starts, lengths : (n_segments,) samples, from the start of the record.
    headers : reads the header of a segment, perhaps from memory.
    """

    root: Path
    name: str
    start: datetime
    end: datetime
    rate_hz: float
    segments: tuple[str, ...]
    starts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    headers: Headers

    def overlapping(self, first: int, last: int) -> Iterator[tuple[str, int, int, int]]:
        """Yield name, start in the record, and first and last sample of each segment in a range."""
        for index in np.flatnonzero((self.starts < last) & (self.starts + self.lengths > first)):
            start, length = int(self.starts[index]), int(self.lengths[index])
            yield self.segments[index], start, max(first - start, 0), min(last - start, length)

    def parts(self, first: int, last: int) -> Iterator[Part]:
        """Read lead II between two samples, segment by segment."""
        folder = (self.root / self.name).parent
        for name, offset, a, b in self.overlapping(first, last):
            path = folder / name
            try:
                header = self.headers(path)
                channel = header.channel(*LEAD_II)
                if channel is None:
                    yield Part(path, "absent")
                    continue
                samples = read_lead(path, header, channel, a, b)
                piece = piece_of(self.root, path, header, channel, a, b)
            except SourceError:
                yield Part(path, "damaged")
                continue
            yield Part(path, "read", offset + a, samples, piece)


def read_recording(root: Path, name: str, headers: Headers | None = None) -> Recording:
    """Read a record's master header.

    Raises
    ------
    SourceError
        If it is missing, damaged, or without a start time. The sentence names no file.
    """
    path = root / f"{name}.hea"
    header = read_header(path)
    if header.start is None:
        raise SourceError("a header file has no start date and time")
    if not MIN_RATE_HZ <= header.rate_hz <= MAX_RATE_HZ:
        raise SourceError(f"a header file gives a sampling rate of {header.rate_hz:g} Hz, not one of an ECG")
    parts = header.segments or ((path.stem, header.n_samples or 0),)
    lengths = np.array([length for _, length in parts], dtype=np.int64)
    starts = np.cumsum(lengths) - lengths
    kept = [i for i, (part, length) in enumerate(parts) if part != GAP and length > 0]
    try:
        end = header.start + timedelta(seconds=int(lengths.sum()) / header.rate_hz)
    except OverflowError:
        raise SourceError("a header file ends after the year 9999") from None
    return Recording(
        root=root,
        name=name,
        start=header.start,
        end=end,
        rate_hz=header.rate_hz,
        segments=tuple(parts[i][0] for i in kept),
        starts=starts[kept],
        lengths=lengths[kept],
        headers=headers or _segment_header,
    )


class WaveformIndex:
    """Which records belong to which patient.

    Parameters
    ----------
    root : folder with ``RECORDS-waveforms`` and ``p00`` to ``p09``. Without that list the folders are
        looked through.

    Raises
    ------
    SourceError
        If the folder is missing or holds no waveform record.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise SourceError(
                f"{root} does not exist; it should hold the matched waveforms (p00, p01, ...): check "
                "source.folder and source.waveforms in site.toml"
            )
        self.root = root
        self._records: dict[str, list[str]] = {}
        for name in _record_names(root):
            match = RECORD_NAME.fullmatch(name.rpartition("/")[2])
            if match is not None:
                self._records.setdefault(str(int(match[1])), []).append(name)
        if not self._records:
            raise SourceError(
                f"{root} holds no waveform record like p00/p000020/p000020-2183-04-28-17-47; check "
                "source.waveforms in site.toml"
            )

    @property
    def patients(self) -> set[str]:
        """Patients with at least one record."""
        return set(self._records)

    @property
    def n_records(self) -> int:
        """Number of records of all patients."""
        return sum(len(names) for names in self._records.values())

    def fingerprint(self) -> str:
        """Return a SHA-256 of the names of all records."""
        names = sorted(name for names in self._records.values() for name in names)
        return hashlib.sha256("\n".join(names).encode()).hexdigest()

    def names(self, key: str) -> list[str]:
        """Return the records of one patient, relative to the root."""
        return sorted(set(self._records.get(key, [])))

    def files(self, key: str) -> list[str]:
        """Name all files in the folders of a patient's records, relative to the root."""
        folders = sorted({(self.root / name).parent for name in self.names(key)})
        found = [path for folder in folders if folder.is_dir() for path in folder.iterdir()]
        return sorted(path.relative_to(self.root).as_posix() for path in found)

    def of(self, key: str, stays: Sequence[Stay]) -> MatchedRecordings:
        """Open the records of one patient."""
        return MatchedRecordings(self.root, self.names(key), stays)


class MatchedRecordings:
    """The records of one patient, in order of time."""

    def __init__(self, root: Path, names: Sequence[str], stays: Sequence[Stay]) -> None:
        self._recordings: list[Recording] = []
        self.unreadable_records: list[str] = []
        headers: Headers = lru_cache(maxsize=64)(_segment_header)
        for name in names:
            try:
                self._recordings.append(read_recording(root, name, headers))
            except SourceError as error:
                self.unreadable_records.append(str(error))
        self._recordings.sort(key=lambda recording: (recording.start, recording.name))
        self._stays = stays
        self._damaged: set[Path] = set()

    @property
    def n_unreadable_segments(self) -> int:
        """Number of different segments that were asked for and are missing or damaged."""
        return len(self._damaged)

    def lead_ii(self, start: datetime, end: datetime) -> Window:
        """Read lead II from ``start`` up to, not including, ``end``; see ``windows.window_of``."""
        return window_of(self._recordings, start, end, self._stays, self._damaged)


def _segment_header(path: Path) -> Header:
    return read_header(path.with_name(f"{path.name}.hea"))


def _record_names(root: Path) -> list[str]:
    listing = root / INDEX
    if listing.is_file():
        try:
            lines = listing.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError as error:
            raise SourceError(f"{listing} cannot be read: {error.strerror}") from None
        return [line.strip() for line in lines]
    found = root.glob("p[0-9][0-9]/p*/*.hea")
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in found)
