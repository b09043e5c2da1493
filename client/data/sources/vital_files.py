"""Lead II of a ``.vital`` file, through the vitaldb package.

A file is one gzip stream: a header with the times of its begin and end, one description per track, then
records, each some samples of a track with the time of the first. The package parses it; it swallows damage,
prints, and stops before the checksum at the end of the file, so a file's integrity is tested here.

Source: vitaldb 1.7.2, ``utils.py`` (``VitalFile.load_vital``, ``to_vital``, ``get_track_samples``).
"""

from __future__ import annotations

import gzip
import io
import math
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from client.data.problems import Problem
from client.data.sources.wfdb_files import TO_MILLIVOLT
from client.data.sources.windows import MAX_RATE_HZ, MIN_RATE_HZ
from common.errors import SourceError

#: The track, without its device; V5 and others are never taken in its place.
TRACK: Final = "ECG_II"
#: The analog output of the monitor, 500 Hz; it comes first where several devices recorded lead II.
FIRST_DEVICE: Final = "SNUADC"
#: Unit of the track where a file names none (description of the data set).
DEFAULT_UNIT: Final = "mV"
#: Longest recording in one file; the package merges no files further apart.
MAX_HOURS: Final = 7 * 24
# A day of ten waveforms at 500 Hz is 1.7 GB; what is larger does not come from an operating room.
MAX_BYTES: Final = 4 * 2**30
CHUNK_BYTES: Final = 2**20
# The package takes larger numbers for gaps; no ECG comes near it.
MAX_SAMPLE: Final = 4e9

_WAVE: Final = 1
_FLOATS: Final = (1, 2)
# sign, version, length of the rest; time zone, instance, program, begin and end in seconds since 1970
_HEAD = struct.Struct("<4sIH")
_TIMES = struct.Struct("<hIIdd")

State = Literal["whole", "cut", "damaged"]


