"""``fedkalemia-sim cohort`` and ``profile`` as a person uses them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import ConfigurationError, StorageError
from simulation.cohort import estimate
from simulation.cohort.folder import COMPLETE, WORK
from simulation.cohort.profile import PROFILES
from simulation.plans import SIZES, SYNTHETIC_NOTE, synthetic_journey

BIN = Path(sys.executable).parent
WAIT_S = 60.0
SMALL = ("--patients", 3, "--personal", 0, "--window-hours", 0.02, "--seed", 5, "--workers", 1)


def files_of(folder: Path) -> dict[Path, bytes]:
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    """Two small hospitals, written by the command itself. Read it, never write to it."""
    out = tmp_path_factory.mktemp("cohort") / "out"
    words = ("cohort", "--sites", 2, *SMALL, "--out", out)
    subprocess.run([str(BIN / "fedkalemia-sim"), *map(str, words)], check=True, capture_output=True)
    return out


# --- what it writes ---------------------------------------------------------------------------------------


def test_it_says_what_it_will_cost_shows_progress_and_ends_with_what_to_do_next(command, tmp_path):
    out = tmp_path / "out"
    ended = command("fedkalemia-sim", "cohort", "--sites", 2, *SMALL, "--out", out)
    assert (ended.code, ended.err) == (0, "")
    first, *lines = ended.out.splitlines()
    assert re.fullmatch(
        r"2 hospitals, 6 patients to write: about \d+ h of ECG, [\d.]+ [kMG]B in \d+ files, .* "
        r"with 1 worker; .* are free",
        first,
    )
    assert "Writing hospital north (3 patients) ..." in lines
    assert any(line.startswith("Writing hospital harbor: done in") for line in lines)
    assert f"Hospitals     {out / 'hospitals'}" in lines
    assert f"Ground truth  {out / 'truth'} (for tests; no site may read it)" in lines
    hospital = out / "hospitals" / "north"
    assert f"  fedkalemia-site init runs/north --name north --data {hospital}" in lines
    assert f"  fedkalemia-sim run --source synthetic --data {out} --out runs/federation" in lines
    assert sorted(path.name for path in out.iterdir()) == ["hospitals", "truth"]
    assert sorted(path.name for path in (out / "truth").iterdir()) == ["harbor", "north"]
    again = command("fedkalemia-sim", "cohort", "--sites", 2, *SMALL, "--out", out)
    assert again.out.splitlines()[:2] == [
        "hospital north is complete already",
        "hospital harbor is complete already",
    ]


def test_what_it_suggests_next_works(command, cohort, tmp_path):
    """Init and ingest of a written hospital, as the last lines of the command say."""
    words = ("init", tmp_path / "site", "--name", "north", "--data", cohort / "hospitals" / "north")
    assert command("fedkalemia-site", *words).code == 0
    ended = command("fedkalemia-site", "ingest", tmp_path / "site", "--workers", 1)
    assert ended.code == 0
    assert "3 patients" in ended.out


def test_ctrl_c_ends_in_one_line_and_the_same_command_goes_on_to_the_same_files(cohort, tmp_path):
    words = [
        str(BIN / "fedkalemia-sim"),
        "cohort",
        "--sites",
        "2",
        *map(str, SMALL),
        "--out",
        str(tmp_path / "o"),
    ]
    words[words.index("--workers") + 1] = "2"
    started = subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    for line in started.stdout:
        if line.startswith("Writing hospital"):
            os.killpg(started.pid, signal.SIGINT)
            break
    _, errors = started.communicate(timeout=WAIT_S)
    assert started.returncode == 130
    assert errors.strip() == "Stopped. Nothing is half-written; the same command goes on from here."
    assert not (tmp_path / "o" / "hospitals" / "harbor" / COMPLETE).exists()
    subprocess.run(words, check=True, capture_output=True)
    assert files_of(tmp_path / "o") == files_of(cohort)


def test_a_copied_and_edited_profile_makes_a_hospital_of_its_own(command, tmp_path):
    text = command("fedkalemia-sim", "profile", "valley").out
    assert text.splitlines()[0].startswith("# ")
    changed = text.replace('name = "valley"', 'name = "hill"').replace(
        "compressed = false", "compressed = true"
    )
    (tmp_path / "hill.toml").write_text(changed)
    out, truth = tmp_path / "out", tmp_path / "elsewhere"
    words = ("--profile", tmp_path / "hill.toml", *SMALL, "--out", out, "--truth", truth)
    ended = command("fedkalemia-sim", "cohort", *words)
    assert (ended.code, ended.err) == (0, "")
    assert [path.name for path in (out / "hospitals").iterdir()] == ["hill"]
    assert (out / "hospitals" / "hill" / "clinical" / "LABEVENTS.csv.gz").is_file()
    assert (truth / "hill" / "draws.csv").is_file()
    assert sorted(path.name for path in out.iterdir()) == ["hospitals"]


def test_profiles_are_listed_with_their_sentences(command):
    lines = command("fedkalemia-sim", "profile").out.splitlines()
    assert [line.split()[0] for line in lines] == list(PROFILES)
    assert all(profile.description in line for line, profile in zip(lines, PROFILES.values(), strict=True))


def test_continuous_writes_all_monitored_hours(command, tmp_path):
    hours = {}
    for name, option in (("windows", "--window-hours=0.1"), ("whole", "--continuous")):
        words = ("--profile", "island", "--patients", 1, "--personal", 0, option, "--workers", 1)
        ended = command("fedkalemia-sim", "cohort", *words, "--out", tmp_path / name)
        row = next(line for line in ended.out.splitlines() if line.startswith("island"))
        hours[name] = float(row.split()[3])
    assert hours["whole"] > 4 * hours["windows"]


# --- describe ---------------------------------------------------------------------------------------------


def test_describe_says_what_each_profile_will_hold_and_writes_nothing(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = command("fedkalemia-sim", "cohort", "--describe", "--sites", 5, "--patients", 40)
    assert (ended.code, ended.err) == (0, "")
    assert list(tmp_path.iterdir()) == []
    rows = {line[:28].strip(): line[28:].split() for line in ended.out.splitlines()}
    assert rows["patients"] == ["40"] * 5
    roles = ("ordinary potassium", "kidney injury", "on dialysis", "dialysed for weeks")
    for column in range(5):
        assert sum(int(rows[role][column]) for role in roles) == 40
    draws, recorded = (
        [int(cell.replace(",", "")) for cell in rows[name]] for name in ("potassium draws", "with ECG")
    )
    assert all(0 < some <= everything for some, everything in zip(recorded, draws, strict=True))
    positive = [float(cell) for cell in rows["above 5.5 mEq/L"][::2]]
    assert max(positive) == positive[list(PROFILES).index("river")], "the renal unit"
    assert "Counted by planning all 200 patients." in ended.out
    assert "500 to 125 Hz by turning points" in ended.out
    assert "blood gas only, +0.1 mEq/L of bias, clock 60 min ahead, upper case .csv.gz" in ended.out


def test_describe_of_thousands_plans_some_and_says_so(command):
    words = ("--profile", "north", "--profile", "river", "--patients", 20000)
    ended = command("fedkalemia-sim", "cohort", "--describe", *words)
    planned = re.search(r"Counted by planning (\d+) of 40,000 patients, scaled up", ended.out)
    assert planned is not None
    assert 0 < int(planned.group(1)) <= 400


# --- what it refuses --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--sites", 2), "--out is missing: name a new folder, or ask for --describe only"),
        (("--sites", 2, "--profile", "north", "--out", "o"), "--sites and --profile do not go together"),
        (
            ("--continuous", "--window-hours", 1, "--out", "o"),
            "--window-hours has no meaning with --continuous",
        ),
        (("--profile", "nort", "--out", "o"), "unknown profile 'nort'; did you mean 'north'?"),
        (("--profile", "none.toml", "--out", "o"), "none.toml does not exist"),
        (("--profile", "river", "--profile", "river", "--out", "o"), "2 profiles are named 'river'"),
        (
            ("--patients", 0, "--out", "o"),
            "--patients = 0: input should be greater than or equal to 1; allowed: 1 to",
        ),
        (
            ("--patients", 100000, "--out", "o"),
            "--patients = 100000: input should be less than or equal to 99979",
        ),
        (
            ("--personal", 90, "--out", "o"),
            "site north: 90 personal patients of 60 patients; allowed: 0 to 60",
        ),
        (
            ("--positive-share", 1.5, "--out", "o"),
            "--positive-share = 1.5: input should be less than or equal to 1",
        ),
        (("--positive-share", "nan", "--out", "o"), "--positive-share = nan: input should be"),
        (
            ("--window-hours", -1, "--out", "o"),
            "--window-hours = -1.0: input should be greater than or equal to 0.02; allowed: 0.02 to 24",
        ),
        (("--personal", -1, "--out", "o"), "equal to 0; allowed: at least 0"),
        (("--out", "o", "--truth", "o"), "truth folder o would hold the hospitals of o too"),
        (("--out", "o", "--truth", "o/hospitals/x"), "truth folder o/hospitals/x lies inside o/hospitals"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence_and_nothing_is_written(
    command, tmp_path, monkeypatch, words, says
):
    monkeypatch.chdir(tmp_path)
    assert says in command("fedkalemia-sim", "cohort", *words).sentence()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "[monitor]\nlead_ii = 0.9\n",
            "own.toml: unknown key 'monitor.lead_ii'; did you mean 'lead_ii_missing'?",
        ),
        (
            "[patients]\nfibrillation_share = 1.2\n",
            "own.toml: patients.fibrillation_share = 1.2: input should be",
        ),
        (
            "[laboratory]\nhemolysed_share = -0.1\n",
            "hemolysed_share = -0.1: input should be greater than or equal to 0; allowed: 0 to 0.5",
        ),
        (
            "[monitor]\nlead_ii_missing = 1.0\n",
            "leaves no lead II, which 2 personal patients need; set it below 1",
        ),
    ],
)
def test_a_users_own_profile_is_checked_before_anything_is_written(
    command, tmp_path, monkeypatch, text, says
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.toml").write_text('name = "own"\n' + text)
    words = ("--profile", "own.toml", "--personal", 2, "--out", "out")
    assert says in command("fedkalemia-sim", "cohort", *words).sentence()
    assert [path.name for path in tmp_path.iterdir()] == ["own.toml"]


def test_an_unknown_profile_to_print_is_refused(command):
    assert command("fedkalemia-sim", "profile", "lake").sentence().startswith("unknown profile 'lake'")


def test_a_folder_that_holds_more_than_a_cohort_is_refused(command, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    said = command("fedkalemia-sim", "cohort", *SMALL, "--out", tmp_path).sentence()
    assert said == (
        f"{tmp_path} is not empty and holds more than a synthetic cohort (thesis.txt); nothing was written. "
        "Choose an empty or new folder"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_cohort_of_another_seed_is_refused_with_what_differs(command, cohort):
    before = files_of(cohort)
    words = [*SMALL]
    words[words.index("--seed") + 1] = 6
    said = command("fedkalemia-sim", "cohort", "--sites", 2, *words, "--out", cohort).sentence()
    assert "made from other values: seed is 5, not 6" in said
    assert files_of(cohort) == before


def test_too_little_space_is_refused_with_the_numbers(command, tmp_path, monkeypatch):
    monkeypatch.setattr(estimate, "free_bytes", lambda folder: 3_000_000)
    out = tmp_path / "out"
    said = command("fedkalemia-sim", "cohort", "--patients", 200, "--out", out).sentence()
    assert re.match(r"about [\d.]+ GB are needed in .* and 3\.0 MB are free; nothing was written", said)
    assert not out.exists()


# --- a run on them ----------------------------------------------------------------------------------------


def journey(out: Path, **options):
    chosen = {"seed": 1, "preset": "quick", "overrides": {}, "workers": 1} | options
    return synthetic_journey(out, **chosen)


def test_a_run_takes_the_hospitals_of_a_cohort_and_writes_none(cohort, tmp_path):
    planned = journey(tmp_path / "run", data=cohort)
    assert planned.prepare is None
    folders = {spec.name: spec.source["folder"] for spec in planned.sites}
    assert folders == {name: str(cohort / "hospitals" / name) for name in ("harbor", "north")}
    assert planned.notes == [SYNTHETIC_NOTE]


def test_a_run_without_a_cohort_writes_its_own_hospitals_as_a_case_control_study(tmp_path):
    planned = journey(tmp_path / "run")
    assert [spec.name for spec in planned.sites] == ["north", "harbor", "valley"]
    assert planned.prepare is not None
    assert (SIZES["quick"].patients, SIZES["quick"].personal_patients) == (80, 8)
    assert (SIZES["standard"].patients, SIZES["standard"].personal_patients) == (512, 12)
    assert not (tmp_path / "run").exists()


def test_a_run_refuses_what_is_no_complete_cohort(command, cohort, tmp_path):
    with pytest.raises(StorageError, match="holds no synthetic hospitals"):
        journey(tmp_path / "run", data=tmp_path)
    with pytest.raises(ConfigurationError, match="--sites has no meaning with --data"):
        journey(tmp_path / "run", data=cohort, sites=2)
    with pytest.raises(ConfigurationError, match=r"the 2 of --data .* below federation\.min_sites = 3"):
        journey(tmp_path / "run", data=cohort, overrides={"federation": {"min_sites": 3}})
    (tmp_path / "hospitals" / "north" / WORK).mkdir(parents=True)
    words = ("run", "--source", "synthetic", "--data", tmp_path, "--out", tmp_path / "run")
    said = command("fedkalemia-sim", *words).sentence()
    assert said == (
        f"{tmp_path / 'hospitals' / 'north'} is not complete; run the 'fedkalemia-sim cohort' command that "
        "began it again, it goes on where it stopped"
    )
    assert not (tmp_path / "run").exists()
