"""Logistic regression on a few features: the minimum of its loss, finite, silent where nothing is told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.metrics import roc_auc_score

from client.learning.feature_baselines import HEART_RATE_RESOLUTION, FeatureModel, fit_features
from client.learning.personalizers import beat_weights
from common.seeding import stream

PENALTY = 0.1


def problem(name: str = "features", shift: float = 1.0) -> tuple[Any, Any, Any]:
    """Make two positive and three negative strips; the first of three features follows the label."""
    sizes, labels = [40, 7, 60, 30, 12], [True, True, False, False, False]
    positive = np.repeat(labels, sizes)
    features = stream(name).normal(0, 1, (len(positive), 3)) * [0.1, 5.0, 1.0] + [0.3, 80.0, 0.0]
    features[:, 0] += np.where(positive, shift, -shift) * 0.1
    return features, positive, beat_weights(sizes, labels, "labels")


def loss(theta: Any, standardized: Any, positive: Any, weights: Any, penalty: float) -> float:
    """Write the loss as its definition does: weighted log loss, and the penalty without the bias."""
    logits = standardized @ theta[:-1] + theta[-1]
    each = np.logaddexp(0.0, np.where(positive, -logits, logits))
    return float(weights @ each + penalty / 2 * theta[:-1] @ theta[:-1])


@pytest.mark.parametrize("penalty", [0.01, 1.0, 30.0])
def test_the_model_is_the_minimum_of_its_loss(penalty: float) -> None:
    features, positive, weights = problem()
    model = fit_features(features, positive, weights, penalty)
    standardized = (features - model.mean) / model.scale
    found = minimize(loss, np.zeros(4), args=(standardized, positive, weights, penalty), tol=1e-12)
    np.testing.assert_allclose([*model.weight, model.bias], found.x, atol=1e-4)


def test_features_are_standardized_by_what_their_beats_weigh() -> None:
    features, positive, weights = problem()
    model = fit_features(features, positive, weights, PENALTY)
    share = weights / weights.sum()
    np.testing.assert_allclose(model.mean, share @ features)
    np.testing.assert_allclose(model.scale**2, share @ (features - model.mean) ** 2)


def test_the_feature_that_follows_the_label_is_found_on_other_beats() -> None:
    model = fit_features(*problem(shift=1.5), PENALTY)
    features, positive, _ = problem("others", shift=1.5)
    assert roc_auc_score(positive, model.logits(features)) > 0.9
    assert model.logits(features).dtype == np.float32


def test_one_long_strip_weighs_no_more_than_a_short_one() -> None:
    """Repeating the beats of every strip, each as often as it likes, changes nothing."""
    rows = np.array([[0.2, 1.0], [0.5, 2.0], [0.1, -1.0]])
    labels = [True, True, False]
    models = [
        fit_features(
            np.repeat(rows, sizes, axis=0),
            np.repeat(labels, sizes),
            beat_weights(sizes, labels, "labels"),
            1.0,
        )
        for sizes in ([1, 1, 1], [50, 3, 400])
    ]
    np.testing.assert_allclose(models[0].weight, models[1].weight, atol=1e-6)
    assert models[0].bias == pytest.approx(models[1].bias, abs=1e-6)


@pytest.mark.parametrize("smallest", [1e-3, 1.0])
def test_separated_labels_stay_finite_and_a_smaller_penalty_is_surer(smallest: float) -> None:
    features = np.repeat([[90.0], [70.0]], 20, axis=0)
    positive = np.repeat([True, False], 20)
    slopes = []
    for penalty in (1e-6, 1e-3, 1.0, 1e3):
        model = fit_features(features, positive, np.full(40, 0.05), penalty, smallest)
        assert np.isfinite(model.logits(np.array([[30.0], [200.0]]))).all()
        slopes.append(float(model.weight[0]))
    assert slopes == sorted(slopes, reverse=True)
    assert slopes[-1] > 0


def test_a_constant_feature_tells_nothing() -> None:
    _, positive, weights = problem()
    model = fit_features(np.full((len(positive), 1), 81.3), positive, weights, PENALTY)
    np.testing.assert_allclose(model.logits(np.array([[81.3], [60.0], [140.0]])), 0.0, atol=1e-5)


def test_rates_that_hardly_differ_are_not_blown_up() -> None:
    """With one strip of each label at 80.0 and 80.1 a minute, a strip at 100 is not a certain positive."""
    rates, positive = np.repeat([[80.1], [80.0]], 30, axis=0), np.repeat([True, False], 30)
    weights = beat_weights([30, 30], [True, False], "labels")
    blown = fit_features(rates, positive, weights, PENALTY)
    modest = fit_features(rates, positive, weights, PENALTY, HEART_RATE_RESOLUTION)
    strange = np.array([[100.0]])
    assert blown.logits(strange)[0] > 100
    assert 0 < modest.logits(strange)[0] < 10


@pytest.mark.parametrize("label", [True, False])
def test_one_label_tells_nothing_apart(label: bool) -> None:
    features, positive, weights = problem()
    model = fit_features(features, np.full_like(positive, label), weights, PENALTY)
    assert not model.logits(features).any()


def test_no_beats_at_all_give_a_model_that_says_nothing() -> None:
    model = fit_features(np.empty((0, 4)), np.empty(0, bool), np.empty(0), PENALTY)
    assert model.logits(np.ones((2, 4))).tolist() == [0.0, 0.0]
    assert model.logits(np.empty((0, 4))).shape == (0,)


def test_a_missing_value_is_taken_as_the_mean() -> None:
    features, positive, weights = problem()
    features[::7, 1] = np.nan
    model = fit_features(features, positive, weights, PENALTY)
    known = ~np.isnan(features[:, 1])
    assert model.mean[1] == pytest.approx(np.average(features[known, 1], weights=weights[known]))
    missing, usual = features[:1].copy(), features[:1].copy()
    usual[0, 1] = model.mean[1]
    assert model.logits(missing) == pytest.approx(model.logits(usual))
    assert np.isfinite(model.logits(features)).all()


def test_the_answer_is_the_same_every_time_and_in_every_order() -> None:
    features, positive, weights = problem()
    once, again = (fit_features(features, positive, weights, PENALTY) for _ in range(2))
    assert once.weight.tolist() == again.weight.tolist()
    assert once.bias == again.bias
    order = stream("order").permutation(len(positive))
    shuffled = fit_features(features[order], positive[order], weights[order], PENALTY)
    np.testing.assert_allclose(shuffled.logits(features), once.logits(features), atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.1, 50), st.floats(-20, 20))
def test_units_do_not_matter(gain: float, offset: float) -> None:
    features, positive, weights = problem()
    model = fit_features(features, positive, weights, PENALTY)
    other = fit_features(gain * features + offset, positive, weights, PENALTY)
    np.testing.assert_allclose(other.logits(gain * features + offset), model.logits(features), atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_exchanging_the_labels_turns_the_logits(seed: int) -> None:
    features, positive, weights = problem(f"turned {seed}", shift=0.5)
    model = fit_features(features, positive, weights, PENALTY)
    turned = fit_features(features, ~positive, weights, PENALTY)
    np.testing.assert_allclose(turned.logits(features), -model.logits(features), atol=1e-4)


def test_logits_are_the_linear_form_of_standardized_features() -> None:
    model = FeatureModel(np.array([1.0, 0.0]), np.array([2.0, 1.0]), np.array([3.0, -1.0]), 0.5)
    assert model.logits(np.array([[5.0, 2.0]])).tolist() == [4.5]


def test_a_feature_that_is_not_known_tells_nothing_and_warns_of_nothing() -> None:
    positive = np.arange(40) % 2 == 0
    model = fit_features(np.full((40, 1), np.nan), positive, np.full(40, 0.1), 0.1)
    np.testing.assert_allclose(model.logits(np.array([[np.nan], [80.0]])), 0.0, atol=1e-6)
