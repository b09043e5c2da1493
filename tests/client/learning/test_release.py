"""What may leave a site. The unit is the patient; five is the smallest cell in these examples."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.learning.evaluation import FIGURES, StripScore
from client.learning.release import ALL_METHODS, PatientFigures, Release, shown_cells, uncounted
from common import protocol
from common.metrics import Confusion, Moments, ScoreHistogram
from common.task import Label


def patient(
    rounds: int = 5, f1: float = 0.8, generic: float = 0.8, selected: str = "fine_tuned"
) -> PatientFigures:
    """Make a patient whose selected model has one F1 and whose generic model another."""
    return PatientFigures(
        by_round={
            (round_, method): dict.fromkeys(FIGURES, generic if method == "generic" else f1)
            for round_ in range(rounds + 1)
            for method in (ALL_METHODS if round_ else ("generic", "selected"))
        },
        selected=selected,
        decided=rounds >= 3,
        as_good_as_best=True,
    )


def released(*patients: PatientFigures, min_cell: int = 5) -> dict[str, Any]:
    release = Release(min_cell)
    release.personal(dict(enumerate(patients)))
    return dict(release.flat())


def scores(n_positive: int, n_negative: int) -> list[StripScore]:
    """Make one strip with two beats per patient, of one label each."""
    labels = [Label.POSITIVE] * n_positive + [Label.NEGATIVE] * n_negative
    return [
        StripScore(i, i, label, np.array([1.0, -1.0], np.float32)) for i, label in enumerate(labels, start=1)
    ]


@pytest.mark.parametrize(
    ("cells", "shown"),
    [
        ({"a": 5, "b": 9}, {"a", "b"}),
        ({"a": 4, "b": 9}, set()),
        ({"a": 4, "b": 9, "c": 7}, {"b"}),
        ({"a": 4, "b": 3, "c": 7}, {"c"}),
        ({"a": 0, "b": 7}, {"a", "b"}),
        ({"a": 0, "b": 3}, {"a"}),
        # Two patients in two cells that hold somebody are one in each.
        ({"a": 10, "b": 1, "c": 1, "d": 0}, {"d"}),
        ({"a": 9, "b": 8, "c": 2, "d": 2}, {"a"}),
        ({"a": 9, "b": 8, "c": 2, "d": 3}, {"a", "b"}),
    ],
)
def test_small_cells_take_the_next_smallest_with_them(cells: dict[str, int], shown: set[str]) -> None:
    assert shown_cells(cells, 5) == shown


@given(st.lists(st.integers(0, 12), min_size=1, max_size=5), st.integers(1, 6))
def test_no_small_cell_follows_from_the_cells_shown_and_their_sum(cells: list[int], smallest: int) -> None:
    shown = shown_cells({str(i): n for i, n in enumerate(cells)}, smallest)
    hidden = [n for i, n in enumerate(cells) if str(i) not in shown]
    assert all(n == 0 or n >= smallest for i, n in enumerate(cells) if str(i) in shown)
    assert 0 not in hidden
    if hidden and sum(cells) > sum(hidden):  # something but zeros could still be hidden
        rest = [n for i, n in enumerate(cells) if str(i) in shown]
        assert (len(hidden) >= 2 and sum(hidden) >= smallest) or not any(rest)


def test_a_cell_that_must_not_be_shown_takes_another_with_it() -> None:
    assert shown_cells({"a": 14, "b": 9, "c": 30}, 5, ["a"]) == {"c"}


class TestGroupsThatGiveASmallOneAway:
    """Numbers of patients that are sent in different places must not differ by a small group."""

    def test_all_personal_patients_and_those_of_the_primary_result(self) -> None:
        people = set(range(14))
        assert uncounted({"primary": set(range(12)), "personal": people}, 5) == {"personal"}
        assert uncounted({"primary": set(range(9)), "personal": people}, 5) == set()
        assert uncounted({"primary": people, "personal": people}, 5) == set()
        # Four patients have no sums, so nothing can be subtracted from.
        assert uncounted({"primary": set(range(4)), "personal": set(range(6))}, 5) == set()

    def test_folds_whose_personal_patients_also_test_the_generic_model(self) -> None:
        primary, personal, test = set(range(12)), set(range(14)), set(range(20, 28))
        # 22 unseen less 8 test patients less 12 of the primary result would be two.
        groups = {"primary": primary, "unseen": personal | test, "personal": personal, "test": test}
        assert uncounted(groups, 5) == {"personal", "test"}

    def test_test_patients_left_out_because_they_made_the_model(self) -> None:
        assert uncounted({"unseen": set(range(10)), "test": set(range(12))}, 5) == {"test"}


def test_sums_over_five_patients_are_sent_and_over_four_not() -> None:
    assert released(*[patient()] * 5)["last.selected.beat-f1.n"] == 5
    few = released(*[patient()] * 4)
    assert not any(key.startswith(("personal.", "last.", "difference.")) for key in few)
    assert few["suppressed"] > 0


def test_sent_sums_are_exact() -> None:
    sent = released(*[patient(f1=0.5 + i / 20, generic=0.5) for i in range(6)])
    moments = Moments.from_flat(sent, "difference.selected-generic.beat-f1")
    assert moments.mean == pytest.approx(np.mean([i / 20 for i in range(6)]))
    assert sent["worse-than-generic"] == 0
    assert sent["selected.fine_tuned"] == 6


def test_nobody_can_subtract_two_rounds_and_find_a_few_patients() -> None:
    sent = released(*[patient()] * 7, *[patient(rounds=3)] * 2)
    sizes = {int(key.split(".")[2]): n for key, n in sent.items() if re.match(r"personal.*f1\.n$", key)}
    # Two patients stop after three rounds: rounds four and five would show the sum of those two.
    assert sizes == {0: 9, 1: 9, 2: 9, 3: 9}
    sent = released(*[patient()] * 7, *[patient(rounds=3)] * 5)
    sizes = {int(key.split(".")[2]): n for key, n in sent.items() if re.match(r"personal.*f1\.n$", key)}
    assert sizes == {0: 12, 1: 12, 2: 12, 3: 12, 4: 7, 5: 7}


def test_a_figure_that_few_patients_lack_is_withheld() -> None:
    release = Release(5)
    release.moments("generic.patient.beat-auc", [0.9] * 6 + [math.nan])
    assert release.flat() == {"suppressed": 1}


def lacking(figure: str, *keys: tuple[int, str], rounds: int = 5) -> PatientFigures:
    """Make a patient without a figure after some rounds of some methods."""
    whole = patient(rounds)
    by_round = {key: {**own, figure: math.nan} if key in keys else own for key, own in whole.by_round.items()}
    return replace(whole, by_round=by_round)


def test_a_difference_does_not_tell_who_lacks_one_figure_of_two() -> None:
    """Six have no predictivity with the selected model, and one more has none with the threshold."""
    name, both = "beat-positive-predictivity", ((5, "selected"), (5, "threshold"))
    group = [*[patient()] * 13, *[lacking(name, *both)] * 6]
    sent = released(*group, lacking(name, both[1]))
    assert sent[f"last.threshold.{name}.n"] == sent[f"difference.selected-threshold.{name}.n"] == 13
    assert f"last.selected.{name}.n" not in sent
    sent = released(*group, *[lacking(name, both[1])] * 5)
    assert [sent[f"last.{key}.{name}.n"] for key in ("selected", "threshold")] == [18, 13]
    assert sent[f"difference.selected-threshold.{name}.n"] == 13


def test_the_last_round_less_the_fifth_does_not_tell_of_one_patient() -> None:
    """Six stop early; the figure exists for one of them alone."""
    name = "beat-positive-predictivity"
    early = lacking(name, (3, "selected"), rounds=3)
    sent = released(*[patient()] * 14, *[early] * 5, patient(rounds=3))
    # Of the 15 with the figure 14 have a fifth round, as the other figures tell.
    assert sent["personal.selected.5.beat-f1.n"] == sent[f"personal.selected.5.{name}.n"] == 14
    assert f"last.selected.{name}.n" not in sent


def test_worse_patients_are_counted_only_where_both_groups_are_large() -> None:
    worse = patient(f1=0.70, generic=0.76)
    assert worse.worse
    assert not patient(f1=0.72, generic=0.76).worse
    assert "worse-than-generic" not in released(worse, *[patient()] * 9)
    assert released(*[worse] * 5, *[patient()] * 5)["worse-than-generic"] == 5


def test_guard_hits_and_decisions_leave_together() -> None:
    sent = released(*[patient()] * 6, *[patient(rounds=2)] * 6)
    assert (sent["guard.decisions"], sent["guard.hits"]) == (6, 6)


def test_decisions_of_the_guard_do_not_count_the_group_later_rounds_are_withheld_for() -> None:
    # Two patients of twelve stop before the guard decides; their rounds are withheld for that reason.
    few = released(*[patient()] * 10, *[patient(rounds=2)] * 2)
    assert not any(key.startswith("guard.") for key in few)
    # Seven of fourteen do not reach a decision, but the two with two rounds would be the rest.
    few = released(*[patient(rounds=1)] * 5, *[patient(rounds=2)] * 2, *[patient()] * 7)
    assert not any(key.startswith("guard.") for key in few)


def test_no_brier_score_of_single_patients_leaves() -> None:
    release = Release(1)
    release.generic(scores(6, 6))
    release.personal(dict.fromkeys(range(6), patient()))
    assert "last.selected.strip-auc.n" in release.flat()
    assert not any("brier" in key for key in release.flat())


def test_unseen_patients_who_may_not_be_counted_are_in_no_number_of_patients() -> None:
    release = Release(5)
    release.generic(scores(6, 6), counted=False)
    sent = release.flat()
    assert sent["generic.beat.tp"] == 6
    assert not any(key.startswith("generic.patient") for key in sent)
    assert sent["suppressed"] > 0


def test_generic_figures_need_enough_patients_of_the_label_they_are_about() -> None:
    release = Release(5)
    release.generic(scores(5, 6))
    sent = release.flat()
    assert Confusion.from_flat(sent, "generic.beat") == Confusion(tp=5, fp=6, tn=6, fn=5)
    assert ScoreHistogram.from_flat(sent, "generic.histogram").auc == 0.5
    release = Release(5)
    release.generic(scores(4, 6))
    sent = release.flat()
    assert "generic.beat.tp" not in sent
    assert sent["generic.beat.fp"] == 6
    assert "generic.histogram.positive" not in sent


def test_everything_released_is_in_the_protocol() -> None:
    release = Release(1)
    release.generic(scores(3, 3))
    release.personal({1: patient(), 2: patient(rounds=2)})
    release.table("outcome", {"personal": 2, "one_label": 1})
    release.cells("cohort", {"train.patients": (3, 3), "train.gap": (0, 0)})
    release.cells("flow", {"no_waveform": (10, 3)})
    protocol.check(protocol.reply(release.flat()), protocol.PERSONALIZE, "reply")
