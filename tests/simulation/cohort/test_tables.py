"""Clinical tables as the real ones are written, and as the reader reads them."""

from __future__ import annotations

import csv
import gzip
import hashlib
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from client.data.sources.mimic3_tables import ClinicalTables
from simulation.cohort.charts import charting_system
from simulation.cohort.clinical_parameters import POSITIVE_ABOVE
from simulation.cohort.labs import BEYOND_SCALE, NO_RESULT, SERUM, WHOLE_BLOOD
from simulation.cohort.patient import Role
from simulation.cohort.profile import PROFILES, CohortSizes, FileStyle, SiteProfile
from simulation.cohort.stay import PatientPlan, plan_patient
from simulation.cohort.tables import COLUMNS, Tables, item_rows, patient_rows

NORTH = PROFILES["north"]
ROLES: tuple[Role, ...] = ("usual", "injury", "dialysis", "usual")
REAL_TABLES = ("PATIENTS", "ADMISSIONS", "ICUSTAYS", "LABEVENTS", "D_LABITEMS", "DIAGNOSES_ICD")
Row = dict[str, str]


def some_plans(profile: SiteProfile, n: int = 24, seed: int = 3) -> Iterator[PatientPlan]:
    for i in range(n):
        yield plan_patient(
            profile, CohortSizes(personal_strips=3), seed, 900 + 7 * i, i, ROLES[i % len(ROLES)]
        )


def write(folder: Path, plans: list[PatientPlan], style: FileStyle) -> Path:
    with Tables(folder, style) as tables:
        for rows in (item_rows(style), *map(patient_rows, plans)):
            for table, lines in rows.items():
                tables.add_lines(table, lines)
    return folder


def read(folder: Path, table: str) -> list[Row]:
    (path,) = folder.glob(f"{table}.csv*")
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    return [{name.upper(): value for name, value in row.items()} for row in csv.DictReader(text.splitlines())]


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def plans() -> list[PatientPlan]:
    """Plans of a site where everything that can go wrong on paper does so often."""
    laboratory = NORTH.laboratory.model_copy(
        update={"duplicate_share": 0.05, "hemolysed_text_share": 0.03, "no_admission_share": 0.1}
    )
    mix = NORTH.patients.model_copy(update={"fibrillation_share": 0.5, "paced_share": 0.1})
    profile = NORTH.model_copy(update={"laboratory": laboratory, "patients": mix})
    return list(some_plans(profile, 60))


@pytest.fixture(scope="module")
def folder(plans: list[PatientPlan], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("tables"), plans, NORTH.files)


def test_the_columns_are_the_real_ones(real_data: Path) -> None:
    for table in REAL_TABLES:
        header = (real_data / "mimic3_demo" / f"{table}.csv").read_text().split("\n", 1)[0]
        assert ",".join(COLUMNS[table]).lower() == header


def test_lower_case_lines_are_like_the_demos(real_data: Path, tmp_path: Path) -> None:
    profile = PROFILES["valley"]
    write(tmp_path, list(some_plans(profile, 8)), profile.files)
    for table in REAL_TABLES:
        ours, theirs = (
            (folder / f"{table}.csv").read_bytes().split(b"\n")
            for folder in (tmp_path, real_data / "mimic3_demo")
        )
        assert ours[0] == theirs[0]
        assert ours[-1] == b""
        kinds = [[kind(cell) for cell in next(csv.reader([line.decode()]))] for line in (ours[1], theirs[1])]
        # the same kind of value in every column where both have one
        assert all(a == b for a, b in zip(*kinds, strict=True) if a and b), table


def kind(cell: str) -> str:
    if cell.replace(".", "", 1).isdigit():
        return "number"
    return "time" if cell[4:5] == "-" and len(cell) == 19 else "text" if cell else ""


def test_the_items_are_those_of_the_real_table(folder: Path, real_data: Path) -> None:
    theirs = {row["ITEMID"]: row for row in read(real_data / "mimic3_demo", "D_LABITEMS")}
    for row in read(folder, "D_LABITEMS"):
        real_row = theirs[row["ITEMID"]]
        assert {k: v for k, v in row.items() if k != "ROW_ID"} == {
            k: v for k, v in real_row.items() if k != "ROW_ID"
        }


@pytest.mark.parametrize(("upper", "compressed"), list(product([True, False], repeat=2)))
def test_the_reader_reads_every_style(tmp_path: Path, upper: bool, compressed: bool) -> None:
    style = FileStyle(upper_case=upper, compressed=compressed)
    profile = NORTH.model_copy(update={"files": style})
    made = list(some_plans(profile, 8))
    tables = ClinicalTables(write(tmp_path, made, style))
    assert {path.suffix for path in tmp_path.iterdir()} == {".gz" if compressed else ".csv"}
    for plan in made:
        key = str(plan.patient.subject_id)
        draws = [*plan.outside, *plan.draws]
        expected = Counter(
            (plan.charted(d), "serum" if d.item == SERUM else "whole_blood", d.text) for d in draws
        ) + Counter(
            (plan.charted(d), "serum" if d.item == SERUM else "whole_blood", d.text)
            for d in draws
            if d.duplicate
        )
        found = Counter((m.specimen_time, m.specimen, m.text) for m in tables.measurements(key))
        assert found == expected
        person, patient = tables.person(key), plan.patient
        assert person.sex == patient.sex
        # CareVue charts whole inches
        assert person.height_cm is None or abs(person.height_cm - patient.height_cm) <= 1.35
        assert person.weight_kg in (None, round(patient.weight_kg, 1))
        assert person.age is not None
        assert person.age == pytest.approx(91.4 if patient.age > 89 else patient.age, abs=2.7)
        assert any(s.start <= plan.stay.base + timedelta(hours=1) <= s.end for s in tables.stays(key))


