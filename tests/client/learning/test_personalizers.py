"""Threshold, closed-form head and fine-tuning, each against its definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit

from client.learning.personalizers import (
    TARGET_LOGIT,
    Head,
    Recipe,
    Scaling,
    beat_weights,
    fine_tune,
    fit_head,
    fit_threshold,
)
from common.config import ModelSettings, PersonalizationSettings
from common.model import ResNet1d, build_model
from common.seeding import stream, torch_stream
from common.weights import pack


def test_strips_weigh_one_and_labels_the_same_whatever_their_beats() -> None:
    weights = beat_weights([10, 100, 5], [True, False, False], "labels")
    assert weights.sum() == pytest.approx(3)
    assert weights[:10].sum() == pytest.approx(1.5)
    assert weights[10:110].sum() == pytest.approx(weights[110:].sum())


def test_natural_weights_are_the_same_for_every_beat() -> None:
    weights = beat_weights([10, 90], [True, False], "natural")
    assert np.unique(weights).tolist() == [0.02]


def test_the_threshold_lies_in_the_middle_of_two_mirrored_strips() -> None:
    logits, positive = np.array([5.0, 3.0]), np.array([True, False])
    assert fit_threshold(logits, positive, np.ones(2)) == pytest.approx(-4.0)


def test_the_threshold_is_where_the_loss_is_flat() -> None:
    logits = stream("threshold").normal(1, 2, 50)
    positive = stream("labels").random(50) < 0.4
    weights = stream("weights").random(50)
    offset = fit_threshold(logits, positive, weights)
    assert weights @ (expit(logits + offset) - positive) == pytest.approx(0, abs=1e-6)


def test_adding_to_all_logits_moves_the_threshold_by_as_much() -> None:
    logits, positive = np.array([0.0, 1.0, 2.0, 3.0]), np.array([False, True, False, True])
    offset = fit_threshold(logits, positive, np.ones(4))
    assert fit_threshold(logits + 1.5, positive, np.ones(4)) == pytest.approx(offset - 1.5, abs=1e-6)


def test_one_label_moves_the_threshold_no_further_than_its_bound() -> None:
    assert fit_threshold(np.zeros(3), np.array([True] * 3), np.ones(3)) == pytest.approx(20.0)


def problem() -> tuple[Any, Any, Any, Head, Scaling]:
    """Make embeddings whose first feature tells the labels apart, which the generic head does not know."""
    positive = np.repeat([True, False], 20)
    embedding = stream("embedding").normal(0, 1, (40, 5))
    embedding[:, 0] += np.where(positive, 2.0, -2.0)
    return (
        embedding,
        positive,
        np.full(40, 2 / 40),
        Head(np.zeros(5), 0.5),
        Scaling(np.ones(5), np.full(5, 2.0)),
    )


def test_the_closed_form_head_learns_what_the_generic_head_does_not_know() -> None:
    embedding, positive, weights, generic, scaling = problem()
    head = fit_head(embedding, positive, weights, generic, scaling, 0.01)
    assert ((head.logits(embedding) > 0) == positive).mean() > 0.95


def test_an_infinite_penalty_answers_the_generic_head() -> None:
    embedding, positive, weights, generic, scaling = problem()
    head = fit_head(embedding, positive, weights, generic, scaling, 1e12)
    np.testing.assert_allclose(head.weight, generic.weight, atol=1e-9)
    assert head.bias == pytest.approx(generic.bias, abs=1e-9)


def test_a_larger_penalty_moves_the_head_less() -> None:
    embedding, positive, weights, generic, scaling = problem()
    moved = [
        np.linalg.norm(fit_head(embedding, positive, weights, generic, scaling, penalty).weight)
        for penalty in (0.01, 0.1, 1.0, 10.0)
    ]
    assert moved == sorted(moved, reverse=True)


def test_the_closed_form_head_is_the_minimum_of_its_loss() -> None:
    embedding, positive, weights, generic, scaling = problem()
    head = fit_head(embedding, positive, weights, generic, scaling, 0.3)

    def loss(weight: Any, bias: float) -> float:
        now = embedding @ generic.weight + generic.bias
        target = np.where(positive, np.maximum(now, TARGET_LOGIT), np.minimum(now, -TARGET_LOGIT))
        fit = weights @ (embedding @ weight + bias - target) ** 2
        change = weight - generic.weight
        # The pull is on the change in standardized units, each feature's share 1 / sqrt(features).
        slope = change * scaling.scale * np.sqrt(5)
        offset = bias - generic.bias + scaling.mean @ change
        return float(fit + 0.3 * (slope @ slope + offset**2))

    best = loss(head.weight, head.bias)
    for step in stream("steps").normal(0, 0.01, (50, 6)):
        assert loss(head.weight + step[:5], head.bias + step[5]) > best


def test_a_head_that_is_already_right_stays() -> None:
    embedding, positive, weights, _, scaling = problem()
    sure = Head(np.array([100.0, 0, 0, 0, 0]), 0.0)
    keep = np.abs(embedding[:, 0]) > 0.1
    right = keep & ((embedding[:, 0] > 0) == positive)
    head = fit_head(embedding[right], positive[right], weights[right], sure, scaling, 0.1)
    np.testing.assert_allclose(head.weight, sure.weight, atol=1e-9)


def test_scaling_of_constant_features_and_of_no_beats_is_finite() -> None:
    constant = Scaling.of(np.full((10, 3), 2.0, np.float32))
    assert np.isfinite(constant.apply(np.ones((2, 3), np.float32))).all()
    assert Scaling.of(np.empty((0, 3), np.float32)).apply(np.ones((1, 3))).tolist() == [[1, 1, 1]]


def tuned(
    network: ResNet1d,
    store: Any,
    settings: PersonalizationSettings,
    after: str,
    n: int = 40,
    start: ResNet1d | None = None,
    round_: int = 1,
) -> ResNet1d:
    beats = torch.from_numpy(store.beats[:n].copy())
    with torch.no_grad():
        inputs = torch.cat([network.eval().prefix(part, after) for part in torch.split(beats, 10)])
    positive = np.arange(n) // 6 % 2 == 1
    recipe = Recipe.of(settings, settings.start, settings.statistics)
    begun = start or network
    return fine_tune(begun, inputs, after, positive, np.ones(n), recipe, (3, "p"), round_)


@pytest.mark.parametrize(("stem", "through"), [("paper", "stem"), ("paper", "stage4"), ("small", "stage2")])
def test_frozen_means_computed_once_give_the_weights_of_the_plain_way(
    patients: Any, stem: Any, through: Any
) -> None:
    network = build_model(ModelSettings(width=8, stem=stem), torch_stream("plain"))
    _, store = patients(2, 4)
    settings = PersonalizationSettings(freeze_through=through, batch_size=16, epochs=3)
    cached = pack(tuned(network, store, settings, through))
    plain = pack(tuned(network, store, settings, "none"))
    assert cached.digest() == plain.digest()
    assert cached.digest() != pack(network).digest()


def test_fine_tuning_changes_neither_frozen_stages_nor_statistics_nor_the_generic_model(
    network: ResNet1d, patients: Any
) -> None:
    _, store = patients(2, 4)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    model = tuned(network, store, PersonalizationSettings(freeze_through="stage2"), "stage2")
    for name, value in model.state_dict().items():
        frozen = name.startswith(("stem", "stage1", "stage2")) or "running" in name
        assert torch.equal(value, before[name]) == (frozen or "num_batches" in name), name
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not model.training


def test_a_new_head_forgets_and_a_kept_head_does_not(network: ResNet1d, patients: Any) -> None:
    _, store = patients(2, 4)
    tiny = {"learning_rate": 1e-9, "epochs": 1}
    kept = tuned(network, store, PersonalizationSettings(head="kept", **tiny), "stage2")
    new = tuned(network, store, PersonalizationSettings(head="new", **tiny), "stage2")
    torch.testing.assert_close(kept.head.weight, network.head.weight, atol=1e-6, rtol=0)
    assert (new.head.weight - network.head.weight).abs().max() > 0.01


def test_trained_statistics_move_behind_the_frozen_stages_only(network: ResNet1d, patients: Any) -> None:
    """As in the paper, where batch normalization of the trained stages sees one patient alone."""
    _, store = patients(2, 4)
    settings = PersonalizationSettings(freeze_through="stage2", statistics="trained")
    model = tuned(network, store, settings, "stage2")
    moved = {
        name.split(".")[0]
        for name, value in model.state_dict().items()
        if "running" in name and not torch.equal(value, network.state_dict()[name])
    }
    assert moved == {"stage3", "stage4", "norm"}


def test_a_model_that_continues_keeps_the_head_of_its_first_round(network: ResNet1d, patients: Any) -> None:
    _, store = patients(2, 4)
    settings = PersonalizationSettings(start="continue", learning_rate=1e-9, epochs=1)
    first = tuned(network, store, settings, "stage2")
    second = tuned(network, store, settings, "stage2", start=first, round_=2)
    assert (first.head.weight - network.head.weight).abs().max() > 0.01
    torch.testing.assert_close(second.head.weight, first.head.weight, atol=1e-6, rtol=0)
