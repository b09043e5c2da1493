"""A hospital that exports its own files: three small tables beside a folder of signals per patient.

::

    DATA/draws.csv            patient, time, potassium, unit; optional specimen, hemolyzed, flag, id
    DATA/patients.csv         optional: patient, sex, age or birth_year, ethnicity, height_cm, weight_kg
    DATA/stays.csv            optional: patient, start, end
    DATA/signals/PATIENT/     WFDB records, EDF files and CSV files, each with its start time

``fedkalemia-site check-data --template DIR`` writes an example, which ``docs/how-to/your-own-files.md``
explains.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Final

from client.data.hemolysis import with_suspicions
from client.data.problems import Problem
from client.data.sources.base import Measurement, Person, Stay
from client.data.sources.csv_tables import find_table, need_table
from client.data.sources.folder_signals import HEADER, OPENERS, FolderRecordings, ending, signal_files
from client.data.sources.folder_tables import (
    DRAWS,
    PATIENTS,
    STAYS,
    PersonRow,
    draw_rows,
    person_rows,
    stay_rows,
)
from common.errors import SourceError

SIGNALS: Final = "signals"
# Segments of a WFDB record, by the names monitors give them; opening every header to know takes too long.
_SEGMENT_NAME = re.compile(r".*_(?:\d{4}|layout)\.hea", re.IGNORECASE)


class FolderSource:
    """Reader of one data root; see ``client.data.sources.base.LabSource``.

    Parameters
    ----------
    root : the data root.
    whole_blood : take potassium measured in whole blood too.
    lab_clock_ahead_min : minutes the laboratory's clock is ahead of the monitors'; draws are moved back by
        it, so that a strip ends when the blood was drawn.

    Raises
    ------
    SourceError
        If a table is missing or a row of one is wrong, or there is no draw or no signal.
    """

    def __init__(self, root: Path, *, whole_blood: bool = True, lab_clock_ahead_min: int = 0) -> None:
        self._tables = [path for name in (DRAWS, PATIENTS, STAYS) if (path := find_table(root, name))]
        self.waveform_root = signal_root(root)
        self._draws_without_time = 0
        self._measurements = self._read_draws(root, timedelta(minutes=lab_clock_ahead_min), whole_blood)
        people, stays = find_table(root, PATIENTS), find_table(root, STAYS)
        self._people: dict[str, PersonRow] = {}
        for _, key, person in person_rows(people) if people else ():
            self._people.setdefault(key, person)
        self._stays: dict[str, list[Stay]] | None = None if stays is None else {}
        if self._stays is not None and stays is not None:
            for _, key, stay in stay_rows(stays):
                self._stays.setdefault(key, []).append(stay)
        self._with_signals = patients_with_signals(self.waveform_root)

    def keys(self) -> list[str]:
        """Return all patients with a draw, by the order of their names."""
        return sorted(self._measurements)

    def fingerprint(self) -> str:
        """Return a SHA-256 of the names and sizes of all tables and signals."""
        digest = hashlib.sha256()
        for path in self._tables:
            digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        for key in self._with_signals:
            with os.scandir(self.waveform_root / key) as entries:
                for name, size in sorted((e.name, e.stat().st_size) for e in entries if e.is_file()):
                    digest.update(f"{key}/{name} {size}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()

    def counts(self) -> Mapping[str, int]:
        """Return the size of the hospital: the first boxes of the inclusion flowchart."""
        draws, signals = set(self._measurements), set(self._with_signals)
        names = [name for key in self._with_signals for name in signal_files(self.waveform_root, key)]
        return {
            "patients": len(self._people.keys() | draws),
            "patients_with_draws": len(draws),
            "patients_with_waveforms": len(signals),
            "patients_with_both": len(draws & signals),
            "waveform_records": sum(map(_is_recording, names)),
            "draws_without_time": self._draws_without_time,
        }

    def person(self, key: str) -> Person:
        """Return who a patient is; a patient who is not in the table has nothing but draws."""
        first = min((row.specimen_time for row in self.measurements(key)), default=None)
        return self._people[key].person(first) if key in self._people else Person(key)

    def measurements(self, key: str) -> list[Measurement]:
        """Return a patient's draws in the order of the table."""
        return self._measurements.get(key, [])

    def stays(self, key: str) -> list[Stay]:
        """Return a patient's stays; none where there is no table of them."""
        return (self._stays or {}).get(key, [])

    def opener(self, key: str) -> Callable[[], FolderRecordings]:
        """Return what opens a patient's recordings."""
        stays = None if self._stays is None else self._stays.get(key, [])
        return partial(FolderRecordings, self.waveform_root, key, stays)

    def waveform_files(self, key: str) -> list[str]:
        """Name the files in a patient's folder."""
        return signal_files(self.waveform_root, key)

    def _read_draws(self, root: Path, ahead: timedelta, whole_blood: bool) -> dict[str, list[Measurement]]:
        path = need_table(root, DRAWS)
        no_stays = find_table(root, STAYS) is None
        found: dict[str, list[Measurement]] = {}
        reports_hemolysis = False
        for _, key, row in draw_rows(path, ahead=ahead):
            reports_hemolysis |= row.says_hemolysis
            if row.measurement is None:
                self._draws_without_time += 1
            elif whole_blood or row.measurement.specimen == "serum":
                # Without a table of stays every draw counts as inside one.
                found.setdefault(key, []).append(replace(row.measurement, admitted=no_stays))
        if not found:
            raise no_draws(path)
        if reports_hemolysis:  # a laboratory that says which specimens are hemolyzed is not second-guessed
            return found
        return {key: with_suspicions(rows) for key, rows in found.items()}


def signal_root(root: Path) -> Path:
    """Return the folder of the signals.

    Raises
    ------
    SourceError
        If there is none, or no patient has a folder in it.
    """
    folder = root / SIGNALS
    if not folder.is_dir():
        raise SourceError(
            f"{folder} does not exist; it holds a folder of recordings for each patient in draws.csv",
            problem=Problem.NO_WAVEFORMS,
        )
    if not patients_with_signals(folder):
        raise SourceError(
            f"{folder} holds no patient's folder with a recording: signals/PATIENT/ with .hea, .edf or .csv "
            "files",
            problem=Problem.NO_WAVEFORMS,
        )
    return folder


def patients_with_signals(folder: Path) -> list[str]:
    """Name the folders with at least one file that may be a recording, sorted."""
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir())
    return [name for name in names if any(map(_is_recording, signal_files(folder, name)))]


def no_draws(path: Path) -> SourceError:
    """Return the error for a table without any draw that could be used."""
    return SourceError(
        f"{path} holds no draw with a time: there is nothing to label; write one line for each potassium "
        "measurement",
        problem=Problem.NO_DRAWS,
    )


def _is_recording(name: str) -> bool:
    return ending(name) in OPENERS or (ending(name) == HEADER and not _SEGMENT_NAME.fullmatch(name))
