"""Writing sites: who is in them, the same bytes however they are written, and whose folders are touched."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from client.data.labels import label_draws
from client.data.sources.base import Measurement
from common.config import LabelSettings
from common.errors import ConfigurationError, FedkalemiaError, StorageError
from common.workers import worker_processes
from simulation.cohort import build, estimate, parts
from simulation.cohort.build import (
    Hospital,
    built_in_sites,
    check_out,
    chosen_sites,
    hospitals_in,
    remaining_cost,
    site_orders,
    write_sites,
)
from simulation.cohort.estimate import check_places, check_space, cost_of, missing_share, size_text
from simulation.cohort.folder import COMPLETE, WORK, claimed, complete_mark
from simulation.cohort.forecast import check_personal, forecast
from simulation.cohort.labs import SERUM, WHOLE_BLOOD, Draw, measurements
from simulation.cohort.profile import PROFILES, CohortSizes
from simulation.cohort.site import plan_site, role_counts, roles_of, write_site

NORTH = PROFILES["north"]
FEW = CohortSizes(patients=4, personal_patients=0, positive_share=0.5, most_draws=1, window_hours=0.02)
WAIT_S = 60.0


def digest(*folders: Path) -> dict[str, str]:
    """Return the hash of every file, hidden ones too."""
    return {
        f"{folder.name}/{path.relative_to(folder)}": hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return what a site of ``FEW`` patients and its truth hold when they are written at once."""
    root = tmp_path_factory.mktemp("whole")
    write_site(root / "site", NORTH, FEW, 1, truth=root / "truth")
    return digest(root / "site", root / "truth")


# --- who --------------------------------------------------------------------------------------------------


def test_roles_are_the_shares_of_the_profile():
    roles = Counter(role for _, role in roles_of(NORTH, CohortSizes(patients=1000), 3))
    mix = NORTH.patients
    assert roles["personal"] == 1000 * mix.long_dialysis_share
    assert roles["injury"] == 1000 * mix.injury_share
    assert roles["dialysis"] == 1000 * mix.dialysis_share
    assert sum(roles.values()) == 1000


def test_cases_of_a_case_control_cohort_are_shared_as_the_profile_shares_them():
    sizes = CohortSizes(patients=88, personal_patients=8, positive_share=0.55)
    for name, profile in PROFILES.items():
        counts = role_counts(profile, sizes)
        cases = counts["injury"] + counts["dialysis"]
        assert (counts["personal"], cases, sum(counts.values())) == (8, 44, 88), name
        mix = profile.patients
        expected = cases * mix.injury_share / (mix.injury_share + mix.dialysis_share)
        assert counts["injury"] == pytest.approx(expected, abs=0.5)


def test_subjects_are_five_digit_numbers_in_order_and_the_roles_do_not_sit_at_one_end():
    found = roles_of(NORTH, CohortSizes(patients=500, personal_patients=250), 5)
    subjects = [subject for subject, _ in found]
    assert subjects == sorted(set(subjects))
    assert 20 <= min(subjects) < max(subjects) <= 99_998
    first = sum(role == "personal" for _, role in found[:250])
    assert 95 < first < 155
    assert found != roles_of(NORTH, CohortSizes(patients=500, personal_patients=250), 6)
    assert found != roles_of(PROFILES["harbor"], CohortSizes(patients=500, personal_patients=250), 5)


def test_a_site_of_every_possible_patient_can_be_dealt():
    found = roles_of(NORTH, CohortSizes(patients=99_979), 0)
    assert (found[0][0], found[-1][0]) == (20, 99_998)


def test_plans_come_one_by_one():
    plans = plan_site(NORTH, CohortSizes(patients=90_000), 2)
    first, second = next(plans), next(plans)
    assert first.patient.subject_id < second.patient.subject_id
    assert first.rng("x").random() != second.rng("x").random()


def test_more_sites_than_profiles_come_again_under_numbered_names():
    names = [profile.name for profile in built_in_sites(12)]
    assert names[:6] == [*PROFILES, "north-2"]
    assert names[10:] == ["north-3", "harbor-3"]
    assert built_in_sites(6)[5].monitor == NORTH.monitor


