"""Tables as hospitals export them."""

from __future__ import annotations

import gzip
import re
from datetime import datetime
from pathlib import Path

import pytest

from client.data.problems import Problem
from client.data.sources.csv_tables import find_table, need_table, parse_number, parse_time, rows
from common.errors import SourceError

LAB = (
    b'"ROW_ID","SUBJECT_ID","ITEMID","VALUE"\r\n'
    b'1,20,50971,"4.1"\r\n'
    b'2,20,50912,"1.0"\r\n'
    b'3,21,50971,"line one\nline two, 50912"\r\n'
    b'4,22,50971,5" tube\r\n'
    b'5,23,50822,"6,3"\r\n'
)


def values(path: Path, containing: tuple[str, ...] = ()) -> list[tuple[int, tuple[str, ...]]]:
    return list(rows(path, ("subject_id", "Value"), ("flag",), containing))


def test_quotes_commas_and_line_breaks_inside_fields(tmp_path: Path) -> None:
    path = tmp_path / "LABEVENTS.csv"
    path.write_bytes(LAB)
    assert values(path) == [
        (2, ("20", "4.1", "")),
        (3, ("20", "1.0", "")),
        (4, ("21", "line one\nline two, 50912", "")),
        (6, ("22", '5" tube', "")),
        (7, ("23", "6,3", "")),
    ]


def test_looking_at_bytes_first_loses_no_row(tmp_path: Path) -> None:
    path = tmp_path / "LABEVENTS.csv"
    path.write_bytes(LAB)
    with_item = [line for line, _ in values(path, ("50971", "50822"))]
    assert {2, 4, 6, 7} <= set(with_item)
    assert 3 not in with_item


def test_gzip_lower_case_and_byte_order_mark_change_nothing(tmp_path: Path) -> None:
    plain, packed = tmp_path / "LABEVENTS.csv", tmp_path / "sub" / "labevents.csv.gz"
    packed.parent.mkdir()
    plain.write_bytes(LAB)
    packed.write_bytes(gzip.compress(b"\xef\xbb\xbf" + LAB.replace(b"SUBJECT_ID", b"subject_id")))
    assert find_table(packed.parent, "LABEVENTS") == packed
    assert values(plain) == values(packed)


def test_a_missing_table_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "PATIENTS.csv").write_text("SUBJECT_ID\n")
    with pytest.raises(SourceError, match=r"no table LABEVENTS.*PATIENTS\.csv"):
        need_table(tmp_path, "LABEVENTS")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"A;B\n1;2\n", "no column subject_id"),
        (b"SUBJECT_ID,VALUE\n1,2\n3\n", "line 3: 1 fields"),
        (b'SUBJECT_ID,VALUE\n1,"' + b"x" * 140_000, "line 2: field larger than field limit"),
    ],
)
def test_a_damaged_table_is_refused_with_its_line(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "LABEVENTS.csv"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=said):
        values(path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", Problem.EMPTY_TABLE),
        (b"A,B\n1,2\n", Problem.MISSING_COLUMN),
        (b"SUBJECT_ID,VALUE\n3\n", Problem.SHORT_ROW),
        (b'SUBJECT_ID,VALUE\n1,"2"3\n', Problem.BAD_CSV),
        (b'SUBJECT_ID,VALUE\n1,"2\n', Problem.BAD_CSV),
        (b"SUBJECT_ID,VALUE\r1,2\r", Problem.BAD_CSV),
        ("SUBJECT_ID,VALUE\n1,2\n".encode("utf-16"), Problem.BAD_CSV),
    ],
)
def test_each_damage_has_its_code(tmp_path: Path, content: bytes, problem: Problem) -> None:
    path = tmp_path / "LABEVENTS.csv"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=re.escape(str(path))) as caught:
        values(path)
    assert caught.value.problem == problem


def test_a_quote_that_was_never_closed_swallows_no_row(tmp_path: Path) -> None:
    path = tmp_path / "LABEVENTS.csv"
    path.write_bytes(b'SUBJECT_ID,VALUE\n1,"2\n3,"4"\n5,6\n')
    with pytest.raises(SourceError, match="line 2: "):
        values(path)
    wrong: list[SourceError] = []
    left = list(rows(path, ("SUBJECT_ID",), complain=wrong.append))
    assert [str(error).split(": ")[0] for error in wrong] == [f"{path}, line 2"]
    assert left == [(4, ("5",))]


def test_a_row_instead_of_a_header_stays_out_of_the_sentence(tmp_path: Path) -> None:
    path = tmp_path / "LABEVENTS.csv"
    path.write_bytes(b"4711,Jane Doe,4.1\n")
    with pytest.raises(SourceError) as caught:
        values(path)
    assert "jane" not in str(caught.value).lower()
    assert "jane doe" in caught.value.told()


def test_text_that_is_not_utf8_costs_its_characters_only(tmp_path: Path) -> None:
    path = tmp_path / "LABEVENTS.csv"
    path.write_bytes(b"SUBJECT_ID,VALUE\n1,5 \xb5g\n")
    assert values(path) == [(2, ("1", "5 \ufffdg", ""))]


def test_rows_that_may_have_more_fields_and_rows_that_may_not(tmp_path: Path) -> None:
    path = tmp_path / "draws.csv"
    path.write_bytes(b"SUBJECT_ID,VALUE\n1,4,1\n2,4.1,,\n")
    assert [row for _, row in rows(path, ("SUBJECT_ID", "VALUE"))] == [("1", "4"), ("2", "4.1")]
    wrong: list[SourceError] = []
    assert list(rows(path, ("SUBJECT_ID", "VALUE"), exact=True, complain=wrong.append)) == [(3, ("2", "4.1"))]
    assert [error.problem for error in wrong] == [Problem.BAD_CSV]


@pytest.mark.parametrize("text", ["", "abc", "1_000", "inf", "nan", "1e999", "4,1"])
def test_only_a_finite_decimal_number_is_a_number(text: str) -> None:
    assert parse_number(text) is None


def test_a_folder_in_place_of_a_table_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot be read") as caught:
        values(tmp_path)
    assert caught.value.problem == Problem.DAMAGED_FILE


def test_a_cut_gzip_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "LABEVENTS.csv.gz"
    path.write_bytes(gzip.compress(LAB * 1000)[:-200])
    with pytest.raises(SourceError, match="damaged"):
        values(path)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2164-09-24 20:21:00", datetime(2164, 9, 24, 20, 21)),
        ("2896-10-10", datetime(2896, 10, 10)),
        ("2101-01-31T08:05:07.250", datetime(2101, 1, 31, 8, 5, 7)),
        ("", None),
    ],
)
def test_times_of_any_century(text: str, time: datetime | None) -> None:
    assert parse_time(text, Path("LABEVENTS.csv"), 7) == time


@pytest.mark.parametrize(
    "text", ["9/24/64 20:21", "24.09.2164", "44462.85", "0001-01-01 00:00:00", "2164-13-01"]
)
def test_what_a_spreadsheet_leaves_behind_is_refused_with_file_and_line(text: str) -> None:
    with pytest.raises(SourceError, match=r"LABEVENTS\.csv, line 7: .*2150-01-31 08:05:00") as caught:
        parse_time(text, Path("LABEVENTS.csv"), 7)
    assert (caught.value.problem, caught.value.value) == (Problem.BAD_TIME, text)
    assert text not in str(caught.value)
