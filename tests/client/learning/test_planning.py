"""The prospective protocol on patients small enough to plan by hand."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from client.learning.dataset import StripRef
from client.learning.planning import Outcome, episodes, plan_patient
from client.learning.planning import test_size as size_of_test
from common.config import PersonalizationSettings
from common.task import Label

Make = Callable[..., StripRef]
SIX_HOURS = PersonalizationSettings(gap_s=6 * 3600)


def timeline(strip: Make, labels: str, step_h: float = 24) -> list[StripRef]:
    """One strip per letter: p positive, n negative, g gap; ``step_h`` hours apart; ids from 1."""
    words = {"p": "positive", "n": "negative", "g": "gap"}
    return [strip(i * step_h, words[letter], strip_id=i + 1) for i, letter in enumerate(labels)]


def ids(strips: object) -> list[int]:
    return [strip.strip_id for strip in strips]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("n", "left"), [(3, 2), (8, 2), (9, 3), (12, 3), (13, 4), (40, 10)])
def test_a_quarter_of_the_strips_is_left_for_the_test_and_never_fewer_than_two(n: int, left: int) -> None:
    assert size_of_test(n, SIX_HOURS) == left


def test_strips_that_take_turns_are_cut_where_each_label_keeps_two(strip: Make) -> None:
    plan = plan_patient(timeline(strip, "npnpnpnpnpnpnpnp"), SIX_HOURS)
    assert plan.outcome == Outcome.PERSONAL
    assert ids(plan.test) == [13, 14, 15, 16]
    assert plan.cut == plan.test[0].start
    assert [(a.strip_id, b.strip_id) for a, b in plan.pairs] == [(2, 1), (4, 3), (6, 5), (8, 7), (10, 9)]
    assert (plan.n_train_positive, plan.n_train_negative) == (6, 6)
    assert (plan.episodes_positive, plan.episodes_negative) == (8, 8)


def test_one_cut_holds_for_both_labels(strip: Make) -> None:
    # The last two positives lie early, so all negatives after them are test strips too.
    plan = plan_patient(timeline(strip, "npnpnpnpppnnnnnn"), SIX_HOURS)
    assert plan.n_test_positive == 2
    assert ids(plan.test) == [9, 10, 11, 12, 13, 14, 15, 16]
    assert all(s.end <= plan.cut - timedelta(hours=6) for pair in plan.pairs for s in pair)  # type: ignore[operator]


def test_strips_in_the_gap_before_the_cut_are_neither_trained_on_nor_tested(strip: Make) -> None:
    wide = plan_patient(timeline(strip, "npnpnpnp", step_h=2), PersonalizationSettings(gap_s=0))
    assert (wide.n_train_positive, wide.n_train_negative) == (2, 2)
    # Ten minutes of strip and 110 minutes of pause: a gap of 3 h takes the strip before the cut.
    narrow = plan_patient(timeline(strip, "npnpnpnp", step_h=2), PersonalizationSettings(gap_s=3 * 3600))
    assert (narrow.n_train_positive, narrow.n_train_negative) == (1, 2)
    assert ids(narrow.test) == ids(wide.test) == [5, 6, 7, 8]


def test_a_strip_that_ends_exactly_a_gap_before_the_cut_may_train(strip: Make) -> None:
    strips = timeline(strip, "npnpnp", step_h=1)
    fifty_minutes = PersonalizationSettings(gap_s=50 * 60)
    assert plan_patient(strips, fifty_minutes).n_train_positive == 1
    assert plan_patient(strips, PersonalizationSettings(gap_s=50 * 60 + 1)).outcome != Outcome.PERSONAL


def test_labels_of_one_episode_each_are_not_interleaved(strip: Make) -> None:
    plan = plan_patient(timeline(strip, "ppppppppnnnnnnnn"), SIX_HOURS)
    assert plan.outcome == Outcome.NOT_INTERLEAVED
    assert ids(plan.test) == [7, 8, 15, 16]
    assert plan.cut is None
    assert (plan.episodes_positive, plan.episodes_negative) == (1, 1)
    trained = [s for pair in plan.pairs for s in pair]
    gap = timedelta(hours=6)
    assert all(s.end + gap <= t.start or t.end + gap <= s.start for s in trained for t in plan.test)


@pytest.mark.parametrize(
    ("labels", "outcome"),
    [
        ("pppppppp", Outcome.ONE_LABEL),
        ("gggg", Outcome.ONE_LABEL),
        ("", Outcome.ONE_LABEL),
        ("npnp", Outcome.TOO_FEW_STRIPS),
        ("nnnnnnpp", Outcome.TOO_FEW_STRIPS),
    ],
)
def test_patients_without_a_plan_have_a_reason(strip: Make, labels: str, outcome: Outcome) -> None:
    plan = plan_patient(timeline(strip, labels), SIX_HOURS)
    assert plan.outcome == outcome
    assert not plan.pairs
    assert not plan.test


def test_gap_strips_are_never_trained_on_or_tested_and_shown_after_the_cut_only(strip: Make) -> None:
    plan = plan_patient(timeline(strip, "gnpnpgnpnpgnpnpg"), SIX_HOURS)
    assert ids(plan.gap) == [16]
    used = [s for pair in plan.pairs for s in pair] + list(plan.test)
    assert all(s.label != Label.GAP for s in used)


def test_the_plan_does_not_depend_on_the_order_of_the_strips(strip: Make) -> None:
    strips = timeline(strip, "npnppnpnnpnpnpnp")
    assert plan_patient(strips[::-1], SIX_HOURS) == plan_patient(strips, SIX_HOURS)


def test_rounds_are_limited_by_the_setting_and_by_the_strips(strip: Make) -> None:
    strips = timeline(strip, "npnpnpnpnpnpnpnp")
    assert len(plan_patient(strips, PersonalizationSettings(rounds=3)).pairs) == 3
    assert len(plan_patient(strips[-10:], PersonalizationSettings(rounds=5)).pairs) == 3


@pytest.mark.parametrize(("labels", "expected"), [("pppnn", 1), ("pnpnp", 3), ("npgpn", 1), ("nn", 0)])
def test_episodes_end_where_the_other_label_appears(strip: Make, labels: str, expected: int) -> None:
    assert episodes(timeline(strip, labels), Label.POSITIVE) == expected
