"""A whole site: tables, marks, repeatability, and enough patients of each kind."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from common.errors import ConfigurationError, StorageError
from simulation.cohort import PROFILES, CohortSizes, SiteProfile, SiteTruth, plan_site, site, write_site
from simulation.cohort.stay import label_of

TINY = CohortSizes(generic_patients=2, personal_patients=0, minutes_before=1.0)


def read(folder: Path, table: str) -> list[dict[str, str]]:
    packed, plain = folder / "clinical" / f"{table}.csv.gz", folder / "clinical" / f"{table}.csv"
    text = gzip.decompress(packed.read_bytes()).decode() if packed.exists() else plain.read_text()
    return [{k.lower(): v for k, v in row.items()} for row in csv.DictReader(text.splitlines())]


def digest(folder: Path) -> str:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    parts = [f"{p.relative_to(folder)} {hashlib.sha256(p.read_bytes()).hexdigest()}" for p in files]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def moment(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%d %H:%M:%S")


@pytest.mark.data
@pytest.mark.parametrize("table", ["PATIENTS", "ADMISSIONS", "ICUSTAYS", "LABEVENTS", "D_LABITEMS"])
def test_lower_case_headers_are_those_of_the_real_demo(
    real_data: Path, valley: SiteTruth, table: str
) -> None:
    ours = (valley.folder / "clinical" / f"{table}.csv").read_text().splitlines()[0]
    assert ours == (real_data / "mimic3_demo" / f"{table}.csv").read_text().splitlines()[0]


@pytest.mark.data
def test_items_are_named_as_in_the_real_demo(real_data: Path, valley: SiteTruth) -> None:
    real = {
        row["itemid"]: row
        for row in csv.DictReader((real_data / "mimic3_demo/D_LABITEMS.csv").read_text().splitlines())
    }
    for row in read(valley.folder, "D_LABITEMS"):
        for column in ("label", "fluid", "category", "loinc_code"):
            assert row[column] == real[row["itemid"]][column]


def test_the_full_release_is_upper_case_and_packed(north: SiteTruth) -> None:
    path = north.folder / "clinical" / "LABEVENTS.csv.gz"
    header = gzip.decompress(path.read_bytes()).decode().splitlines()[0]
    assert (
        header.replace('"', "") == "ROW_ID,SUBJECT_ID,HADM_ID,ITEMID,CHARTTIME,VALUE,VALUENUM,VALUEUOM,FLAG"
    )


@pytest.mark.parametrize("which", ["north", "valley"])
def test_times_fit_together(which: str, request: pytest.FixtureRequest) -> None:
    truth: SiteTruth = request.getfixturevalue(which)
    stays = {row["subject_id"]: row for row in read(truth.folder, "ICUSTAYS")}
    admissions = {row["subject_id"]: row for row in read(truth.folder, "ADMISSIONS")}
    for subject, stay in stays.items():
        admission = admissions[subject]
        assert stay["hadm_id"] == admission["hadm_id"]
        assert moment(admission["admittime"]) <= moment(stay["intime"])
        assert moment(stay["intime"]) < moment(stay["outtime"]) <= moment(admission["dischtime"])
        assert 2100 <= moment(stay["intime"]).year < 2201
    for row in read(truth.folder, "LABEVENTS"):
        if row["hadm_id"]:
            stay = stays[row["subject_id"]]
            assert row["hadm_id"] == stay["hadm_id"]
            assert moment(stay["intime"]) < moment(row["charttime"]) < moment(stay["outtime"])


def test_potassium_rows_are_the_draws(north: SiteTruth) -> None:
    written = {
        (int(row["subject_id"]), moment(row["charttime"]), int(row["itemid"]), row["value"])
        for row in read(north.folder, "LABEVENTS")
    }
    for plan in north.plans:
        for draw in plan.draws:
            when = plan.stay.base + timedelta(minutes=draw.minute)
            assert (plan.patient.subject_id, when, draw.item, draw.text) in written


def test_ages_add_up_and_the_very_old_are_hidden(tmp_path: Path) -> None:
    old = PROFILES["north"].model_copy(update={"age_mean": 89.0})
    truth = write_site(tmp_path / "s", old, CohortSizes(generic_patients=12, personal_patients=0,
                                                        minutes_before=1.0), 5)  # fmt: skip
    born = {int(row["subject_id"]): moment(row["dob"]) for row in read(truth.folder, "PATIENTS")}
    hidden = 0
    for plan in truth.plans:
        age = (plan.stay.admitted - born[plan.patient.subject_id]).days / 365.2425
        if plan.patient.age > 89:
            hidden += 1
            assert 299 < age < 301.1
        else:
            assert age == pytest.approx(plan.patient.age, abs=0.01)
    assert hidden >= 2


def test_missing_admission_numbers_and_heights_occur(north: SiteTruth) -> None:
    rows = [row for row in read(north.folder, "LABEVENTS") if row["itemid"] == "50971"]
    assert any(not row["hadm_id"] for row in rows)
    charted = read(north.folder, "CHARTEVENTS")
    heights = [float(row["valuenum"]) for row in charted if row["itemid"] == "226730"]
    weights = [float(row["valuenum"]) for row in charted if row["itemid"] == "226512"]
    assert all(130 < h < 215 for h in heights)
    assert all(30 < w < 200 for w in weights)
    assert 0 < len(heights) <= len(north.plans)


def test_same_seed_same_bytes(tmp_path: Path, valley: SiteTruth) -> None:
    sizes = CohortSizes(generic_patients=5, personal_patients=1, personal_strips=3, minutes_before=1.5)
    again = write_site(tmp_path / "again", PROFILES["valley"], sizes, 11)
    assert digest(again.folder) == digest(valley.folder)
    other = write_site(tmp_path / "other", PROFILES["valley"], sizes, 12)
    assert digest(other.folder / "waveforms") != digest(valley.folder / "waveforms")


def test_a_patient_does_not_depend_on_how_many_others_there_are() -> None:
    few = plan_site(PROFILES["north"], CohortSizes(generic_patients=3, personal_patients=0), 4)
    again = plan_site(PROFILES["north"], CohortSizes(generic_patients=3, personal_patients=0), 4)
    assert [p.draws for p in few] == [p.draws for p in again]
    assert few[0].rng("x").random() == again[0].rng("x").random() != few[1].rng("x").random()


def test_a_complete_site_is_left_alone(tmp_path: Path) -> None:
    write_site(tmp_path / "s", PROFILES["north"], TINY, 1)
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "s").rglob("*")}
    calls: list[tuple[int, int]] = []
    truth = write_site(tmp_path / "s", PROFILES["north"], TINY, 1, lambda *c: calls.append(c))
    assert stamps == {p: p.stat().st_mtime_ns for p in (tmp_path / "s").rglob("*")}
    assert calls == [(2, 2)]
    assert len(truth.plans) == 2


def test_an_interrupted_site_is_started_again_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_site(tmp_path / "a", PROFILES["north"], TINY, 1, interrupt)
    assert not (tmp_path / "a" / ".complete").exists()
    write_site(tmp_path / "a", PROFILES["north"], TINY, 1)
    write_site(tmp_path / "b", PROFILES["north"], TINY, 1)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    mark = json.loads((tmp_path / "a" / ".complete").read_text())
    assert (mark["seed"], mark["format"], mark["profile"]["name"]) == (1, 1, "north")


def test_folders_of_others_are_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(StorageError, match="not empty"):
        write_site(tmp_path, PROFILES["north"], TINY, 1)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
    write_site(tmp_path / "s", PROFILES["north"], TINY, 1)
    with pytest.raises(StorageError, match="another seed"):
        write_site(tmp_path / "s", PROFILES["north"], TINY, 2)
    with pytest.raises(StorageError, match="another profile"):
        write_site(tmp_path / "s", PROFILES["valley"], TINY, 1)


def test_a_disk_that_fills_up_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(site, "write_recording", full)
    with pytest.raises(StorageError, match="No space left on device"):
        write_site(tmp_path / "s", PROFILES["north"], TINY, 1)
    monkeypatch.undo()
    write_site(tmp_path / "s", PROFILES["north"], TINY, 1)
    assert (tmp_path / "s" / ".complete").is_file()


def test_truth_stays_outside_and_nothing_is_made_of_nobody(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="inside the site"):
        write_site(tmp_path / "s", PROFILES["north"], TINY, 1, truth=tmp_path / "s" / "truth")
    with pytest.raises(ConfigurationError, match="at least one"):
        write_site(tmp_path / "s", PROFILES["north"], CohortSizes(generic_patients=0, personal_patients=0), 1)
    assert not (tmp_path / "s").exists()


def test_truth_is_not_in_the_site(north: SiteTruth) -> None:
    names = {p.name for p in north.folder.rglob("*")}
    assert not names & {"draws.csv", "patients.csv", "r_times.npz"}
    truth = north.folder.parent / "truth"
    rows = list(csv.DictReader((truth / "draws.csv").read_text().splitlines()))
    assert len(rows) == sum(len(plan.draws) for plan in north.plans)
    assert {row["label"] for row in rows} <= {"positive", "negative", "gap", "excluded"}


@pytest.mark.parametrize("value", [5.5, 5.0, 3.5, 5.6, 3.4, 5.1])
def test_labels_of_the_paper(value: float) -> None:
    expected = {5.5: "gap", 5.0: "negative", 3.5: "negative", 5.6: "positive", 3.4: "excluded", 5.1: "gap"}
    assert label_of(value) == expected[value]


def test_impossible_profiles_are_refused() -> None:
    with pytest.raises(ValueError, match="fibrillation_share"):
        SiteProfile(name="x", fibrillation_share=1.2)
    with pytest.raises(ValueError, match="lead_ii_missing"):
        SiteProfile(name="x", lead_ii_missing=1.0)
    with pytest.raises(ValueError, match="colour"):
        SiteProfile(name="x", colour="red")  # type: ignore[call-arg]


@pytest.mark.parametrize("name", sorted(PROFILES))
@pytest.mark.parametrize("seed", [0, 7])
def test_every_site_has_enough_of_everyone(name: str, seed: int) -> None:
    plans = plan_site(PROFILES[name], CohortSizes(), seed)
    labels = SiteTruth(name, Path(), plans).labels()
    personal = [labels[p.patient.subject_id] for p in plans if p.patient.role == "personal"]
    generic = [
        labels[p.patient.subject_id]
        for p in plans
        if p.patient.role != "personal" and not p.patient.fibrillation
    ]
    usable = [c for c in generic if c["positive"] + c["negative"] > 0]
    assert sum(c["positive"] >= 8 and c["negative"] >= 8 for c in personal) >= 6
    # 6:2:2 of these leaves at least 20 to train and 5 to validate, also when quality takes a tenth.
    assert len(usable) >= 38
    share = np.mean([c["positive"] > 0 for c in usable])
    assert 0.3 < share < 0.75
    assert all(1 <= len(p.stretches) <= 4 for p in plans if p.patient.role != "personal")
    subjects = [p.patient.subject_id for p in plans]
    assert subjects == sorted(set(subjects))
    assert max(subjects) < 100_000


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_one_cut_in_time_leaves_both_labels_on_both_sides(name: str) -> None:
    """SCIENCE 9: the latest time after which each label has max(2, ceil(n / 4)), six hours of gap."""
    good = 0
    for plan in plan_site(PROFILES[name], CohortSizes(), 7):
        if plan.patient.role != "personal":
            continue
        times: dict[str, list[int]] = {"positive": [], "negative": []}
        for draw in plan.draws:
            stretch = plan.stretch_of(draw)
            if label_of(draw.reading) in times and stretch and stretch.lead_ii and not stretch.noisy:
                times[label_of(draw.reading)].append(draw.minute)
        tests = {label: max(2, -(-len(t) // 4)) for label, t in times.items()}
        cut = min(times[label][-tests[label]] for label in times)
        training = [sum(minute + 6 * 60 <= cut for minute in t) for t in times.values()]
        good += min(training) >= 4
    assert good >= 6


def test_site_profiles_differ_in_what_a_reader_sees(north: SiteTruth, valley: SiteTruth) -> None:
    def gains(truth: SiteTruth) -> set[str]:
        text = "".join(p.read_text() for p in (truth.folder / "waveforms").rglob("*_0*.hea"))
        return {line.split()[2].split("/")[0].split("(")[0] for line in text.splitlines() if "/mV" in line}

    assert gains(north) <= {"127", "83", "55"}
    assert gains(valley) <= {"55", "26"}
    assert {p.suffix for p in (north.folder / "clinical").iterdir()} == {".gz"}
    assert {p.suffix for p in (valley.folder / "clinical").iterdir()} == {".csv"}
    assert {row["valueuom"] for row in read(valley.folder, "LABEVENTS") if row["itemid"] == "50971"} == {
        "mmol/L"
    }
