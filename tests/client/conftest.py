"""Plain folders as a hospital would export them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path

import edfio
import numpy as np
import numpy.typing as npt
import pytest

from client.data.template import example_lead_ii, write_csv_signal, write_wfdb_signal

T0 = datetime(2050, 3, 1, 8, 0)
RATE_HZ = 125.0
DRAW_COLUMNS = ("patient", "time", "potassium", "unit")


@dataclass
class PlainFolder:
    """Collects rows, then writes tables and signals below ``root``."""

    root: Path
    t0: datetime = T0
    draws: list[Sequence[object]] = field(default_factory=list)
    columns: Sequence[str] = DRAW_COLUMNS

    lead_ii = staticmethod(example_lead_ii)

    @property
    def signals(self) -> Path:
        return self.root / "signals"

    def draw(
        self, patient: str, time: datetime, potassium: object, *more: object, unit: str = "mmol/L"
    ) -> None:
        """Add a line to the table of draws."""
        self.draws.append((patient, time.isoformat(" "), potassium, unit, *more))

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
        """Write one table."""
        self.root.mkdir(parents=True, exist_ok=True)
        path = self.root / f"{name}.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([columns, *rows])
        return path

    def write(self) -> Path:
        """Write the table of draws."""
        return self.table("draws", self.columns, self.draws)

    def folder(self, patient: str) -> Path:
        """Make a patient's folder."""
        path = self.signals / patient
        path.mkdir(parents=True, exist_ok=True)
        return path

    def csv(self, patient: str, start: datetime, signal_mv: npt.NDArray[np.float64], name: str = "a") -> Path:
        """Write a signal as CSV."""
        path = self.folder(patient) / f"{name}.csv"
        write_csv_signal(path, start, signal_mv, RATE_HZ)
        return path

    def wfdb(
        self, patient: str, start: datetime, signal_mv: npt.NDArray[np.float64], name: str = "a"
    ) -> Path:
        """Write a signal as a WFDB record."""
        folder = self.folder(patient)
        write_wfdb_signal(folder, name, start, signal_mv, RATE_HZ)
        return folder / f"{name}.hea"

    def edf(
        self,
        patient: str,
        start: datetime,
        signal_mv: npt.NDArray[np.float64],
        name: str = "a",
        *,
        label: str = "ECG II",
        unit: str = "uV",
    ) -> Path:
        """Write a signal as EDF beside a respiration signal of another rate, in steps of a microvolt."""
        factor = {"uV": 1000.0, "mV": 1.0, "V": 0.001, "mmHg": 1.0}[unit]
        # 8 mV, so that a field of the header, which has 8 characters, holds it in every unit.
        limits = 8000
        n = len(signal_mv) // int(RATE_HZ)
        ecg = edfio.EdfSignal.from_digital(
            np.rint(signal_mv[: n * int(RATE_HZ)] * 1000).astype(np.int16),
            RATE_HZ,
            label=label,
            physical_dimension=unit,
            physical_range=(-8 * factor, 8 * factor),
            digital_range=(-limits, limits),
        )
        resp = edfio.EdfSignal(np.sin(np.arange(n * 25) / 10), 25, label="RESP", physical_range=(-1, 1))
        edf = edfio.Edf(
            [resp, ecg],
            recording=edfio.Recording(startdate=date(start.year, start.month, start.day)),
            starttime=start.time(),
            data_record_duration=1,
        )
        path = self.folder(patient) / f"{name}.edf"
        edf.write(path)
        return path


@pytest.fixture
def plain_folder(tmp_path: Path) -> PlainFolder:
    """Return an empty plain folder below the test's folder."""
    return PlainFolder(tmp_path / "data")


@pytest.fixture
def small_folder(plain_folder: PlainFolder) -> PlainFolder:
    """Return a folder of two patients with a draw and ten minutes of lead II each, not written yet."""
    for number, (patient, potassium) in enumerate((("p1", 4.2), ("p2", 6.1))):
        plain_folder.draw(patient, T0 + timedelta(minutes=10), potassium)
        plain_folder.csv(patient, T0, plain_folder.lead_ii(600, seed=number))
    return plain_folder