def test_a_site_with_blood_gases_only_is_read(tmp_path: Path) -> None:
    profile = PROFILES["island"]
    tables = ClinicalTables(write(tmp_path, list(some_plans(profile, 6)), profile.files))
    assert {m.specimen for key in tables.keys for m in tables.measurements(key)} == {"whole_blood"}


def test_equal_plans_give_equal_bytes(plans: list[PatientPlan], folder: Path, tmp_path: Path) -> None:
    assert patient_rows(plans[3]) == patient_rows(plans[3])
    again = write(tmp_path, plans, NORTH.files)
    assert digests(again) == digests(folder)


def test_row_numbers_count_from_one(folder: Path) -> None:
    for table in COLUMNS:
        numbers = [int(row["ROW_ID"]) for row in read(folder, table)]
        assert numbers == list(range(1, len(numbers) + 1))


def test_text_results_have_no_number(folder: Path, plans: list[PatientPlan]) -> None:
    rows = [row for row in read(folder, "LABEVENTS") if row["ITEMID"] in (str(SERUM), str(WHOLE_BLOOD))]
    texts = Counter(row["VALUE"] for row in rows if not row["VALUENUM"])
    assert set(texts) <= {BEYOND_SCALE, NO_RESULT}
    assert texts[NO_RESULT] > 5
    for row in rows:
        if row["VALUENUM"]:
            assert float(row["VALUE"]) == float(row["VALUENUM"])
            assert row["VALUEUOM"] == "mEq/L"
    assert any(row["VALUE"] == "4.0" and row["VALUENUM"] == "4" for row in rows)


def test_duplicates_differ_in_nothing_but_their_row_number(folder: Path, plans: list[PatientPlan]) -> None:
    rows = [tuple(v for k, v in row.items() if k != "ROW_ID") for row in read(folder, "LABEVENTS")]
    twice = [
        row for row, count in Counter(rows).items() if count == 2 and row[2] in (str(SERUM), str(WHOLE_BLOOD))
    ]
    assert len(twice) == sum(d.duplicate for plan in plans for d in (*plan.draws, *plan.outside))
    assert len(twice) > 10


def test_rows_without_admission_are_clinics_or_slips(folder: Path, plans: list[PatientPlan]) -> None:
    spans = {
        row["HADM_ID"]: (datetime.fromisoformat(row["ADMITTIME"]), datetime.fromisoformat(row["DISCHTIME"]))
        for row in read(folder, "ADMISSIONS")
    }
    assert len(spans) > len(plans)
    rows = read(folder, "LABEVENTS")
    for row in rows:
        if row["HADM_ID"]:
            start, end = spans[row["HADM_ID"]]
            assert start <= datetime.fromisoformat(row["CHARTTIME"]) <= end
    missing = np.mean([not row["HADM_ID"] for row in rows])
    assert 0.1 < missing < 0.5


def test_dates_of_birth_hide_the_very_old(folder: Path, plans: list[PatientPlan]) -> None:
    born = {row["SUBJECT_ID"]: datetime.fromisoformat(row["DOB"]) for row in read(folder, "PATIENTS")}
    for plan in plans:
        years = (plan.stay.admitted - born[str(plan.patient.subject_id)]).days / 365.25
        assert years == pytest.approx(300 if plan.patient.age > 89 else plan.patient.age, abs=1.1)


def test_codes_say_what_the_patient_has(folder: Path, plans: list[PatientPlan]) -> None:
    codes: dict[int, set[str]] = {}
    for row in read(folder, "DIAGNOSES_ICD"):
        codes.setdefault(int(row["SUBJECT_ID"]), set()).add(row["ICD9_CODE"])
    for plan in plans:
        patient, found = plan.patient, codes[plan.patient.subject_id]
        assert ({"5856", "V4511"} <= found) == patient.esrd
        assert ("V4501" in found) == patient.paced
        assert ("41401" in found) == patient.ischemia
        assert "4293" not in found or patient.lvh
        assert "5849" not in found or patient.aki
        assert not {"4263", "4264"} & found or patient.bundle_branch_block
        assert "2767" not in found or any((d.reading or 0) > POSITIVE_ABOVE for d in plan.draws)
    atrial = [("42731" in codes[p.patient.subject_id], p.patient.rhythm != "sinus") for p in plans]
    assert np.mean([code for code, has in atrial if has]) > 0.7
    assert any(code and not has for code, has in atrial)  # a code is no proof of fibrillation now


