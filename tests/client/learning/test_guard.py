"""The guard chooses from what models said about strips they had not seen."""

from __future__ import annotations

import math

import numpy as np
import pytest

from client.learning.evaluation import StripScore
from client.learning.guard import as_good_as_best, pair_loss, select
from common.task import Label


def losses(**values: list[float]) -> dict[str, list[float]]:
    n = len(next(iter(values.values())))
    return {m: values.get(m, [1.0] * n) for m in ("generic", "threshold", "closed_form", "fine_tuned")}


def test_nothing_beyond_generic_before_two_scored_pairs() -> None:
    assert select(losses(fine_tuned=[0.0]), 0.05, 2) == "generic"
    assert select(losses(fine_tuned=[0.0, 0.0]), 0.05, 2) == "fine_tuned"


def test_a_more_complex_model_must_win_by_the_margin() -> None:
    assert select(losses(threshold=[0.98, 0.98]), 0.05, 2) == "generic"
    assert select(losses(threshold=[0.97, 0.97]), 0.05, 2) == "threshold"


def test_a_more_complex_model_must_beat_the_simpler_one_that_won() -> None:
    assert select(losses(threshold=[0.5, 0.5], fine_tuned=[0.5, 0.46]), 0.05, 2) == "threshold"
    assert select(losses(threshold=[0.5, 0.5], fine_tuned=[0.5, 0.40]), 0.05, 2) == "fine_tuned"


def test_losses_are_summed_over_all_scored_pairs() -> None:
    assert select(losses(closed_form=[0.1, 3.0]), 0.05, 2) == "generic"


def test_the_loss_of_a_pair_is_that_of_the_mean_probability() -> None:
    sure = StripScore(1, 1, Label.POSITIVE, np.array([30.0, -30.0], np.float32))
    half = StripScore(2, 1, Label.NEGATIVE, np.array([0.0], np.float32))
    # Mean probabilities are 1/2 and 1/2.
    assert pair_loss([sure, half]) == pytest.approx(math.log(2))


def test_a_choice_within_a_hundredth_of_the_best_counts_as_a_hit() -> None:
    assert as_good_as_best("generic", {"generic": 0.895, "fine_tuned": 0.9})
    assert not as_good_as_best("generic", {"generic": 0.85, "fine_tuned": 0.9})
