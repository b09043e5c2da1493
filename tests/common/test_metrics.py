"""Sums of sites are the figures of all patients together."""

from __future__ import annotations

import itertools
import math
from functools import reduce
from operator import add

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import brier_score_loss, roc_auc_score

from common.errors import ModelError, ProtocolError
from common.metrics import (
    Confusion,
    Moments,
    PatientLoss,
    ScoreHistogram,
    auc,
    bootstrap_mean,
    brier,
    log_loss_of_probability,
    mean_interval,
    stratified_interval,
    t_interval,
    wilson,
)
from common.seeding import stream

labels = st.booleans()
logits = st.floats(-40, 40, allow_nan=False)
scored = st.lists(st.tuples(logits, labels), max_size=60)
# Sixteenths add without rounding, so that sums can be compared exactly.
sixteenths = st.integers(-160, 160).map(lambda k: k / 16)


def columns(pairs: list[tuple[float, bool]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([p[0] for p in pairs], float), np.array([p[1] for p in pairs], bool)


def confusion(pairs: list[tuple[float, bool]]) -> Confusion:
    scores, positive = columns(pairs)
    return Confusion.of(scores > 0, positive)


def histogram(pairs: list[tuple[float, bool]]) -> ScoreHistogram:
    return ScoreHistogram.of(*columns(pairs))


def moments(pairs: list[tuple[float, bool]]) -> Moments:
    return Moments.of(round(score) / 16 for score, _ in pairs)


def patient_loss(pairs: list[tuple[float, bool]]) -> PatientLoss:
    losses = np.array([round(score) / 16 for score, _ in pairs])
    return PatientLoss.of(losses, np.arange(len(pairs)))


KINDS = pytest.mark.parametrize("of", [confusion, histogram, moments, patient_loss])


# --- adding up ---


@KINDS
@given(a=scored, b=scored, c=scored)
def test_sites_add_up_to_the_pooled_patients_in_any_order_and_grouping(of, a, b, c):
    pooled = of(a + b + c)
    for x, y, z in itertools.permutations([of(a), of(b), of(c)]):
        assert (x + y) + z == x + (y + z) == pooled
    assert pooled + type(pooled)() == pooled


@KINDS
@given(pairs=scored)
def test_what_travels_comes_back(of, pairs):
    value = of(pairs)
    assert type(value).from_flat(value.as_flat("any.prefix"), "any.prefix") == value


@KINDS
def test_a_missing_key_is_named(of):
    value = of([(1.0, True), (-1.0, False)])
    for key in value.as_flat("p"):
        flat = {k: v for k, v in value.as_flat("p").items() if k != key}
        with pytest.raises(ProtocolError, match=key):
            type(value).from_flat(flat, "p")


# Flower's own imports warn about a library below it.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_key_is_in_the_protocol():
    from common import protocol

    pairs = [(1.5, True), (-0.5, False)]
    personal = (
        confusion(pairs).as_flat("generic.beat")
        | histogram(pairs).as_flat("generic.histogram")
        | moments(pairs).as_flat("personal.closed_form.5.beat-auc")
    )
    protocol.check(protocol.reply(personal), protocol.PERSONALIZE, "reply")
    protocol.check(protocol.reply(patient_loss(pairs).as_flat("validation")), protocol.EVALUATE, "reply")


# --- confusion ---


def test_figures_of_a_table_one_can_check_by_hand():
    table = Confusion(tp=8, fp=4, tn=36, fn=2)
    assert table.total == 50
    assert table.accuracy == 44 / 50
    assert table.sensitivity == 8 / 10
    assert table.specificity == 36 / 40
    assert table.positive_predictivity == 8 / 12
    assert table.f1 == pytest.approx(2 / (1 / (8 / 10) + 1 / (8 / 12)))


def test_figures_without_cases_do_not_exist_and_missing_all_positives_is_f1_of_zero():
    nothing = Confusion()
    for figure in ("accuracy", "sensitivity", "specificity", "positive_predictivity", "f1"):
        assert math.isnan(getattr(nothing, figure))
    negatives = Confusion(tn=5)
    assert math.isnan(negatives.sensitivity)
    assert negatives.specificity == 1
    assert Confusion(fn=3, tn=5).f1 == 0


# --- area under the curve ---


def test_auc_is_the_share_of_pairs_in_right_order():
    assert auc(np.array([1, 2, 3, 4]), np.array([False, True, False, True])) == 3 / 4
    assert auc(np.array([1, 1]), np.array([False, True])) == 1 / 2
    assert math.isnan(auc(np.array([1, 2]), np.array([True, True])))
    assert math.isnan(auc(np.array([]), np.array([], bool)))


both = scored.filter(lambda pairs: len({label for _, label in pairs}) == 2)
coarse = st.lists(st.tuples(st.integers(-8, 8), labels), min_size=2, max_size=40).filter(
    lambda pairs: len({label for _, label in pairs}) == 2
)


@given(coarse)
def test_auc_with_ties_is_that_of_scikit_learn(pairs):
    scores, positive = columns(pairs)
    assert auc(scores, positive) == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)


@given(coarse)
def test_auc_depends_on_the_order_of_scores_only(pairs):
    scores, positive = columns(pairs)
    for same in (scores * 3 + 7, scores**3, np.exp(scores), np.arctan(scores)):
        assert auc(same, positive) == auc(scores, positive)
    assert auc(-scores, positive) == pytest.approx(1 - auc(scores, positive))
    assert auc(scores, ~positive) == pytest.approx(1 - auc(scores, positive))


@given(both)
def test_the_histograms_auc_is_within_its_bound_of_the_exact_one(pairs):
    scores, positive = columns(pairs)
    counted = ScoreHistogram.of(scores, positive)
    assert abs(counted.auc - auc(scores, positive)) <= counted.auc_error_bound + 1e-12


def test_the_bound_is_reached_when_all_pairs_share_a_bin_and_zero_when_none_does():
    crowded = ScoreHistogram.of(np.array([0.01, 0.02]), np.array([False, True]))
    assert (crowded.auc, crowded.auc_error_bound) == (0.5, 0.5)
    spread = ScoreHistogram.of(np.array([-3.0, 3.0]), np.array([False, True]))
    assert (spread.auc, spread.auc_error_bound) == (1.0, 0.0)


def test_for_logits_of_a_usual_model_the_bound_is_below_one_percent():
    generator = stream("histogram")
    positive = generator.random(5000) < 0.3
    scores = generator.normal(np.where(positive, 1.5, -1.5), 2.0)
    counted = ScoreHistogram.of(scores, positive)
    assert counted.auc_error_bound < 0.01
    assert counted.auc == pytest.approx(auc(scores, positive), abs=1e-3)


def test_logits_beyond_the_edges_are_counted_in_the_outermost_bins():
    counted = ScoreHistogram.of(np.array([-1e9, 1e9, -16.0, 16.0]), np.array([False, True, False, True]))
    assert (counted.negative[0], counted.positive[-1]) == (2, 2)
    assert sum(counted.positive) + sum(counted.negative) == 4


def test_a_histogram_has_no_auc_for_one_label_and_no_bin_for_nan():
    assert math.isnan(ScoreHistogram.of(np.array([1.0]), np.array([True])).auc)
    assert math.isnan(ScoreHistogram().auc_error_bound)
    with pytest.raises(ModelError, match="NaN"):
        ScoreHistogram.of(np.array([np.nan]), np.array([True]))
    with pytest.raises(ModelError, match="NaN"):
        auc(np.array([np.nan]), np.array([True]))


def test_a_histogram_of_another_length_is_refused():
    flat = ScoreHistogram().as_flat("p") | {"p.positive": [0] * 100}
    with pytest.raises(ProtocolError, match="512 bins"):
        ScoreHistogram.from_flat(flat, "p")
    with pytest.raises(ModelError, match="512 bins"):
        ScoreHistogram((1, 2), (3, 4))


# --- per-patient values ---


@given(st.lists(sixteenths, min_size=2, max_size=50))
def test_mean_and_sd_from_sums_are_those_of_the_values(values):
    sums = Moments.of(values)
    assert sums.mean == pytest.approx(np.mean(values), abs=1e-12)
    assert sums.sd == pytest.approx(np.std(values, ddof=1), abs=1e-6)


def test_patients_without_the_figure_are_left_out():
    assert Moments.of([0.5, math.nan, 1.0]) == Moments(2, 1.5, 1.25)
    assert math.isnan(Moments().mean)
    assert math.isnan(Moments.of([1.0]).sd)


def test_equal_values_have_no_spread_whatever_rounding_leaves():
    assert Moments.of([0.1] * 7).sd == pytest.approx(0, abs=1e-8)


def test_a_patient_with_many_beats_weighs_as_much_as_one_with_few():
    losses = np.concatenate([np.full(1000, 2.0), np.full(10, 1.0)])
    loss = PatientLoss.of(losses, np.repeat([7, 3], [1000, 10]))
    assert loss == PatientLoss(3.0, 2)
    assert loss.mean == 1.5
    assert math.isnan(PatientLoss().mean)
    assert PatientLoss.of(np.array([]), np.array([], int)) == PatientLoss()


# --- intervals ---


def test_the_t_interval_of_one_to_six_by_the_table():
    # mean 3.5, sd 1.8708, t(.975, 5) = 2.5706
    low, high, method = t_interval([1, 2, 3, 4, 5, 6])
    assert (low, high) == (pytest.approx(1.5367, abs=1e-4), pytest.approx(5.4633, abs=1e-4))
    assert method == "t, small sample"


def test_sums_give_the_same_interval_as_the_values():
    values = [0.5, 0.75, 1.0, 0.25, 0.5, 1.0, 0.875]
    low, high, method = t_interval(values)
    assert Moments.of(values).interval() == (pytest.approx(low), pytest.approx(high), method)


@pytest.mark.parametrize(
    ("n", "method"), [(5, None), (6, "t, small sample"), (20, "t, small sample"), (21, "bootstrap")]
)
def test_few_patients_have_a_point_some_a_marked_interval_many_a_bootstrap(n, method):
    values = stream("values", n).random(n)
    interval = mean_interval(values, stream("bootstrap"))
    assert (interval and interval.method) == method
    sums = Moments.of(values).interval()
    assert (sums and sums.method) == (method and method.replace("bootstrap", "t"))


def test_the_bootstrap_repeats_with_its_stream_and_ignores_the_order_of_patients():
    values = stream("values").random(25)
    first = bootstrap_mean(values, stream("bootstrap"))
    assert bootstrap_mean(values[::-1], stream("bootstrap")) == first
    assert bootstrap_mean(np.append(values, np.nan), stream("bootstrap")) == first
    assert bootstrap_mean(values, stream("another")) != first
    assert bootstrap_mean(values[:5], stream("bootstrap")) is None


def test_intervals_cover_the_truth_as_often_as_they_say():
    generator = stream("coverage")
    small = [t_interval(generator.normal(0.8, 0.1, 8)) for _ in range(1000)]
    large = [bootstrap_mean(generator.normal(0.8, 0.1, 40), generator, resamples=200) for _ in range(200)]
    # Site means differ; the mean over all patients is .8.
    sites = [
        stratified_interval([Moments.of(generator.normal(m, 0.1, n)) for m, n in ((0.7, 8), (0.85, 16))])
        for _ in range(1000)
    ]
    for intervals, slack in ((small, 0.02), (large, 0.05), (sites, 0.02)):
        assert np.mean([low <= 0.8 <= high for low, high, _ in intervals]) == pytest.approx(0.95, abs=slack)


def test_wilson_by_the_published_numbers():
    published = {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }  # Newcombe 1998, table I, method 3
    for (k, n), ends in published.items():
        assert wilson(k, n) == pytest.approx(ends, abs=5e-5)
    assert all(math.isnan(end) for end in wilson(0, 0))


@given(st.integers(1, 200), st.data())
def test_wilson_stays_between_0_and_1_holds_the_share_and_mirrors(n, data):
    k = data.draw(st.integers(0, n))
    low, high = wilson(k, n)
    assert 0 <= low <= k / n <= high <= 1
    assert wilson(n - k, n) == (pytest.approx(1 - high), pytest.approx(1 - low))


def test_one_site_is_its_own_t_interval():
    site = Moments.of(stream("site").random(9))
    low, high, method = stratified_interval([site, Moments()])
    assert (low, high) == pytest.approx(site.interval()[:2])
    assert method == "stratified t, small sample"


def test_differences_between_sites_do_not_widen_the_stratified_interval():
    generator = stream("sites")
    first, second = (generator.normal(mean, 0.05, 12) for mean in (0.6, 0.9))
    pooled = (Moments.of(first) + Moments.of(second)).interval()
    stratified = stratified_interval([Moments.of(first), Moments.of(second)])
    assert stratified.high - stratified.low < (pooled.high - pooled.low) / 2
    assert (stratified.high + stratified.low) / 2 == pytest.approx(np.mean(np.append(first, second)))


@settings(max_examples=50)
@given(st.lists(st.lists(sixteenths, max_size=6), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_the_order_of_sites_does_not_matter_and_single_patients_are_counted(sites, random):
    sums = [Moments.of(values) for values in sites]
    shuffled = sums.copy()
    random.shuffle(shuffled)
    interval, total = stratified_interval(sums), reduce(add, sums)
    if total.n < 6:
        assert interval is None
        return
    assert interval[:2] == pytest.approx(stratified_interval(shuffled)[:2])
    assert (interval.low + interval.high) / 2 == pytest.approx(total.mean, abs=1e-9)


def test_welchs_degrees_of_freedom_by_scipy():
    first, second = stream("a").normal(0, 1, 7), stream("b").normal(0, 3, 7)
    interval = stratified_interval([Moments.of(first), Moments.of(-second)])
    # With equal n the mean over patients is half the difference of the means of first and second.
    welch = stats.ttest_ind(first, second, equal_var=False).confidence_interval()
    assert interval[:2] == pytest.approx((welch.low / 2, welch.high / 2))


# --- probabilities ---


def test_brier_of_certain_and_undecided_forecasts():
    truth = np.array([True, False])
    assert brier(np.array([1.0, 0.0]), truth) == 0
    assert brier(np.array([0.5, 0.5]), truth) == 0.25
    assert math.isnan(brier(np.array([]), np.array([], bool)))


@given(st.lists(st.tuples(st.floats(0, 1), labels), min_size=1, max_size=30))
def test_brier_is_that_of_scikit_learn(pairs):
    probability, positive = columns(pairs)
    expected = brier_score_loss(positive, probability, pos_label=True)
    assert brier(probability, positive) == pytest.approx(expected, abs=1e-12)


def test_log_loss_item_by_item_and_finite_for_a_certain_mistake():
    loss = log_loss_of_probability(np.array([0.5, 0.9, 0.9, 0.0]), np.array([True, True, False, True]))
    assert loss == pytest.approx([math.log(2), -math.log(0.9), -math.log(0.1), math.log(1e7)])