def test_two_profiles_of_one_name_are_refused(tmp_path):
    copy = tmp_path / "copy.toml"
    copy.write_text('name = "north"\n')
    with pytest.raises(ConfigurationError, match=r"2 profiles are named 'north' \(north, .*copy\.toml\)"):
        chosen_sites(["north", str(copy)])
    assert [p.name for p in chosen_sites(["island", "north"])] == ["island", "north"]


# --- the same bytes ---------------------------------------------------------------------------------------


def test_two_workers_write_what_one_writes(tmp_path, whole):
    counts = write_site(tmp_path / "site", NORTH, FEW, 1, truth=tmp_path / "truth", workers=2)
    assert digest(tmp_path / "site", tmp_path / "truth") == whole
    assert counts.patients == 4
    own = [size for name, size in sizes_of(tmp_path / "site").items() if not name.startswith(".")]
    assert counts.bytes == sum(own) - sum(
        size for name, size in sizes_of(tmp_path / "site").items() if "/RECORDS" in name
    )


def sizes_of(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_size for p in folder.rglob("*") if p.is_file()}


def test_other_seeds_and_other_sites_have_other_patients(tmp_path, whole):
    write_site(tmp_path / "site", NORTH, FEW, 2, truth=tmp_path / "truth")
    other = digest(tmp_path / "site", tmp_path / "truth")
    headers = {name: content for name, content in other.items() if name.endswith(".dat")}
    assert not set(headers.values()) & set(whole.values())


@pytest.mark.parametrize("after", [0, 1, 3])
def test_an_interrupted_site_goes_on_with_the_patients_that_are_missing(tmp_path, whole, monkeypatch, after):
    def interrupt(done: int, total: int) -> None:
        if done == after:
            raise KeyboardInterrupt

    site, truth = tmp_path / "site", tmp_path / "truth"
    with pytest.raises(KeyboardInterrupt):
        write_site(site, NORTH, FEW, 1, interrupt, truth)
    assert not (site / COMPLETE).exists()
    assert not (truth / COMPLETE).exists()
    planned = []
    plan = parts.plan_patient
    monkeypatch.setattr(parts, "plan_patient", lambda *a: planned.append(a[3]) or plan(*a))
    seen: list[tuple[int, int]] = []
    write_site(site, NORTH, FEW, 1, lambda *done: seen.append(done), truth)
    assert len(planned) == 4 - after
    assert (seen[0], seen[-1]) == ((after, 4), (4, 4))
    assert digest(site, truth) == whole


def test_what_an_interrupted_patient_left_is_no_patient(tmp_path, whole, monkeypatch):
    def break_down(*_: object) -> object:
        raise OSError(28, "No space left on device")

    site, truth = tmp_path / "site", tmp_path / "truth"
    monkeypatch.setattr(parts, "_write_part", break_down)
    with pytest.raises(OSError, match="No space left"):
        write_site(site, NORTH, FEW, 1, truth=truth)
    monkeypatch.undo()
    write_site(site, NORTH, FEW, 1, truth=truth)
    assert digest(site, truth) == whole


def test_a_patient_whose_files_were_damaged_is_written_again(tmp_path, whole):
    def interrupt(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    site, truth = tmp_path / "site", tmp_path / "truth"
    with pytest.raises(KeyboardInterrupt):
        write_site(site, NORTH, FEW, 1, interrupt, truth)
    signals = sorted((site / "waveforms").rglob("*.dat"))
    signals[0].unlink()
    signals[-1].write_bytes(b"")
    write_site(site, NORTH, FEW, 1, truth=truth)
    assert digest(site, truth) == whole


def test_the_truth_of_a_complete_site_can_be_had_later(tmp_path, whole):
    write_site(tmp_path / "site", NORTH, FEW, 1)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "site").rglob("*")}
    write_site(tmp_path / "site", NORTH, FEW, 1, truth=tmp_path / "truth")
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "site").rglob("*")}
    assert digest(tmp_path / "site", tmp_path / "truth") == whole


