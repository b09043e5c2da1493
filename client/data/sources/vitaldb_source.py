"""A hospital in the VitalDB layout: operations with one ``.vital`` file each, beside two tables.

Tested on synthetic files only: no file of the data set was at hand.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final

from client.data.problems import Problem
from client.data.sources.base import Measurement, Person, Piece, Stay, Window
from client.data.sources.vital_files import VitalLead, need_package, read_vital, seconds_of
from client.data.sources.vitaldb_tables import Case, CaseTables
from client.data.sources.windows import Part, window_of
from common.errors import SourceError

SUFFIX: Final = ".vital"
#: Folder of the recordings in the archive, looked into where ``source.waveforms`` names the one above it.
INNER: Final = "vital_files"
#: Rate of the track, Hz; what is asked of a file that cannot be read.
USUAL_RATE_HZ: Final = 500.0

Leads = Callable[[Path], VitalLead | None]


@dataclass(frozen=True)
class CaseRecording:
    """The recording of one case; see ``client.data.sources.windows.Timeline``.

    Attributes
    ----------
    root : folder of the waveforms.
    file : of the case, relative to it.
    start : surrogate start of the case: the time at which the file begins.
    seconds : recorded, by the table or the file, whichever says more.
    leads : reads lead II of a file, perhaps from memory.
    """

    root: Path
    file: str
    start: datetime
    seconds: float
    leads: Leads

    @property
    def name(self) -> str:
        """File without its ending, relative to the folder of the waveforms."""
        return self.file.removesuffix(SUFFIX)

    @property
    def end(self) -> datetime:
        """Time after the last sample."""
        return self.start + timedelta(seconds=self.seconds)

    @property
    def rate_hz(self) -> float:
        """Sampling rate of lead II, Hz."""
        try:
            lead = self.leads(self.root / self.file)
        except SourceError:
            return USUAL_RATE_HZ
        return lead.rate_hz if lead is not None else USUAL_RATE_HZ

    def parts(self, first: int, last: int) -> Iterator[Part]:
        """Read lead II between two samples, counted from the begin of the file."""
        path = self.root / self.file
        try:
            lead = self.leads(path)
        except SourceError:
            yield Part(path, "damaged")
            return
        if lead is None:
            yield Part(path, "absent")
            return
        begin, samples = lead.between(first, last)
        if len(samples):
            piece = Piece(
                file=self.file,
                first=begin,
                last=begin + len(samples),
                gain=lead.units_per_mv,
                baseline=lead.baseline,
                size=lead.size,
                mtime_ns=lead.mtime_ns,
            )
            yield Part(path, "read", begin, samples, piece)
        if not lead.whole and last > lead.n_samples:
            yield Part(path, "damaged")


class CaseRecordings:
    """The recordings of one patient, in the order of the cases.

    A file is read once for all draws of its case: that of the case asked for last stays in memory.

    Parameters
    ----------
    root : folder of the waveforms.
    cases : the patient's cases with their files, relative to the root.
    stays : the patient's stays.
    """

    def __init__(self, root: Path, cases: Sequence[tuple[Case, str]], stays: Sequence[Stay]) -> None:
        self._recordings = [
            CaseRecording(root, file, case.start, max(case.seconds, seconds_of(root / file)), self._lead)
            for case, file in cases
        ]
        self._stays = stays
        self._last: tuple[Path, VitalLead | SourceError | None] | None = None
        self.unreadable_records: list[str] = []

    def lead_ii(self, start: datetime, end: datetime) -> Window:
        """Read lead II from ``start`` up to, not including, ``end``; see ``windows.window_of``."""
        return window_of(self._recordings, start, end, self._stays)

    def _lead(self, path: Path) -> VitalLead | None:
        if self._last is None or self._last[0] != path:
            self._last = None  # the former case leaves memory before the next one comes
            try:
                self._last = (path, read_vital(path))
            except SourceError as error:
                self._last = (path, error)
        found = self._last[1]
        if isinstance(found, SourceError):
            raise found
        return found


class VitaldbSource:
    """Reader of one data root; see ``client.data.sources.base.LabSource``.

    Parameters
    ----------
    clinical : folder of the tables.
    waveforms : folder of the ``.vital`` files, or the one above their folder ``vital_files``.
    whole_blood : without effect: the table does not say which potassium is of whole blood.
    lab_clock_ahead_min : minutes the laboratory's clock is ahead of the monitors'.

    Raises
    ------
    SourceError
        If a folder or table is missing or damaged, there is no potassium or no recording, or the package
        that reads the recordings is not installed.
    """

    def __init__(
        self, clinical: Path, waveforms: Path, *, whole_blood: bool = True, lab_clock_ahead_min: int = 0
    ) -> None:
        need_package()
        self._root = waveforms
        self._files = case_files(waveforms)  # first, because the tables take seconds
        self._tables = CaseTables(clinical, lab_clock_ahead_min=lab_clock_ahead_min)

    def keys(self) -> list[str]:
        """Return all patients with a potassium measurement, by number."""
        return self._tables.keys

    def fingerprint(self) -> str:
        """Return a SHA-256 of the names and sizes of the tables and of the recordings."""
        paths = [*self._tables.files, *(self._root / file for _, file in sorted(self._files.items()))]
        sizes = [f"{path.name} {path.stat().st_size if path.is_file() else 0}" for path in paths]
        return hashlib.sha256("\n".join(sizes).encode()).hexdigest()

    def counts(self) -> Mapping[str, int]:
        """Return the size of the hospital: the first boxes of the inclusion flowchart."""
        with_draws = set(self._tables.keys)
        with_waveforms = {case.subject for case in self._tables.cases if case.number in self._files}
        return {
            "patients": self._tables.n_patients,
            "patients_with_draws": len(with_draws),
            "patients_with_waveforms": len(with_waveforms),
            "patients_with_both": len(with_draws & with_waveforms),
            "waveform_records": len(self._files),
            "draws_without_time": self._tables.draws_without_time,
            "draws_without_case": self._tables.draws_without_case,
        }

    def person(self, key: str) -> Person:
        """Return who a patient is."""
        return self._tables.person(key)

    def measurements(self, key: str) -> list[Measurement]:
        """Return a patient's potassium rows in the order of the table."""
        return self._tables.measurements(key)

    def stays(self, key: str) -> list[Stay]:
        """Return a patient's recordings and admissions."""
        return self._tables.stays(key)

    def opener(self, key: str) -> Callable[[], CaseRecordings]:
        """Return what opens a patient's recordings."""
        cases = [
            (case, self._files[case.number]) for case in self._tables.of(key) if case.number in self._files
        ]
        return partial(CaseRecordings, self._root, tuple(cases), tuple(self._tables.stays(key)))

    @property
    def waveform_root(self) -> Path:
        """The folder of the waveforms."""
        return self._root

    def waveform_files(self, key: str) -> list[str]:
        """Name the recordings of a patient's cases, as far as they are there."""
        return sorted(file for _, file in self._recorded(key) if (self._root / file).is_file())

    def _recorded(self, key: str) -> tuple[tuple[Case, str], ...]:
        """Return a patient's cases that have a recording, with its file."""
        cases = self._tables.of(key)
        return tuple((case, self._files[case.number]) for case in cases if case.number in self._files)


def case_files(root: Path) -> dict[int, str]:
    """Find the recordings of a folder by their case: ``0001.vital`` or ``1.vital``, paths relative to it.

    Raises
    ------
    SourceError
        If the folder is missing or holds no recording.
    """
    if not root.is_dir():
        raise SourceError(
            f"{root} does not exist; it should hold the recordings (0001.vital, 0002.vital, ...): check "
            "source.folder and source.waveforms in site.toml",
            problem=Problem.MISSING_FOLDER,
        )
    found: dict[int, str] = {}
    for folder in (root, root / INNER):
        names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        for name in names:
            stem, suffix = Path(name).stem, Path(name).suffix
            if suffix.lower() == SUFFIX and stem.isascii() and stem.isdigit():
                found.setdefault(int(stem), (folder / name).relative_to(root).as_posix())
    if not found:
        raise SourceError(
            f"{root} holds no recording named by its case, like 0001.vital, nor does a folder {INNER} in it; "
            "check source.waveforms in site.toml",
            problem=Problem.NO_WAVEFORMS,
        )
    return found
