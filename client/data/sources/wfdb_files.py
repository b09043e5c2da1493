"""WFDB headers and signals, as little of them as is needed.

Headers are parsed here, because a record of a bedside monitor may have thousands of segments and only
those of a few windows are ever opened. Samples are read by the wfdb package, those of FLAC files by
``client.data.sources.flac``.
"""

from __future__ import annotations

import math
import re
import warnings
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import wfdb

from client.data.problems import Problem
from client.data.sources.base import Piece
from client.data.sources.flac import BITS, read_flac
from common.errors import SourceError

# Stored units per physical unit where a header names none (WFDB header specification).
DEFAULT_GAIN: Final = 200.0
# Sampling rate of a header that names none (WFDB header specification).
DEFAULT_RATE_HZ: Final = 250.0
# A century at 1,000 Hz is 2^41 samples; what is longer is a damaged number.
MAX_SAMPLES: Final = 2**42
# Headers are far smaller (a hundred thousand segments are 2 MB); what is larger is not a header.
MAX_HEADER_BYTES: Final = 1 << 24
# Samples in a frame, samples a signal is shifted against the others, and bytes before the first sample.
MAX_PER_FRAME, MAX_SKEW, MAX_OFFSET = 4096, 100_000, 1 << 40
# Samples of all signals of a file that are read at once: an hour of twelve signals at 1,000 Hz.
MAX_READ: Final = 1 << 26
# A thousand volts: no electrode sees more, and squares of it are still numbers.
MAX_MILLIVOLT: Final = 1e6
TO_MILLIVOLT: Final = {"mv": 1.0, "uv": 1e-3, "µv": 1e-3, "v": 1e3}

_GAIN = re.compile(r"(?P<gain>[^(/]*)(?:\((?P<baseline>[^)]*)\))?(?:/(?P<units>\S+))?")
# format, then x samples per frame, : skew, + offset (WFDB header specification)
_FORMAT = re.compile(r"\d+(?:x(?P<per_frame>\d+))?(?::(?P<skew>\d+))?(?:\+(?P<offset>\d+))?")
# A signal that is shifted against the others, or begins inside its file, is left to the wfdb package.
_FLAC = re.compile(r"(?P<form>508|516|524)(?:x\d+)?(?::0+)?(?:\+0+)?")
_DATE = re.compile(r"(\d{1,2})/(\d{1,2})/(\d{4})")


@dataclass(frozen=True)
class SignalLine:
    """One signal of a header.

    Attributes
    ----------
    name : of the signal.
    units : physical unit.
    file : file of its samples.
    gain : stored units per physical unit; 0 where the header gives none (WFDB then assumes 200).
    baseline : stored number of physical zero.
    per_frame : samples per frame.
    form : format of the file, as in the header.
    skew : samples by which it is shifted against the others.
    """

    name: str
    units: str
    file: str = ""
    gain: float = 0.0
    baseline: float = 0.0
    per_frame: int = 1
    form: str = ""
    skew: int = 0


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

    def channel(self, *leads: str) -> int | None:
        """Return the position of the first of some leads among the signals, None without any of them."""
        names = [signal.name for signal in self.signals]
        return next((names.index(lead) for lead in leads if lead in names), None)


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
        with path.open("rb") as file:
            data = file.read(MAX_HEADER_BYTES + 1)
    except (OSError, ValueError) as error:  # the name of a segment need not be one that a file can have
        reason = error.strerror if isinstance(error, OSError) else None
        raise SourceError(
            f"a header file cannot be read: {(reason or 'unknown').lower()}", problem=Problem.BAD_HEADER
        ) from None
    if len(data) > MAX_HEADER_BYTES:
        raise SourceError(
            f"a header file is larger than {MAX_HEADER_BYTES} bytes", problem=Problem.BAD_HEADER
        )
    text = data.decode("utf-8", errors="replace")
    lines = [line.strip() for line in text.splitlines()]
    comments = tuple(line[1:].strip() for line in lines if line.startswith("#"))
    body = [line for line in lines if line and not line.startswith("#")]
    try:
        return _parse(body, comments)
    except (ValueError, IndexError, OverflowError):
        raise SourceError(
            "a header file does not follow the WFDB header format", problem=Problem.BAD_HEADER
        ) from None


def piece_of(root: Path, record: Path, header: Header, channel: int, first: int, last: int) -> Piece:
    """Describe samples of a signal of a single-segment record for the database.

    Parameters
    ----------
    root : folder of the waveforms.
    record : path of the record, without extension.
    header : its header.
    channel : position of the signal.
    first, last : sample numbers, half open.

    Raises
    ------
    SourceError
        If the file of the samples is missing.
    """
    signal = header.signals[channel]
    path = _file_of(record, signal)
    try:
        file = path.relative_to(root).as_posix()
        found = path.stat()
        # A header that is changed changes the samples as much as their file does.
        header_path = record.with_name(f"{record.name}.hea")
        written = header_path.stat().st_mtime_ns
    except (OSError, ValueError) as error:
        raise SourceError("a signal file is missing", problem=Problem.BAD_SIGNAL_FILE) from error
    return Piece(
        file=file,
        first=first,
        last=last,
        # Units per millivolt, whatever the header counts in.
        gain=(signal.gain or DEFAULT_GAIN) / TO_MILLIVOLT.get(signal.units.lower(), 1.0),
        baseline=signal.baseline,
        size=found.st_size,
        mtime_ns=max(found.st_mtime_ns, written),
        header=header_path.relative_to(root).as_posix(),
    )