@dataclass(frozen=True)
class VitalLead:
    """Lead II of one file, as stored.

    Attributes
    ----------
    rate_hz : sampling rate, Hz.
    gain, offset : physical value = stored · gain + offset; 1 and 0 where physical values are stored.
    to_mv : factor from the physical unit to mV.
    firsts : int64 (n_records,) samples from the begin of the file to each record, ascending.
    records : stored numbers of each record.
    gap : stored number that stands for a gap, None if there is none.
    size, mtime_ns : of the file when it was read.
    whole : False where the end of the file is missing: what is there is good, and more was recorded.
    """

    rate_hz: float
    gain: float
    offset: float
    to_mv: float
    firsts: npt.NDArray[np.int64]
    records: tuple[npt.NDArray[Any], ...]
    gap: int | None
    size: int
    mtime_ns: int
    whole: bool

    @property
    def n_samples(self) -> int:
        """Samples from the begin of the file to the end of the last record."""
        return max((int(a) + len(r) for a, r in zip(self.firsts, self.records, strict=True)), default=0)

    @property
    def units_per_mv(self) -> float | None:
        """Stored units per millivolt; None where millivolts are stored."""
        per_mv = 1.0 / (self.gain * self.to_mv)
        return None if per_mv == 1.0 and self.offset == 0.0 else per_mv

    @property
    def baseline(self) -> float:
        """Stored number of 0 mV."""
        return -self.offset / self.gain if self.offset else 0.0

    def between(self, first: int, last: int) -> tuple[int, npt.NDArray[np.float64]]:
        """Return the samples between two sample numbers, without the emptiness on both sides.

        Returns
        -------
        number of the first sample, and float64 (n,), mV, NaN where nothing was recorded; n is 0 if no
        record reaches between the two.
        """
        parts = [
            (int(a), r)
            for a, r in zip(self.firsts, self.records, strict=True)
            if a < last and a + len(r) > first
        ]
        if not parts:
            return first, np.empty(0)
        begin = max(first, min(a for a, _ in parts))
        end = min(last, max(a + len(r) for a, r in parts))
        out = np.full(end - begin, np.nan)
        for a, record in parts:  # a later record of the same time counts, as in the package
            low, high = max(a, begin), min(a + len(record), end)
            out[low - begin : high - begin] = self._millivolts(record[low - a : high - a])
        return begin, out

    def _millivolts(self, stored: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        values = stored.astype(np.float64)
        if self.gap is not None:
            values[stored == self.gap] = np.nan
        values = values * self.gain + self.offset
        values[~(np.abs(values) <= MAX_SAMPLE)] = np.nan
        return values * self.to_mv


def need_package() -> None:
    """Check that the vitaldb package is there.

    Raises
    ------
    SourceError
        If it is not.
    """
    try:
        vital_package()
    except ImportError:
        raise SourceError(
            ".vital files are read by the package vitaldb, which is not installed; install it with "
            "pip install 'fedkalemia[vitaldb]'",
            problem=Problem.MISSING_PACKAGE,
        ) from None


def seconds_of(path: Path) -> float:
    """Return how long a file was recorded, by its header, in s; 0 where the header cannot be read."""
    begin, end = _times_of(path)
    seconds = end - begin
    return seconds if begin and 0.0 < seconds <= 3600.0 * MAX_HOURS else 0.0


def state_of(path: Path) -> State:
    """Unpack a file to its end and compare its checksum.

    Returns
    -------
    ``cut`` if its end is missing, as after a download that was interrupted: what comes before is good.
    ``damaged`` if it is no ``.vital`` file or its checksum does not fit: nothing in it can be believed.
    """
    done, sign = 0, b""
    try:
        with gzip.open(path) as file:
            while chunk := file.read(CHUNK_BYTES):
                sign = sign or chunk[:4]
                done += len(chunk)
                if done > MAX_BYTES:
                    return "damaged"
    except EOFError:
        return "cut" if sign in (b"VITA", b"") else "damaged"
    except (OSError, zlib.error):
        return "damaged"
    return "whole" if sign == b"VITA" else "damaged"


def read_vital(path: Path) -> VitalLead | None:
    """Read lead II of a file; None where it was recorded without.

    Parameters
    ----------
    path : the file. Its samples stay in memory as they are stored: 36 MB for 5 hours of 500 Hz.

    Raises
    ------
    SourceError
        If the file is missing or damaged, or its lead II is not an ECG in volts. The sentence names no file.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise _damaged("is missing") from error
    state = state_of(path)
    if state == "damaged":
        raise _damaged("is damaged")
    file, done = _load(path, [TRACK])
    if state == "whole" and not done:
        raise _damaged("is damaged")
    track = _lead_ii(file)
    if track is None:
        if state == "cut":  # perhaps it stood behind the cut
            raise _damaged("is cut off")
        return None
    begin = _times_of(path)[0] or _earliest(path)
    return _lead_of(file, track, begin, found.st_size, found.st_mtime_ns, state == "whole")


def _lead_of(file: Any, track: Any, begin: float, size: int, mtime_ns: int, whole: bool) -> VitalLead:
    rate_hz = float(track.srate)
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise _damaged("gives lead II a sampling rate that no ECG has")
    to_mv = TO_MILLIVOLT.get((track.unit or DEFAULT_UNIT).strip().lower())
    if to_mv is None:
        raise _damaged("has a lead II that is not in volts, millivolts or microvolts")
    scaled = track.fmt not in _FLOATS
    gain, offset = (float(track.gain), float(track.offset)) if scaled else (1.0, 0.0)
    if not (math.isfinite(gain) and math.isfinite(offset)) or gain == 0.0:
        raise _damaged("gives lead II an impossible gain")
    placed = []
    for record in track.recs:
        seconds = float(record["dt"]) - begin
        # A time far outside the recording is damage: it cannot be said where the samples belong.
        if abs(seconds) <= 3600.0 * MAX_HOURS:
            placed.append((round(seconds * rate_hz), record["val"]))
        else:
            whole = False
    if not placed and not whole:
        raise _damaged("is cut off")
    placed.sort(key=lambda item: item[0])
    return VitalLead(
        rate_hz=rate_hz,
        gain=gain,
        offset=offset,
        to_mv=to_mv,
        firsts=np.array([first for first, _ in placed], dtype=np.int64),
        records=tuple(samples for _, samples in placed),
        gap=_gap(placed[0][1].dtype) if scaled and placed and file.packed else None,
        size=size,
        mtime_ns=mtime_ns,
        whole=whole,
    )


def _gap(dtype: np.dtype[Any]) -> int:
    """Return what a packed file fills gaps with: the lowest signed number, the highest unsigned one."""
    limits = np.iinfo(dtype)
    return int(limits.min if limits.min < 0 else limits.max)


def _lead_ii(file: Any) -> Any:
    """Return the waveform of lead II among the tracks, None without one."""
    found = [track for track in file.trks.values() if track.name == TRACK and track.type == _WAVE]
    return min(found, key=lambda track: (track.dname != FIRST_DEVICE, track.dtname), default=None)


def _times_of(path: Path) -> tuple[float, float]:
    """Return the begin and end a header gives, in s since 1970; zeros where it gives none."""
    try:
        with gzip.open(path) as file:
            sign, _, length = _HEAD.unpack(file.read(_HEAD.size))
            if sign != b"VITA" or length < _TIMES.size:
                return 0.0, 0.0
            *_, begin, end = _TIMES.unpack(file.read(_TIMES.size))
    except (OSError, EOFError, zlib.error, struct.error):
        return 0.0, 0.0
    return (begin, end) if math.isfinite(begin) and begin > 0 and math.isfinite(end) else (0.0, 0.0)


def _earliest(path: Path) -> float:
    """Return the time of the earliest record of any track: the begin of a file whose header has no times."""
    file, _ = _load(path, None, header_only=True)
    return float(file.dtstart)


def _load(path: Path, tracks: list[str] | None, header_only: bool = False) -> tuple[Any, bool]:
    """Let the package parse a file; return what it found, and whether it got to the end."""
    with quiet():
        file = vital_package().VitalFile()
        # Not the time of now, which it takes for a new file.
        file.dtstart = file.dtend = 0.0
        file.packed = False
        try:
            # A path that begins with / is never an address of the network.
            done = file.load_vital(str(path.resolve()), tracks, header_only)
        except Exception:  # the package raises whatever a damaged file makes it stumble over
            done = False
    return file, bool(done)


def vital_package() -> Any:
    """Return the vitaldb package; it is imported where it is needed only, because it brings pandas along."""
    with quiet():
        import vitaldb

    return vitaldb


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the package from printing and warning; it leaves files open, which Python warns of."""
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _damaged(what: str) -> SourceError:
    return SourceError(f"a .vital file {what}", problem=Problem.BAD_SIGNAL_FILE)
