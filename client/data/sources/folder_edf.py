"""Signals in EDF files: the header at once, of the samples only the window.

EDF+ files that leave out time between their data records (EDF+D) are refused: their clock is not even.
EDF holds no mark for missing samples; stored numbers outside the range the header gives are taken as such.

Source: European Data Format and EDF+ specifications (edfplus.info); files are read by the edfio package.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from client.data.problems import Problem
from client.data.sources.base import Piece
from client.data.sources.folder_csv import lead_ii, millivolts
from client.data.sources.wfdb_files import MAX_MILLIVOLT
from client.data.sources.windows import MAX_RATE_HZ, MIN_RATE_HZ, Part
from common.errors import SourceError

# The first 256 bytes speak of the file, 256 more of each signal; numbers are text at fixed places.
FIXED_BYTES: Final = 256
HEADER_SIZE: Final = slice(184, 192)
RESERVED: Final = slice(192, 236)
N_RECORDS: Final = slice(236, 244)
N_SIGNALS: Final = slice(252, 256)
# The specification asks for 61,440 bytes at most.
MAX_RECORD_BYTES: Final = 1 << 26
# A file without lead II only says when it was recorded; its clock is never used.
ANY_RATE_HZ: Final = 125.0


@dataclass(frozen=True)
class EdfSignal:
    """One EDF file; see ``client.data.sources.windows.Timeline``.

    Attributes
    ----------
    root, name : folder of the signals, and the file relative to it.
    start, end : time of the first sample, and after the last one the header promises.
    rate_hz : samples of lead II per second.
    channel : position of lead II among the signals, None without it.
    n_samples, n_stored : samples of lead II the header promises, and that the file holds.
    gain, baseline : stored units per millivolt, and the stored number of 0 mV.
    lowest, highest : least and greatest stored number of a valid sample.
    """

    root: Path
    name: str
    start: datetime
    end: datetime
    rate_hz: float
    channel: int | None = None
    n_samples: int = 0
    n_stored: int = 0
    gain: float = 1.0
    baseline: float = 0.0
    lowest: int = 0
    highest: int = 0

    @property
    def path(self) -> Path:
        """The file."""
        return self.root / self.name

    def parts(self, first: int, last: int) -> Iterator[Part]:
        """Read lead II between two samples; what the header promises and the file lacks is damaged."""
        if self.channel is None:
            yield Part(self.path, "absent")
            return
        a, b = max(first, 0), min(last, self.n_samples)
        stored = min(b, self.n_stored)
        if a < stored:
            try:
                yield Part(self.path, "read", a, self._read(a, stored), self._piece(a, stored))
            except (OSError, SourceError):
                yield Part(self.path, "damaged")
                return
        if a < b and stored < b:
            yield Part(self.path, "damaged")

    def _read(self, a: int, b: int) -> npt.NDArray[np.float64]:
        signal = _read_edf(self.path).signals[self.channel or 0]
        try:
            stored = signal.get_digital_slice(a / self.rate_hz, b / self.rate_hz)
            samples = (np.asarray(stored, dtype=np.float64) - self.baseline) / self.gain
        except Exception as error:  # the package raises whatever a damaged file makes it stumble over
            raise SourceError("a signal file is damaged", problem=Problem.BAD_SIGNAL_FILE) from error
        if len(samples) != b - a:
            raise SourceError(
                "a signal file is shorter than its header says", problem=Problem.BAD_SIGNAL_FILE
            )
        valid = (stored >= self.lowest) & (stored <= self.highest) & (np.abs(samples) < MAX_MILLIVOLT)
        samples[~valid] = np.nan
        return samples

    def _piece(self, a: int, b: int) -> Piece:
        found = self.path.stat()
        return Piece(self.name, a, b, self.gain, self.baseline, found.st_size, found.st_mtime_ns)


def open_edf(root: Path, name: str) -> EdfSignal:
    """Read the header of an EDF file.

    Parameters
    ----------
    root : folder of the signals.
    name : the file, relative to it.

    Raises
    ------
    SourceError
        If it is no EDF file, leaves time out, has no start date, or lead II is no voltage at the rate of an
        ECG. The sentence names no file.
    """
    path = root / name
    head, promised = _head(path)
    edf = _read_edf(path)
    start = _start(head)
    try:
        n_records, duration_s = edf.num_data_records, edf.data_record_duration
        names = [signal.label for signal in edf.signals]
        channel = lead_ii(names)
        end = start + timedelta(seconds=(n_records if promised is None else promised) * duration_s)
        if channel is None:
            return EdfSignal(root, name, start, end, ANY_RATE_HZ)
        signal = edf.signals[channel]
        per_record = signal.samples_per_data_record
        rate_hz = per_record / duration_s
        factor = millivolts(signal.physical_dimension)
        digital, physical = signal.digital_range, signal.physical_range
        per_unit = (digital.max - digital.min) / (physical.max - physical.min)
        baseline = digital.max - physical.max * per_unit
    except (ValueError, ArithmeticError, TypeError):
        raise _no_edf() from None
    if factor is None:
        raise SourceError(
            "lead II is not in volts, millivolts or microvolts",
            problem=Problem.BAD_UNIT,
            value=signal.physical_dimension,
        )
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise SourceError(
            f"lead II has a sampling rate of {rate_hz:g} Hz, not one of an ECG", problem=Problem.BAD_HEADER
        )
    if digital.max <= digital.min or not np.isfinite(baseline) or per_unit == 0:
        raise _no_edf()
    return EdfSignal(
        root=root,
        name=name,
        start=start,
        end=end,
        rate_hz=rate_hz,
        channel=channel,
        n_samples=(n_records if promised is None else promised) * per_record,
        n_stored=n_records * per_record,
        gain=per_unit / factor,
        baseline=baseline,
        lowest=digital.min,
        highest=digital.max,
    )


def _head(path: Path) -> tuple[bytes, int | None]:
    """Return the header with the first data record, and how many records it promises; None if it does not.

    Only so much is read to learn when a recording began, which EDF+ says in its first data record.
    """
    try:
        with path.open("rb") as file:
            fixed = file.read(FIXED_BYTES)
            n_signals, size = int(fixed[N_SIGNALS]), int(fixed[HEADER_SIZE])
            promised = int(fixed[N_RECORDS])
            if n_signals < 1 or size != FIXED_BYTES * (n_signals + 1) or promised < -1:
                raise ValueError("not a header")
            signals = file.read(size - FIXED_BYTES)
            # Samples per data record: text of 8 characters each, after 216 bytes of every signal.
            counts = signals[216 * n_signals : 224 * n_signals]
            per_record = [int(counts[at : at + 8]) for at in range(0, len(counts), 8)]
            record_bytes = 2 * sum(per_record)
            if min(per_record) < 0 or not 0 < record_bytes <= MAX_RECORD_BYTES:
                raise ValueError("not a header")
            first = file.read(record_bytes)
    except OSError as error:
        raise SourceError(
            f"a signal file cannot be read: {(error.strerror or 'unknown').lower()}",
            problem=Problem.DAMAGED_FILE,
        ) from None
    except ValueError:
        raise _no_edf() from None
    if fixed[RESERVED].startswith(b"EDF+D"):
        raise SourceError(
            "an EDF+D file leaves out time between its data records; export each stretch as a file of its "
            "own, EDF or EDF+C",
            problem=Problem.BAD_HEADER,
        )
    if len(first) < record_bytes:
        raise SourceError("an EDF file holds no samples", problem=Problem.BAD_SIGNAL_FILE)
    return fixed + signals + first, None if promised == -1 else promised


def _start(head: bytes) -> datetime:
    edf = _read_edf(head)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # the two dates of an EDF+ header differ: the four-digit year counts
            start: datetime = edf.startdatetime
    except Exception:  # whatever a damaged date makes the package stumble over
        raise SourceError(
            "an EDF file has no start date and time; one without its date cannot be matched with draws",
            problem=Problem.BAD_TIME,
        ) from None
    return start


def _read_edf(what: Path | bytes) -> Any:
    edfio = _package()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # a record cut at the end; what is missing is counted by the reader
            return edfio.read_edf(what, lazy_load_data=True)
    except Exception:  # the package raises whatever a damaged file makes it stumble over
        raise _no_edf() from None


def _package() -> ModuleType:
    try:
        import edfio
    except ImportError:
        raise SourceError(
            "EDF files are read by the package edfio, which is not installed: pip install 'fedkalemia[edf]'",
            problem=Problem.MISSING_PACKAGE,
        ) from None
    return edfio


def _no_edf() -> SourceError:
    return SourceError("a file does not follow the EDF format", problem=Problem.BAD_HEADER)
