"""What every reader of hospital files gives to ingest, whatever the layout of the files.

A laboratory source knows patients, potassium measurements, stays and recordings. An annotated source
knows patients and recordings in which an expert marked every beat. A new layout is one more class that
fits one of the two protocols; ingest does not change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from client.data.exclusion import Exclusion

# Clocks of monitors and of the clinical database are known to disagree by up to half a day.
STAY_TOLERANCE: Final = timedelta(hours=12)

Specimen = Literal["serum", "whole_blood"]
#: ``reported``: the laboratory says so; ``suspected``: a rule says so, see ``client.data.hemolysis``.
Hemolysis = Literal["reported", "suspected"]


@dataclass(frozen=True)
class Person:
    """Who a patient is, as far as a report needs it; None where the files do not say.

    Attributes
    ----------
    key : identifier in the site's own files; it never leaves the site.
    sex : ``"M"`` or ``"F"``.
    age : years at the first draw; above 89 it is 91.4, the median MIMIC gives for such ages.
    ethnicity : one of the seven groups of the paper.
    height_cm, weight_kg : first plausible value on the chart.
    """

    key: str
    sex: str | None = None
    age: float | None = None
    ethnicity: str | None = None
    height_cm: float | None = None
    weight_kg: float | None = None


@dataclass(frozen=True, slots=True)
class Measurement:
    """One potassium row of a lab table, as it stands there.

    Attributes
    ----------
    source_row : row of the table, unique within the patient.
    specimen_time : when the blood was drawn.
    text : the result as printed.
    number : the numeric column, None where it is empty.
    unit, item : as printed.
    specimen : serum (or plasma), or whole blood.
    admitted : the hospital linked the row to an admission, or knows no admissions.
    hemolysis : whether red cells broke in the tube, which lets potassium out; None where nothing says so.
    flag : the laboratory's own mark, as printed; stored, never used for labels.
    """

    source_row: str
    specimen_time: datetime
    text: str
    number: float | None
    unit: str
    item: str
    specimen: Specimen
    admitted: bool
    hemolysis: Hemolysis | None = None
    flag: str = ""


@dataclass(frozen=True, slots=True)
class Stay:
    """An admission or intensive care stay."""

    start: datetime
    end: datetime

    def overlaps(self, start: datetime, end: datetime, tolerance: timedelta = STAY_TOLERANCE) -> bool:
        """Return whether a time interval touches the stay, give or take the tolerance."""
        return start - self.end <= tolerance and self.start - end <= tolerance


@dataclass(frozen=True, slots=True)
class Piece:
    """Samples of one file that went into a window, so that anybody can find them again.

    Attributes
    ----------
    file : the file of the samples, relative to the folder of the waveforms.
    first, last : sample numbers in that file, half open.
    gain : units per millivolt, None where the file stores millivolts.
    baseline : the stored number of 0 mV.
    size, mtime_ns : of the file when it was read (the time of its header, where that is younger): by them a
        later ingest notices a change.
    header : file of its header, relative to the folder of the waveforms; empty where the file needs none.
    """

    file: str
    first: int
    last: int
    gain: float | None
    baseline: float
    size: int
    mtime_ns: int
    header: str = ""


@dataclass(frozen=True)
class Window:
    """The lead II recorded between two times, or the reason why there is none.

    Attributes
    ----------
    signal_mv : float64 (n_samples,), NaN where nothing was recorded; empty where excluded.
    rate_hz : sampling rate, Hz.
    record : WFDB record most of the signal came from, relative to the folder of the waveforms.
    exclusion : why there is no signal, None where there is some.
    pieces : what was read, in the order in which it was put together.
    damaged : files of the window, such as segments, that are missing or damaged.
    """

    signal_mv: npt.NDArray[np.float64]
    rate_hz: float
    record: str | None
    exclusion: Exclusion | None
    pieces: tuple[Piece, ...] = ()
    damaged: frozenset[Path] = frozenset()


class Recordings(Protocol):
    """The waveform records of one patient."""

    @property
    def unreadable_records(self) -> Sequence[str]:
        """One sentence, without identifiers, for every record whose header cannot be read."""

    def lead_ii(self, start: datetime, end: datetime) -> Window:
        """Read lead II from ``start`` up to, not including, ``end``, and nothing else."""


class LabSource(Protocol):
    """A hospital's laboratory tables and bedside recordings."""

    def keys(self) -> list[str]:
        """Return all patients with a potassium measurement, always in the same order."""

    def fingerprint(self) -> str:
        """Return a SHA-256 that changes when files are added, removed or resized."""

    def counts(self) -> Mapping[str, int]:
        """Return what the files hold as a whole, for the run's details."""

    def person(self, key: str) -> Person:
        """Return who a patient is."""

    def measurements(self, key: str) -> list[Measurement]:
        """Return a patient's potassium rows in the order of the table."""

    def stays(self, key: str) -> list[Stay]:
        """Return a patient's admissions and intensive care stays."""

    def opener(self, key: str) -> Callable[[], Recordings]:
        """Return what opens a patient's waveform records; it can be sent to another process."""

    @property
    def waveform_root(self) -> Path:
        """The folder that the files of pieces are relative to."""

    def waveform_files(self, key: str) -> list[str]:
        """Name a patient's waveform files, sorted; by it a later ingest notices that files came or went.

        Names only: no file is opened, and a folder that is gone has none.
        """


@dataclass(frozen=True)
class Stretch:
    """Some minutes of an annotated record, with a margin that filters need on both sides.

    Attributes
    ----------
    record : WFDB record.
    start : time of minute 0 of the record.
    first_minute : number of the first minute of this stretch.
    n_minutes : minutes in it, the last one possibly shorter.
    lead_in : samples before the first minute that belong to the margin.
    signal_mv : float64 (n_samples,), margins included; empty where the record lacks the lead.
    rate_hz : sampling rate, Hz.
    r_samples : (n_beats,) annotated R peaks of the minutes of this stretch, as positions in the signal.
    symbols : (n_beats,) the experts' one-letter code of each.
    piece : the samples of the file, margins included; None where the record lacks the lead.
    has_lead : False where the record was made without lead II.
    """

    record: str
    start: datetime
    first_minute: int
    n_minutes: int
    lead_in: int
    signal_mv: npt.NDArray[np.float64]
    rate_hz: float
    r_samples: npt.NDArray[np.int64]
    symbols: npt.NDArray[np.str_]
    has_lead: bool
    piece: Piece | None = None


@runtime_checkable
class AnnotatedSource(Protocol):
    """Recordings in which an expert marked and named every beat."""

    def keys(self) -> list[str]:
        """Return all persons, always in the same order."""

    def fingerprint(self) -> str:
        """Return a SHA-256 that changes when files are added, removed or resized."""

    def counts(self) -> Mapping[str, int]:
        """Return what the files hold as a whole, for the run's details."""

    def person(self, key: str) -> Person:
        """Return who a patient is."""

    @property
    def waveform_root(self) -> Path:
        """The folder that the files of pieces are relative to."""

    def waveform_files(self, key: str) -> list[str]:
        """Name a person's files, sorted; by it a later ingest notices that files came or went."""

    def stretches(self, key: str, margin_s: int) -> Iterator[Stretch]:
        """Read a person's records, some minutes at a time, with a margin in whole seconds."""


Source = LabSource | AnnotatedSource
