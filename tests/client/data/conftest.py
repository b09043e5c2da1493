"""A small hospital in the MIMIC-III layout, written by hand: tables, master headers, format 80 segments."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from client.site import Site, SourceSettings
from common.config import make_settings

RATE = 125
GAIN, BASELINE = 80.0, -20
T0 = datetime(2150, 3, 1, 8, 0)
ITEMS = (
    (50971, "Potassium", "Blood", "Chemistry"),
    (50822, "Potassium, Whole Blood", "Blood", "Blood Gas"),
    (51097, "Potassium, Urine", "Urine", "Chemistry"),
    (50833, "Potassium", "Other Body Fluid", "Blood Gas"),
    (50983, "Sodium", "Blood", "Chemistry"),
)
LAB_COLUMNS = "ROW_ID,SUBJECT_ID,HADM_ID,ITEMID,CHARTTIME,VALUE,VALUENUM,VALUEUOM,FLAG"


def heartbeats(seconds: float, seed: int = 0, *, t_mv: float = 0.25) -> npt.NDArray[np.float64]:
    """Lead II of a steady heart at about 78 beats a minute with a little noise, mV at 125 Hz."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    signal = rng.normal(0, 0.01, len(time)) + 0.03 * np.sin(2 * np.pi * 0.25 * time)
    r_times = np.cumsum(rng.normal(0.77, 0.02, int(seconds / 0.6) + 2))
    for r in r_times[r_times < seconds]:
        near = slice(max(0, int((r - 0.3) * RATE)), int((r + 0.6) * RATE))
        t = time[near] - r
        waves = ((0.1, -0.16, 0.02), (0.9, 0, 0.011), (-0.2, 0.03, 0.012), (t_mv, 0.28, 0.045))
        for height, place, width in waves:
            signal[near] += height * np.exp(-0.5 * ((t - place) / width) ** 2)
    return signal


