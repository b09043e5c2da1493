"""Files that come later, change or go, and a process that is killed: the second ingest of a folder."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from client.data.beatstore import BeatStore
from client.data.ingest import ingest
from client.data.sources import open_source
from client.data.todo import plan_patient
from client.database.forgotten import set_tombstone
from client.database.session import create_database, sessions
from client.database.tables import Draw, Patient, Run, Strip
from client.site import Site

T0 = datetime(2150, 3, 1, 8, 0)
HOUR = timedelta(hours=1)
SHORT = {"strip": {"window_s": 120.0, "min_signal_s": 60.0, "min_beats": 30}}
TOML = (
    '[site]\nname = "north"\n[source]\nfolder = {folder}\n[settings.strip]\n'
    "window_s = 120.0\nmin_signal_s = 60.0\nmin_beats = 30\n"
)

Factory = sessionmaker[Session]
MakeSite = Callable[..., Site]


def patient(hospital: Any, subject: int, values: tuple[float, ...] = (6.1, 4.0)) -> None:
    """Add a patient with a recording before each draw."""
    hospital.patient(subject)
    for number, value in enumerate(values):
        measure(hospital, subject, number, value)


def measure(hospital: Any, subject: int, number: int, value: float) -> str:
    """Add one draw with its recording; return the name of the record."""
    time = hospital.t0 + number * HOUR
    hospital.draw(subject, time, value)
    ecg = hospital.heartbeats(130, seed=subject + number)
    name: str = hospital.record(subject, time - timedelta(seconds=125), [hospital.segment(130, {"II": ecg})])
    return name


def fresh(site: Site) -> Factory:
    return sessions(create_database(site.database_url))


def content(factory: Factory, site: Site, *, ids: bool = True) -> tuple[list[Any], bytes]:
    """Return all rows without what names the run or the time of a copy, and all bytes of the beat store."""
    left_out = (
        {"run_id"} if ids else {"run_id", "id", "patient_id", "draw_id", "beat_offset", "merged_into_id"}
    )
    with factory() as session:
        rows: list[Any] = [
            {c.name: getattr(row, c.key) for c in table.__table__.columns if c.name not in left_out}
            for table in (Patient, Draw, Strip)
            for row in session.scalars(select(table).order_by(table.id))
        ]
    return rows, BeatStore(site.beats).path.read_bytes()


def test_the_number_of_workers_changes_no_row_and_no_byte(hospital: Any, make_site: MakeSite) -> None:
    for subject in range(20, 26):
        patient(hospital, subject, (6.1, 4.0, 5.3, 4.4, 4.1, 4.2, 6.3, 4.5, 4.6, 4.7)[: subject - 15])
    hospital.patient(30)
    hospital.draw(30, T0, 4.0)  # nothing was recorded
    hospital.write()
    sites = [make_site(hospital.root, name=f"with-{n}", **SHORT) for n in (1, 3)]
    found = []
    for workers, site in zip((1, 3), sites, strict=True):
        factory = fresh(site)
        ingest(site, factory, workers=workers)
        found.append(content(factory, site))
    assert found[0] == found[1]
    assert len(found[0][1]) > 100_000


def test_a_strip_says_where_it_came_from(hospital: Any, make_site: MakeSite) -> None:
    hospital.patient(20)
    hospital.draw(20, T0, 4.0)
    ecg = hospital.heartbeats(200)
    parts = [
        hospital.segment(60, {"II": ecg[: 60 * 125]}, 80.0),
        hospital.segment(10),
        hospital.segment(130, {"II": ecg[70 * 125 :]}, 40.0),
    ]
    hospital.record(20, T0 - timedelta(seconds=150), parts)
    hospital.write()
    site = make_site(hospital.root, **SHORT)
    factory = fresh(site)
    result = ingest(site, factory)
    with factory() as session:
        (strip,) = session.scalars(select(Strip)).all()
        run = session.get_one(Run, strip.run_id)
    first, second = strip.source
    folder = "p00/p000020/"
    assert (first["file"], first["first"], first["last"]) == (f"{folder}3002000_0001.dat", 3750, 7500)
    assert (second["file"], second["first"], second["last"]) == (f"{folder}3002000_0003.dat", 0, 10_000)
    assert [(one["gain"], one["baseline"]) for one in strip.source] == [(80.0, -20.0), (40.0, -20.0)]
    assert first["size"] == 7500
    assert (strip.rate_hz, strip.exclusion, strip.reasons) == (125.0, None, [])
    assert strip.agreement is not None
    assert strip.agreement > 0.95
    assert strip.n_detected == strip.n_beats + sum(strip.beats_rejected.values())
    assert (run.code_version, run.settings_sha256) == (run.code_version, site.settings.digest())
    assert result.new_strips == 1


def test_files_that_come_later_add_only_what_is_new(
    hospital: Any, make_site: MakeSite, session_factory: Factory
) -> None:
    patient(hospital, 20)
    patient(hospital, 40)
    hospital.draw(20, T0 + 5 * HOUR, 4.4)  # its recording comes later
    hospital.write()
    site = make_site(hospital.root, **SHORT)
    factory = session_factory
    first = ingest(site, factory)
    assert first.strips["negative"] == {"accepted": 2, "no_waveform": 1}
    before, beats = content(factory, site)
    hospital.labs.pop()
    measure(hospital, 20, 5, 4.4)
    measure(hospital, 40, 7, 6.4)
    patient(hospital, 30)
    hospital.write()
    second = ingest(site, factory)
    assert (second.new_patients, second.new_draws, second.new_strips, second.updated_strips) == (1, 3, 3, 1)
    assert second.strips["negative"] == {"accepted": 4}
    assert second.changed_strips == second.changed_draws == second.gone_draws == 0
    after, all_beats = content(factory, site)
    assert all_beats[: len(beats)] == beats
    kept = [row for row in after if row in before]
    # Every earlier row stands, but for the strip that was waiting and two patients' lists of files.
    assert len(before) - len(kept) == 3
    with factory() as session:
        strips = session.scalars(select(Strip)).all()
    assert len({strip.draw_id for strip in strips}) == len(strips) == 8
    places = sorted((strip.beat_offset or 0, strip.n_beats) for strip in strips)
    assert all(a + n == b for (a, n), (b, _) in pairwise(places))
    assert content(factory, site) == (after, all_beats)
    third = ingest(site, factory)
    assert (third.new_patients, third.new_draws, third.new_strips, third.updated_strips) == (0, 0, 0, 0)


def test_a_file_that_changed_is_noticed_and_taken_over_only_when_asked(
    hospital: Any, make_site: MakeSite, session_factory: Factory
) -> None:
    patient(hospital, 20)
    name = measure(hospital, 20, 4, 4.2)
    hospital.write()
    site = make_site(hospital.root, **SHORT)
    factory = session_factory
    ingest(site, factory)
    before, beats = content(factory, site)
    (signal,) = [p for p in (hospital.waveforms / name).parent.glob("*.dat") if "02" in p.stem[-7:-5]]
    samples = np.frombuffer(signal.read_bytes(), dtype=np.uint8).copy()
    signal.write_bytes((255 - samples).tobytes())  # the electrodes were swapped
    noticed = ingest(site, factory)
    assert noticed.changed_strips == 1
    assert "1 strip left as it was, though its files changed since" in noticed.notices()[0]
    assert content(factory, site) == (before, beats)
    taken = ingest(site, factory, take_changes=True)
    assert (taken.changed_strips, taken.updated_strips) == (0, 1)
    _, all_beats = content(factory, site)
    with factory() as session:
        strips = session.scalars(select(Strip).order_by(Strip.id)).all()
    (changed,) = [strip for strip in strips if strip.run_id == taken.run_id]
    assert changed.beat_offset == len(beats) // 480
    # The beats that were replaced are gone from the disk, all others are where they were.
    n = [strip.n_beats for strip in strips]
    assert all_beats[: 480 * (n[0] + n[1])] == beats[: 480 * (n[0] + n[1])]
    assert not any(all_beats[480 * (n[0] + n[1]) : len(beats)])
    again = ingest(site, factory, take_changes=True)
    assert (again.changed_strips, again.updated_strips) == (0, 0)


def test_a_file_that_was_copied_again_is_no_change(
    hospital: Any, make_site: MakeSite, session_factory: Factory
) -> None:
    patient(hospital, 20)
    hospital.write()
    site = make_site(hospital.root, **SHORT)
    factory = session_factory
    ingest(site, factory)
    for path in hospital.waveforms.rglob("*_0001.*"):
        os.utime(path, (time.time(), time.time() + 1000))
    result = ingest(site, factory)
    assert (result.changed_strips, result.updated_strips, result.notices()) == (0, 0, [])


def test_a_signal_file_named_unlike_its_header_is_not_read_again(hospital: Any, make_site: MakeSite) -> None:
    patient(hospital, 20)
    hospital.write()
    for path in hospital.waveforms.rglob("*_0001.dat"):
        path.rename(path.with_name(f"{path.stem}e.dat"))
        header = path.with_suffix(".hea")
        header.write_text(header.read_text().replace(path.name, f"{path.stem}e.dat"))
        os.utime(header, (time.time(), time.time() + 1000))  # younger than the samples
    site = make_site(hospital.root, **SHORT)
    factory = fresh(site)
    assert ingest(site, factory).accepted_strips == 2
    with factory() as session:
        (known,) = session.scalars(select(Patient))
        source = open_source(site)
        assert plan_patient("20", site, source, session, known, take_changes=False) is None


def test_a_row_that_changed_is_noticed_and_taken_over_only_when_asked(
    hospital: Any, make_site: MakeSite, session_factory: Factory
) -> None:
    patient(hospital, 20, (6.1, 4.0, 4.4))
    hospital.write()
    site = make_site(hospital.root, **SHORT)
    factory = session_factory
    ingest(site, factory)
    before = content(factory, site)
    row = list(hospital.labs[0])
    row[5] = row[6] = 4.7  # the laboratory corrected it
    hospital.labs[0] = tuple(row)
    hospital.labs.pop()  # and withdrew another
    hospital.write()
    noticed = ingest(site, factory)
    assert (noticed.changed_draws, noticed.gone_draws, noticed.new_draws) == (1, 1, 0)
    assert content(factory, site) == before
    taken = ingest(site, factory, take_changes=True)
    assert (taken.changed_draws, taken.updated_strips) == (1, 1)
    with factory() as session:
        draw = session.scalars(select(Draw).order_by(Draw.id)).first()
        strip = session.scalars(select(Strip).order_by(Strip.id)).first()
    assert draw is not None
    assert strip is not None
    assert (draw.value, draw.label, strip.value, strip.label) == (4.7, "negative", 4.7, "negative")


def test_a_forgotten_patient_does_not_come_back(hospital: Any, make_site: MakeSite) -> None:
    patient(hospital, 20)
    patient(hospital, 30)
    hospital.write()
    site = make_site(hospital.root, **SHORT)
    factory = fresh(site)
    with factory() as session:
        set_tombstone(session, site.name, "20", {}, [])
        session.commit()
    result = ingest(site, factory)
    assert result.patients == 1
    with factory() as session:
        assert session.scalars(select(Patient.source_key)).all() == ["30"]


def test_the_summary_for_machines_says_the_same(hospital: Any, make_site: MakeSite) -> None:
    patient(hospital, 20)
    hospital.write()
    site = make_site(hospital.root, **SHORT)
    (site.folder / "site.toml").write_text(TOML.format(folder=json.dumps(str(hospital.root))))
    command = [
        Path(sys.executable).with_name("fedkalemia-site"),
        "ingest",
        site.folder,
        "--json",
        "--workers",
        "1",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert told == json.loads((site.folder / "ingest.json").read_text())
    assert (told["patients"], told["accepted_strips"], told["new_draws"]) == (1, 2, 2)
    assert told["files"]["waveform_records"] == 2
    assert "Reading the files of north" in done.stderr


def test_a_laboratory_row_without_a_time_is_counted(hospital: Any, make_site: MakeSite) -> None:
    patient(hospital, 20)
    hospital.labs.append((99, 20, 100_020, 50971, "", 4.0, 4.0, "mEq/L", ""))
    hospital.write()
    site = make_site(hospital.root, **SHORT)
    result = ingest(site, fresh(site))
    assert result.new_draws == 2
    assert result.notices() == ["1 laboratory row left out: no time of the specimen"]


KILLS = {1: 4, 2: 2}  # by workers, which take seconds to come up


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_at_random_moments_it_ends_with_the_same_rows_and_bytes(
    hospital: Any, make_site: MakeSite, workers: int
) -> None:
    for subject in range(20, 36):
        patient(hospital, subject, (6.1, 4.0))
    hospital.write()
    whole, killed = (make_site(hospital.root, name=name, **SHORT) for name in ("whole", "killed"))
    expected = fresh(whole)
    ingest(whole, expected)
    create_database(killed.database_url).dispose()  # no connection is carried into another process
    rng = random.Random(workers)
    steps: list[int] = []
    for _ in range(KILLS[workers]):
        # A process of its own with what is imported here already: a command would need a second to begin.
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                os.setpgid(0, 0)
                ingest(killed, fresh(killed), workers=workers)
            os._exit(0)
        # From the first row of this run on, at any moment until some patients later.
        stored = wait_for_patients(killed, child, rng.randint(0, 2) + (steps[-1] if steps else 0))
        if stored is None:
            break
        time.sleep(rng.uniform(0, 0.05))
        os.killpg(child, signal.SIGKILL)
        if not os.WIFSIGNALED(os.waitpid(child, 0)[1]):
            break
        steps.append(stored)
    assert steps, "it was never killed"
    (killed.folder / "site.toml").write_text(TOML.format(folder=json.dumps(str(hospital.root))))
    command: list[Any] = [Path(sys.executable).with_name("fedkalemia-site"), "ingest", killed.folder]
    subprocess.run([*command, "--workers", str(workers)], check=True, stdout=subprocess.DEVNULL)
    assert content(fresh(killed), killed) == content(expected, whole)
    with fresh(killed)() as session:
        states = session.scalars(select(Run.status).order_by(Run.id)).all()
    assert states == ["interrupted"] * len(steps) + ["finished"]


def wait_for_patients(site: Site, child: int, wanted: int) -> int | None:
    """Wait until an ingest has begun and stored so many patients; return how many; None if it ended."""
    runs = None
    with contextlib.closing(sqlite3.connect(site.folder / "site.sqlite", timeout=30)) as database:
        while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            now, n = (
                database.execute(f"select count(*) from {table}").fetchone()[0]
                for table in ("runs", "patients")
            )
            runs = now if runs is None else runs
            if now > runs and n >= wanted:
                return int(n)
            time.sleep(0.005)
    return None
