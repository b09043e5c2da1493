"""The table of all figures as the source paper gives them: mean, standard deviation, and two tests."""

from __future__ import annotations

import math
from statistics import mean, stdev

import pytest
from scipy.stats import mannwhitneyu, wilcoxon

from client.report.comparison import Comparison, Summary
from client.report.evidence import Personal, Score
from client.report.tables import LEVELS, figures_table, p_value
from common.metrics import Confusion
from common.page import METHODS
from common.page.numbers import MISSING
from common.page.words import FIGURES

#: Of ten strips, those called right before and after.
BEFORE, AFTER = (5, 6, 4, 7, 5, 6, 5, 3), (8, 10, 9, 6, 9, 7, 10, 5)


def person(number: int, generic: int, selected: int) -> Personal:
    """Make a patient of five positive and five negative strips who misses positive ones last."""

    def score(method: str, right: int) -> Score:
        counts = Confusion(
            tp=min(5, right), fn=5 - min(5, right), tn=max(0, right - 5), fp=5 - max(0, right - 5)
        )
        stored = {"strip_accuracy": right / 10, "strip_auc": None, "beat_auc": 0.5, "beat_f1": 0.5}
        return Score(method, 1, None, counts, counts, stored)

    scores = {(method, 1): score(method, selected) for method in METHODS} | {
        ("generic", 0): score("generic", generic)
    }
    return Personal(
        row=number, patient=number, run="main", protocol="prospective", outcome="personal", train=(1, 1),
        test=(5, 5), episodes=(2, 2), rounds=1, selected_method="fine_tuned", selected_round=1, guard=None,
        scores=scores,
    )  # fmt: skip


def result(n: int) -> Comparison:
    people = [person(i, *pair) for i, pair in enumerate(zip(BEFORE[:n], AFTER[:n], strict=True))]
    nothing = Summary(0, math.nan, None)
    return Comparison(FIGURES["strip_accuracy"], people, {}, nothing, nothing)


def test_every_figure_stands_at_its_level_with_mean_and_standard_deviation() -> None:
    table = figures_table(result(8), 0, "north")
    levels = [table.rows[row][0] for row in table.strong]
    assert levels == list(LEVELS) == ["Strip level", "Beat level"]
    row = [cell.replace("\u202f", " ") for cell in table.rows[1]]
    # (5 + 6 + 4 + 7 + 5 + 6 + 5 + 3) / 8 = 5.125 of ten; the sum of squares about it is 10.875.
    assert row[:3] == ["  accuracy by vote *", "8", "51 % (12 %)"]
    assert row[6] == "80 % (19 %)"
    f1 = next(row for row in table.rows if row[0] == "  F1")
    expected = [10 / (20 - right) for right in AFTER]  # all five positive found, 10 − right false ones
    assert f1[6] == f"{mean(expected):.3f} ({stdev(expected):.3f})"


def test_a_figure_nobody_has_is_a_dash_with_its_number_of_patients() -> None:
    (row,) = (row for row in figures_table(result(8), 0, "north").rows if row[0] == "  AUC by mean logit")
    assert row[1:] == ["0", *[MISSING] * 7]


def test_pairs_are_corrected_together_and_the_papers_test_is_not() -> None:
    table = figures_table(result(8), 0, "north")
    pairs, paper = table.rows[1][-2:]
    single = wilcoxon([a - b for a, b in zip(AFTER, BEFORE, strict=True)], method="exact").pvalue
    tested = sum(row[-2].endswith("‡") for row in table.rows)
    assert float(pairs.removesuffix(" ‡")) == pytest.approx(min(1, tested * single), rel=0.15)
    assert float(paper) == pytest.approx(mannwhitneyu(AFTER, BEFORE, method="asymptotic").pvalue, abs=5e-4)


def test_few_patients_have_no_test() -> None:
    for row in figures_table(result(5), 0, "north").rows:
        assert row[-2:] in ([MISSING, MISSING], ["", ""])
    assert not figures_table(result(0), 0, "north").rows


@pytest.mark.parametrize(
    ("p", "text"), [(None, MISSING), (0.0004, "< 0.001"), (0.0312, "0.031"), (1.0, "1.000")]
)
def test_a_p_value_is_never_zero(p: float | None, text: str) -> None:
    assert p_value(p) == text
