"""Attacks on what is sent: subtracting, adding and combining numbers must never give a small group."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.learning.differencing import Group, Sizes, cut, reduced


def told(groups: Sequence[Group], min_cell: int = 5, known: Sequence[Group] = ()) -> list[bool]:
    sizes = Sizes(min_cell)
    sizes.know(*known)
    return [sizes.tell(group) for group in groups]


def r(low: int, high: int) -> frozenset[int]:
    return frozenset(range(low, high))


def test_a_group_of_four_is_not_told_and_one_of_five_is() -> None:
    assert told([r(0, 4), r(10, 15), frozenset()]) == [False, True, True]


def test_a_step_that_loses_few_patients_is_not_told() -> None:
    assert told([r(0, 40), r(0, 38), r(0, 35)]) == [True, False, True]


def test_the_rest_of_a_whole_is_not_told_away() -> None:
    """24 train, 8 validation and 5 test of 40 in the cohort: three are personal."""
    splits = [r(0, 24), r(24, 32), r(32, 37)]
    assert told([r(0, 40)], known=splits) == [False]
    assert told([r(0, 42)], known=splits) == [True]
    assert told([r(0, 37)], known=splits) == [True]


def test_two_labels_that_cover_everybody_do_not_tell_who_has_both() -> None:
    """12 with positive and 20 with negative strips of 30: two have both."""
    assert told([r(0, 30), r(0, 12), r(10, 30)]) == [True, True, False]
    assert told([r(0, 30), r(0, 15), r(10, 30)]) == [True, True, True]


def test_what_was_known_before_stays_known_but_nothing_small_is_added() -> None:
    assert told([r(0, 20)], known=[r(0, 10), r(0, 8)]) == [True]
    assert told([r(0, 20), r(0, 17)], known=[r(0, 10), r(0, 8)]) == [True, False]


def test_a_run_with_two_more_patients_does_not_answer_again() -> None:
    assert told([r(0, 32)], known=[r(0, 30)]) == [False]
    assert told([r(0, 35)], known=[r(0, 30)]) == [True]
    assert told([r(0, 30)], known=[r(0, 30)]) == [True]


def test_draws_count_by_the_patients_behind_them() -> None:
    """Twenty draws of four patients are four patients."""
    owner = {draw: draw // 5 for draw in range(100)}
    sizes = Sizes(5, owner)
    assert not sizes.tell(r(0, 20))
    assert sizes.tell(r(0, 60))
    assert not sizes.tell(r(0, 45))  # the fifteen draws between belong to three patients
    assert sizes.tell(r(0, 30))


def follows(group: Group, sent: Sequence[Group]) -> bool:
    """Say by brute force whether a group is a combination of others: by rank, on single patients."""
    everybody = sorted(frozenset().union(*sent))
    if not group <= set(everybody):
        return False
    matrix = np.array([[p in one for p in everybody] for one in sent], float)
    row = np.array([p in group for p in everybody], float)
    return np.linalg.matrix_rank(np.vstack([matrix, row])) == np.linalg.matrix_rank(matrix)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.frozensets(st.integers(0, 9)), min_size=1, max_size=6), st.integers(2, 5))
def test_no_small_group_is_a_combination_of_what_was_told(groups: list[Group], smallest: int) -> None:
    sizes = Sizes(smallest)
    sent = [group for group in groups if sizes.tell(group) and group]
    if not sent:
        return
    people = sorted(frozenset().union(*sent))
    for taken in product((False, True), repeat=len(people)):
        group = frozenset(p for p, inside in zip(people, taken, strict=True) if inside)
        if 0 < len(group) < smallest:
            assert not follows(group, sent), (group, sent)


@given(st.lists(st.frozensets(st.integers(0, 9)), min_size=1, max_size=5))
def test_pieces_are_disjoint_and_every_group_is_made_of_them(groups: list[Group]) -> None:
    pieces, indicators = cut(groups)
    assert sum(map(len, pieces)) == len(frozenset().union(*groups))
    for group, row in zip(groups, indicators, strict=True):
        assert (
            frozenset().union(*(piece for piece, inside in zip(pieces, row, strict=True) if inside)) == group
        )


def test_reduced_rows_have_a_one_at_their_pivot_alone() -> None:
    matrix = np.array([[1, 1, 0, 1], [1, 0, 1, 0], [0, 1, -1, 1]], float)
    rows, pivots = reduced(matrix)
    assert rows.shape == (2, 4)
    np.testing.assert_array_equal(rows[:, pivots], np.eye(2))


@pytest.mark.parametrize("count", [3, 6])
def test_the_order_decides_who_gives_way_not_whether(count: int) -> None:
    groups = [r(0, 10 * number) for number in range(1, count)]
    assert all(told(groups))
    assert all(told(groups[::-1]))


def test_too_many_undecided_pieces_keep_the_number_inside() -> None:
    """Fifteen patients known one by one cannot all be searched; the next number then stays."""
    known = [frozenset({i}) for i in range(16)]
    assert told([r(0, 16) | r(100, 120)], known=known) == [False]
