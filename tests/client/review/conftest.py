"""A site of eight patients with strips that are good, noisy, flat, short or without lead II."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from client.data.ingest import ingest
from client.database.session import create_database, open_database, sessions
from client.database.tables import Strip
from client.review.sheet import Made, Order, make_sheet
from client.site import Site, load_site, write_site_file

# The hospital of the tests of client.data: the same files, the same writer.
_spec = importlib.util.spec_from_file_location(
    "tests_client_data_conftest", Path(__file__).parents[1] / "data" / "conftest.py"
)
assert _spec is not None
assert _spec.loader is not None
files = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = files  # dataclasses look their module up
_spec.loader.exec_module(files)

HOUR = timedelta(hours=1)
#: Windows of two minutes keep the tests quick; nothing else differs from the defaults.
SHORT = {"strip": {"window_s": 120.0, "min_signal_s": 60.0, "min_beats": 30}, "seed": 5}
PATIENTS = tuple(range(20, 28))

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Looked:
    """A site that has ingested, in a folder of the test's own."""

    site: Site
    sessions: sessionmaker[Session]

    def rows(self) -> list[Strip]:
        """Return all strips."""
        with self.sessions() as session:
            return list(session.scalars(select(Strip).order_by(Strip.id)))

    def of(self, exclusion: str | None) -> list[Strip]:
        """Return the strips of one reason; None for accepted ones."""
        return [row for row in self.rows() if row.exclusion == exclusion]

    def files_of(self, row: Strip) -> list[Path]:
        """Return the signal files a strip was read from."""
        return [self.site.data_root / self.site.source.waveforms / piece["file"] for piece in row.source]


def noise(seconds: float, seed: int) -> Array:
    """Return muscle noise without a heart in it, mV at 125 Hz."""
    return np.random.default_rng(seed).normal(0, 0.4, round(seconds * files.RATE))


def clip(seconds: float, seed: int) -> Array:
    """Return good ECG with four seconds of noise in the middle: some beats look unlike the others."""
    signal = files.heartbeats(seconds, seed=seed)
    middle = len(signal) // 2
    signal[middle : middle + 4 * files.RATE] += 0.35 * noise(4, seed)
    return signal


def fill(root: Path) -> None:
    """Write the hospital."""
    hospital = files.Hospital(root)
    for subject in PATIENTS:
        hospital.patient(subject)
        for number, value in enumerate((6.1, 4.0, 5.3)):  # every label, two minutes of good ECG before it
            end = hospital.t0 + number * HOUR
            hospital.draw(subject, end, value)
            make = clip if number == 1 else files.heartbeats
            ecg = make(125, seed=subject + number)
            hospital.record(subject, end - timedelta(seconds=125), [hospital.segment(125, {"II": ecg})])
    bad = (
        (20, 4.1, {"II": noise(125, 1)}),
        (21, 4.2, {"II": np.zeros(125 * files.RATE)}),
        (22, 6.2, {"II": noise(125, 2)}),
        (23, 4.3, {"V": files.heartbeats(125)}),
    )
    for number, (subject, value, leads) in enumerate(bad, start=5):
        end = hospital.t0 + number * HOUR
        hospital.draw(subject, end, value)
        hospital.record(subject, end - timedelta(seconds=125), [hospital.segment(125, leads)])
    short = hospital.t0 + 12 * HOUR
    hospital.draw(24, short, 4.4)
    ecg = files.heartbeats(40, seed=9)
    hospital.record(24, short - timedelta(seconds=40), [hospital.segment(40, {"II": ecg})])
    hospital.draw(25, short, 4.5)  # nothing was recorded
    hospital.write()


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the hospital and its site once."""
    root = tmp_path_factory.mktemp("looked")
    fill(root / "data")
    folder = root / "site"
    source = {"kind": "mimic3", "folder": "../data"}
    write_site_file(folder, name="north", source=source, settings={"task": "hyperkalemia", **SHORT})
    site = load_site(folder, environment={})
    engine = create_database(site.database_url)
    ingest(site, sessions(engine))
    engine.dispose()
    return root


@pytest.fixture(scope="session")
def with_sheet(template: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Made]:
    """Make a sheet of all strips with a signal, once."""
    root = tmp_path_factory.mktemp("sheet") / "copy"
    shutil.copytree(template, root)
    site = load_site(root / "site", environment={})
    engine = open_database(site.database_url)
    made = make_sheet(site, sessions(engine), Order(per_reason=30, seed=3))
    engine.dispose()
    return root, made


@pytest.fixture
def looked(template: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Looked]:
    """Return a copy of the site that the test may damage; with a sheet where the test asks for one."""
    wanted = "sheet" in request.fixturenames
    root = request.getfixturevalue("with_sheet")[0] if wanted else template
    shutil.copytree(root, tmp_path / "copy")
    site = load_site(tmp_path / "copy" / "site", environment={})
    engine = open_database(site.database_url)
    yield Looked(site, sessions(engine))
    engine.dispose()


@pytest.fixture
def sheet(with_sheet: tuple[Path, Made], looked: Looked) -> Made:
    """Return the sheet of the test's own copy of the site."""
    made, folder = with_sheet[1], looked.site.folder / "review"
    return replace(made, page=folder / made.page.name, verdicts=folder / made.verdicts.name)


@pytest.fixture
def run_site(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Return a function that runs ``fedkalemia-site`` and gives its exit code, output and errors."""
    from client import cli

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["fedkalemia-site", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        shown = capsys.readouterr()
        return int(ended.value.code or 0), shown.out, shown.err

    return run
