"""Which ten seconds of a strip are enlarged."""

from __future__ import annotations

import numpy as np
import pytest

from client.review.excerpts import EXCERPT_S, choose

RATE = 125.0


def quiet(seconds: float) -> np.ndarray:
    return 0.01 * np.random.default_rng(0).standard_normal(round(seconds * RATE))


def test_start_middle_and_the_part_with_most_rejected_beats():
    found = choose(quiet(600), RATE, [401.0, 402.0, 403.0, 90.0])
    assert [one.why for one in found] == ["start", "middle", "worst"]
    start, middle, worst = found
    assert start.start_s == 0
    assert middle.start_s == pytest.approx(295, abs=2.5)
    assert worst.start_s <= 401
    assert worst.end_s > 403


def test_among_equals_the_roughest_part_is_the_worst():
    signal = quiet(600)
    signal[round(500 * RATE) : round(510 * RATE)] += np.random.default_rng(1).normal(0, 0.5, 1250)
    (worst,) = (one for one in choose(signal, RATE, []) if one.why == "worst")
    assert worst.start_s == 500


def test_excerpts_never_overlap():
    for rejected in ([2.0], [296.0, 299.0], [599.0], []):
        starts = [one.start_s for one in choose(quiet(600), RATE, rejected)]
        assert len(starts) == 3
        assert min(np.diff(starts)) >= EXCERPT_S


def test_gaps_are_not_enlarged():
    signal = np.full(round(600 * RATE), np.nan)
    signal[round(430 * RATE) : round(500 * RATE)] = quiet(70)
    for one in choose(signal, RATE, []):
        part = signal[round(one.start_s * RATE) : round(one.end_s * RATE)]
        assert np.isfinite(part).mean() >= 0.5


@pytest.mark.parametrize(("seconds", "expected"), [(0.5, 1), (9.0, 1), (10.0, 1), (25.0, 2), (60.0, 3)])
def test_a_short_window_has_fewer_excerpts(seconds: float, expected: int):
    assert len(choose(quiet(seconds), RATE, [seconds - 0.1])) == expected


def test_a_window_in_which_nothing_was_recorded_has_none():
    assert choose(np.full(1000, np.nan), RATE, []) == []
    assert choose(np.empty(0), RATE, []) == []


def test_choice_does_not_depend_on_the_unit():
    signal = quiet(600)
    signal[round(100 * RATE) : round(105 * RATE)] *= 8
    assert choose(signal, RATE, []) == choose(1000 * signal, RATE, [])
