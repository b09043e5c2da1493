"""The paper's plan, the controls' labels, and what the settings ask for."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from itertools import groupby

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from client.learning.controls import with_permuted_days, with_two_stretches_of_days
from client.learning.dataset import StripRef
from client.learning.planning import PAPER, PROSPECTIVE, Outcome, plan_randomly
from client.learning.protocols import DAYS, PERMUTED, plan_of, procedures
from common.config import PersonalizationSettings
from common.procedures import not_run
from common.seeding import stream
from common.task import Label

SETTINGS = PersonalizationSettings()
DAY_ONE = datetime(2150, 1, 1)
WORDS = {"p": Label.POSITIVE, "n": Label.NEGATIVE, "g": Label.GAP}


def timeline(letters: str, step_h: float = 24) -> list[StripRef]:
    """One strip per letter, so many hours apart; ids from 1."""
    starts = [DAY_ONE + timedelta(hours=step_h * place) for place in range(len(letters))]
    return [
        StripRef(place + 1, 1, WORDS[letter], start, start + timedelta(minutes=10), 10 * place, 10)
        for place, (letter, start) in enumerate(zip(letters, starts, strict=True))
    ]


def labels(strips: list[StripRef] | None) -> str:
    assert strips is not None
    return "".join(strip.label[0] for strip in strips)


def test_of_each_label_a_random_quarter_is_held_out() -> None:
    strips = timeline("p" * 12 + "n" * 20)
    plan = plan_randomly(strips, SETTINGS, stream("one"))
    assert (plan.outcome, plan.n_test_positive, plan.n_test_negative) == (Outcome.PERSONAL, 3, 5)
    assert (plan.n_train_positive, plan.n_train_negative, len(plan.pairs)) == (9, 15, 5)
    assert all(positive.positive and not negative.positive for positive, negative in plan.pairs)
    trained = {one.strip_id for pair in plan.pairs for one in pair}
    assert not trained & {one.strip_id for one in plan.test}
    assert plan.cut is None
    other = plan_randomly(strips, SETTINGS, stream("two"))
    assert other.test != plan.test
    assert plan_randomly(strips[::-1], SETTINGS, stream("one")) == plan


def test_order_in_time_says_nothing_about_who_is_held_out() -> None:
    strips = timeline("np" * 16)
    early = [
        np.mean([one in plan_randomly(strips, SETTINGS, stream(seed)).test for one in strips[:16]])
        for seed in range(200)
    ]
    assert np.mean(early) == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize(
    ("letters", "outcome"),
    [("nnnnnnnn", "one_label"), ("ppnnnnnn", "too_few_strips"), ("pppnnnnn", "personal")],
)
def test_too_few_strips_are_an_outcome_of_the_paper_s_plan_too(letters: str, outcome: str) -> None:
    assert plan_randomly(timeline(letters), SETTINGS, stream("one")).outcome == outcome


@given(
    letters=st.text("pn", min_size=2, max_size=30), seed=st.integers(0, 99), step=st.sampled_from([3, 7, 25])
)
def test_days_change_places_with_all_their_labels(letters: str, seed: int, step: int) -> None:
    strips = timeline(letters, step_h=step)
    other = with_permuted_days(strips, stream(seed))
    if other is None:
        return
    assert Counter(labels(other)) == Counter(letters)
    assert labels(other) != letters
    days = [labels(list(own)) for _, own in groupby(strips, lambda one: one.start.date())]
    assert set("|".join(days)) >= set(labels(other))
    assert [one.strip_id for one in other] == [one.strip_id for one in strips]


def test_days_that_are_all_alike_leave_no_control() -> None:
    assert with_permuted_days(timeline("pnpn", step_h=12), stream("one")) is None
    assert with_permuted_days(timeline("nnnn", step_h=12), stream("one")) is None
    assert plan_of(PERMUTED, timeline("nnnn"), SETTINGS, ("one",)).outcome == Outcome.NOT_COMPUTABLE


def test_two_stretches_of_days_hold_negative_strips_only() -> None:
    strips = timeline("n" * 9 + "p" * 7 + "n" * 11 + "ggg", step_h=6)
    other = with_two_stretches_of_days(strips)
    assert labels(other) == "n" * 9 + "p" * 11 or labels(other) == "n" * 8 + "p" * 12
    assert other is not None
    border = labels(other).index("p")
    assert other[border - 1].start.date() < other[border].start.date()
    assert with_two_stretches_of_days(strips, least=11) is None
    plan = plan_of(DAYS, strips, SETTINGS, ("one",))
    assert plan.outcome == Outcome.NOT_INTERLEAVED
    assert len(plan.pairs) == 5


def test_the_primary_protocol_is_always_run() -> None:
    assert [one.name for one in procedures(SETTINGS)] == [PROSPECTIVE, PAPER, PERMUTED, DAYS]
    assert [one.keeps for one in procedures(SETTINGS)] == [True, True, False, False]
    alone = PersonalizationSettings(protocols=("prospective",), depth="quick")
    assert [one.name for one in procedures(alone)] == [PROSPECTIVE, PERMUTED]
    with pytest.raises(ValidationError, match="prospective answers the question"):
        PersonalizationSettings(protocols=("paper",))


def test_what_is_not_run_is_named() -> None:
    assert not_run(SETTINGS) == ()
    quick = not_run(PersonalizationSettings(depth="quick"))
    assert len(quick) == 4
    assert "the protocol of the source paper" in not_run(PersonalizationSettings(protocols=("prospective",)))
