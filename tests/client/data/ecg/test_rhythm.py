"""Atrial fibrillation is irregular, sinus rhythm and bigeminy are not, and pacing is wide and fixed."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from client.data.ecg.rhythm import (
    atrial_fibrillation,
    coefficient_of_sample_entropy,
    median_sample_entropy,
    pacing_suspected,
    qrs_width_ms,
    window_entropies,
)
from common.errors import SignalError
from common.seeding import stream

Array = npt.NDArray[np.float64]
Make = Callable[..., Array]


def test_cosen_of_seven_intervals_by_hand() -> None:
    """Five stretches of one interval are 0.8 s: 10 pairs. Four of them go on with 0.8 s: 6 pairs."""
    rr = np.array([0.8, 0.8, 0.8, 0.8, 1.0, 0.8, 0.8])
    expected = math.log(10 / 6) + math.log(2 * 0.03) - math.log(5.8 / 7)
    assert coefficient_of_sample_entropy(rr) == pytest.approx(expected, abs=1e-12)


def test_with_stretches_of_two_by_hand() -> None:
    """Stretches of two from 0.8 0.8 0.8 0.8 1.0 0.8 0.8 0.8: 0 1 2 5 alike (6 pairs); 0 1 and 5 go on (3)."""
    rr = np.array([0.8, 0.8, 0.8, 0.8, 1.0, 0.8, 0.8, 0.8])
    # three matches are fewer than five, so r doubles to 0.06, 0.12 and 0.24 s, where all 15 pairs match
    expected = math.log(15 / 15) + math.log(2 * 0.24) - math.log(rr.mean())
    assert coefficient_of_sample_entropy(rr, m=2) == pytest.approx(expected, abs=1e-12)


def test_a_widened_tolerance_gives_the_entropy_at_that_tolerance() -> None:
    rr = 0.5 + 0.5 * stream("few matches").random(12)
    assert coefficient_of_sample_entropy(rr, r_s=1e-6 * 2**15) == coefficient_of_sample_entropy(rr, r_s=1e-6)


def test_a_constant_rhythm_has_the_least_entropy() -> None:
    assert coefficient_of_sample_entropy(np.full(100, 0.75)) == pytest.approx(math.log(0.06 / 0.75))


def test_too_few_intervals_have_no_entropy() -> None:
    assert math.isnan(coefficient_of_sample_entropy(np.array([0.8, 0.8])))


@pytest.mark.parametrize("bad", [np.nan, 0.0, -1.0])
def test_an_interval_is_a_positive_time(bad: float) -> None:
    with pytest.raises(SignalError, match="positive number of seconds"):
        coefficient_of_sample_entropy(np.array([0.8, bad, 0.8, 0.8]))


def intervals(times: Array) -> tuple[Array, Array]:
    return np.diff(times), times[1:]


def test_fibrillation_is_found_and_sinus_rhythm_is_not(regular: Make, irregular: Make) -> None:
    assert atrial_fibrillation(*intervals(irregular(600.0)), -1.0)
    assert not atrial_fibrillation(*intervals(regular(600.0)), -1.0)


@pytest.mark.parametrize("rate_hz", [125.0, 500.0])
def test_the_sampling_grid_does_not_matter(regular: Make, irregular: Make, rate_hz: float) -> None:
    for make, expected in ((irregular, True), (regular, False)):
        times = np.round(make(600.0) * rate_hz) / rate_hz
        assert atrial_fibrillation(*intervals(times), -1.0) is expected


def test_bigeminy_and_respiration_are_not_fibrillation() -> None:
    beat = np.arange(700)
    bigeminy = np.where(beat % 2 == 0, 0.55, 1.05)
    respiration = 0.8 + 0.08 * np.sin(2 * np.pi * beat / 5)
    for rr in (bigeminy, respiration):
        assert not atrial_fibrillation(rr, np.cumsum(rr), -1.0)


def test_one_bad_window_does_not_decide(regular: Make, irregular: Make) -> None:
    rr, times = intervals(np.concatenate([irregular(120.0), 120.0 + regular(480.0)]))
    assert not atrial_fibrillation(rr, times, -1.0)


def test_gaps_are_left_out_and_short_windows_say_nothing() -> None:
    rr = np.full(100, 0.8)
    times = np.cumsum(rr)
    with_gaps = rr.copy()
    with_gaps[[3, 50]] = np.nan
    assert median_sample_entropy(with_gaps, times) == pytest.approx(median_sample_entropy(rr, times))
    assert math.isnan(median_sample_entropy(rr[:29], times[:29]))
    assert not atrial_fibrillation(rr[:29], times[:29], -1.0)


def qrs(width_s: float) -> Array:
    time = (np.arange(120) - 40) / 125
    return np.exp(-0.5 * (time / width_s) ** 2)


def test_wider_complexes_measure_wider() -> None:
    widths = [qrs_width_ms(qrs(sigma), 40) for sigma in (0.012, 0.02, 0.03)]
    assert widths == sorted(widths)
    assert widths[0] < 100
    assert widths[-1] > 140


def test_width_does_not_depend_on_gain_or_side() -> None:
    assert qrs_width_ms(-1e3 * qrs(0.02), 40) == qrs_width_ms(qrs(0.02), 40)


def test_pacing_needs_both_a_wide_complex_and_a_fixed_rate() -> None:
    fixed, times = np.full(200, 0.8), np.arange(200) * 0.8
    varying = 0.8 + 0.03 * stream("sinus").standard_normal(200)
    assert pacing_suspected(160.0, fixed, times)
    assert not pacing_suspected(90.0, fixed, times)
    assert not pacing_suspected(160.0, varying, times)
    assert not pacing_suspected(160.0, fixed[:10], times[:10])


def test_windows_are_two_minutes_from_the_start_and_too_short_ones_are_left_out() -> None:
    times = np.concatenate(
        [np.arange(1, 140) * 0.8, 240 + np.arange(1, 20) * 0.8, 360 + np.arange(1, 60) * 1.0]
    )
    rr = np.full(len(times), 0.8)
    assert set(window_entropies(rr, times)) == {0, 3}
    assert window_entropies(rr, times)[0] == pytest.approx(math.log(0.06 / 0.8))
