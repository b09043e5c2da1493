"""Multi-segment WFDB records of patients: which lead II was recorded when, read window by window.

A record is a list of segments, often thousands, each with its own signals and gains. Its master header
says where each segment lies; a segment's own header is opened only when a window reaches into it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from client.data.problems import Problem
from client.data.sources.base import Stay, Window
from client.data.sources.wfdb_files import Header, piece_of, read_header, read_lead
from client.data.sources.windows import LEAD_II, MAX_RATE_HZ, MIN_RATE_HZ, Part, window_of
from common.errors import SourceError

GAP: Final = "~"
# Where the layout header is lost, so many segments are asked how often they sample lead II.
MOST_ASKED: Final = 16

Headers = Callable[[Path], Header]


@dataclass(frozen=True)
class Recording:
    """Where the segments of one record lie; see ``client.data.sources.windows.Timeline``.

    Attributes
    ----------
    root : folder of the waveforms.
    name : record, relative to the waveform folder.
    start, end : time of the first sample and after the last one.
    rate_hz : sampling rate of lead II, Hz.
    segments : names; gaps and the layout header are left out.
    starts, lengths : (n_segments,) samples of lead II, from the start of the record.
    headers : reads the header of a segment, perhaps from memory.
    per_frame : samples of lead II per frame of the record.
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
    per_frame: int = 1

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
                rate_hz = header.rate_hz * header.signals[channel].per_frame
                if not math.isclose(rate_hz, self.rate_hz, rel_tol=1e-9):
                    raise SourceError("a segment samples lead II at another rate than its record")
                samples = read_lead(path, header, channel, a, b)
                piece = piece_of(self.root, path, header, channel, a, b)
            except SourceError:
                yield Part(path, "damaged")
                continue
            yield Part(path, "read", offset + a, samples, piece)


def read_recording(root: Path, name: str, headers: Headers | None = None, framed: bool = False) -> Recording:
    """Read a record's master header.

    Parameters
    ----------
    root : folder of the waveforms.
    name : record, relative to it.
    headers : reads the header of a segment.
    framed : a frame may hold several samples of lead II: how many is looked up in the layout header.

    Raises
    ------
    SourceError
        If it is missing, damaged, or without a start time. The sentence names no file.
    """
    path = root / f"{name}.hea"
    headers = headers or segment_header
    header = read_header(path)
    if header.start is None:
        raise SourceError("a header file has no start date and time", problem=Problem.BAD_HEADER)
    if not header.segments and header.n_samples is None:
        raise SourceError("a header file does not give the number of samples", problem=Problem.BAD_HEADER)
    parts = header.segments or ((path.stem, header.n_samples or 0),)
    per_frame = _per_frame(header, path.parent, parts, headers) if framed else 1
    rate_hz = header.rate_hz * per_frame
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise SourceError(
            f"a header file gives a sampling rate of {rate_hz:g} Hz, not one of an ECG",
            problem=Problem.BAD_HEADER,
        )
    lengths = np.array([length for _, length in parts], dtype=np.int64) * per_frame
    starts = np.cumsum(lengths) - lengths
    kept = [i for i, (part, length) in enumerate(parts) if part != GAP and length > 0]
    try:
        end = header.start + timedelta(seconds=int(lengths.sum()) / rate_hz)
    except OverflowError:
        raise SourceError("a header file ends after the year 9999", problem=Problem.BAD_HEADER) from None
    return Recording(
        root=root,
        name=name,
        start=header.start,
        end=end,
        rate_hz=rate_hz,
        segments=tuple(parts[i][0] for i in kept),
        starts=starts[kept],
        lengths=lengths[kept],
        headers=headers,
        per_frame=per_frame,
    )


class RecordIndex:
    """Which records belong to which patient.

    Parameters
    ----------
    root : folder of the waveforms.
    records : names of the records relative to it, by patient.
    framed : see ``read_recording``.
    """

    def __init__(self, root: Path, records: Mapping[str, Sequence[str]], *, framed: bool = False) -> None:
        self.root = root
        self._records = {key: sorted(set(names)) for key, names in records.items()}
        self.framed = framed

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
        return list(self._records.get(key, []))

    def files(self, key: str) -> list[str]:
        """Name all files in the folders of a patient's records, relative to the root."""
        folders = sorted({(self.root / name).parent for name in self.names(key)})
        found = [path for folder in folders if folder.is_dir() for path in folder.iterdir()]
        return sorted(path.relative_to(self.root).as_posix() for path in found)

    def of(self, key: str, stays: Sequence[Stay]) -> SegmentedRecordings:
        """Open the records of one patient."""
        return SegmentedRecordings(self.root, self.names(key), stays, self.framed)


class SegmentedRecordings:
    """The records of one patient, in order of time."""

    def __init__(self, root: Path, names: Sequence[str], stays: Sequence[Stay], framed: bool = False) -> None:
        self._recordings: list[Recording] = []
        self.unreadable_records: list[str] = []
        headers: Headers = lru_cache(maxsize=64)(segment_header)
        for name in names:
            try:
                self._recordings.append(read_recording(root, name, headers, framed))
            except SourceError as error:
                self.unreadable_records.append(str(error))
        self._recordings.sort(key=lambda recording: (recording.start, recording.name))
        self._stays = stays

    def lead_ii(self, start: datetime, end: datetime) -> Window:
        """Read lead II from ``start`` up to, not including, ``end``; see ``windows.window_of``."""
        return window_of(self._recordings, start, end, self._stays)


def need_root(root: Path, holds: str) -> None:
    """Refuse a folder of waveforms that is not there.

    Raises
    ------
    SourceError
        With what it should hold.
    """
    if not root.is_dir():
        raise SourceError(
            f"{root} does not exist; it should hold {holds}: check source.folder and source.waveforms in "
            "site.toml",
            problem=Problem.MISSING_FOLDER,
        )


def need_records(root: Path, records: Mapping[str, Sequence[str]], example: str) -> None:
    """Refuse a folder in which no record was found.

    Raises
    ------
    SourceError
        With how a record is named.
    """
    if not records:
        raise SourceError(
            f"{root} holds no waveform record like {example}; check source.waveforms in site.toml",
            problem=Problem.NO_WAVEFORMS,
        )


def listed_lines(path: Path) -> list[str]:
    """Read the lines of a list of records.

    Raises
    ------
    SourceError
        If it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise SourceError(
            f"{path} cannot be read: {(error.strerror or 'unknown').lower()}; copy it again",
            problem=Problem.DAMAGED_FILE,
        ) from None
    return [line.strip() for line in text.splitlines()]


def segment_header(path: Path) -> Header:
    """Read the header of a segment, given without extension."""
    return read_header(path.with_name(f"{path.name}.hea"))


def _per_frame(header: Header, folder: Path, parts: Sequence[tuple[str, int]], headers: Headers) -> int:
    """Return how many samples of lead II a frame holds; 1 where no header that is asked knows lead II.

    The layout header lists every signal of the record. Where it is lost, segments are asked.
    """
    if not header.segments:
        known = header.channel(*LEAD_II)
        return 1 if known is None else header.signals[known].per_frame
    named = [(name, length) for name, length in parts if name != GAP]
    for name, length in named[:MOST_ASKED]:
        try:
            found = headers(folder / name)
        except SourceError:
            continue
        channel = found.channel(*LEAD_II)
        if channel is not None:
            return found.signals[channel].per_frame
        if length == 0:
            break
    return 1
