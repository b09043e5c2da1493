"""A whole site as a reader sees it: tables, times, truth, and enough patients of each kind."""

from __future__ import annotations

import csv
import gzip
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from simulation.cohort.forecast import usable_labels
from simulation.cohort.profile import PROFILES
from simulation.cohort.site import plan_site, write_site
from simulation.cohort.stay import PatientPlan, label_of
from simulation.cohort.truth import TRUTH_COLUMNS
from simulation.plans import SIZES


def read(folder: Path, table: str) -> list[dict[str, str]]:
    packed, plain = folder / "clinical" / f"{table}.csv.gz", folder / "clinical" / f"{table}.csv"
    text = gzip.decompress(packed.read_bytes()).decode() if packed.exists() else plain.read_text()
    return [{k.lower(): v for k, v in row.items()} for row in csv.DictReader(text.splitlines())]


def moment(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%d %H:%M:%S")


# --- tables -----------------------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize("table", ["PATIENTS", "ADMISSIONS", "ICUSTAYS", "LABEVENTS", "D_LABITEMS"])
def test_lower_case_headers_are_those_of_the_real_demo(real_data, valley, table):
    ours = (valley.folder / "clinical" / f"{table}.csv").read_text().splitlines()[0]
    assert ours == (real_data / "mimic3_demo" / f"{table}.csv").read_text().splitlines()[0]


@pytest.mark.data
def test_items_are_named_as_in_the_real_demo(real_data, valley):
    lines = (real_data / "mimic3_demo/D_LABITEMS.csv").read_text().splitlines()
    real = {row["itemid"]: row for row in csv.DictReader(lines)}
    for row in read(valley.folder, "D_LABITEMS"):
        for column in ("label", "fluid", "category", "loinc_code"):
            assert row[column] == real[row["itemid"]][column]


def test_the_full_release_is_upper_case_and_packed(north):
    path = north.folder / "clinical" / "LABEVENTS.csv.gz"
    header = gzip.decompress(path.read_bytes()).decode().splitlines()[0]
    assert (
        header.replace('"', "") == "ROW_ID,SUBJECT_ID,HADM_ID,ITEMID,CHARTTIME,VALUE,VALUENUM,VALUEUOM,FLAG"
    )
    assert {path.suffix for path in (north.folder / "clinical").iterdir()} == {".gz"}


@pytest.mark.parametrize("which", ["north", "valley"])
def test_rows_are_numbered_from_one_and_come_in_the_order_of_the_patients(which, request):
    folder = request.getfixturevalue(which).folder
    for table in ("PATIENTS", "ADMISSIONS", "ICUSTAYS", "LABEVENTS", "CHARTEVENTS", "DIAGNOSES_ICD"):
        rows = read(folder, table)
        assert [int(row["row_id"]) for row in rows] == list(range(1, len(rows) + 1)), table
        subjects = [int(row["subject_id"]) for row in rows]
        assert subjects == sorted(subjects), table


@pytest.mark.parametrize("which", ["north", "valley"])
def test_times_fit_together(which, request):
    site = request.getfixturevalue(which)
    stays = {row["subject_id"]: row for row in read(site.folder, "ICUSTAYS")}
    admissions = {row["hadm_id"]: row for row in read(site.folder, "ADMISSIONS")}
    assert len(stays) == len(site.plans) == len(read(site.folder, "PATIENTS"))
    for subject, stay in stays.items():
        admission = admissions[stay["hadm_id"]]
        assert admission["subject_id"] == subject
        assert moment(admission["admittime"]) <= moment(stay["intime"])
        assert moment(stay["intime"]) < moment(stay["outtime"]) <= moment(admission["dischtime"])
        assert 2100 <= moment(stay["intime"]).year < 2202
    for row in read(site.folder, "LABEVENTS"):
        if row["hadm_id"]:
            admission = admissions[row["hadm_id"]]
            assert row["subject_id"] == admission["subject_id"]
            assert moment(admission["admittime"]) <= moment(row["charttime"])
            assert moment(row["charttime"]) <= moment(admission["dischtime"])


@pytest.mark.parametrize("which", ["north", "valley"])
def test_potassium_rows_are_the_draws(which, request):
    site = request.getfixturevalue(which)
    found = {
        (int(row["subject_id"]), moment(row["charttime"]), int(row["itemid"]), row["value"])
        for row in read(site.folder, "LABEVENTS")
    }
    for plan in site.plans:
        for draw in plan.draws:
            assert (plan.patient.subject_id, plan.charted(draw), draw.item, draw.text) in found


def test_ages_add_up_and_the_very_old_are_hidden(tmp_path):
    mix = PROFILES["north"].patients.model_copy(update={"age_mean": 89.0, "age_sd": 2.0})
    old = PROFILES["north"].model_copy(update={"patients": mix})
    sizes = SIZES["quick"].model_copy(
        update={"patients": 12, "personal_patients": 0, "window_hours": 1 / 60, "most_draws": 1}
    )
    write_site(tmp_path / "s", old, sizes, 5)
    born = {int(row["subject_id"]): moment(row["dob"]) for row in read(tmp_path / "s", "PATIENTS")}
    hidden = 0
    for plan in plan_site(old, sizes, 5):
        age = (plan.stay.admitted - born[plan.patient.subject_id]).days / 365.2425
        if plan.patient.age > 89:
            hidden += 1
            assert 299 < age < 301.1
        else:
            assert age == pytest.approx(plan.patient.age, abs=0.01)
    assert 2 <= hidden < 12


def test_missing_admission_numbers_and_body_sizes_are_as_in_the_profile(north):
    rows = [row for row in read(north.folder, "LABEVENTS") if row["itemid"] == "50971"]
    assert any(not row["hadm_id"] for row in rows)
    charted = read(north.folder, "CHARTEVENTS")
    heights = [float(row["valuenum"]) for row in charted if row["itemid"] == "226730"]
    weights = [float(row["valuenum"]) for row in charted if row["itemid"] == "226512"]
    assert all(130 < height < 215 for height in heights)
    assert all(30 < weight < 200 for weight in weights)
    assert 0 < len(heights) <= len(north.plans)


def test_sites_differ_in_what_a_reader_sees(north, valley):
    def gains(folder: Path) -> set[str]:
        text = "".join(path.read_text() for path in (folder / "waveforms").rglob("*_0*.hea"))
        return {line.split()[2].split("/")[0].split("(")[0] for line in text.splitlines() if "/mV" in line}

    assert gains(north.folder) <= {"127", "107", "83", "55"}
    assert gains(valley.folder) <= {"500", "250"}
    assert {path.suffix for path in (valley.folder / "clinical").iterdir()} == {".csv"}
    units = {row["valueuom"] for row in read(valley.folder, "LABEVENTS") if row["itemid"] == "50971"}
    assert units <= {"mmol/L", ""}
    assert "mmol/L" in units


# --- truth ------------------------------------------------------------------------------------------------


def test_truth_is_not_in_the_site_and_complete_outside(north):
    names = {path.name for path in north.folder.rglob("*")}
    assert not {name for name in names if "draws" in name or "patients.csv" in name or name.endswith("npz")}
    assert {path.name for path in north.folder.iterdir()} == {"clinical", "waveforms", ".complete"}
    for name, columns in TRUTH_COLUMNS.items():
        rows = list(csv.DictReader((north.truth / f"{name}.csv").read_text().splitlines()))
        assert tuple(rows[0]) == columns
        subjects = [int(row["subject_id"]) for row in rows]
        assert subjects == sorted(subjects)
        assert set(subjects) == {plan.patient.subject_id for plan in north.plans}
    draws = list(csv.DictReader((north.truth / "draws.csv").read_text().splitlines()))
    assert len(draws) == sum(len(plan.draws) for plan in north.plans) == north.counts.draws
    assert {row["label"] for row in draws} <= {"positive", "negative", "gap", "excluded"}


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (5.6, "positive"),
        (5.5, "gap"),
        (5.1, "gap"),
        (5.0, "negative"),
        (3.5, "negative"),
        (3.4, "excluded"),
        (None, "excluded"),
    ],
)
def test_labels_of_the_paper(value, label):
    assert label_of(value) == label


