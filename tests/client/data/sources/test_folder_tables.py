"""The tables of a plain folder."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from client.data.problems import Problem
from client.data.sources.base import Person, Stay
from client.data.sources.folder_tables import draw_rows, patient_key, person_rows, stay_rows
from common.errors import SourceError

EXTRA = ("patient", "time", "potassium", "unit", "specimen", "hemolyzed", "flag", "id")


def write(folder: Path, text: str, name: str = "draws") -> Path:
    path = folder / f"{name}.csv"
    path.write_text(text)
    return path


def draws(path: Path, **options: Any) -> list[Any]:
    return [row.measurement for _, _, row in draw_rows(path, **options)]


def test_four_columns_are_enough(tmp_path: Path) -> None:
    path = write(tmp_path, "Patient,TIME,potassium,unit\np 1,2150-01-31T08:05:00,5.6,mmol/L\n")
    ((line, key, row),) = draw_rows(path)
    draw = row.measurement
    assert draw is not None
    assert (line, key, draw.specimen_time) == (2, "p 1", datetime(2150, 1, 31, 8, 5))
    assert (draw.text, draw.number, draw.unit, draw.specimen) == ("5.6", 5.6, "mmol/L", "serum")
    assert (draw.hemolysis, draw.flag, draw.source_row) == (None, "", "line 2")


def test_further_columns_are_taken_in_any_order(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "id,hemolyzed,unit,potassium,time,patient,specimen,flag,ward\n"
        "77,yes,mEq/L,>10,2150-01-31 08:05:00,p1,Whole_Blood,HH,3\n"
        "78,No,mEq/L,4.0,2150-01-31 09:05:00,p1,plasma,,3\n",
    )
    first, second = draws(path)
    assert (first.source_row, first.hemolysis, first.text, first.number) == ("77", "reported", ">10", None)
    assert (first.specimen, first.flag) == ("whole_blood", "HH")
    assert (second.specimen, second.hemolysis) == ("serum", None)


def test_a_result_that_says_hemolyzed_is_hemolyzed(tmp_path: Path) -> None:
    path = write(tmp_path, "patient,time,potassium,unit\np1,2150-01-31 08:05:00,HEMOLYZED,mmol/L\n")
    assert [draw.hemolysis for draw in draws(path)] == ["reported"]


def test_the_laboratory_clock_is_set_back(tmp_path: Path) -> None:
    path = write(tmp_path, "patient,time,potassium,unit\np1,2150-01-31 08:05:00,4,mmol/L\n")
    (draw,) = draws(path, ahead=timedelta(minutes=15))
    assert draw.specimen_time == datetime(2150, 1, 31, 7, 50)


@pytest.mark.parametrize(
    ("row", "problem", "value"),
    [
        ("p1,31.01.2150 08:05,4.1,mmol/L", Problem.BAD_TIME, "31.01.2150 08:05"),
        ("p1,1/31/50 8:05,4.1,mmol/L", Problem.BAD_TIME, "1/31/50 8:05"),
        ("p1,44462.85,4.1,mmol/L", Problem.BAD_TIME, "44462.85"),
        ("p1,2150-01-31 08:05:00+01:00,4.1,mmol/L", Problem.BAD_TIME, "2150-01-31 08:05:00+01:00"),
        ('p1,2150-01-31 08:05:00,"4,1",mmol/L', Problem.BAD_NUMBER, "4,1"),
        ('p1,2150-01-31 08:05:00,">10,0",mmol/L', Problem.BAD_NUMBER, ">10,0"),
        ("p1,2150-01-31 08:05:00,4,1,mmol/L", Problem.BAD_CSV, None),
        ("p1,2150-01-31 08:05:00", Problem.SHORT_ROW, None),
        (",2150-01-31 08:05:00,4.1,mmol/L", Problem.BAD_KEY, ""),
        ("../p1,2150-01-31 08:05:00,4.1,mmol/L", Problem.BAD_KEY, "../p1"),
    ],
)
def test_a_wrong_line_is_refused_with_file_line_and_value(
    tmp_path: Path, row: str, problem: Problem, value: str | None
) -> None:
    good = "p1,2150-01-31 07:05:00,4.1,mmol/L"
    path = write(tmp_path, f"patient,time,potassium,unit\n{good}\n{row}\n")
    with pytest.raises(SourceError) as caught:
        draws(path)
    assert f"{path}, line 3: " in str(caught.value)
    assert (caught.value.problem, caught.value.value) == (problem, value)
    assert value is None or not value or value not in str(caught.value)


def test_all_wrong_lines_can_be_collected_and_the_others_read(tmp_path: Path) -> None:
    rows = ["p1,2150-01-31 07:05:00,4.1,mmol/L", "p1,yesterday,4.1,mmol/L", "p1", "p2,2150-02-01,5.9,mmol/L"]
    path = write(tmp_path, "patient,time,potassium,unit\n" + "\n".join(rows) + "\n")
    wrong: list[SourceError] = []
    found = draws(path, complain=wrong.append)
    assert [draw.number for draw in found] == [4.1, 5.9]
    assert [error.problem for error in wrong] == [Problem.BAD_TIME, Problem.SHORT_ROW]


@pytest.mark.parametrize(("column", "word"), [("specimen", "urine"), ("hemolyzed", "1")])
def test_a_word_that_is_not_known_is_refused(tmp_path: Path, column: str, word: str) -> None:
    path = write(tmp_path, f"patient,time,potassium,unit,{column}\np1,2150-01-31 08:05:00,4,mmol/L,{word}\n")
    with pytest.raises(SourceError, match=f"line 2: {column} is one of") as caught:
        draws(path)
    assert caught.value.problem == Problem.BAD_WORD


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "patient,time,time,potassium,unit\np1,2150-01-31,2150-01-31,4,mmol/L\n")
    with pytest.raises(SourceError, match="a column more than once"):
        draws(path)


def test_semicolons_are_named(tmp_path: Path) -> None:
    path = write(tmp_path, "patient;time;potassium;unit\np1;2150-01-31;4,1;mmol/L\n")
    with pytest.raises(SourceError, match="separated by semicolons"):
        draws(path)


@pytest.mark.parametrize("key", ["p1", "Ä 17", "A.B-c_9", "x" * 64, "0007"])
def test_an_identifier_is_any_short_text(key: str) -> None:
    assert patient_key(key, Path("draws.csv"), 2) == key


@pytest.mark.parametrize(
    "key", ["", "x" * 65, "..", ".p1", "a/b", "a\\b", "c:d", "a\x00b", "a\nb", "a\tb", "é�", "a*"]
)
def test_an_identifier_that_cannot_name_a_folder_is_refused(key: str) -> None:
    with pytest.raises(SourceError, match=r"draws\.csv, line 2: patient must be") as caught:
        patient_key(key, Path("draws.csv"), 2)
    assert (caught.value.problem, caught.value.value) == (Problem.BAD_KEY, key)


def person(folder: Path, columns: str, row: str, first_draw: datetime | None = None) -> Person:
    path = write(folder, f"patient,{columns}\np1,{row}\n", "patients")
    ((_, _, found),) = person_rows(path)
    return found.person(first_draw)


def test_what_is_not_said_of_a_patient_is_not_known(tmp_path: Path) -> None:
    assert person(tmp_path, "sex,age", ",") == Person("p1")
    assert person(tmp_path, "sex,age,height_cm", "female,64,165.5") == Person(
        "p1", sex="F", age=64.0, height_cm=165.5
    )


def test_age_follows_from_the_year_of_birth_and_is_hidden_above_89(tmp_path: Path) -> None:
    at = datetime(2150, 7, 1)
    assert person(tmp_path, "birth_year", "2080", at).age == 70.0
    assert person(tmp_path, "birth_year", "2055", at).age == 91.4
    assert person(tmp_path, "age,birth_year", "55,2080", at).age == 55.0
    assert person(tmp_path, "birth_year", "2180", at).age is None
    assert person(tmp_path, "birth_year", "2080").age is None


def test_ethnicity_is_one_of_the_groups_of_the_paper(tmp_path: Path) -> None:
    assert person(tmp_path, "ethnicity", "Hispanic or Latino").ethnicity == "Hispanic"


def test_a_height_no_adult_has_counts_as_missing_and_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, "patient,height_cm,weight_kg\np1,1.75,80\n", "patients")
    ((_, _, found),) = person_rows(path)
    assert (found.height_cm, found.weight_kg, found.left_out) == (None, 80.0, ("height_cm",))


@pytest.mark.parametrize(("column", "text"), [("weight_kg", '"80,5"'), ("age", "old"), ("height_cm", "1_80")])
def test_text_in_place_of_a_number_is_refused(tmp_path: Path, column: str, text: str) -> None:
    with pytest.raises(SourceError, match=f"line 2: {column} is not a number") as caught:
        person(tmp_path, column, text)
    assert caught.value.problem == Problem.BAD_NUMBER


def test_a_stay_may_go_on(tmp_path: Path) -> None:
    path = write(tmp_path, "patient,start,end\np1,2150-01-01,2150-01-02 12:00:00\np1,2150-02-01,\n", "stays")
    assert [stay for _, _, stay in stay_rows(path)] == [
        Stay(datetime(2150, 1, 1), datetime(2150, 1, 2, 12)),
        Stay(datetime(2150, 2, 1), datetime.max),
    ]


@pytest.mark.parametrize("row", ["p1,,2150-01-02", "p1,2150-01-03,2150-01-02"])
def test_a_stay_without_start_or_with_an_end_before_it_is_refused(tmp_path: Path, row: str) -> None:
    with pytest.raises(SourceError, match="line 2: a stay needs a start"):
        list(stay_rows(write(tmp_path, f"patient,start,end\n{row}\n", "stays")))