@dataclass
class Segment:
    """Some seconds of a record: millivolts by lead, or a gap where there is no lead at all."""

    seconds: float
    leads: Mapping[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    gain: float = GAIN
    baseline: int = BASELINE


@dataclass
class Hospital:
    """Collects rows and records, then writes them below ``root``."""

    root: Path
    t0: datetime = T0
    labs: list[tuple[Any, ...]] = field(default_factory=list)
    patients: dict[int, tuple[str, datetime]] = field(default_factory=dict)
    stays: list[tuple[int, datetime, datetime]] = field(default_factory=list)
    records: list[str] = field(default_factory=list)

    segment = staticmethod(Segment)
    heartbeats = staticmethod(heartbeats)

    @property
    def clinical(self) -> Path:
        return self.root / "clinical"

    @property
    def waveforms(self) -> Path:
        return self.root / "waveforms"

    def patient(self, subject: int, *, days: float = 5) -> None:
        """Add a patient of 60 with one stay from the day before ``t0`` on."""
        self.patients[subject] = ("F" if subject % 2 else "M", self.t0 - timedelta(days=60 * 365.25))
        self.stays.append((subject, self.t0 - timedelta(days=1), self.t0 + timedelta(days=days)))

    def draw(
        self, subject: int, time: datetime, value: float | str, *, item: int = 50971, linked: bool = True
    ) -> None:
        """Add a row to the lab table."""
        number = "" if isinstance(value, str) else value
        admission = subject + 100_000 if linked else ""
        row = (len(self.labs) + 1, subject, admission, item, time, value, number, "mEq/L", "")
        self.labs.append(row)

    def record(self, subject: int, start: datetime, segments: Sequence[Segment]) -> str:
        """Write a multi-segment record with its layout header and return its name."""
        folder = self.waveforms / f"p{subject:06d}"[:3] / f"p{subject:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        name = f"p{subject:06d}-{start:%Y-%m-%d-%H-%M}"
        base = 3_000_000 + 100 * subject + len(self.records)
        entries = [(f"{base}_layout", 0)]
        for number, segment in enumerate(segments, start=1):
            n = round(segment.seconds * RATE)
            entries.append((f"{base}_{number:04d}" if segment.leads else "~", n))
            if segment.leads:
                write_segment(folder, f"{base}_{number:04d}", segment)
        leads = {lead for segment in segments for lead in segment.leads}
        layout = [f"{base}_layout {len(leads)} {RATE} 0", *(f"~ 0 80/mV 8 0 -128 0 0 {x}" for x in leads)]
        (folder / f"{base}_layout.hea").write_text("\n".join(layout) + "\n")
        total = sum(n for _, n in entries)
        head = f"{name}/{len(entries)} {len(leads)} {RATE} {total} {start:%H:%M:%S}.000 {start:%d/%m/%Y}"
        lines = [head, *(f"{part} {n}" for part, n in entries), "# Location: micu"]
        (folder / f"{name}.hea").write_text("\n".join(lines) + "\n")
        path = f"p{subject:06d}"[:3] + f"/p{subject:06d}/{name}"
        self.records.append(path)
        return path

    def write(self, *, lower: bool = False) -> None:
        """Write the tables and the index of the records."""
        self.clinical.mkdir(parents=True, exist_ok=True)
        self.waveforms.mkdir(parents=True, exist_ok=True)
        self.table("D_LABITEMS", "ITEMID,LABEL,FLUID,CATEGORY", ITEMS, lower=lower)
        people = [(subject, sex, born) for subject, (sex, born) in self.patients.items()]
        self.table("PATIENTS", "SUBJECT_ID,GENDER,DOB", people, lower=lower)
        self.table("ICUSTAYS", "SUBJECT_ID,INTIME,OUTTIME", self.stays, lower=lower)
        self.table("LABEVENTS", LAB_COLUMNS, self.labs, lower=lower)
        (self.waveforms / "RECORDS-waveforms").write_text("".join(f"{name}\n" for name in self.records))

    def table(self, name: str, columns: str, rows: Sequence[Sequence[Any]], *, lower: bool = False) -> None:
        """Write one table."""
        path = self.clinical / f"{name.lower() if lower else name}.csv"
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow((columns.lower() if lower else columns).split(","))
            writer.writerows(rows)


def write_segment(folder: Path, name: str, segment: Segment) -> None:
    """Write one segment in format 80 (offset binary, -128 for an invalid sample)."""
    columns, lines = [], [f"{name} {len(segment.leads)} {RATE} {round(segment.seconds * RATE)}"]
    for lead, signal in segment.leads.items():
        digital = np.rint(np.nan_to_num(signal) * segment.gain + segment.baseline).clip(-127, 127)
        columns.append(np.where(np.isnan(signal), -128, digital))
        lines.append(f"{name}.dat 80 {segment.gain:g}({segment.baseline})/mV 8 0 0 0 0 {lead}")
    (np.stack(columns, axis=1) + 128).astype(np.uint8).tofile(folder / f"{name}.dat")
    (folder / f"{name}.hea").write_text("\n".join(lines) + "\n")


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    """Return an empty hospital below the test's folder."""
    return Hospital(tmp_path / "data")


@pytest.fixture
def make_site(tmp_path: Path) -> Callable[..., Site]:
    """Return a function that makes a site of a data root; settings as nested mappings."""

    def make(
        data: Path, kind: str = "mimic3", name: str = "site", source: Any = None, **settings: Any
    ) -> Site:
        task = "ventricular" if kind == "mitbih" else "hyperkalemia"
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        values = {"kind": kind, "folder": str(data), **(source or {})}
        return Site(
            name="north",
            folder=folder,
            settings=make_settings(task, overrides=settings),
            source=SourceSettings.model_validate(values),
            database_url=f"sqlite:///{folder / 'site.sqlite'}",
        )

    return make
