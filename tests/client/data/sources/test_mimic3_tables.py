"""The clinical tables of MIMIC-III, small ones and the real ones of the demo."""

from __future__ import annotations

import shutil
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from client.data.labels import label_draws
from client.data.sources.mimic3_tables import ClinicalTables, ethnic_group, potassium_items
from common.config import LabelSettings
from common.errors import SourceError

T0 = datetime(2150, 3, 1, 8, 0)


@pytest.fixture
def small(hospital: Any) -> Any:
    hospital.patient(20)
    hospital.patient(101)
    hospital.draw(101, T0, 6.1)
    hospital.draw(20, T0, 4.0)
    hospital.draw(20, T0, 40.0, item=51097)
    hospital.draw(20, T0, 4.4, item=50833)
    hospital.draw(20, T0 + timedelta(hours=4), "GREATER THAN 10", item=50822)
    hospital.write()
    return hospital


def test_only_potassium_in_blood_counts_however_alike_the_labels(small: Any) -> None:
    assert potassium_items(small.clinical / "D_LABITEMS.csv") == {"50971": "serum", "50822": "whole_blood"}
    tables = ClinicalTables(small.clinical)
    assert tables.keys == ["20", "101"]
    assert [(m.item, m.text, m.number) for m in tables.measurements("20")] == [
        ("50971", "4.0", 4.0),
        ("50822", "GREATER THAN 10", None),
    ]


def test_specimen_times_are_moved_back_where_the_lab_clock_is_ahead(small: Any) -> None:
    """The strip must end when the blood was drawn, by the clock of the monitors."""
    there = ClinicalTables(small.clinical).measurements("20")
    here = ClinicalTables(small.clinical, lab_clock_ahead_min=60).measurements("20")
    moved = [before.specimen_time - after.specimen_time for before, after in zip(there, here, strict=True)]
    assert moved == [timedelta(hours=1)] * 2


def test_whole_blood_can_be_left_out(small: Any) -> None:
    tables = ClinicalTables(small.clinical, whole_blood=False)
    assert [m.specimen for m in tables.measurements("20")] == ["serum"]


def test_lower_case_tables_say_the_same(small: Any) -> None:
    upper = ClinicalTables(small.clinical)
    shutil.rmtree(small.clinical)
    small.write(lower=True)
    lower = ClinicalTables(small.clinical)
    assert [lower.measurements(key) for key in lower.keys] == [upper.measurements(key) for key in upper.keys]
    assert [lower.person(key) for key in lower.keys] == [upper.person(key) for key in upper.keys]


def test_an_item_that_is_potassium_by_number_only_is_refused(small: Any) -> None:
    small.table(
        "D_LABITEMS", "ITEMID,LABEL,FLUID", [(50971, "Potassium", "Urine"), (50822, "Lactate", "Blood")]
    )
    with pytest.raises(SourceError, match=r"D_LABITEMS\.csv lists no potassium item"):
        ClinicalTables(small.clinical)


def test_a_lab_table_without_potassium_is_refused(small: Any) -> None:
    small.labs = [row for row in small.labs if row[3] not in (50971, 50822)]
    small.write()
    with pytest.raises(SourceError, match=r"LABEVENTS\.csv holds no row of the potassium items 50822, 50971"):
        ClinicalTables(small.clinical)


def test_a_row_without_a_time_is_counted_and_a_mangled_time_is_refused(small: Any) -> None:
    small.labs.append((99, 20, "", 50971, "", "4.0", 4.0, "mEq/L", ""))
    small.write()
    assert ClinicalTables(small.clinical).draws_without_time == 1
    small.labs.append((100, 20, "", 50971, "3/1/50 8:00", "4.0", 4.0, "mEq/L", ""))
    small.write()
    form = r"LABEVENTS\.csv, line 8: a time is not written like 2150-01-31 08:05:00"
    with pytest.raises(SourceError, match=form) as refused:
        ClinicalTables(small.clinical)
    assert "3/1/50" not in str(refused.value)  # a patient's date stays where it is


