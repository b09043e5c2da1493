"""What goes wrong outside this software: one sentence, an exit code, nothing half-written, and on we go."""

from __future__ import annotations

import contextlib
import csv
import gzip
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from common.errors import CohortError
from simulation.run import SiteSpec, run_journey
from simulation.summary import RunSummary

SMALL_SIM = Path(__file__).parents[1] / "support" / "small_sim.py"
WAIT_S = 120.0


@pytest.fixture
def hospital(small_run: Any, tmp_path: Path) -> Path:
    """Return the files of one small hospital, ours to damage."""
    return Path(shutil.copytree(small_run.out / "hospitals" / "north", tmp_path / "hospital"))


@pytest.fixture
def site(hospital: Path, tmp_path: Path, small_sim: Any, command: Callable[..., Any]) -> Path:
    """Return a site folder that reads ``hospital``."""
    folder = tmp_path / "site"
    make_site(command, small_sim, folder, hospital)
    return folder


@pytest.fixture
def ingest(command: Callable[..., Any]) -> Callable[[Path], Any]:
    """Return the command that reads a site's files, in this process alone: others need seconds to come up."""
    return lambda site: command("fedkalemia-site", "ingest", site, "--workers", 1)


def make_site(
    command: Callable[..., Any], small_sim: Any, folder: Path, data: Path, *more: str, kind: str = "mimic3"
) -> None:
    options = small_sim.set_options() if kind == "mimic3" else []
    words = ("init", folder, "--name", "north", "--data", data, "--source", kind, *options, *more)
    assert command("fedkalemia-site", *words).code == 0


