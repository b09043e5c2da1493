"""A hospital of the MIMIC family: clinical tables beside segmented records of the bedside monitors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from client.data.sources.base import Measurement, Person, Stay
from client.data.sources.clinical import MimicTables
from client.data.sources.segments import RecordIndex, SegmentedRecordings


class MimicSource:
    """Reader of one data root; see ``client.data.sources.base.LabSource``.

    Parameters
    ----------
    tables : the clinical tables.
    waveforms : which records belong to whom.
    """

    def __init__(self, tables: MimicTables, waveforms: RecordIndex) -> None:
        self._tables, self._waveforms = tables, waveforms

    def keys(self) -> list[str]:
        """Return all patients with a potassium measurement, by number."""
        return self._tables.keys

    def fingerprint(self) -> str:
        """Return a SHA-256 of the names and sizes of the tables and of the names of the records."""
        sizes = [f"{path.name} {path.stat().st_size}" for path in self._tables.files.paths()]
        return hashlib.sha256("\n".join([*sizes, self._waveforms.fingerprint()]).encode()).hexdigest()

    def counts(self) -> Mapping[str, int]:
        """Return the size of the hospital: the first boxes of the inclusion flowchart."""
        with_draws, with_waveforms = set(self._tables.keys), self._waveforms.patients
        return {
            "patients": self._tables.n_patients,
            "patients_with_draws": len(with_draws),
            "patients_with_waveforms": len(with_waveforms),
            "patients_with_both": len(with_draws & with_waveforms),
            "waveform_records": self._waveforms.n_records,
            "draws_without_time": self._tables.draws_without_time,
        }

    def person(self, key: str) -> Person:
        """Return who a patient is."""
        return self._tables.person(key)

    def measurements(self, key: str) -> list[Measurement]:
        """Return a patient's potassium rows in the order of the table."""
        return self._tables.measurements(key)

    def stays(self, key: str) -> list[Stay]:
        """Return a patient's admissions and intensive care stays."""
        return self._tables.stays(key)

    def opener(self, key: str) -> Callable[[], SegmentedRecordings]:
        """Return what opens a patient's waveform records."""
        index = self._waveforms
        return partial(
            SegmentedRecordings, index.root, index.names(key), self._tables.stays(key), index.framed
        )

    @property
    def waveform_root(self) -> Path:
        """The folder of the waveforms."""
        return self._waveforms.root

    def waveform_files(self, key: str) -> list[str]:
        """Name the files in the folders of a patient's records."""
        return self._waveforms.files(key)
