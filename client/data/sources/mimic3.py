"""A hospital in the MIMIC-III layout: clinical tables beside the matched waveforms."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from client.data.sources.base import Measurement, Person, Stay
from client.data.sources.csv_tables import find_table
from client.data.sources.mimic3_tables import ClinicalTables
from client.data.sources.mimic3_waveforms import MatchedRecordings, WaveformIndex

TABLES = ("D_LABITEMS", "PATIENTS", "ADMISSIONS", "ICUSTAYS", "LABEVENTS", "CHARTEVENTS")


class Mimic3Source:
    """Reader of one data root; see ``client.data.sources.base.LabSource``.

    Parameters
    ----------
    clinical : folder of the tables.
    waveforms : folder of the matched waveforms.
    whole_blood : take potassium from blood gas analyzers too.
    lab_clock_ahead_min : minutes the laboratory's clock is ahead of the monitors'.

    Raises
    ------
    SourceError
        If a folder or needed table is missing or damaged, or there is no blood potassium or no record.
    """

    def __init__(
        self, clinical: Path, waveforms: Path, *, whole_blood: bool = True, lab_clock_ahead_min: int = 0
    ) -> None:
        self._waveforms = WaveformIndex(waveforms)  # first, because the tables take minutes
        self._tables = ClinicalTables(
            clinical, whole_blood=whole_blood, lab_clock_ahead_min=lab_clock_ahead_min
        )
        self._clinical = clinical

    def keys(self) -> list[str]:
        """Return all patients with a potassium measurement, by number."""
        return self._tables.keys

    def fingerprint(self) -> str:
        """Return a SHA-256 of the names and sizes of the tables and of the names of the records."""
        found = [path for table in TABLES if (path := find_table(self._clinical, table)) is not None]
        sizes = [f"{path.name} {path.stat().st_size}" for path in found]
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

    def opener(self, key: str) -> Callable[[], MatchedRecordings]:
        """Return what opens a patient's waveform records."""
        return partial(
            MatchedRecordings, self._waveforms.root, self._waveforms.names(key), self._tables.stays(key)
        )

    @property
    def waveform_root(self) -> Path:
        """The folder of the waveforms."""
        return self._waveforms.root

    def waveform_files(self, key: str) -> list[str]:
        """Name the files in the folders of a patient's records."""
        return self._waveforms.files(key)
