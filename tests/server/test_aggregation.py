"""The mean of the sites' weights."""

from __future__ import annotations

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

from common.weights import Weights
from server.aggregation import WeightedMean, next_weights


def some(seed: int, size: int = 50) -> Weights:
    generator = np.random.default_rng(seed)
    return Weights(generator.normal(size=size).astype(np.float32), generator.random(7).astype(np.float32))


def mean_of(parts: list[tuple[Weights, float]]) -> Weights:
    total = WeightedMean()
    for weights, weight in parts:
        total.add(weights, weight)
    mean = total.mean()
    assert mean is not None
    return mean


def test_a_mean_one_can_check_by_hand() -> None:
    one = Weights(np.array([0.0, 1.0], np.float32), np.array([10.0], np.float32))
    two = Weights(np.array([4.0, 5.0], np.float32), np.array([30.0], np.float32))
    mean = mean_of([(one, 1), (two, 3)])
    assert mean.trainable.tolist() == [3.0, 4.0]
    assert mean.statistics.tolist() == [25.0]


def test_nobody_trained_means_no_mean() -> None:
    assert WeightedMean().mean() is None


def test_equal_weights_stay_what_they_are() -> None:
    same = some(1)
    mean = mean_of([(same, 3), (same, 1), (same, 7)])
    np.testing.assert_array_equal(mean.trainable, same.trainable)


def test_splitting_a_site_in_two_changes_nothing() -> None:
    whole = mean_of([(some(1), 4), (some(2), 2)])
    split = mean_of([(some(1), 1), (some(1), 3), (some(2), 2)])
    np.testing.assert_allclose(split.trainable, whole.trainable, rtol=1e-6)


def test_a_thousand_small_updates_are_not_lost_to_rounding() -> None:
    base = np.full(3, 1000.0, np.float32)
    step = Weights(base + np.float32(1e-4), np.zeros(0, np.float32))
    mean = mean_of([(step, 0.1)] * 1000)
    np.testing.assert_array_equal(mean.trainable, step.trainable)


def test_it_is_the_mean_flower_computes_from_all_answers_at_once() -> None:
    parts = [(some(seed), float(seed + 1)) for seed in range(5)]
    records = [
        RecordDict(
            {
                "arrays": ArrayRecord({"trainable": Array(weights.trainable)}),
                "metrics": MetricRecord({"num-examples": weight}),
            }
        )
        for weights, weight in parts
    ]
    theirs = aggregate_arrayrecords(records, "num-examples")["trainable"].numpy()
    np.testing.assert_allclose(mean_of(parts).trainable, theirs, rtol=1e-5, atol=1e-7)


def test_federated_averaging_leaves_the_mean_as_it_is_bit_for_bit() -> None:
    mean = some(3)
    assert next_weights(1, mean).digest() == mean.digest()