# --- enough of everyone -----------------------------------------------------------------------------------


def readable(plan: PatientPlan) -> bool:
    return plan.patient.rhythm == "sinus" and not plan.patient.paced


@pytest.mark.parametrize("name", ["north", "harbor", "valley"])
@pytest.mark.parametrize("seed", [0, 7])
def test_the_sites_of_the_demo_have_enough_of_everyone(name, seed):
    """6:2:2 of the usable patients leaves 20 to train and 5 to validate, with quality taking some."""
    plans = list(plan_site(PROFILES[name], SIZES["quick"], seed))
    labels = {plan.patient.subject_id: usable_labels(plan) for plan in plans}
    personal = [labels[plan.patient.subject_id] for plan in plans if plan.patient.role == "personal"]
    assert sum(counts["positive"] >= 8 and counts["negative"] >= 8 for counts in personal) >= 6
    others = [plan for plan in plans if plan.patient.role != "personal"]
    generic = [labels[plan.patient.subject_id] for plan in others if readable(plan)]
    usable = [counts for counts in generic if counts["positive"] + counts["negative"] > 0]
    assert len(usable) >= 38
    assert 0.3 < np.mean([counts["positive"] > 0 for counts in usable]) < 0.75
    for plan in others:
        recorded = [draw for draw in plan.draws if plan.stretch_of(draw) is not None]
        spread = {draw.minute for draw in recorded}
        assert len(spread) <= 8, "at most four draws and their twins"


@pytest.mark.parametrize("name", ["north", "harbor", "valley"])
def test_one_cut_in_time_leaves_both_labels_on_both_sides(name):
    """SCIENCE 9: the latest time after which each label has max(2, ceil(n / 4)), six hours of gap."""
    good = 0
    for plan in plan_site(PROFILES[name], SIZES["quick"], 7):
        if plan.patient.role != "personal":
            continue
        times: dict[str, list[int]] = {"positive": [], "negative": []}
        for draw in plan.draws:
            stretch = plan.stretch_of(draw)
            if label_of(draw.reading) in times and stretch and stretch.lead_ii and not stretch.noisy:
                times[label_of(draw.reading)].append(draw.minute)
        tests = {label: max(2, -(-len(minutes) // 4)) for label, minutes in times.items()}
        if any(len(minutes) < tests[label] for label, minutes in times.items()):
            continue
        cut = min(times[label][-tests[label]] for label in times)
        training = [sum(minute + 6 * 60 <= cut for minute in minutes) for minutes in times.values()]
        good += min(training) >= 4
    assert good >= 6


def test_recorded_hours_are_those_around_the_draws(north):
    """A window before each draw, and never more: nothing else was asked for."""
    window = timedelta(hours=north.sizes.window_hours, minutes=north.sizes.minutes_after)
    for plan in north.plans:
        recorded = [draw for draw in plan.draws if plan.stretch_of(draw) is not None]
        seconds = sum(stretch.seconds for stretch in plan.stretches)
        assert seconds <= (len(recorded) + 1) * (window.total_seconds() + 61)