def read_lead(record: Path, header: Header, channel: int, start: int, stop: int) -> npt.NDArray[np.float64]:
    """Read a stretch of one signal of a single-segment record.

    Parameters
    ----------
    record : path of the record, without extension.
    header : its header.
    channel : position of the signal.
    start, stop : sample numbers of this signal, half open; a frame of the record may hold several.

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
        raise SourceError("lead II is not in volts, millivolts or microvolts", problem=Problem.BAD_UNIT)
    flac = _FLAC.fullmatch(header.signals[channel].form)
    if flac is not None:
        samples = _flac_lead(record, header.signals, channel, int(flac["form"]), start, stop)
    else:
        samples = _wfdb_lead(record, header, channel, start, stop)
    if len(samples) != stop - start:
        raise SourceError("a signal file is shorter than its header says", problem=Problem.BAD_SIGNAL_FILE)
    if factor != 1.0:
        samples = samples * factor
    samples[~(np.abs(samples) < MAX_MILLIVOLT)] = np.nan
    return samples


def _wfdb_lead(record: Path, header: Header, channel: int, start: int, stop: int) -> npt.NDArray[np.float64]:
    signal = header.signals[channel]
    _file_of(record, signal)
    per_frame = signal.per_frame
    first, last = start // per_frame, -(-stop // per_frame)
    together = [other for other in header.signals if other.file == signal.file]
    frames = last - first + max(other.skew for other in together)
    if frames * sum(other.per_frame for other in together) > MAX_READ:
        raise SourceError(
            "a header file asks for an impossible amount of samples", problem=Problem.BAD_HEADER
        )
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # an absurd gain; what is no voltage is left out below
            read = wfdb.rdrecord(
                str(record), sampfrom=first, sampto=last, channels=[channel], smooth_frames=per_frame == 1
            )
        if per_frame == 1:
            return np.asarray(read.p_signal[:, 0], dtype=np.float64)
        samples = np.asarray(read.e_p_signal[0], dtype=np.float64)
    except Exception as error:  # the package raises whatever a damaged file makes it stumble over
        raise SourceError("a signal file is missing or damaged", problem=Problem.BAD_SIGNAL_FILE) from error
    return samples[start - first * per_frame : stop - first * per_frame]


def _flac_lead(
    record: Path, signals: tuple[SignalLine, ...], channel: int, form: int, start: int, stop: int
) -> npt.NDArray[np.float64]:
    signal = signals[channel]
    together = [index for index, other in enumerate(signals) if other.file == signal.file]
    stored = read_flac(_file_of(record, signal), form, together.index(channel), len(together), start, stop)
    samples = np.asarray((stored - signal.baseline) / (signal.gain or DEFAULT_GAIN), dtype=np.float64)
    samples[stored == -(2 ** (BITS[form] - 1))] = np.nan
    return samples


def _file_of(record: Path, signal: SignalLine) -> Path:
    if not _is_beside(signal.file):
        raise SourceError("a header file names a signal file in another folder", problem=Problem.BAD_HEADER)
    return record.with_name(signal.file)


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
            if not _is_beside(name):
                raise ValueError("a segment lies elsewhere")
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
    form = _FORMAT.fullmatch(fields[1]) if len(fields) > 1 else None
    per_frame, skew, offset = (
        int(form[name] or 0) if form else 0 for name in ("per_frame", "skew", "offset")
    )
    if per_frame > MAX_PER_FRAME or skew > MAX_SKEW or offset > MAX_OFFSET:
        raise ValueError("impossible format")
    # Without a baseline of its own, zero volts are stored as the ADC zero.
    zero = (match["baseline"] if match else None) or (fields[4] if len(fields) > 4 else "0")
    return SignalLine(
        name=fields[8].strip() if len(fields) > 8 else "",
        units=match["units"] if match and match["units"] else "mV",
        file=fields[0],
        gain=_number(match["gain"]) if match else 0.0,
        baseline=_number(zero),
        per_frame=max(1, per_frame),
        form=fields[1] if len(fields) > 1 else "",
        skew=skew,
    )


def _is_beside(name: str) -> bool:
    """Return whether a name is that of a file in the record's own folder."""
    return name not in ("", ".", "..") and not any(sign in name for sign in "/\\\x00")


def _number(text: str) -> float:
    """Read a number of a signal line; 0 where it is none: wfdb decides what the samples are."""
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return value if math.isfinite(value) else 0.0


def _start(clock: str, day: str) -> datetime | None:
    match = _DATE.fullmatch(day)
    if match is None:
        return None
    parts = [float(part) for part in clock.split(":")]
    if len(parts) > 3 or not all(0 <= part < math.inf for part in parts):
        raise ValueError("not a time")
    seconds = sum(part * 60**power for power, part in enumerate(reversed(parts)))
    midnight = datetime.combine(date(int(match[3]), int(match[2]), int(match[1])), time())
    return midnight + timedelta(seconds=seconds)
