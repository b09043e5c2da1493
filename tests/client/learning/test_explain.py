"""Grad-CAM and t-SNE on a task whose answer lies in the T wave."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from client.learning.dataset import labelled
from client.learning.explain import beat_map, explain, grad_cam, pick, purity, stretch
from client.learning.training import train_generic
from common.config import ModelSettings, TrainingSettings
from common.model import ResNet1d, build_model
from common.seeding import stream, torch_stream
from common.task import Label


@pytest.fixture(scope="module")
def case(patients: Any) -> tuple[ResNet1d, Any, Any]:
    """Train a network that knows that the T wave, samples 60 to 90, decides."""
    strips, store = patients(4, 6, spread=0.05)
    network = build_model(ModelSettings(width=4), torch_stream("explained"))
    train_generic(
        network, strips, store, TrainingSettings(batch_size=16, local_epochs=3, learning_rate=3e-3), (1,)
    )
    positive = np.repeat([s.positive for s in labelled(strips)], 6)
    return network, store.beats, positive


def test_the_network_looks_at_the_t_wave(case: Any) -> None:
    network, beats, positive = case
    curve = grad_cam(network, beats[positive], Label.POSITIVE, "stage2")
    assert curve.shape == (120,)
    assert curve.max() == 1
    assert curve.min() >= 0
    assert 55 <= int(np.argmax(curve)) <= 95


@pytest.mark.parametrize("stage", ["stem", "stage1", "stage2", "stage3", "stage4"])
def test_every_stage_can_be_asked_and_the_network_is_left_as_it_was(case: Any, stage: str) -> None:
    network, beats, positive = case
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert grad_cam(network, beats[~positive], Label.NEGATIVE, stage).shape == (120,)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_attention_does_not_change_when_all_beats_are_there_twice(case: Any) -> None:
    network, beats, positive = case
    once = grad_cam(network, beats[positive], Label.POSITIVE)
    twice = grad_cam(network, np.concatenate([beats[positive]] * 2), Label.POSITIVE)
    np.testing.assert_allclose(once, twice, rtol=1e-4, atol=1e-5)


def test_cells_are_stretched_around_their_centres() -> None:
    np.testing.assert_allclose(stretch(np.array([1.0, 3.0]), 4), [1.0, 1.5, 2.5, 3.0])
    np.testing.assert_array_equal(stretch(np.arange(120.0), 120), np.arange(120.0))


def test_apart_is_pure_and_mixed_is_half() -> None:
    generator = stream("purity")
    positive = np.arange(200) % 2 == 0
    mixed = generator.normal(0, 1, (200, 4))
    apart = mixed + np.where(positive, 100, 0)[:, None]
    assert purity(apart, positive) == 1
    assert purity(mixed, positive) == pytest.approx(0.5, abs=0.1)
    assert np.isnan(purity(mixed, np.ones(200, bool)))


def test_purity_does_not_change_with_scale_rotation_or_order() -> None:
    generator = stream("metamorphic")
    positive = generator.random(60) < 0.3
    points = generator.normal(0, 1, (60, 3)) + positive[:, None]
    rotation = np.linalg.qr(generator.normal(0, 1, (3, 3)))[0]
    order = generator.permutation(60)
    expected = purity(points, positive)
    assert purity(points @ rotation * 1e3, positive) == pytest.approx(expected)
    assert purity(points[order], positive[order]) == pytest.approx(expected)


def test_the_map_is_the_same_every_time_and_keeps_groups_apart() -> None:
    generator = stream("map")
    positive = np.arange(60) % 2 == 0
    embedding = generator.normal(0, 1, (60, 5)) + np.where(positive, 20, 0)[:, None]
    first, second = (beat_map(embedding, positive, 5) for _ in range(2))
    np.testing.assert_array_equal(first.points, second.points)
    assert purity(first.points, positive) == 1


def test_at_most_half_of_the_picked_beats_are_of_one_label() -> None:
    positive = np.array([True] * 3 + [False] * 97)
    picked = pick(positive, 20, stream("pick"))
    assert positive[picked].sum() == 3
    assert len(picked) == 13
    assert len(set(picked.tolist())) == 13


def test_an_explanation_has_the_mean_beat_of_each_label(case: Any) -> None:
    network, beats, positive = case
    result = explain(network, beats, positive, (0, "explain"), max_beats=40)
    np.testing.assert_allclose(result.mean_beat[Label.NEGATIVE], beats[~positive].mean(0, dtype=np.float64))
    assert result.beats.points.shape == (40, 2)
    assert result.beats.purity > 0.8
