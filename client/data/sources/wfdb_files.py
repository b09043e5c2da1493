"""WFDB headers and signals, as little of them as is needed.

Headers are parsed here, because a record of a bedside monitor may have thousands of segments and only
those of a few windows are ever opened. Samples are read by the wfdb package.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import wfdb

from common.errors import SourceError

# Sampling rate of a header that names none (WFDB header specification).
DEFAULT_RATE_HZ: Final = 250.0
# A century at 1,000 Hz is 2^41 samples; what is longer is a damaged number.
MAX_SAMPLES: Final = 2**42
TO_MILLIVOLT: Final = {"mv": 1.0, "uv": 1e-3, "µv": 1e-3, "v": 1e3}

_GAIN = re.compile(r"(?P<gain>[^(/]*)(?:\([^)]*\))?(?:/(?P<units>\S+))?")
_DATE = re.compile(r"(\d{1,2})/(\d{1,2})/(\d{4})")


@dataclass(frozen=True)
class SignalLine:
    """One signal of a header: its name and its unit."""

    name: str
    units: str


@dataclass(frozen=True)
class Header:
    """A WFDB header.

    Attributes
    ----------
    rate_hz : frames per second.
    n_samples : length, None where the header does not say.
    start : date and time of the first sample, None where either is missing.
    signals : signals of a single-segment record, in file order.
    segments : (name, number of samples) of a multi-segment record; the name ``~`` is a gap.
    comments : comment lines without the leading ``#``.
    """

    rate_hz: float
    n_samples: int | None
    start: datetime | None
    signals: tuple[SignalLine, ...]
    segments: tuple[tuple[str, int], ...]
    comments: tuple[str, ...]

    def channel(self, lead: str) -> int | None:
        """Return the position of a lead among the signals, None where it was not recorded."""
        names = [signal.name for signal in self.signals]
        return names.index(lead) if lead in names else None


def read_header(path: Path) -> Header:
    """Read a header file.

    Parameters
    ----------
    path : the ``.hea`` file.

    Raises
    ------
    SourceError
        If the file is missing or is not a WFDB header. The sentence names no file: headers of patients
        carry identifiers in their names.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise SourceError(f"a header file cannot be read: {(error.strerror or 'unknown').lower()}") from None
    lines = [line.strip() for line in text.splitlines()]
    comments = tuple(line[1:].strip() for line in lines if line.startswith("#"))
    body = [line for line in lines if line and not line.startswith("#")]
    try:
        return _parse(body, comments)
    except (ValueError, IndexError, OverflowError):
        raise SourceError("a header file does not follow the WFDB header format") from None


def read_lead(record: Path, header: Header, channel: int, start: int, stop: int) -> npt.NDArray[np.float64]:
    """Read a stretch of one signal of a single-segment record.

    Parameters
    ----------
    record : path of the record, without extension.
    header : its header.
    channel : position of the signal.
    start, stop : sample numbers, half open.

    Returns
    -------
    float64 (stop - start,), mV, NaN where the recorder marked samples as invalid.

    Raises
    ------
    SourceError
        If the signal file is missing, shorter than its header says, or in another unit than volts.
    """
    factor = TO_MILLIVOLT.get(header.signals[channel].units.lower())
    if factor is None:
        raise SourceError("lead II is not in volts, millivolts or microvolts")
    try:
        read = wfdb.rdrecord(str(record), sampfrom=start, sampto=stop, channels=[channel])
        samples: npt.NDArray[np.float64] = np.asarray(read.p_signal[:, 0], dtype=np.float64)
    except Exception as error:  # the package raises whatever a damaged file makes it stumble over
        raise SourceError("a signal file is missing or damaged") from error
    if len(samples) != stop - start:
        raise SourceError("a signal file is shorter than its header says")
    samples[~np.isfinite(samples)] = np.nan
    return samples if factor == 1.0 else samples * factor


def _parse(body: list[str], comments: tuple[str, ...]) -> Header:
    fields = body[0].split()
    _, _, n_segments = fields[0].partition("/")
    n_signals = int(fields[1])
    rate_hz = float(fields[2].split("/")[0]) if len(fields) > 2 else DEFAULT_RATE_HZ
    n_samples = int(fields[3]) if len(fields) > 3 else None
    if not (math.isfinite(rate_hz) and rate_hz > 0) or n_signals < 0:
        raise ValueError("negative count or rate")
    start = _start(fields[4], fields[5]) if len(fields) > 5 else None
    signals: list[SignalLine] = []
    segments: list[tuple[str, int]] = []
    if n_segments:
        for line in body[1 : 1 + int(n_segments)]:
            name, length = line.split()[:2]
            segments.append((name, int(length)))
        if len(segments) != int(n_segments):
            raise ValueError("segments are missing")
    else:
        signals = [_signal(line) for line in body[1 : 1 + n_signals]]
        if len(signals) != n_signals:
            raise ValueError("signals are missing")
    lengths = [n_samples or 0, *(length for _, length in segments)]
    if min(lengths) < 0 or max(lengths) > MAX_SAMPLES:
        raise ValueError("impossible length")
    return Header(rate_hz, n_samples, start, tuple(signals), tuple(segments), comments)


def _signal(line: str) -> SignalLine:
    # file, format, gain(baseline)/units, resolution, zero, first value, checksum, block size, description
    fields = line.split(maxsplit=8)
    match = _GAIN.fullmatch(fields[2]) if len(fields) > 2 else None
    units = match["units"] if match and match["units"] else "mV"
    return SignalLine(fields[8].strip() if len(fields) > 8 else "", units)


def _start(clock: str, day: str) -> datetime | None:
    match = _DATE.fullmatch(day)
    if match is None:
        return None
    parts = [float(part) for part in clock.split(":")]
    seconds = sum(part * 60**power for power, part in enumerate(reversed(parts)))
    midnight = datetime.combine(date(int(match[3]), int(match[2]), int(match[1])), time())
    return midnight + timedelta(seconds=seconds)
