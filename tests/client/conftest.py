"""Plain folders as a hospital would export them, and a browser that looks at pages."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import edfio
import numpy as np
import numpy.typing as npt
import pytest

from client.data.template import example_lead_ii, write_csv_signal, write_wfdb_signal

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Download, Page

T0 = datetime(2050, 3, 1, 8, 0)
RATE_HZ = 125.0
DRAW_COLUMNS = ("patient", "time", "potassium", "unit")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


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


class Seen:
    """A page with what the browser said, asked for and saved while it was open."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.said: list[str] = []
        self.asked: list[str] = []
        self.saved: list[Download] = []
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("download", lambda download: self.saved.append(download))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start the machine's own Chromium; tests that need it skip where there is none."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed: no page can be rendered")
    from playwright.sync_api import sync_playwright  # most tests need none of it

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=found, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield started
        started.close()


@pytest.fixture
def seen(browser: Browser) -> Iterator[Seen]:
    """Open an empty page of the test's own."""
    page = browser.new_page(viewport={"width": 1100, "height": 900})
    yield Seen(page)
    page.close()
