"""Votes and figures on scores one can check by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from client.learning.evaluation import (
    FIGURES,
    StripScore,
    beat_confusion,
    figures,
    figures_by_patient,
    histogram,
    infer,
    optional,
    patient_loss,
    score_strips,
    strip_confusion,
)
from common.metrics import Confusion
from common.model import ResNet1d
from common.task import Label


def score(label: str, *logits: float, patient: int = 1) -> StripScore:
    return StripScore(1, patient, Label(label), np.array(logits, np.float32))


def test_a_strip_is_positive_by_majority_and_a_tie_is_negative() -> None:
    assert score("positive", 1, 1, -5).called
    assert not score("positive", 9, -1).called
    assert not score("positive", 9, -1, -1).called
    assert score("positive", 1, 1, -5).vote == pytest.approx(2 / 3)


def test_a_logit_of_zero_is_negative() -> None:
    assert score("positive", 0.0).n_positive_beats == 0


def test_beats_and_strips_are_counted_apart_and_gap_strips_not_at_all() -> None:
    scores = [score("positive", 2, 2, -1), score("negative", -1, 3), score("gap", 5, 5)]
    assert beat_confusion(scores) == Confusion(tp=2, fp=1, tn=1, fn=1)
    assert strip_confusion(scores) == Confusion(tp=1, fp=0, tn=1, fn=0)
    assert sum(histogram(scores).positive) == 3
    assert sum(histogram(scores).negative) == 2


def test_figures_by_hand() -> None:
    values = figures([score("positive", 2, 2, -1), score("negative", -1, 3)])
    assert tuple(values) == FIGURES
    assert values["beat-sensitivity"] == pytest.approx(2 / 3)
    assert values["beat-f1"] == pytest.approx(2 / 3)
    # Of the 6 pairs 2 > -1 twice, -1 = -1 once by half.
    assert values["beat-auc"] == pytest.approx(2.5 / 6)
    assert values["strip-accuracy"] == 1
    # Mean logits are 1 and 1: a tie.
    assert values["strip-auc"] == 0.5
    p = 1 / (1 + math.exp(-1))
    assert values["brier"] == pytest.approx(((1 - p) ** 2 + p**2) / 2)


def test_figures_that_need_both_labels_do_not_exist_for_one() -> None:
    values = figures([score("negative", -1, 3)])
    assert math.isnan(values["beat-auc"])
    assert math.isnan(values["beat-sensitivity"])
    assert values["beat-specificity"] == 0.5
    assert optional(values["beat-auc"]) is None
    assert optional(0.5) == 0.5


def test_no_strips_have_no_figures() -> None:
    assert all(math.isnan(value) for value in figures([]).values())
    assert patient_loss([]).patients == 0


def test_patients_weigh_the_same_in_the_validation_loss() -> None:
    many = score("positive", *[0.0] * 100, patient=1)
    sure = score("negative", -20.0, patient=2)
    loss = patient_loss([many, sure])
    assert loss.patients == 2
    assert loss.mean == pytest.approx(math.log(2) / 2, rel=1e-6)


def test_each_patient_has_figures_of_its_own() -> None:
    own = figures_by_patient([score("positive", 1), score("negative", 1, patient=2)])
    assert own[1]["beat-accuracy"] == 1
    assert own[2]["beat-accuracy"] == 0


def test_scores_are_those_of_the_network_in_evaluation_mode(network: ResNet1d, patients: Any) -> None:
    strips, store = patients(2, 30)
    network.train()
    scores = score_strips(network, strips, store)
    assert [s.strip_id for s in scores] == [s.strip_id for s in strips]
    alone = infer(network, store.read(strips[-1].offset, strips[-1].n_beats))
    np.testing.assert_allclose(scores[-1].logits, alone, rtol=1e-4, atol=1e-5)
    assert not network.training


def test_fewer_beats_per_strip_are_a_part_of_all(network: ResNet1d, patients: Any) -> None:
    strips, store = patients(1, 1)
    few, everything = (score_strips(network, strips, store, n)[0].logits for n in (2, 0))
    np.testing.assert_allclose(few, everything[[1, 4]], rtol=1e-4, atol=1e-5)
