"""Probabilities, alarms and votes along the potassium scale, on numbers one can check by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit, logit

from client.learning.calibration import (
    MIN_STRIPS_POOLED,
    POTASSIUM_EDGES,
    PREVALENCES,
    alarm_forecasts,
    alarms,
    calibration_error_by_chance,
    expected_calibration_error,
    pooled_brier,
    reliability,
    strip_probability,
    vote_correlation,
    votes_by_value,
)
from common.errors import ConfigurationError, ModelError
from common.intervals import t_interval, wilson
from common.metrics import Confusion
from common.seeding import stream

shares = st.floats(0.001, 0.999)
# Hundredths, so that equal probabilities are frequent.
forecasts = st.lists(
    st.tuples(st.integers(0, 100).map(lambda k: k / 100), st.booleans()), min_size=50, max_size=120
)


def columns(pairs: list[tuple[float, bool]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([p for p, _ in pairs]), np.array([y for _, y in pairs], bool)


# --- probability ---


def test_a_score_that_says_nothing_leaves_the_prevalence() -> None:
    assert strip_probability(np.zeros(1), 0.5, 0.02) == pytest.approx(0.02)


def test_at_the_training_balance_it_is_the_sigmoid() -> None:
    logits = np.array([-3.0, 0.0, 2.0])
    assert strip_probability(logits, 0.5, 0.5) == pytest.approx(expit(logits))
    assert strip_probability(logits, 0.1, 0.1) == pytest.approx(expit(logits))


@given(logit_=st.floats(-15, 15), trained=shares, prevalence=shares)
def test_the_correction_is_bayes_rule(logit_: float, trained: float, prevalence: float) -> None:
    # The model's odds over those of its training strips are the likelihood ratio of the strip.
    ratio = math.exp(logit_) / (trained / (1 - trained))
    expected = ratio * prevalence / (ratio * prevalence + 1 - prevalence)
    assert strip_probability(np.array([logit_]), trained, prevalence) == pytest.approx(expected)


def test_a_higher_prevalence_moves_every_probability_by_the_same_log_odds() -> None:
    logits = np.linspace(-4, 4, 9)
    low, high = (logit(strip_probability(logits, 0.5, p)) for p in (0.01, 0.05))
    assert high - low == pytest.approx(np.full(9, logit(0.05) - logit(0.01)))


def test_a_model_of_balanced_strips_is_calibrated_at_another_prevalence_only_when_corrected() -> None:
    generator = stream("test", "prior")
    positive = generator.random(4000) < 0.05
    # Two normal scores one unit either side of zero: their log likelihood ratio is twice the score.
    logits = 2 * generator.normal(np.where(positive, 1.0, -1.0))
    right, wrong = strip_probability(logits, 0.5, 0.05), strip_probability(logits, 0.5, 0.5)
    by_chance = calibration_error_by_chance(right)
    errors = [expected_calibration_error(p, positive) for p in (right, wrong)]
    assert by_chance is not None
    assert errors[0] is not None
    assert errors[1] is not None
    assert errors[0] < 2 * by_chance < errors[1]
    curve = reliability(right, positive)
    assert curve is not None
    assert sum(one.low <= one.mean_probability <= one.high for one in curve) >= 8


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, math.nan])
def test_a_share_that_has_no_odds_is_refused(share: float) -> None:
    with pytest.raises(ConfigurationError, match="prevalence lies above 0 and below 1"):
        strip_probability(np.zeros(1), 0.5, share)
    with pytest.raises(ConfigurationError, match="trained_share"):
        strip_probability(np.zeros(1), share, 0.5)
    with pytest.raises(ConfigurationError, match="prevalence"):
        alarms(0.9, 0.9, share)


def test_a_score_that_is_no_number_is_refused() -> None:
    with pytest.raises(ModelError, match="NaN"):
        strip_probability(np.array([0.0, math.nan]), 0.5, 0.5)


# --- calibration ---


def test_below_fifty_strips_there_is_no_figure() -> None:
    for n, there in ((MIN_STRIPS_POOLED - 1, False), (MIN_STRIPS_POOLED, True)):
        probability, positive = np.full(n, 0.3), np.zeros(n, bool)
        figures = [
            pooled_brier(probability, positive),
            reliability(probability, positive),
            expected_calibration_error(probability, positive),
            calibration_error_by_chance(probability),
        ]
        assert [figure is not None for figure in figures] == [there] * 4


def test_bins_hold_equal_numbers_and_at_least_ten_strips() -> None:
    for n, bins in ((50, 5), (60, 6), (100, 10), (1000, 10)):
        curve = reliability(np.arange(n) / n, np.zeros(n, bool))
        assert curve is not None
        assert [one.n for one in curve] == [n // bins] * bins


def test_a_bin_by_hand() -> None:
    probability = np.repeat([0.05, 0.15, 0.25, 0.35, 0.85], 10)
    positive = np.zeros(50, bool)
    positive[[0, 40, 41, 42, 43, 44, 45]] = True
    curve = reliability(probability, positive)
    assert curve is not None
    assert [(one.n, one.n_positive) for one in curve] == [(10, 1), (10, 0), (10, 0), (10, 0), (10, 6)]
    assert [one.mean_probability for one in curve] == pytest.approx([0.05, 0.15, 0.25, 0.35, 0.85])
    assert curve[4].share == 0.6
    assert (curve[4].low, curve[4].high) == wilson(6, 10)
    expected = (0.05 + 0.15 + 0.25 + 0.35 + 0.25) / 5
    assert expected_calibration_error(probability, positive) == pytest.approx(expected)


def test_equal_probabilities_share_a_bin_even_if_all_are_equal() -> None:
    positive = np.arange(80) < 20
    curve = reliability(np.full(80, 0.4), positive)
    assert curve is not None
    assert [(one.n, one.n_positive) for one in curve] == [(80, 20)]
    assert expected_calibration_error(np.full(80, 0.4), positive) == pytest.approx(0.15)


@settings(deadline=None, max_examples=40)
@given(pairs=forecasts, seed=st.integers(0, 1000))
def test_the_order_of_strips_does_not_matter_and_every_strip_counts(
    pairs: list[tuple[float, bool]], seed: int
) -> None:
    probability, positive = columns(pairs)
    order = stream("test", "order", seed).permutation(len(pairs))
    curve, shuffled = reliability(probability, positive), reliability(probability[order], positive[order])
    assert curve is not None
    assert shuffled is not None
    assert [(one.n, one.n_positive) for one in curve] == [(one.n, one.n_positive) for one in shuffled]
    assert sum(one.n for one in curve) == len(pairs)
    assert sum(one.n_positive for one in curve) == positive.sum()
    means = [one.mean_probability for one in curve]
    assert means == sorted(means)


@settings(deadline=None, max_examples=40)
@given(pairs=forecasts)
def test_the_error_lies_between_that_of_the_mean_and_that_of_single_strips(
    pairs: list[tuple[float, bool]],
) -> None:
    probability, positive = columns(pairs)
    error, square = expected_calibration_error(probability, positive), pooled_brier(probability, positive)
    assert error is not None
    assert square is not None
    assert abs(probability.mean() - positive.mean()) - 1e-12 <= error <= math.sqrt(square) + 1e-12


def test_the_error_by_chance_of_one_bin_is_that_of_a_binomial() -> None:
    k = np.arange(61)
    expected = stats.binom.pmf(k, 60, 0.3) @ np.abs(k - 18) / 60
    assert calibration_error_by_chance(np.full(60, 0.3)) == pytest.approx(expected)
    assert calibration_error_by_chance(np.repeat([0.0, 1.0], 30)) == 0


def test_the_error_by_chance_is_what_true_probabilities_show_on_average() -> None:
    generator = stream("test", "chance")
    probability = generator.beta(0.5, 4, 90)
    errors = [expected_calibration_error(probability, generator.random(90) < probability) for _ in range(800)]
    values = [error for error in errors if error is not None]
    assert np.mean(values) == pytest.approx(calibration_error_by_chance(probability), rel=0.05)


@pytest.mark.parametrize("bad", [math.nan, -0.1, 1.1])
def test_what_is_no_probability_is_refused(bad: float) -> None:
    probability = np.full(50, 0.5)
    probability[7] = bad
    with pytest.raises(ModelError, match="between 0 and 1"):
        reliability(probability, np.zeros(50, bool))
    with pytest.raises(ModelError, match="between 0 and 1"):
        calibration_error_by_chance(probability)


# --- alarms ---


def test_alarms_of_a_good_model_at_one_percent_are_mostly_false() -> None:
    one = alarms(0.9, 0.9, 0.01)
    assert one.false_per_day == pytest.approx(144 * 0.99 * 0.1)
    assert one.per_day == pytest.approx(144 * 0.99 * 0.1 + 144 * 0.01 * 0.9)
    assert one.predictive_value == pytest.approx(1 / 12)


def test_without_alarms_there_is_no_predictive_value() -> None:
    silent = alarms(0.0, 1.0, 0.02)
    assert (silent.per_day, silent.false_per_day) == (0, 0)
    assert math.isnan(silent.predictive_value)


def test_a_forecast_for_each_stated_prevalence() -> None:
    forecast = alarm_forecasts(Confusion(tp=30, fn=10, tn=50, fp=10))
    assert [one.point.prevalence for one in forecast] == list(PREVALENCES)
    assert forecast[2].point == alarms(0.75, 50 / 60, 0.05)
    values = [one.point.predictive_value for one in forecast]
    assert values == sorted(values)


@settings(deadline=None)
@given(
    tp=st.integers(1, 60), fn=st.integers(0, 60), tn=st.integers(0, 60), fp=st.integers(1, 60),
    prevalence=shares,
)  # fmt: skip
def test_no_pair_of_shares_within_their_intervals_leaves_the_range(
    tp: int, fn: int, tn: int, fp: int, prevalence: float
) -> None:
    [forecast] = alarm_forecasts(Confusion(tp=tp, fn=fn, tn=tn, fp=fp), [prevalence])
    grid = [np.linspace(*wilson(k, k + rest), 5) for k, rest in ((tp, fn), (tn, fp))]
    inside = [alarms(float(a), float(b), prevalence) for a, b in itertools.product(*grid)]
    for name in ("predictive_value", "per_day", "false_per_day"):
        low, high = getattr(forecast, name)
        values = [getattr(one, name) for one in inside]
        assert (min(values), max(values)) == pytest.approx((low, high))
        assert low <= getattr(forecast.point, name) <= high


def test_the_range_of_the_predictive_value_holds_the_truth_more_often_than_19_times_in_20() -> None:
    generator = stream("test", "coverage")
    truth, held = alarms(0.8, 0.9, 0.05), 0
    for _ in range(1000):
        tp, tn = int(generator.binomial(40, 0.8)), int(generator.binomial(60, 0.9))
        [forecast] = alarm_forecasts(Confusion(tp=tp, fn=40 - tp, tn=tn, fp=60 - tn), [0.05])
        low, high = forecast.predictive_value
        held += low <= truth.predictive_value <= high
    assert held / 1000 > 0.95


def test_without_positive_strips_only_false_alarms_can_be_told() -> None:
    [forecast] = alarm_forecasts(Confusion(tn=45, fp=5), [0.02])
    assert forecast.point.false_per_day == pytest.approx(144 * 0.98 * 0.1)
    assert not any(map(math.isnan, forecast.false_per_day))
    assert all(map(math.isnan, (*forecast.predictive_value, *forecast.per_day)))


# --- votes and potassium ---


def test_the_gap_is_exactly_one_bin() -> None:
    # Negative up to 5.0, gap above 5.0 to 5.5, positive above 5.5.
    values = np.array([5.0, 5.1, 5.3, 5.5, 5.6])
    bins = votes_by_value(values, np.zeros(5), np.arange(5))
    filled = {(one.above, one.up_to): one.n for one in bins if one.n}
    assert filled == {(4.5, 5.0): 1, (5.0, 5.5): 3, (5.5, 6.0): 1}


def test_a_bin_of_votes_by_hand() -> None:
    values = np.array([6.1, 6.2, 6.3, 6.4, 6.5, 3.6, 8.0, math.nan])
    votes = np.array([0.1, 0.9, 0.5, 0.4, 0.8, 0.0, 1.0, 0.3])
    bins = votes_by_value(values, votes, np.array([1, 1, 2, 2, 2, 3, 4, 5]))
    assert len(bins) == len(POTASSIUM_EDGES) + 1
    lowest, highest = bins[0], bins[-1]
    assert (lowest.above, lowest.up_to, lowest.n, lowest.median) == (None, 4.0, 1, 0.0)
    assert (highest.above, highest.up_to, highest.n, highest.median) == (7.0, None, 1, 1.0)
    middle = next(one for one in bins if one.above == 6.0)
    assert (middle.n, middle.patients) == (5, 2)
    assert (middle.lower_quartile, middle.median, middle.upper_quartile) == (0.4, 0.5, 0.8)
    assert sum(one.n for one in bins) == 7  # the strip without a value is in none


def test_an_empty_bin_has_no_votes_to_describe() -> None:
    empty = votes_by_value(np.empty(0), np.empty(0), np.empty(0, np.int64))[3]
    assert (empty.n, empty.patients) == (0, 0)
    assert all(map(math.isnan, (empty.lower_quartile, empty.median, empty.upper_quartile)))


def test_patients_who_differ_can_hide_that_votes_do_not_follow_potassium_within_them() -> None:
    # Within each patient votes fall as potassium rises; between patients they rise together.
    patients = np.repeat(np.arange(7), 5)
    step = np.tile(np.arange(5), 7)
    found = vote_correlation(4 + patients + step / 100, patients / 10 - step / 1000, patients, stream("test"))
    assert (found.n_strips, found.n_patients, found.n_flat) == (35, 7, 0)
    assert found.pooled > 0.9
    assert found.within == pytest.approx(-1)
    assert found.interval is not None
    assert found.interval[:2] == pytest.approx((-1, -1))


def test_patients_with_few_strips_are_left_out_and_flat_ones_counted() -> None:
    patients = np.repeat([1, 2, 3, 4], [5, 5, 5, 4])
    values = np.concatenate([np.arange(5), np.arange(5), np.full(5, 4.2), np.arange(4)]).astype(float)
    votes = np.concatenate([[0.1, 0.2, 0.3, 0.5, 0.4], np.full(5, 1.0), np.arange(5) / 5, np.arange(4) / 4])
    found = vote_correlation(values, votes, patients, stream("test"))
    assert (found.n_patients, found.n_flat) == (1, 2)
    assert found.within == pytest.approx(0.9)  # one swap of neighbours: 1 − 6 · 2 / (5 · 24)
    assert found.interval is None


def test_the_interval_is_that_of_the_patients_values_whatever_their_number_of_strips() -> None:
    generator = stream("test", "patients")
    sizes = [5, 6, 7, 8, 9, 40]
    patients = np.repeat(np.arange(6), sizes)
    values, votes = generator.normal(5, 1, 75), generator.random(75)
    own = [stats.spearmanr(values[patients == p], votes[patients == p]).statistic for p in range(6)]
    found = vote_correlation(values, votes, patients, stream("test"))
    assert found.within == pytest.approx(np.mean(own))
    assert found.interval == pytest.approx(t_interval(own))
    assert found.pooled == pytest.approx(stats.spearmanr(values, votes).statistic)


def test_no_correlation_of_fewer_than_five_strips_and_none_of_strips_without_a_value() -> None:
    values = np.array([4.0, 5.0, 6.0, 7.0, math.nan])
    found = vote_correlation(values, np.arange(5) / 5, np.ones(5, np.int64), stream("test"))
    assert (found.n_strips, found.n_patients, found.n_flat) == (4, 0, 0)
    assert math.isnan(found.pooled)
    assert math.isnan(found.within)