def test_a_complete_site_is_left_alone(tmp_path):
    first = write_site(tmp_path / "s", NORTH, FEW, 1)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("*")}
    calls: list[tuple[int, int]] = []
    again = write_site(tmp_path / "s", NORTH, FEW, 1, lambda *done: calls.append(done), workers=2)
    assert again == first
    assert calls == [(4, 4)]
    assert stamps == {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("*")}


# --- killed -----------------------------------------------------------------------------------------------

SCRIPT = """
import sys, time
from pathlib import Path
from simulation.cohort import parts
from simulation.cohort.profile import PROFILES
from simulation.cohort.site import write_site
from simulation.cohort.profile import CohortSizes

root = Path(sys.argv[1])
sizes = CohortSizes.model_validate_json(sys.argv[2])

def progress(done, total):
    print(done, flush=True)
    while done >= int(sys.argv[4]) and not (root / "go").exists():
        time.sleep(0.02)

if __name__ == "__main__":
    write_site(root / "site", PROFILES["north"], sizes, 1, progress, root / "truth", int(sys.argv[3]))
"""


@pytest.fixture
def writer(tmp_path):
    """Start a process that writes the site of ``FEW`` and tells how far it is.

    From ``hold`` patients on it waits for a file named "go"; it ends with the test.
    """
    script = tmp_path / "writer.py"
    script.write_text(SCRIPT)
    started = []

    def start(workers: int, hold: int) -> subprocess.Popen[str]:
        words = [sys.executable, str(script), str(tmp_path), FEW.model_dump_json(), str(workers), str(hold)]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True)
        started.append(process)
        return process

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(WAIT_S)
        process.stdout.close()


