"""From recordings on a clock to the lead II of one window, whatever the files are.

A layout says where its recordings lie in time and how to read some of their samples. What a window is, which
recordings are believed, how pieces are put together and which reason stands for a window without signal is
decided here, once for all layouts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Literal, Protocol

import numpy as np
import numpy.typing as npt

from client.data.exclusion import Exclusion
from client.data.sources.base import Piece, Stay, Window

#: Names of lead II. Another lead is never taken in its place.
LEAD_II: Final = ("II", "MLII")
# Other rates are damaged headers, or numerics that are listed among the waveforms.
MIN_RATE_HZ: Final = 50.0
MAX_RATE_HZ: Final = 10_000.0


@dataclass(frozen=True)
class Part:
    """What one file had to say about a range of samples of its recording.

    Attributes
    ----------
    path : the file.
    found : ``read``; ``absent``: recorded without lead II; ``damaged``: missing, or cannot be read.
    first : sample of the recording at which ``samples_mv`` begins.
    samples_mv : float64 (n,), mV, NaN where invalid; empty unless read.
    piece : what was read, for the database; None unless read.
    """

    path: Path
    found: Literal["read", "absent", "damaged"]
    first: int = 0
    samples_mv: npt.NDArray[np.float64] | None = None
    piece: Piece | None = None


class Timeline(Protocol):
    """One recording: a clock with evenly spaced samples, stored in one or many files."""

    @property
    def name(self) -> str:
        """Name, relative to the folder of the waveforms."""

    @property
    def start(self) -> datetime:
        """Time of sample 0."""

    @property
    def end(self) -> datetime:
        """Time after the last sample."""

    @property
    def rate_hz(self) -> float:
        """Sampling rate of lead II, Hz."""

    def parts(self, first: int, last: int) -> Iterator[Part]:
        """Read lead II between two samples (half open; may lie outside the recording), file by file.

        Never raises for a damaged file: it yields what was found.
        """


def window_of(
    timelines: Sequence[Timeline],
    start: datetime,
    end: datetime,
    stays: Sequence[Stay] | None,
) -> Window:
    """Put together the lead II from ``start`` up to, not including, ``end``.

    Files that are missing or damaged are left out. Recordings of the same time as the window that touch no
    stay of the patient, give or take 12 hours, are not believed: their dates are wrong.

    Parameters
    ----------
    timelines : the patient's recordings, in order of time; where two overlap the first one counts.
    start, end : of the window.
    stays : the patient's stays; None where the source knows none, then all recordings are believed.
    """
    here = [r for r in timelines if r.start < end and r.end > start]
    believed = [r for r in here if stays is None or any(stay.overlaps(r.start, r.end) for stay in stays)]
    if not believed:
        return _nothing(Exclusion.NO_CLINICAL_OVERLAP if here else Exclusion.NO_WAVEFORM)
    # One grid of samples per window: that of the recording which covers most of it.
    main = max(believed, key=lambda r: min(r.end, end) - max(r.start, start))
    signal = np.full(round((end - start).total_seconds() * main.rate_hz), np.nan)
    found = most = 0
    damaged: set[Path] = set()
    record: str | None = None
    pieces: list[Piece] = []
    for timeline in (r for r in believed if r.rate_hz == main.rate_hz):
        # The first sample at or after the start of the window; rounding errors are below 1e-6.
        first = math.ceil((start - timeline.start).total_seconds() * timeline.rate_hz - 1e-6)
        samples = 0
        for part in timeline.parts(first, first + len(signal)):
            found += 1
            if part.found == "damaged":
                damaged.add(part.path)
            if part.samples_mv is None or part.piece is None:
                continue
            pieces.append(part.piece)
            samples += len(part.samples_mv)
            place = signal[part.first - first : part.first - first + len(part.samples_mv)]
            np.copyto(place, part.samples_mv, where=np.isnan(place))
        if samples > most:
            most, record = samples, timeline.name
    if not pieces:
        reason = Exclusion.NO_WAVEFORM if found == 0 else Exclusion.LEAD_II_ABSENT
        return _nothing(Exclusion.UNREADABLE_SEGMENT if damaged else reason, damaged)
    return Window(signal, main.rate_hz, record, None, tuple(pieces), frozenset(damaged))


def _nothing(reason: Exclusion, damaged: AbstractSet[Path] = frozenset()) -> Window:
    return Window(np.empty(0), 0.0, None, reason, damaged=frozenset(damaged))
