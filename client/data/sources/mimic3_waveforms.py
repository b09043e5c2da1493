"""The matched waveforms of MIMIC-III: which lead II was recorded when, read window by window.

A record is a list of segments, often thousands, each with its own signals and gains. Its master header
says where each segment lies; a segment's own header is opened only when a window reaches into it.

Source: MIMIC-III Waveform Database Matched Subset 1.0 (PhysioNet); SCIENCE section 2.2.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from client.data.exclusion import Exclusion
from client.data.sources.base import Stay, Window
from client.data.sources.wfdb_files import Header, read_header, read_lead
from common.errors import SourceError

LEAD: Final = "II"
INDEX: Final = "RECORDS-waveforms"
# p000020-2183-04-28-17-47; the numerics record of the same time ends with n and is not meant.
RECORD_NAME: Final = re.compile(r"[ps](\d+)-\d{4}-\d\d-\d\d-\d\d-\d\d")
GAP: Final = "~"
# Other rates are damaged headers, or numerics that are listed among the waveforms.
MIN_RATE_HZ: Final = 50.0
MAX_RATE_HZ: Final = 10_000.0


@dataclass(frozen=True)
class Recording:
    """Where the segments of one record lie.

    Attributes
    ----------
    name : record, relative to the waveform folder.
    folder : folder of its files.
    start, end : time of the first sample and after the last one.
    rate_hz : sampling rate, Hz.
    segments : names; gaps and the layout header are left out.
    starts, lengths : (n_segments,) samples, from the start of the record.
    """

    name: str
    folder: Path
    start: datetime
    end: datetime
    rate_hz: float
    segments: tuple[str, ...]
    starts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]

    def overlapping(self, first: int, last: int) -> Iterator[tuple[str, int, int, int]]:
        """Yield name, start in the record, and first and last sample of each segment in a range."""
        for index in np.flatnonzero((self.starts < last) & (self.starts + self.lengths > first)):
            start, length = int(self.starts[index]), int(self.lengths[index])
            yield self.segments[index], start, max(first - start, 0), min(last - start, length)


def read_recording(root: Path, name: str) -> Recording:
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
        name=name,
        folder=path.parent,
        start=header.start,
        end=end,
        rate_hz=header.rate_hz,
        segments=tuple(parts[i][0] for i in kept),
        starts=starts[kept],
        lengths=lengths[kept],
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

    def of(self, key: str, stays: Sequence[Stay]) -> MatchedRecordings:
        """Open the records of one patient."""
        return MatchedRecordings(self.root, sorted(set(self._records.get(key, []))), stays)


class MatchedRecordings:
    """The records of one patient, in order of time."""

    def __init__(self, root: Path, names: Sequence[str], stays: Sequence[Stay]) -> None:
        self._recordings: list[Recording] = []
        self.unreadable_records: list[str] = []
        for name in names:
            try:
                self._recordings.append(read_recording(root, name))
            except SourceError as error:
                self.unreadable_records.append(str(error))
        self._recordings.sort(key=lambda recording: (recording.start, recording.name))
        self._stays = stays
        self._damaged: set[Path] = set()
        self._header = lru_cache(maxsize=64)(_segment_header)

    @property
    def n_unreadable_segments(self) -> int:
        """Number of different segments that were asked for and are missing or damaged."""
        return len(self._damaged)

    def lead_ii(self, start: datetime, end: datetime) -> Window:
        """Read lead II from ``start`` up to, not including, ``end``.

        Segments that are missing or damaged are left out. Records of the same time as the window that
        touch no stay of the patient, give or take 12 hours, are not believed: their dates are wrong.
        """
        here = [r for r in self._recordings if r.start < end and r.end > start]
        believed = [r for r in here if any(stay.overlaps(r.start, r.end) for stay in self._stays)]
        if not believed:
            return _nothing(Exclusion.NO_CLINICAL_OVERLAP if here else Exclusion.NO_WAVEFORM)
        # One grid of samples per window: that of the record which covers most of it.
        main = max(believed, key=lambda r: min(r.end, end) - max(r.start, start))
        signal = np.full(round((end - start).total_seconds() * main.rate_hz), np.nan)
        segments = damaged = 0
        leads, most, record = 0, 0, None
        for recording in (r for r in believed if r.rate_hz == main.rate_hz):
            # The first sample at or after the start of the window; rounding errors are below 1e-6.
            first = math.ceil((start - recording.start).total_seconds() * recording.rate_hz - 1e-6)
            samples = 0
            for name, offset, a, b in recording.overlapping(first, first + len(signal)):
                segments += 1
                try:
                    piece = self._read(recording.folder / name, a, b)
                except SourceError:
                    damaged += 1
                    self._damaged.add(recording.folder / name)
                    continue
                if piece is None:
                    continue
                leads += 1
                place = signal[offset + a - first : offset + b - first]
                np.copyto(place, piece, where=np.isnan(place))
                samples += b - a
            if samples > most:
                most, record = samples, recording.name
        if leads == 0:
            reason = Exclusion.NO_WAVEFORM if segments == 0 else Exclusion.LEAD_II_ABSENT
            return _nothing(Exclusion.UNREADABLE_SEGMENT if damaged else reason, damaged)
        return Window(signal, main.rate_hz, record, None, damaged)

    def _read(self, path: Path, start: int, stop: int) -> npt.NDArray[np.float64] | None:
        header = self._header(path)
        channel = header.channel(LEAD)
        return None if channel is None else read_lead(path, header, channel, start, stop)


def _segment_header(path: Path) -> Header:
    return read_header(path.with_name(f"{path.name}.hea"))


def _nothing(reason: Exclusion, damaged: int = 0) -> Window:
    return Window(np.empty(0), 0.0, None, reason, damaged)


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