def others_of(group: int) -> list[str]:
    """List the processes of a group that still run, but its leader."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            # After the name, which may hold anything: state, parent, group.
            state, _, of = path.read_text().rpartition(")")[2].split()[:3]
            if int(of) == group != int(path.parent.name) and state != "Z":
                found.append(path.parent.name)
    return found


def test_a_killed_command_leaves_no_worker_and_ends_with_the_same_bytes_when_it_is_started_again(
    tmp_path, whole, writer
):
    killed = writer(2, hold=1)
    assert "1\n" in iter(killed.stdout.readline, ""), "it ended before the first patient was done"
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait(WAIT_S)
    until = time.monotonic() + WAIT_S
    while others_of(killed.pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert others_of(killed.pid) == []
    assert not (tmp_path / "site" / COMPLETE).exists()
    write_site(tmp_path / "site", NORTH, FEW, 1, truth=tmp_path / "truth")
    assert digest(tmp_path / "site", tmp_path / "truth") == whole


def test_a_killed_worker_is_a_sentence(tmp_path):
    with worker_processes(2) as pool, pytest.raises(FedkalemiaError, match="run the same command again"):
        list(pool.each(end_oneself, range(4)))


def end_oneself(item: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return item


def test_a_stream_of_items_is_never_taken_far_ahead():
    taken, done = 0, 0

    def items():
        nonlocal taken
        for item in range(60):
            taken += 1
            assert taken - done <= 8
            yield item

    with worker_processes(2) as pool:
        for _ in pool.each(abs, items()):
            done += 1
    assert (taken, done) == (60, 60)


def test_a_worker_starts_without_torch_and_without_what_only_reading_needs():
    code = "import sys, simulation.cohort.build; print(*sorted(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "flwr", "wfdb", "pandas", "matplotlib", "sqlalchemy", "sleepecg"}
    assert heavy & set(shown.stdout.split()) == set()


# --- folders ----------------------------------------------------------------------------------------------


def test_folders_of_others_are_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(StorageError, match=r"is not empty and not a synthetic site; nothing was written"):
        write_site(tmp_path, NORTH, FEW, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(StorageError, match="is a file"):
        write_site(tmp_path / "thesis.txt", NORTH, FEW, 1)


@pytest.mark.parametrize("complete", [True, False])
def test_a_site_of_other_values_is_refused_with_what_differs(tmp_path, complete):
    def stop(done: int, total: int) -> None:
        if not complete and done:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        write_site(tmp_path / "s", NORTH, FEW, 1, stop)
    assert (tmp_path / "s" / COMPLETE).is_file() is complete
    with pytest.raises(StorageError, match=r"made from other values: seed is 1, not 2\. Choose another"):
        write_site(tmp_path / "s", NORTH, FEW, 2)
    more = FEW.model_copy(update={"patients": 9, "most_draws": None})
    with pytest.raises(StorageError, match=r"sizes.patients is 4, not 9; sizes.most_draws is 1, not unset"):
        write_site(tmp_path / "s", NORTH, more, 1)
    with pytest.raises(StorageError, match=r'profile.name is "north", not "valley"; .* and \d+ more'):
        write_site(tmp_path / "s", PROFILES["valley"], FEW, 1)


def test_a_damaged_mark_is_named(tmp_path):
    write_site(tmp_path / "s", NORTH, FEW, 1)
    (tmp_path / "s" / COMPLETE).write_text("{")
    with pytest.raises(StorageError, match=r"\.complete is not a mark of a synthetic site"):
        write_site(tmp_path / "s", NORTH, FEW, 1)


def test_a_folder_that_another_process_writes_is_refused_and_free_when_that_has_ended(tmp_path):
    identity = {"profile": "p", "seed": 1}
    with (
        claimed(tmp_path / "s", identity) as mine,
        pytest.raises(StorageError, match="another process is writing"),
        claimed(tmp_path / "s", identity),
    ):
        pass
    assert not mine.whole
    with claimed(tmp_path / "s", identity) as again:
        again.finish({})
    with claimed(tmp_path / "s", identity) as done:
        assert done.whole


def test_a_second_command_on_the_same_folder_is_refused(tmp_path, writer):
    first = writer(1, hold=0)
    assert first.stdout.readline() == "0\n"
    with pytest.raises(StorageError, match=r"another process is writing .*; wait until it has ended"):
        write_site(tmp_path / "site", NORTH, FEW, 1, truth=tmp_path / "truth")
    (tmp_path / "go").touch()
    assert first.wait(WAIT_S) == 0
    write_site(tmp_path / "site", NORTH, FEW, 1, truth=tmp_path / "truth")


def test_a_lock_that_a_killed_command_left_holds_nobody_up(tmp_path):
    (tmp_path / "s" / WORK).mkdir(parents=True)
    (tmp_path / "s" / WORK / "lock").write_text("")
    write_site(tmp_path / "s", NORTH, FEW, 1)
    assert (tmp_path / "s" / COMPLETE).is_file()
    assert not (tmp_path / "s" / WORK).exists()


def test_truth_is_never_inside_a_site(tmp_path):
    with pytest.raises(ConfigurationError, match="inside the site's folder"):
        write_site(tmp_path / "s", NORTH, FEW, 1, truth=tmp_path / "s" / "truth")
    assert not (tmp_path / "s").exists()

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_site(tmp_path / "s", NORTH, FEW, 1, stop, tmp_path / "truth")
    parts_of_site = list((tmp_path / "s" / WORK).rglob("*.json"))
    assert len(parts_of_site) == 3
    for path in parts_of_site:  # not on the way there either
        assert set(json.loads(path.read_text())) & {"truth", "beats"} == set()
        assert "muscle_mv" not in path.read_text()


def test_several_sites_are_checked_before_the_first_is_written(tmp_path):
    orders = site_orders([NORTH, PROFILES["valley"]], FEW, 1, tmp_path / "out")
    orders[1].folder.mkdir(parents=True)
    (orders[1].folder / "mine.txt").write_text("x")
    with pytest.raises(StorageError, match="valley is not empty"):
        write_sites(orders, 1)
    assert not orders[0].folder.exists()


def test_hospitals_of_a_cohort_are_found_and_unfinished_ones_refused(tmp_path):
    with pytest.raises(StorageError, match="holds no synthetic hospitals"):
        hospitals_in(tmp_path)
    orders = site_orders([NORTH, PROFILES["island"]], FEW, 1, tmp_path)
    written = write_sites(orders, 1)
    found = hospitals_in(tmp_path)
    folders = [tmp_path / "hospitals" / name for name in ("island", "north")]
    assert found == [Hospital(PROFILES["island"], folders[0]), Hospital(NORTH, folders[1])]
    assert found[0].source() == {"kind": "mimic3", "folder": str(folders[0]), "lab_clock_ahead_min": 60}
    assert found[1].source() == {"kind": "mimic3", "folder": str(folders[1])}
    assert [site.counts.patients for site in written] == [4, 4]
    mark = complete_mark(orders[0].folder)
    assert mark is not None
    assert (mark["seed"], mark["profile"]["name"], mark["counts"]["patients"]) == (1, "north", 4)
    (orders[0].folder / COMPLETE).unlink()
    with pytest.raises(StorageError, match="north is no synthetic hospital"):
        hospitals_in(tmp_path)
    (orders[0].folder / WORK).mkdir()
    with pytest.raises(StorageError, match="north is not complete; run the 'fedkalemia-sim cohort' command"):
        hospitals_in(tmp_path)


# --- forecasts --------------------------------------------------------------------------------------------


def test_a_forecast_that_plans_everybody_counts_what_is_written(tmp_path):
    found = forecast(NORTH, FEW, 1)
    counts = write_site(tmp_path / "s", NORTH, FEW, 1)
    assert found.planned == found.patients == counts.patients == 4
    assert found.draws == counts.draws
    assert found.recorded_draws == counts.recorded_draws
    assert found.ecg_h == pytest.approx(counts.ecg_s / 3600)
    assert found.records == counts.records


def test_a_forecast_from_some_patients_is_near_the_one_from_all():
    sizes = CohortSizes(patients=300, personal_patients=30)
    all_of_them, some = forecast(NORTH, sizes, 2, most=300), forecast(NORTH, sizes, 2, most=120)
    assert (all_of_them.planned, some.planned < 120) == (300, True)
    assert some.roles == all_of_them.roles
    assert some.ecg_h == pytest.approx(all_of_them.ecg_h, rel=0.25)
    assert some.personal == pytest.approx(all_of_them.personal, abs=3)


@pytest.mark.parametrize("name", list(PROFILES))
def test_the_estimated_size_is_near_the_written_one(tmp_path, name):
    sizes = CohortSizes(patients=12, personal_patients=0, positive_share=0.5, window_hours=0.1)
    order = site_orders([PROFILES[name]], sizes, 3, tmp_path)[0]
    expected = cost_of(forecast(order.profile, sizes, 3), 1.0, order.profile)
    write_sites([order], 1)
    everything = [
        path.stat().st_size
        for root in (order.folder, order.truth)
        for path in root.rglob("*")
        if path.is_file()
    ]
    assert expected.files == pytest.approx(len(everything), rel=0.2)
    blocks = sum(4096 * -(-size // 4096) for size in everything)
    assert 0.7 < expected.bytes / blocks < 1.5


def test_all_channels_of_the_planned_records_are_counted_in_the_size(tmp_path):
    """A few long records decide the size of a small site; some hold a second lead, breathing or the pulse."""
    sizes = CohortSizes(patients=1, personal_patients=0, window_hours=0.3)
    seen = set()
    for seed in range(40):
        found = forecast(PROFILES["island"], sizes, seed)
        channels = (found.lead_h > found.ecg_h, found.other_h > 0.0)
        if channels in seen or not found.ecg_h:
            continue
        seen.add(channels)
        root = tmp_path / str(seed)
        write_site(root, PROFILES["island"], sizes, seed)
        samples = sum(path.stat().st_size for path in root.rglob("*.dat"))
        assert samples == pytest.approx((found.lead_h + found.other_h) * 3600 * 125, rel=0.1)
        plain = replace(found, lead_h=found.ecg_h, other_h=0.0)
        pace = 1.0
        expected, least = (cost_of(each, pace, PROFILES["island"]) for each in (found, plain))
        extra = (found.lead_h + found.other_h - found.ecg_h) * 3600 * 125
        assert expected.bytes - least.bytes == pytest.approx(extra)
    assert len(seen) >= 3


def test_too_small_a_disk_is_refused_with_the_numbers_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(estimate, "free_bytes", lambda folder: 40_000)
    orders = site_orders([NORTH], FEW, 1, tmp_path / "out")
    with pytest.raises(StorageError, match=r"about .* are needed in .*north and 40 kB are free; nothing was"):
        write_sites(orders, 1)
    assert not (tmp_path / "out").exists()


def test_what_is_written_already_needs_no_more_space(tmp_path, monkeypatch):
    orders = site_orders([NORTH], FEW, 1, tmp_path / "out")
    write_sites(orders, 1)
    monkeypatch.setattr(estimate, "free_bytes", lambda folder: 0)
    write_sites(orders, 1)
    assert check_space(tmp_path, estimate.Cost()) == 0


def test_a_whole_site_whose_truth_is_not_still_costs_the_truth(tmp_path, monkeypatch):
    order = site_orders([NORTH], FEW, 1, tmp_path)[0]
    assert missing_share(order) == 1.0
    write_sites([replace(order, truth=None)], 1)
    assert missing_share(replace(order, truth=None)) == 0.0
    assert missing_share(order) == 1.0
    left = remaining_cost([order])
    assert 0.0 < left.bytes == left.truth_bytes
    monkeypatch.setattr(estimate, "free_bytes", lambda folder: 0)
    with pytest.raises(StorageError, match="are needed in"):
        write_sites([order], 1)
    monkeypatch.undo()
    write_sites([order], 1)
    assert missing_share(order) == 0.0


def test_the_truth_on_another_disk_needs_space_there(tmp_path, monkeypatch):
    out, other = tmp_path / "out", tmp_path / "other"
    free = {out: 900, other: 200}
    monkeypatch.setattr(estimate, "free_bytes", lambda folder: free[folder])
    cost = estimate.Cost(bytes=1000.0, truth_bytes=300.0)
    with pytest.raises(StorageError, match=r"1 kB are needed in .*out"):  # one disk holds both
        check_space(out, cost, other)
    monkeypatch.setattr(estimate, "_device", lambda folder: folder)
    with pytest.raises(StorageError, match=r"0 kB are needed in .*other"):
        check_space(out, cost, other)
    free[other] = 400
    assert check_space(out, cost, other) == 900


def test_where_nothing_can_be_written_is_said_before_anything_else(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(build, "say", said.append)
    (tmp_path / "file.txt").write_text("x")
    for out, truth in ((tmp_path / "file.txt" / "b", None), (tmp_path / "o", tmp_path / "file.txt" / "b")):
        with pytest.raises(StorageError, match=r"cannot be written: .*file\.txt is not a directory; choose"):
            write_sites(site_orders([NORTH], FEW, 1, out, truth), 1)
    with pytest.raises(StorageError, match=r"/proc/nope/.*: no folder can be made in /proc \("):
        write_sites(site_orders([NORTH], FEW, 1, Path("/proc/nope")), 1)
    assert said == []
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]
    check_places(site_orders([NORTH], FEW, 1, tmp_path / "a" / "b")[0])
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 kB"),
        (4_200, "4 kB"),
        (1_500_000, "1.5 MB"),
        (340e6, "340 MB"),
        (12.4e9, "12 GB"),
        (1.2e12, "1.2 TB"),
    ],
)
def test_sizes_read_as_people_say_them(count, text):
    assert size_text(count) == text


def test_work_on_more_processors_than_there_are_is_not_expected_to_be_faster(monkeypatch):
    monkeypatch.setattr(estimate.os, "cpu_count", lambda: 2)
    cost = estimate.Cost(seconds=100.0)
    assert cost.wall_s(1) == 100.0
    assert 50.0 < cost.wall_s(2) == cost.wall_s(16) < 60.0


def drawn(minute: int, potassium: float, item: int = SERUM) -> Draw:
    return Draw(minute, item, potassium, potassium, f"{potassium}", False, True)


def by_the_client(draws: Sequence[Draw]) -> list[int]:
    """Minutes of the draws that a site's own labelling keeps."""
    base = datetime(2130, 1, 1)
    rows = [
        Measurement(
            specimen_time=base + timedelta(minutes=draw.minute),
            text=draw.text,
            number=draw.value,
            unit="mEq/L",
            specimen="serum" if draw.item == SERUM else "whole_blood",
            admitted=True,
            source_row=f"{row:06d}",
            item=str(draw.item),
        )
        for row, draw in enumerate(draws)
    ]
    labelled = label_draws(rows, [], LabelSettings())
    kept = [draw for draw in labelled if draw.label is not None]
    return [int((draw.measurement.specimen_time - base).total_seconds()) // 60 for draw in kept]


@pytest.mark.parametrize(
    ("draws", "kept"),
    [
        ([drawn(0, 4.0), drawn(20, 4.1), drawn(40, 4.2)], [0, 40]),  # 40 min after the one that is kept
        ([drawn(0, 4.0), drawn(20, 6.0), drawn(40, 6.1)], [40]),  # the first two contradict each other
        ([drawn(0, 4.0), drawn(20, 3.0), drawn(60, 4.0)], [60]),  # low potassium contradicts too
        ([drawn(0, 4.0), drawn(0, 6.0, WHOLE_BLOOD), drawn(40, 4.2)], [0, 40]),  # a twin gives way
        ([drawn(0, 4.0), drawn(5, 6.0, WHOLE_BLOOD), drawn(40, 4.2)], [40]),  # later it is another draw
        ([drawn(0, 6.0, WHOLE_BLOOD), drawn(20, 6.0, WHOLE_BLOOD)], [0]),
    ],
)
def test_draws_are_one_measurement_by_the_rules_of_a_site(draws, kept):
    assert [draw.minute for draw in measurements(draws)] == kept == by_the_client(draws)


def test_draws_of_planned_patients_are_kept_as_a_site_keeps_them(north):
    for plan in north.plans:
        assert [draw.minute for draw in measurements(plan.draws)] == by_the_client(plan.draws)


def test_personal_patients_where_none_can_be_expected_are_refused_before_anything_is_written(tmp_path):
    dark = NORTH.model_copy(update={"monitor": NORTH.monitor.model_copy(update={"lead_ii_missing": 0.99})})
    sizes = CohortSizes(patients=3, personal_patients=3)
    with pytest.raises(
        ConfigurationError,
        match=r"3 personal patients, but none .*lead_ii_missing = 0\.99.*or ask for 0",
    ):
        write_sites(site_orders([dark], sizes, 1, tmp_path / "out"), 1)
    assert not (tmp_path / "out").exists()
    check_personal(dark, CohortSizes(patients=3, personal_patients=0))
    for profile in PROFILES.values():
        check_personal(profile, sizes)


# --- whose folders ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gt", "gt/deep", "truth"])
def test_a_truth_folder_of_any_name_inside_the_output_can_be_gone_on_with(tmp_path, name):
    out = tmp_path / "out"
    for _ in range(2):
        check_out(out, out / name)
        write_sites(site_orders([NORTH], FEW, 1, out, out / name), 1)
    assert (out / name / "north" / COMPLETE).is_file()


def test_a_truth_folder_that_holds_the_hospitals_is_refused(tmp_path):
    for truth in (tmp_path / "out", tmp_path):
        with pytest.raises(ConfigurationError, match=r"would hold the hospitals of .* too; choose another"):
            check_out(tmp_path / "out", truth)


@pytest.mark.parametrize("root", ["out/hospitals", "out/truth", "elsewhere"])
@pytest.mark.parametrize("name", ["thesis.txt", "thesis/chapter.txt"])
def test_what_is_not_ours_among_the_sites_is_refused(tmp_path, root, name):
    out, truth = tmp_path / "out", tmp_path / "elsewhere" if root == "elsewhere" else None
    (tmp_path / root / name).parent.mkdir(parents=True)
    (tmp_path / root / name).write_text("years of work")
    with pytest.raises(StorageError, match=rf"{root} is not empty and holds more than .*\(thesis"):
        check_out(out, truth)
    (tmp_path / root / name).unlink()
    for begun in ("north", "south"):
        (tmp_path / root / begun / WORK).mkdir(parents=True)
    check_out(out, truth)


def test_a_file_in_the_place_of_the_hospitals_is_refused(tmp_path):
    (tmp_path / "hospitals").write_text("")
    with pytest.raises(StorageError, match="hospitals is a file"):
        check_out(tmp_path)