def edit_table(hospital: Path, name: str, change: Callable[[dict[str, str]], dict[str, str] | None]) -> None:
    """Rewrite a table row by row; None leaves a row out."""
    path = hospital / "clinical" / f"{name}.csv.gz"
    rows = list(csv.DictReader(gzip.decompress(path.read_bytes()).decode().splitlines()))
    with gzip.open(path, "wt", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(changed for row in rows if (changed := change(row)) is not None)


def no_potassium(row: dict[str, str]) -> dict[str, str] | None:
    return None if row["ITEMID"] in ("50971", "50822") else row


def all_normal(row: dict[str, str]) -> dict[str, str]:
    potassium = row["ITEMID"] in ("50971", "50822")
    return {**row, "VALUE": "4.2", "VALUENUM": "4.2"} if potassium else row


def runs_of(site: Path) -> list[tuple[str, str]]:
    with contextlib.closing(sqlite3.connect(site / "site.sqlite")) as database:
        return database.execute("select kind, status from runs order by id").fetchall()


def count(site: Path, table: str) -> int:
    with contextlib.closing(sqlite3.connect(site / "site.sqlite")) as database:
        return int(database.execute(f"select count(*) from {table}").fetchone()[0])


def leftovers(folder: Path) -> list[Path]:
    return [path for end in ("tmp", "part") for path in folder.rglob(f"*.{end}")]


# --- files ------------------------------------------------------------------------------------------------


def test_a_missing_data_root_is_named_and_found_once_it_is_there(
    command, ingest, small_sim, hospital, tmp_path
):
    moved = hospital.rename(tmp_path / "elsewhere")
    make_site(command, small_sim, tmp_path / "site", hospital)
    said = ingest(tmp_path / "site").sentence()
    missing = f"the data root {hospital} does not exist; set source.folder in {tmp_path}/site/site.toml"
    assert said == f"{missing} [missing-folder]"
    moved.rename(hospital)
    assert ingest(tmp_path / "site").code == 0


def test_a_missing_folder_of_recordings_is_named_and_no_run_is_begun(command, tmp_path):
    words = ("run", "--source", "mitbih", "--data", tmp_path / "none", "--out", tmp_path / "run")
    said = command("fedkalemia-sim", *words).sentence()
    assert said.startswith(f"{tmp_path / 'none'} does not exist or is no folder; --data takes the folder")
    assert not (tmp_path / "run").exists()


def test_recordings_without_the_lead_are_refused_before_anything_is_written(command, tmp_path):
    (tmp_path / "106.hea").write_bytes(b"106 1 360 650000\n106.dat 212 200 11 1024 995 0 0 V5\n")
    (tmp_path / "106.atr").write_bytes(b"\x00\x00")
    words = ("run", "--source", "mitbih", "--data", tmp_path, "--out", tmp_path / "run")
    said = command("fedkalemia-sim", *words).sentence()
    assert f"none of the 1 annotated records in {tmp_path} can be used: 1 lack lead II or MLII" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("garbage", [b"", b"\x00\xff garbage \x80" * 20, b"106 two 360 650000\n"])
def test_an_unreadable_header_of_a_recording_is_named(command, ingest, small_sim, tmp_path, garbage):
    data = tmp_path / "data"
    data.mkdir()
    (data / "106.hea").write_bytes(garbage)
    (data / "106.atr").write_bytes(b"\x00\x00")
    (data / "106.dat").write_bytes(b"")
    words = ("run", "--source", "mitbih", "--data", data, "--out", tmp_path / "run")
    said = command("fedkalemia-sim", *words).sentence()
    assert "106" in said
    assert "copy it again" in said
    assert not (tmp_path / "run").exists()
    make_site(command, small_sim, tmp_path / "site", data, kind="mitbih")
    said = ingest(tmp_path / "site").sentence()
    assert "record 106" in said
    assert "copy it again" in said
    assert count(tmp_path / "site", "patients") == 0


def test_unreadable_waveform_headers_of_a_hospital_cost_their_records_and_are_counted(
    ingest, site, hospital, small_sim
):
    headers = sorted((hospital / "waveforms").rglob("p*-*-*-*-*-*.hea"))
    masters = [path for path in headers if not path.name.endswith("n.hea")]
    masters[0].write_bytes(b"\x00\xff garbage")
    ended = ingest(site)
    assert ended.code == 0
    assert "missing or damaged waveform files: 0 of segments, 1 of records" in ended.out
    assert f"{small_sim.SIZES.patients} patients" in ended.out


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("D_LABITEMS", "lists no potassium item"),
        ("LABEVENTS", "holds no row of the potassium items 50822, 50971"),
    ],
)
def test_a_lab_table_without_potassium_is_named_and_read_once_it_is_whole(
    ingest, site, hospital, small_sim, table, says
):
    whole = (hospital / "clinical" / f"{table}.csv.gz").read_bytes()
    edit_table(hospital, table, no_potassium)
    said = ingest(site).sentence()
    assert says in said
    assert f"{table}.csv.gz" in said
    assert "check that" in said
    assert count(site, "patients") == 0
    (hospital / "clinical" / f"{table}.csv.gz").write_bytes(whole)
    assert ingest(site).code == 0
    assert count(site, "patients") == small_sim.SIZES.patients


# --- cohorts ----------------------------------------------------------------------------------------------


def test_a_cohort_before_ingest_says_what_to_run(command, site):
    said = command("fedkalemia-site", "cohort", site).sentence()
    assert said.startswith("there is no site database at")
    assert "run 'fedkalemia-site ingest SITE' first" in said


def test_an_empty_cohort_says_where_the_strips_went(command, ingest, site, hospital):
    for signal_file in (hospital / "waveforms").rglob("*.dat"):
        signal_file.unlink()
    assert ingest(site).code == 0
    said = command("fedkalemia-site", "cohort", site).sentence()
    assert said.startswith("cohort 'main' at site 'north' is empty: no patient has an accepted strip;")
    assert "strips left out: " in said
    assert "add recordings and run 'fedkalemia-site ingest SITE' again" in said
    assert count(site, "cohort_members") == 0


def test_a_site_with_one_label_says_which_is_missing_and_why(command, ingest, site, hospital):
    edit_table(hospital, "LABEVENTS", all_normal)
    assert ingest(site).code == 0
    said = command("fedkalemia-site", "cohort", site).sentence()
    assert said.startswith("cohort 'main' at site 'north' has one label only: 0 positive and ")
    assert "positive strips left out:" in said
    assert count(site, "cohort_members") == 0
    assert runs_of(site)[-1] == ("cohort", "failed")