def test_without_any_table_of_stays_nothing_can_be_matched(small: Any) -> None:
    (small.clinical / "ICUSTAYS.csv").unlink()
    with pytest.raises(SourceError, match="no table ADMISSIONS"):
        ClinicalTables(small.clinical)


def test_height_and_weight_are_the_first_plausible_ones_in_metric_units(small: Any) -> None:
    columns = "SUBJECT_ID,ITEMID,CHARTTIME,VALUENUM,ERROR"
    small.table(
        "CHARTEVENTS",
        columns,
        [
            (20, 226707, T0 + timedelta(hours=9), 80.0, ""),
            (20, 226707, T0, 70.0, ""),
            (20, 920, T0 - timedelta(hours=1), 7.0, ""),
            (20, 226531, T0, 200.0, 1),
            (20, 226531, T0 + timedelta(hours=1), 220.0, 0),
            (20, 220045, T0, 763, ""),
        ],
    )
    person = ClinicalTables(small.clinical).person("20")
    assert (person.height_cm, person.weight_kg) == (177.8, 99.8)


def test_age_is_that_of_the_first_draw_and_hidden_ages_are_91(small: Any) -> None:
    small.patients[101] = ("F", datetime(1850, 1, 1))
    small.write()
    tables = ClinicalTables(small.clinical)
    assert (tables.person("20").age, tables.person("101").age) == (60.0, 91.4)
    assert (tables.person("20").sex, tables.person("101").sex) == ("M", "F")


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ("WHITE - RUSSIAN", "White"),
        ("BLACK/AFRICAN AMERICAN", "African American"),
        ("HISPANIC/LATINO - PUERTO RICAN", "Hispanic"),
        ("ASIAN - CHINESE", "Asian"),
        ("AMERICAN INDIAN/ALASKA NATIVE FEDERALLY RECOGNIZED TRIBE", "American Indian"),
        ("UNKNOWN/NOT SPECIFIED", "unknown"),
        ("PATIENT DECLINED TO ANSWER", "unknown"),
        ("", "unknown"),
        ("PORTUGUESE", "other"),
    ],
)
def test_the_seven_groups_of_the_paper(text: str, group: str) -> None:
    assert ethnic_group(text) == group


@pytest.mark.data
def test_the_demo_holds_2535_blood_potassium_rows_and_one_beyond_the_scale(real_data: Path) -> None:
    tables = ClinicalTables(real_data / "mimic3_demo")
    rows = [row for key in tables.keys for row in tables.measurements(key)]
    assert Counter(row.item for row in rows) == {"50971": 2279, "50822": 256}
    assert {row.unit for row in rows} == {"mEq/L"}
    assert tables.n_patients == 100
    draws = [
        d
        for key in tables.keys
        for d in label_draws(tables.measurements(key), tables.stays(key), LabelSettings())
    ]
    assert len(draws) == 2535
    assert all((draw.label is None) != (draw.exclusion is None) for draw in draws)
    (censored,) = [draw for draw in draws if draw.censored]
    assert (censored.measurement.text, censored.value, censored.censored) == (
        "GREATER THAN 10",
        10.0,
        "above",
    )
    reasons = Counter(draw.exclusion for draw in draws)
    assert reasons["no_numeric_value"] == reasons["wrong_unit"] == reasons["implausible_value"] == 0


@pytest.mark.data
def test_the_demo_knows_who_its_patients_are(real_data: Path) -> None:
    tables = ClinicalTables(real_data / "mimic3_demo")
    people = [tables.person(key) for key in tables.keys]
    assert {person.sex for person in people} == {"F", "M"}
    assert all(person.age is not None and 0 < person.age <= 91.4 for person in people)
    assert Counter(p.ethnicity for p in people)["White"] > len(people) / 2
