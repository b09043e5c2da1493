"""The map of beats: t-SNE that repeats itself, and numbers that are not measured in the picture."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.learning.beat_map import beat_map, pick, purity, silhouette
from common.seeding import stream

Figure = Callable[[npt.NDArray[np.float64], npt.NDArray[np.bool_]], float]
FIGURES: list[Figure] = [purity, silhouette]


def test_apart_is_pure_and_mixed_is_half() -> None:
    generator = stream("purity")
    positive = np.arange(200) % 2 == 0
    mixed = generator.normal(0, 1, (200, 4))
    apart = mixed + np.where(positive, 100, 0)[:, None]
    assert purity(apart, positive) == 1
    assert purity(mixed, positive) == pytest.approx(0.5, abs=0.1)


def test_silhouette_of_four_beats_by_hand() -> None:
    """On a line at 0, 1 and 4, 6: within 1, 1, 2, 2; to the others 5, 4, 3.5, 5.5."""
    line = np.array([[0.0], [1.0], [4.0], [6.0]])
    expected = np.mean([1 - 1 / 5, 1 - 1 / 4, 1 - 2 / 3.5, 1 - 2 / 5.5])
    assert silhouette(line, np.array([True, True, False, False])) == pytest.approx(expected)


def test_labels_of_two_groups_each_are_pure_and_have_a_low_silhouette() -> None:
    positive = np.arange(80) % 2 == 0
    corner = np.array([[0, 0], [0, 9], [9, 9], [9, 0]])[np.arange(80) % 4]
    points = stream("corners").normal(0, 0.1, (80, 2)) + corner
    assert purity(points, positive) == 1
    assert silhouette(points, positive) < 0.3


@pytest.mark.parametrize("figure", FIGURES)
def test_one_label_or_beats_all_alike_have_no_number(figure: Figure) -> None:
    points = stream("one label").normal(0, 1, (20, 3))
    assert np.isnan(figure(points, np.ones(20, bool)))
    assert np.isnan(figure(points, np.zeros(20, bool)))
    assert np.isnan(figure(np.full((20, 3), 0.7), np.arange(20) < 10))


def test_two_beats_have_no_silhouette() -> None:
    assert np.isnan(silhouette(np.array([[0.0], [1.0]]), np.array([True, False])))


@settings(deadline=None)  # the first call imports scikit-learn
@given(st.integers(0, 10_000), st.floats(1e-3, 1e3))
def test_numbers_do_not_change_with_scale_rotation_order_or_names_of_labels(seed: int, scale: float) -> None:
    generator = stream("metamorphic", seed)
    positive = np.arange(40) < generator.integers(1, 39)
    points = generator.normal(0, 1, (40, 3)) + positive[:, None]
    rotation = np.linalg.qr(generator.normal(0, 1, (3, 3)))[0]
    order = generator.permutation(40)
    for figure in FIGURES:
        expected = figure(points, positive)
        assert figure(points @ rotation * scale, positive) == pytest.approx(expected)
        assert figure(points[order], positive[order]) == pytest.approx(expected)
        assert figure(points, ~positive) == pytest.approx(expected)


def test_the_map_is_the_same_every_time_and_keeps_groups_apart() -> None:
    generator = stream("map")
    positive = np.arange(60) % 2 == 0
    embedding = generator.normal(0, 1, (60, 5)) + np.where(positive, 20, 0)[:, None]
    first, second = (beat_map(embedding, positive, 5) for _ in range(2))
    np.testing.assert_array_equal(first.points, second.points)
    assert purity(first.points, positive) == 1
    assert first.purity == purity(embedding, positive)
    assert first.silhouette == silhouette(embedding, positive)


def test_three_beats_can_be_mapped() -> None:
    embedding = stream("three").normal(0, 1, (3, 5))
    assert np.isfinite(beat_map(embedding, np.array([True, False, False]), 5).points).all()


def test_beats_all_alike_lie_at_one_point() -> None:
    alike = beat_map(np.full((12, 4), 0.3, np.float32), np.arange(12) < 6, 5)
    assert not alike.points.any()
    assert np.isnan(alike.purity)


def test_at_most_half_of_the_picked_beats_are_of_one_label() -> None:
    positive = np.array([True] * 3 + [False] * 97)
    picked = pick(positive, 20, stream("pick"))
    assert positive[picked].sum() == 3
    assert len(picked) == 13
    assert len(set(picked.tolist())) == 13
