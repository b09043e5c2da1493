"""A reviewer's verdicts, read back in: all of a file or nothing of it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, func, select

from client.database.tables import Review, Run, Strip
from client.review.sheet import Made, Order, make_sheet
from client.review.verdicts import blank_file, holds_verdicts, read_lines, read_verdicts, reviewer_name
from common.errors import ConfigurationError, SourceError

HEAD = "sheet,strip,verdict,comment"


def strips_of(sheet: Made) -> list[int]:
    with sheet.verdicts.open(newline="") as file:
        return [int(line["strip"]) for line in csv.DictReader(file)]


def fill(sheet: Made, verdicts: Mapping[int, str], comments: Mapping[int, str] | None = None) -> Path:
    """Write verdicts into the file beside a sheet, as an editor would."""
    lines = [HEAD]
    for strip in strips_of(sheet):
        comment = (comments or {}).get(strip, "")
        lines.append(f'{sheet.digest},{strip},{verdicts.get(strip, "")},"{comment}"')
    sheet.verdicts.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return sheet.verdicts


def stored(looked: Any) -> dict[tuple[str, int], tuple[str, str | None, str | None]]:
    with looked.sessions() as session:
        rows = session.scalars(select(Review))
        return {(row.reviewer, row.strip_id): (row.verdict, row.comment, row.exclusion) for row in rows}


def test_verdicts_are_stored_with_what_the_software_had_said(looked: Any, sheet: Made):
    good, bad = looked.of(None)[0].id, looked.of("flat_line")[0].id
    path = fill(sheet, {good: "usable", bad: "Unusable "}, {bad: "a line, no ECG"})
    told = read_verdicts(looked.site, looked.sessions, path, "AB")
    assert (told.verdicts, told.replaced, told.open) == (2, 0, len(strips_of(sheet)) - 2)
    assert stored(looked) == {
        ("AB", good): ("usable", None, None),
        ("AB", bad): ("unusable", "a line, no ECG", "flat_line"),
    }
    with looked.sessions() as session:
        run = session.scalars(select(Run).where(Run.kind == "review", Run.name == "read")).one()
        assert (run.status, run.details["verdicts"]) == ("finished", 2)
        assert set(session.scalars(select(Review.sheet_sha256))) == {sheet.digest}


def test_what_the_software_says_later_does_not_change_a_verdict(looked: Any, sheet: Made):
    good = looked.of(None)[0].id
    path = fill(sheet, {good: "usable"})
    with looked.sessions() as session:
        session.get_one(Strip, good).exclusion = "clipped"
        session.commit()
    read_verdicts(looked.site, looked.sessions, path, "AB")
    assert stored(looked)["AB", good][2] is None


def test_a_second_reading_takes_the_place_of_the_first(looked: Any, sheet: Made):
    one, two, three = (row.id for row in looked.of(None)[:3])
    read_verdicts(looked.site, looked.sessions, fill(sheet, {one: "usable", two: "usable"}), "AB")
    read_verdicts(looked.site, looked.sessions, fill(sheet, {one: "usable"}), "CD")
    told = read_verdicts(looked.site, looked.sessions, fill(sheet, {two: "unsure", three: "unusable"}), "AB")
    assert told.replaced == 2
    assert {key: said[0] for key, said in stored(looked).items()} == {
        ("AB", two): "unsure", ("AB", three): "unusable", ("CD", one): "usable",
    }  # fmt: skip


def test_verdicts_on_another_sheet_stay_but_for_the_same_strip(looked: Any, sheet: Made):
    order = Order(per_reason=8, seed=2, reasons=("accepted",), blind=True)
    blind = make_sheet(looked.site, looked.sessions, order, looked.site.folder / "review" / "blind.html")
    assert blind.digest != sheet.digest
    one, two = strips_of(blind)[0], next(row.id for row in looked.of(None) if row.id not in strips_of(blind))
    read_verdicts(looked.site, looked.sessions, fill(sheet, {one: "usable", two: "usable"}), "AB")
    read_verdicts(looked.site, looked.sessions, fill(blind, {one: "unusable"}), "AB")
    assert {key: said[0] for key, said in stored(looked).items()} == {
        ("AB", one): "unusable", ("AB", two): "usable",
    }  # fmt: skip


WRONG = [
    ("{sheet},{good},fine,", "column verdict: unknown verdict", "'fine'", "usable, "),
    ("{sheet},{good},usabel,", "did you mean 'usable'", "'usabel'", "unusable"),
    ("{sheet},{good},usable,\n{sheet},{good},unsure,", "in line 2 already", None, "keep one"),
    ("{sheet},999999,usable,", "column strip: expected the number of a strip", "'999999'", "this sheet"),
    ("{sheet},p000020,usable,", "column strip", "'p000020'", "this sheet"),
    ("{sheet},-1,usable,", "column strip", "'-1'", "this sheet"),
    ("{other},{good},usable,", "no sheet of this site has this digest", "0000", "review sheet"),
    ("abc,{good},usable,", "64 hexadecimal digits", "'abc'", "column sheet"),
    ("{sheet},{good},usable,\n{other},{two},usable,", "another sheet than in line 2", "0000", "line 3"),
    ("{sheet},{good},,looks odd", "a comment without a verdict", "'looks odd'", "allowed: usable"),
    ("{sheet},{good},usable," + "x" * 256, "256 characters", "xxx...", "at most 255"),
    ("{sheet},{good},,", "no line has a verdict yet", None, "usable"),
    ('{sheet},{good},usable,"open', "cannot be read as CSV", None, "line"),
]


@pytest.mark.parametrize(("lines", "told", "value", "also"), WRONG)
def test_a_wrong_line_is_named_and_nothing_is_stored(
    looked: Any,
    sheet: Made,
    run_site: Callable[..., Any],
    lines: str,
    told: str,
    value: str | None,
    also: str,
):
    good, two = (row.id for row in looked.of(None)[:2])
    before = fill(sheet, {two: "usable"})
    read_verdicts(looked.site, looked.sessions, before, "AB")
    kept = stored(looked)
    text = lines.format(sheet=sheet.digest, good=good, two=two, other="0" * 64)
    path = before.with_name("typed.csv")
    path.write_text(f"{HEAD}\n{text}\n")
    code, out, err = run_site("review", "read", looked.site.folder, path, "--reviewer", "AB")
    assert (code, out) == (2, "")
    assert str(path) in err
    assert "line " in err
    assert told in err
    assert also in err
    assert "[bad-review]" in err
    assert value is None or value in err
    assert stored(looked) == kept
    with looked.sessions() as session:
        assert session.scalar(select(func.count()).where(Run.kind == "review", Run.name == "read")) == 1


def test_a_wrong_last_line_keeps_all_lines_out(looked: Any, sheet: Made):
    strips = strips_of(sheet)
    path = fill(sheet, dict.fromkeys(strips, "usable"))
    path.write_text(path.read_text() + f"{sheet.digest},{strips[0]},usable,\n")
    with pytest.raises(SourceError, match=f"line {len(strips) + 2}"):
        read_verdicts(looked.site, looked.sessions, path, "AB")
    assert stored(looked) == {}


def test_the_database_refusing_one_verdict_keeps_all_out(
    looked: Any, sheet: Made, monkeypatch: pytest.MonkeyPatch
):
    one, two = (row.id for row in looked.of(None)[:2])
    read_verdicts(looked.site, looked.sessions, fill(sheet, {one: "usable"}), "AB")
    path = fill(sheet, {one: "unusable", two: "unusable"})
    real = Review.__init__

    def failing(self: Review, **values: Any) -> None:
        if values["strip_id"] == two:
            raise RuntimeError("the disk is gone")
        real(self, **values)

    monkeypatch.setattr(Review, "__init__", failing)
    with pytest.raises(RuntimeError, match="disk is gone"):
        read_verdicts(looked.site, looked.sessions, path, "AB")
    assert {key: said[0] for key, said in stored(looked).items()} == {("AB", one): "usable"}


@pytest.mark.parametrize(
    ("delimiter", "encoding", "end"),
    [(";", "utf-8-sig", "\r\n"), ("\t", "utf-8", "\n"), (",", "utf-8", "\r\n")],
)
def test_files_are_read_as_spreadsheet_programs_leave_them(
    tmp_path: Path, delimiter: str, encoding: str, end: str
):
    rows = [
        ["Comment", "strip ", "Verdict", "SHEET"],
        ["grün; und, blau", "12", "usable", "a" * 64],
        ["", "", "", ""],
    ]
    path = tmp_path / "verdicts.csv"
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file, delimiter=delimiter, lineterminator=end).writerows(rows)
    (line,) = read_lines(path)
    assert (line.number, line.sheet, line.strip, line.verdict, line.comment) == (
        2, "a" * 64, "12", "usable", "grün; und, blau",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "the file is empty"),
        (b"\n\n", "the file is empty"),
        (b"strip,verdict,comment\n1,usable,\n", "no column 'sheet'"),
        ("sheet,strip,verdict,comment\na,1,usable,\xe4\n".encode("latin-1"), "CSV UTF-8"),
        (b"\x00\x01\x02\xff", "CSV UTF-8"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes, told: str):
    path = tmp_path / "verdicts.csv"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=told):
        list(read_lines(path))


def test_a_missing_file_and_one_with_a_header_only_are_refused(looked: Any, sheet: Made, tmp_path: Path):
    with pytest.raises(SourceError, match="cannot be read"):
        read_verdicts(looked.site, looked.sessions, tmp_path / "none.csv", "AB")
    empty = tmp_path / "empty.csv"
    empty.write_text(HEAD + "\n")
    with pytest.raises(SourceError, match="no line below its header"):
        read_verdicts(looked.site, looked.sessions, empty, "AB")


def test_a_strip_that_was_forgotten_since_is_left_out_and_said(
    looked: Any, sheet: Made, run_site: Callable[..., Any]
):
    gone, good = looked.of("flat_line")[0].id, looked.of(None)[0].id
    path = fill(sheet, {gone: "unusable", good: "usable"})
    with looked.sessions() as session:
        session.execute(delete(Strip).where(Strip.id == gone))
        session.commit()
    code, out, _ = run_site("review", "read", looked.site.folder, path, "--reviewer", "AB")
    assert code == 0
    assert "1 verdict of AB stored" in out
    assert "1 on strips the site holds no more" in out
    assert set(stored(looked)) == {("AB", good)}


@pytest.mark.parametrize("name", ["", "   ", "x" * 65, "a\x1b[2Jb", "a\u200bb"])
def test_a_reviewer_has_a_name_that_can_be_printed(name: str):
    with pytest.raises(ConfigurationError, match="printable"):
        reviewer_name(name)


def test_one_person_is_not_two_reviewers_by_a_capital_letter(looked: Any, sheet: Made):
    good = looked.of(None)[0].id
    assert reviewer_name("  Dr.  Ä. Müller ") == "Dr. Ä. Müller"
    read_verdicts(looked.site, looked.sessions, fill(sheet, {good: "usable"}), "Müller")
    with pytest.raises(ConfigurationError, match="there is a reviewer 'Müller'"):
        read_verdicts(looked.site, looked.sessions, fill(sheet, {good: "unsure"}), "MÜLLER")


def test_a_file_holds_verdicts_as_soon_as_somebody_wrote_into_it(tmp_path: Path):
    path = tmp_path / "review.csv"
    assert not holds_verdicts(path)
    path.write_text(blank_file("a" * 64, [1, 2]))
    assert not holds_verdicts(path)
    path.write_text(blank_file("a" * 64, [1, 2]).replace("1,,", "1,,why?"))
    assert holds_verdicts(path)
    path.write_bytes(b"\xff\xfesomebody's other file")
    assert holds_verdicts(path)


def test_counting_after_reading_by_the_commands(looked: Any, sheet: Made, run_site: Callable[..., Any]):
    code, out, _ = run_site("review", "count", looked.site.folder)
    assert code == 0
    assert "no verdicts yet" in out
    good = [row.id for row in looked.of(None)]
    bad = [row.id for row in looked.rows() if row.id in strips_of(sheet) and row.exclusion]
    said = dict.fromkeys(good, "usable") | dict.fromkeys(bad, "unusable") | {good[0]: "unusable"}
    path = fill(sheet, said)
    assert run_site("review", "read", looked.site.folder, path, "--reviewer", "AB")[0] == 0
    code, out, _ = run_site("review", "count", looked.site.folder)
    assert code == 0
    assert f"strip {good[0]}: AB" in out
    assert f"same as the software: {len(said) - 1} of {len(said)}" in out
    values = json.loads(run_site("review", "count", looked.site.folder, "--json")[1])
    accepted = values["reasons"][0]
    assert (accepted["reason"], accepted["usable"], accepted["unusable"]) == ("accepted", len(good) - 1, 1)
    assert accepted["patients"] == 8
    assert values["accepted_called_unusable"] == [{"strip": good[0], "reviewers": ["AB"]}]