def test_a_site_without_a_cohort_stops_a_run_before_training_and_is_named(
    small_sim, small_run, hospital, tmp_path
):
    """A run of the other sites alone would not be the run that was asked for."""
    edit_table(hospital, "LABEVENTS", all_normal)
    good = small_run.out / "hospitals" / "harbor"
    specs = [
        SiteSpec(name, {"kind": "mimic3", "folder": str(folder)}, {"main": None})
        for name, folder in {"harbor": good, "north": hospital}.items()
    ]
    planned = small_sim.small_journey(tmp_path / "run")
    with pytest.raises(CohortError) as stopped:
        run_journey(replace(planned, sites=specs, prepare=None))
    said = str(stopped.value)
    assert said.startswith(
        "nothing was trained, because 1 of 2 sites cannot take part: cohort 'main' at site"
    )
    assert "'north' has one label only" in said
    assert "choose another --out" in said
    assert not (tmp_path / "run" / "server").exists()
    assert runs_of(tmp_path / "run" / "sites" / "harbor")[-1] == ("cohort", "finished")


# --- the disk ---------------------------------------------------------------------------------------------


@dataclass
class SmallDisk:
    """A folder in which little can be written, until there is room."""

    folder: Path
    mounted: bool

    def limits(self) -> None:
        """Where nobody may mount a small disk, a limit on the size of every file stands for it."""
        if not self.mounted:
            resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))

    def make_room(self) -> None:
        if self.mounted:
            subprocess.run(["mount", "-o", "remount,size=20m", str(self.folder)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    may = os.geteuid() == 0 and shutil.which("mount") is not None
    mounted = may and subprocess.run(mounting, capture_output=True, check=False).returncode == 0
    try:
        yield SmallDisk(folder, mounted)
    finally:
        if mounted:  # lazily: a database this process looked at may still be open
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_fills_up_ends_an_ingest_that_goes_on_when_there_is_room(
    process, ingest, command, small_sim, small_disk, hospital, small_run
):
    site = small_disk.folder / "site"
    make_site(command, small_sim, site, hospital, "--set", f"seed={small_sim.SEED}", "--preset", "quick")
    said = process("fedkalemia-site", "ingest", site, preexec_fn=small_disk.limits).sentence()
    assert "full" in said
    assert "free some space" in said
    assert "run the " in said
    assert leftovers(small_disk.folder) == []
    done = count(site, "patients")
    assert 0 < done < small_sim.SIZES.patients
    small_disk.make_room()
    ended = ingest(site)
    assert (ended.code, ended.err) == (0, "")
    whole = small_run.out / "sites" / "north" / "beats" / "beats.f32"
    assert (site / "beats" / "beats.f32").read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("limit", [60_000, 300_000])
def test_files_that_may_grow_no_further_end_a_simulation_in_one_sentence(small_sim, tmp_path, limit):
    """The limit on the size of a file stands for a full disk where nobody may mount one."""
    script = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
    script += "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    words = small_sim.options(tmp_path / "run")
    words[words.index("--workers") + 1] = "1"
    ended = subprocess.run(
        [sys.executable, "-c", script, str(SMALL_SIM), *words], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2, ended.stderr
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    assert "free some space" in ended.stderr
    assert leftovers(tmp_path) == []


# --- the database -----------------------------------------------------------------------------------------


@pytest.fixture
def finished_site(small_run: Any, tmp_path: Path) -> Path:
    """Return a copy of a site that has taken part in a run."""
    return Path(shutil.copytree(small_run.out / "sites" / "north", tmp_path / "north"))


@pytest.mark.parametrize("step", ["ingest", "cohort", "personalize", "report", "status"])
def test_a_database_of_a_newer_version_is_refused_by_every_step_and_left_alone(command, finished_site, step):
    with contextlib.closing(sqlite3.connect(finished_site / "site.sqlite")) as database:
        database.execute("update alembic_version set version_num = '9999'")
        database.commit()
    said = command("fedkalemia-site", step, finished_site).sentence()
    assert "has schema version 9999, this code needs 0003" in said
    assert "fedkalemia-site database upgrade" in said
    with contextlib.closing(sqlite3.connect(finished_site / "site.sqlite")) as database:
        assert database.execute("select version_num from alembic_version").fetchall() == [("9999",)]


def test_a_file_that_is_no_database_is_refused_with_what_to_do(command, finished_site):
    (finished_site / "site.sqlite").write_bytes(b"not a database, but long enough to be looked at" * 100)
    for rest in ("-wal", "-shm"):
        (finished_site / f"site.sqlite{rest}").unlink(missing_ok=True)
    said = command("fedkalemia-site", "status", finished_site).sentence()
    assert "is not an SQLite database or is damaged; restore it from a backup" in said


# --- Ctrl-C -----------------------------------------------------------------------------------------------

STAGES = (
    "Writing hospital",
    "Reading the files of",
    "Federated training",
    "Personalizing at",
    "Report of",
)


def interrupt_at(stage: str, words: Sequence[str]) -> tuple[int, str, str, bool]:
    """Start a command, press Ctrl-C once a stage has begun; return code, output, errors, stray processes."""
    started = subprocess.Popen(
        [sys.executable, str(SMALL_SIM), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert started.stdout is not None
    assert started.stderr is not None
    errors: list[str] = []
    reader = threading.Thread(target=lambda stream: errors.extend(stream), args=(started.stderr,))
    reader.start()
    seen = []
    try:
        for line in started.stdout:
            seen.append(line)
            if line.startswith(stage):
                os.killpg(started.pid, signal.SIGINT)  # as a terminal does: every process gets it
                break
        seen += started.stdout
        code = started.wait(WAIT_S)
        reader.join(WAIT_S)
        return code, "".join(seen), "".join(errors), stray(started.pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        started.wait(WAIT_S)
        started.stdout.close()
        started.stderr.close()


def stray(group: int) -> bool:
    """Tell whether processes of a group still run; helpers of Python get a moment to notice the end."""
    until = time.monotonic() + 10.0
    while time.monotonic() < until:
        listed = subprocess.run(["ps", "-A", "-o", "pgid=,stat="], capture_output=True, text=True, check=True)
        states = [
            state for number, state in map(str.split, listed.stdout.splitlines()) if int(number) == group
        ]
        if all(state.startswith("Z") for state in states):  # ended, and not yet collected by init
            return False
        time.sleep(0.05)
    return True


def test_ctrl_c_in_every_stage_ends_in_one_line_and_the_same_command_goes_on_to_the_same_numbers(
    small_sim, small_run, tmp_path
):
    """One run, stopped in each stage in turn, against a run that went through, one site after the other."""
    words = small_sim.options(tmp_path / "run")
    alone = [*words[: words.index("--workers") + 1], "1", *words[words.index("--workers") + 2 :]]
    for stage in STAGES:
        # Two sites at once only where it matters here: processes need seconds to come up.
        at_once = stage in ("Writing hospital", "Reading the files of", "Personalizing at")
        code, out, errors, left = interrupt_at(stage, words if at_once else alone)
        assert stage in out, (stage, out, errors)
        assert code == 130, (stage, code, out, errors)
        said = "Stopped. Nothing is half-written; the same command goes on from here."
        assert errors.strip() == said, (stage, errors)
        assert not left, stage
        assert leftovers(tmp_path) == [], stage
    done = subprocess.run(
        [sys.executable, str(SMALL_SIM), *alone], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "going on with the run in" in done.stdout
    summary = RunSummary.model_validate_json((tmp_path / "run" / "summary.json").read_text())
    different = {"seconds", "peak_memory_mb"}
    assert summary.model_dump(exclude=different) == small_run.summary.model_dump(exclude=different)
    first = small_run.out / "server" / "main" / "best.safetensors"
    assert (tmp_path / "run" / "server" / "main" / "best.safetensors").read_bytes() == first.read_bytes()
