"""Differences within patients, and p values one can look up or enumerate."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from client.learning.comparisons import PairedDifference, mann_whitney, paired
from common.corrections import holm
from common.errors import ModelError
from common.intervals import mean_interval
from common.seeding import stream

# Quarters, as figures of four test strips are: ties and zeros everywhere.
quarters = st.lists(st.integers(-4, 4).map(lambda k: k / 4), min_size=6, max_size=10)
p_values = st.lists(st.none() | st.floats(0, 1), max_size=12)


def compare(a: list[float], b: list[float]) -> PairedDifference:
    return paired(a, b, "selected", "threshold", stream("test"))


def differences(values: list[float]) -> PairedDifference:
    return compare(values, [0.0] * len(values))


# --- paired ---


def test_a_difference_by_hand() -> None:
    found = compare([0.75, 1.0, 0.5, 1.0, 1.0, 0.25, 1.0], [0.5, 0.5, 0.5, 0.75, 0.75, 0.5, math.nan])
    assert (found.first, found.second, found.n) == ("selected", "threshold", 6)
    assert (found.better, found.equal, found.worse) == (4, 1, 1)
    values = [0.25, 0.5, 0.0, 0.25, 0.25, -0.25]
    assert found.mean == pytest.approx(1 / 6)
    assert found.sd == pytest.approx(np.std(values, ddof=1))
    assert found.interval == mean_interval(values, stream("test"))
    # Ranks 2.5 four times, and 5: of 32 sign patterns 5 have at most 2.5 below zero, and 5 above.
    assert found.p == pytest.approx(0.3125)


def test_six_patients_who_all_gain_cannot_be_surer_than_one_in_thirty_two() -> None:
    assert differences([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]).p == pytest.approx(2 / 64)
    assert differences([0.25] * 6).p == pytest.approx(2 / 64)


def test_fewer_than_six_patients_are_points_only() -> None:
    found = differences([0.1, 0.2, 0.3, 0.4, 0.5])
    assert (found.interval, found.p) == (None, None)
    assert found.mean == pytest.approx(0.3)
    alone, nobody = differences([0.5]), differences([])
    assert (alone.n, alone.mean) == (1, 0.5)
    assert math.isnan(alone.sd)
    assert (nobody.n, nobody.p) == (0, None)
    assert math.isnan(nobody.mean)


def test_without_any_difference_there_is_nothing_to_test() -> None:
    found = differences([0.0] * 8)
    assert (found.n, found.p, found.equal, found.mean) == (8, None, 8, 0.0)


def test_rounding_of_a_stored_figure_is_no_difference() -> None:
    found = compare([0.1 + 0.2, *[0.5] * 6], [0.3, *[0.25] * 6])
    assert (found.better, found.equal, found.worse) == (6, 1, 0)
    # 0.35 − 0.1 and 0.45 − 0.2 are a quarter each, but not the same float.
    assert compare([0.35, 0.45] * 4, [0.1, 0.2] * 4).p == differences([0.25] * 8).p


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(st.integers(1, 500), st.sampled_from([-1, 1]), min_size=6, max_size=40))
def test_without_ties_it_is_the_exact_test_of_scipy(signs: dict[int, int]) -> None:
    values = [size * sign / 1000 for size, sign in signs.items()]
    assert differences(values).p == pytest.approx(stats.wilcoxon(values, method="exact").pvalue)


@settings(deadline=None, max_examples=50)
@given(quarters)
def test_with_ties_every_assignment_of_signs_counts(values: list[float]) -> None:
    moved = np.array([value for value in values if value])
    found = differences(values).p
    if not len(moved):
        assert found is None
        return
    ranks = stats.rankdata(np.abs(moved))
    observed = abs(ranks @ np.sign(moved))
    sums = [abs(ranks @ np.array(signs)) for signs in itertools.product((-1, 1), repeat=len(ranks))]
    extreme = np.mean([one >= observed for one in sums])
    assert found == pytest.approx(extreme)


@given(quarters)
def test_exchanging_the_methods_turns_the_answer_round(values: list[float]) -> None:
    ahead, behind = differences(values), differences([-value for value in values])
    assert ahead.mean == -behind.mean
    assert ahead.p == pytest.approx(behind.p)
    assert (ahead.better, ahead.equal, ahead.worse) == (behind.worse, behind.equal, behind.better)


def test_many_patients_with_ties_agree_with_the_normal_approximation() -> None:
    values = stream("test", "many").integers(-3, 4, 120) / 4
    expected = stats.wilcoxon(values, method="asymptotic").pvalue
    assert differences(values.tolist()).p == pytest.approx(expected, abs=0.01)
    assert 0.05 < expected < 0.95


def test_patients_of_one_method_only_are_refused() -> None:
    with pytest.raises(ModelError, match="selected has figures of 3 patients, threshold of 2"):
        compare([1.0, 1.0, 1.0], [1.0, 1.0])


# --- Mann-Whitney ---


def test_two_groups_of_six_that_do_not_overlap() -> None:
    # One of the 924 ways to choose six ranks of twelve, at either end.
    assert mann_whitney([1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]) == pytest.approx(2 / 924)


def test_a_gain_of_every_patient_is_lost_between_unpaired_groups() -> None:
    before = [0.1, 0.3, 0.5, 0.7, 0.8, 0.9]
    after = [value + 0.05 for value in before]
    unpaired, own = mann_whitney(after, before), compare(after, before).p
    assert unpaired is not None
    assert own is not None
    assert own < 0.05 < unpaired


def test_ties_between_groups_are_corrected_for() -> None:
    a, b = [0.25, 0.5, 0.5, 0.75, 0.75, 1.0, 1.0], [0.0, 0.25, 0.25, 0.5, 0.5, 0.5, 0.75]
    together = stats.rankdata(a + b)
    u = together[:7].sum() - 7 * 8 / 2
    _, ties = np.unique(together, return_counts=True)
    variance = 7 * 7 / 12 * (15 - np.sum(ties**3 - ties) / (14 * 13))
    z = (abs(u - 24.5) - 0.5) / math.sqrt(variance)
    assert mann_whitney(a, b) == pytest.approx(2 * stats.norm.sf(z))


def test_small_or_constant_groups_have_no_test() -> None:
    assert mann_whitney([1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]) is None
    assert mann_whitney([1, 2, 3, 4, 5, math.nan], [6, 7, 8, 9, 10, 11]) is None
    assert mann_whitney([0.5] * 6, [0.5] * 6) is None


# --- Holm ---


def test_holm_by_hand() -> None:
    # Times 4, 3, 2, 1 in rising order: 0.02, 0.03, 0.06, then not below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_a_test_that_could_not_be_done_does_not_count() -> None:
    assert holm([None, 0.02, None, 0.03]) == [None, 0.04, None, 0.04]
    assert holm([None]) == [None]
    assert holm([]) == []


@given(p_values)
def test_corrected_values_lie_between_their_own_and_bonferronis_and_keep_their_order(
    values: list[float | None],
) -> None:
    pairs = [(p, q) for p, q in zip(values, holm(values), strict=True) if p is not None and q is not None]
    assert len(pairs) == sum(p is not None for p in values)
    assert all(p <= q <= min(1.0, len(pairs) * p) for p, q in pairs)
    assert [q for _, q in sorted(pairs)] == sorted(q for _, q in pairs)


@given(p_values, st.integers(0, 1000))
def test_the_order_of_the_tests_does_not_matter(values: list[float | None], seed: int) -> None:
    order = stream("test", "holm", seed).permutation(len(values))
    corrected = holm(values)
    assert holm([values[k] for k in order]) == [corrected[k] for k in order]
