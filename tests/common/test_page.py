"""Numbers, figures and pages: what a reader sees, and what a page must never do."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError

from common.intervals import Interval
from common.page import FIGURES, METHODS, Table, figure, headline, inline_svg, render
from common.page.figure import BLUE, ORANGE
from common.page.numbers import (
    MISSING,
    count,
    decimal,
    figure_difference,
    figure_value,
    interval_cell,
    interval_text,
    median_iqr,
    percent,
    plural,
    share,
    size,
)
from common.page.verdict import verdict
from common.protocol import ALLOWED, PERSONALIZE
from common.task import TASKS

ACCURACY, F1 = FIGURES["strip_accuracy"], FIGURES["beat_f1"]


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (count(1234567), "1,234,567"),
        (decimal(-0.0004, 3), "0.000"),
        (decimal(-0.5, 2), "−0.50"),
        (decimal(0.5, 2, signed=True), "+0.50"),
        (decimal(-0.0001, 2, signed=True), "0.00"),
        (percent(0.834), "83\u202f%"),
        (plural(1, "patient"), "1 patient"),
        (plural(1200, "patient"), "1,200 patients"),
        (share(10, 12), "83\u202f% (10 of 12)"),
        (share(0, 0), MISSING),
        (median_iqr([1, 2, 3, 4, 5, math.nan]), "3 (2 to 4)"),
        (median_iqr([]), MISSING),
        (figure_value(0.834, ACCURACY), "83\u202f%"),
        (figure_value(0.8344, F1), "0.834"),
        (figure_difference(0.036, ACCURACY), "+3.6 points"),
        (figure_difference(-0.0362, F1), "−0.036"),
        (size(3_400_000), "3.4\u202fMB"),
        (size(12), "12\u202fB"),
    ],
)
def test_numbers_read_as_a_journal_prints_them(shown: str, expected: str) -> None:
    assert shown == expected


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_what_does_not_exist_is_a_dash_and_never_a_zero(value: float | None) -> None:
    shown = [decimal(value), percent(value), figure_value(value, F1), figure_difference(value, ACCURACY)]
    assert shown == [MISSING] * 4


@given(st.floats(-1e6, 1e6), st.integers(0, 4))
def test_a_written_number_can_be_read_back(value: float, digits: int) -> None:
    text = decimal(value, digits, signed=True)
    assert float(text.replace("−", "-").replace(",", "")) == pytest.approx(value, abs=0.51 * 10**-digits)
    assert "-" not in text  # a hyphen is no minus sign


def test_an_interval_says_its_level_and_whether_the_sample_is_small() -> None:
    small = Interval(0.71, 1.04, "t, small sample")
    assert interval_text(small, ACCURACY) == "95\u202f% interval 71 to 100\u202f% (small sample)"
    assert interval_cell(small, ACCURACY).endswith("†")
    assert interval_text(Interval(0.5, 0.6, "bootstrap"), F1) == "95\u202f% interval 0.500 to 0.600"
    assert interval_text(None, ACCURACY) == "too few patients for an interval"


def test_an_interval_of_a_difference_keeps_its_signs() -> None:
    text = interval_text(Interval(-0.011, 0.181, "t"), ACCURACY, difference=True)
    assert text == "95\u202f% interval −1.1 to +18.1 points"


def test_every_figure_and_method_of_the_protocol_has_a_name_with_its_level() -> None:
    keys = " ".join(ALLOWED[PERSONALIZE]["reply"]["metrics"])
    named = re.search(r"last\\\.\(([a-z_|]+)\)\\\.\(([a-z0-9|-]+)\)", keys)
    assert named is not None
    assert set(named[1].split("|")) == set(METHODS)
    assert set(named[2].split("|")) == {words.wire for words in FIGURES.values()}
    assert all(words.title.startswith(("beat ", "strip ")) for words in FIGURES.values())


def test_ventricular_beats_are_judged_by_beat_f1_because_strip_accuracy_saturates() -> None:
    assert {name: headline(name).key for name in TASKS} == {
        "hyperkalemia": "strip_accuracy",
        "ventricular": "beat_f1",
    }


@pytest.mark.parametrize(
    ("interval", "words"),
    [
        (Interval(0.01, 0.2, "t"), "did better than"),
        (Interval(-0.2, -0.01, "t"), "did worse than"),
        (Interval(-0.1, 0.1, "t"), "not clearly better or worse"),
        (None, "Too few patients to say"),
    ],
)
def test_the_verdict_follows_the_interval_and_not_the_point(interval: Interval | None, words: str) -> None:
    sentence = verdict(ACCURACY, 0.9, 0.8, 12, interval)
    assert words in sentence
    assert "90\u202f% against 80\u202f%" in sentence
    assert "12 patients" in sentence


def _drawing(name: str = "f1") -> str:
    canvas = figure(3, 2)
    axes = canvas.add_subplot()
    axes.plot([1, 2, 3], [1, 4, 2], color=BLUE, marker="o")
    axes.fill_between([1, 3], 0, 1, color=ORANGE)
    axes.set_title("a < b & c")
    return str(inline_svg(canvas, name, "A title", "What is <seen> here"))


def test_a_figure_is_well_formed_and_says_what_it_shows() -> None:
    root = ET.fromstring(_drawing())
    space = "{http://www.w3.org/2000/svg}"
    assert root.get("role") == "img"
    assert root.findtext(f"{space}title") == "A title"
    assert root.findtext(f"{space}desc") == "What is <seen> here"
    assert "a < b & c" in [text.text for text in root.iter(f"{space}text")]  # text stays text


def test_a_figure_is_the_same_bytes_every_time_and_carries_no_date() -> None:
    assert _drawing() == _drawing()
    assert "metadata" not in _drawing()
    assert "http" not in _drawing().replace("http://www.w3.org/2000/svg", "")


def test_two_figures_on_a_page_share_no_id_and_every_reference_has_a_target() -> None:
    first, second = (re.findall(r' id="([^"]+)"', _drawing(name)) for name in ("f1", "f2"))
    assert not set(first) & set(second)
    assert len(first) == len(set(first))
    used = re.findall(r'(?:href="#|url\(#)([^")]+)', _drawing("f1"))
    assert used
    assert set(used) <= set(first)


def _page(folder: Path, body: str, **content: object) -> str:
    template = folder / "page.html"
    template.write_text(
        '{% extends "base.html" %}{% import "parts.html" as parts %}{% block main %}'
        + body
        + "{% endblock %}"
    )
    return render(template, content)


def test_a_page_can_load_nothing_and_run_nothing(tmp_path: Path) -> None:
    page = _page(tmp_path, "hello")
    assert "default-src 'none'" in page
    assert not re.search(r"<script|src=|@import|url\((?!#)|<link(?! rel=\"icon\" href=\"data:)", page)


def test_text_is_escaped_and_a_forgotten_name_is_an_error(tmp_path: Path) -> None:
    assert "&lt;b&gt;" in _page(tmp_path, "{{ word }}", word="<b>")
    with pytest.raises(UndefinedError):
        _page(tmp_path, "{{ word }}")


def test_a_table_has_a_caption_and_titles_for_rows_and_columns(tmp_path: Path) -> None:
    table = Table("Who they are.", ("", "Patients"), [["All", "12"], ["  of whom", "3"]], marked=(1,))
    page = _page(tmp_path, "{{ parts.table(t) }}", t=table)
    root = ET.fromstring(re.search(r"<table.*</table>", page, re.DOTALL)[0])  # type: ignore[index]
    assert "".join(root.find("caption").itertext()) == "Who they are."  # type: ignore[union-attr]
    assert [cell.get("scope") for cell in root.iter("th")] == ["col", "col", "row", "row"]
    assert [row.get("class") for row in root.find("tbody")] == [None, "marked"]  # type: ignore[union-attr]


def test_an_empty_table_is_a_sentence(tmp_path: Path) -> None:
    page = _page(tmp_path, "{{ parts.table(t) }}", t=Table("Caption.", ("", "n"), [], empty="Nobody came."))
    assert "Nobody came." in page
    assert "<table" not in page


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(0.125, 0, "13"), (0.575, 0, "58"), (0.625, 0, "63"), (0.025, 0, "3"), (0.0449, 0, "4"),
     (-0.125, 0, "−13"), (0.12345, 1, "12.3"), (0.12355, 2, "12.36")],
)  # fmt: skip
def test_halves_are_rounded_away_from_zero_whatever_the_float_holds(value, digits, text):
    assert percent(value, digits) == text + "\u202f%"