def test_stays_are_charted_in_one_of_two_systems_as_often_as_in_the_demo(
    folder: Path, plans: list[PatientPlan], real_data: Path
) -> None:
    theirs = [row["DBSOURCE"] for row in read(real_data / "mimic3_demo", "ICUSTAYS")]
    ours = {row["SUBJECT_ID"]: row["DBSOURCE"] for row in read(folder, "ICUSTAYS")}
    assert set(ours.values()) == set(theirs) == {"carevue", "metavision"}
    many = [charting_system(plan) == "carevue" for plan in some_plans(NORTH, 400)]
    assert np.mean(many) == pytest.approx(np.mean(np.array(theirs) == "carevue"), abs=0.07)
    for row in read(folder, "CHARTEVENTS"):
        old = ours[row["SUBJECT_ID"]] == "carevue"
        assert (int(row["ITEMID"]) < 220_000) == old  # items of MetaVision have six digits
        assert (row["ERROR"] == "", row["STOPPED"] == "NotStopd") == (old, old)


def test_the_reader_finds_height_and_weight_of_both_systems(folder: Path, plans: list[PatientPlan]) -> None:
    tables, seen = ClinicalTables(folder), Counter[str]()
    for plan in plans:
        person, system = tables.person(str(plan.patient.subject_id)), charting_system(plan)
        if person.height_cm is not None:
            charted_in = 2.54 if system == "carevue" else 1.0
            assert abs(person.height_cm - plan.patient.height_cm) <= charted_in / 2 + 0.06
            seen[f"{system} height"] += 1
        if person.weight_kg is not None:
            assert person.weight_kg == round(plan.patient.weight_kg, 1)
            seen[f"{system} weight"] += 1
    assert min(seen[f"{s} {what}"] for s in ("carevue", "metavision") for what in ("height", "weight")) > 4


def test_the_rhythm_is_charted_when_it_is_there(folder: Path, plans: list[PatientPlan]) -> None:
    rows = [row for row in read(folder, "CHARTEVENTS") if row["ITEMID"] in ("212", "220048")]
    of = {plan.patient.subject_id: plan for plan in plans}
    seen: Counter[str] = Counter()
    for row in rows:
        plan = of[int(row["SUBJECT_ID"])]
        seconds = (datetime.fromisoformat(row["CHARTTIME"]) - plan.stay.base).total_seconds()
        fibrillates = bool(plan.conditions.at(np.array([seconds])).fibrillation[0])
        fibrillation = "Atrial Fib" if row["ITEMID"] == "212" else "AF (Atrial Fibrillation)"
        text = "V Paced" if plan.patient.paced else fibrillation
        assert (row["VALUE"] == text) == (plan.patient.paced or fibrillates)
        seen[row["VALUE"]] += 1
    assert {"V Paced", "AF (Atrial Fibrillation)", "SR (Sinus Rhythm)", "ST (Sinus Tachycardia)"} <= set(seen)
    assert {"Atrial Fib", "Normal Sinus", "Sinus Tachy"} <= set(seen)
    both = {row["SUBJECT_ID"] for row in rows if row["VALUE"].startswith("A")} & {
        row["SUBJECT_ID"] for row in rows if "Sinus" in row["VALUE"]
    }
    assert both  # paroxysms have evidence in time


def test_copies_of_potassium_are_often_exactly_an_hour_late(folder: Path) -> None:
    copies = {"50971": ("227442", "829"), "50822": ("227464", "1535")}
    times: dict[tuple[str, str, str], set[datetime]] = {}
    for row in read(folder, "LABEVENTS"):
        if row["ITEMID"] in copies and row["VALUENUM"]:
            for item in copies[row["ITEMID"]]:
                key = row["SUBJECT_ID"], item, row["VALUE"]
                times.setdefault(key, set()).add(datetime.fromisoformat(row["CHARTTIME"]))
    late = total = 0
    for row in read(folder, "CHARTEVENTS"):
        if row["ITEMID"] in ("227442", "227464", "829", "1535"):
            when = datetime.fromisoformat(row["CHARTTIME"])
            origins = times[row["SUBJECT_ID"], row["ITEMID"], row["VALUE"]]
            assert when in origins or when - timedelta(hours=1) in origins
            late += when not in origins
            total += 1
    assert 0.4 < late / total < 0.8


def test_texts_are_quoted_as_in_each_release(tmp_path: Path, plans: list[PatientPlan]) -> None:
    for upper in (True, False):
        style = FileStyle(upper_case=upper, compressed=False)
        made = list(some_plans(NORTH.model_copy(update={"files": style}), 30))
        path = write(tmp_path / str(upper), made, style)
        labs = (path / "LABEVENTS.csv").read_text().splitlines()
        assert labs[0].startswith('"ROW_ID","SUBJECT_ID"' if upper else "row_id,subject_id")
        assert ('"mEq/L"' in labs[1]) == upper
        admissions = (path / "ADMISSIONS.csv").read_text()
        assert '"HYPOTENSION, RENAL FAILURE"' in admissions or '"PULMONARY EDEMA, MI"' in admissions
