"""The split rule: even, stable, blind to the order of rows."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.data.splits import Candidate, assign_splits, check_shares, furthest_below, small_strata
from common.errors import ConfigurationError
from common.seeding import key

SHARES = {"train": 6.0, "validation": 2.0, "test": 2.0}
patients = st.lists(st.tuples(st.integers(0, 10**6), st.booleans()), max_size=60, unique_by=lambda p: p[0])


def candidates(people: list[tuple[int, bool]]) -> list[Candidate]:
    return [Candidate(number, f"p{number}", int(positive), 1, 0) for number, positive in people]


def place(source: str) -> int:
    return key("north", 0, source)


def splits_of(people: list[Candidate]) -> dict[int, tuple[str, str]]:
    return assign_splits(people, SHARES, place)


@given(patients)
def test_each_stratum_is_within_one_patient_of_6_2_2(people: list[tuple[int, bool]]) -> None:
    counts = Counter(splits_of(candidates(people)).values())
    for stratum in ("positive", "negative"):
        size = sum(n for (_, of), n in counts.items() if of == stratum)
        for split, share in SHARES.items():
            assert abs(counts[split, stratum] - size * share / 10) <= 1


@given(patients, st.randoms())
def test_the_order_of_the_rows_does_not_matter(people: list[tuple[int, bool]], random: object) -> None:
    shuffled = list(people)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert splits_of(candidates(people)) == splits_of(candidates(shuffled))


@given(patients, patients)
def test_new_patients_never_move_old_ones(
    people: list[tuple[int, bool]], arrivals: list[tuple[int, bool]]
) -> None:
    before = splits_of(candidates(people))
    stored = [
        Candidate(number, f"p{number}", 1 - int(positive), 1, 0, *before[number])
        for number, positive in people
    ]
    new = [c for c in candidates(arrivals) if c.patient_id not in before]
    after = splits_of([*new, *stored])
    assert {patient: after[patient] for patient in before} == before
    assert set(after) == set(before) | {c.patient_id for c in new}


@given(patients)
def test_who_leaves_makes_room_that_the_next_ones_fill(people: list[tuple[int, bool]]) -> None:
    before = splits_of(candidates(people))
    left = [c for c in candidates(people) if before[c.patient_id][0] != "test"]
    stored = [Candidate(c.patient_id, c.source_key, c.n_positive, 1, 0, *before[c.patient_id]) for c in left]
    new = [Candidate(10**7 + i, f"n{i}", i % 2, 1, 0) for i in range(2 * len(people))]
    counts = Counter(split for split, _ in splits_of([*stored, *new]).values())
    total = len(stored) + len(new)
    assert abs(counts["test"] - total * 0.2) <= 2  # within one in each stratum


@pytest.mark.parametrize(
    ("n", "expected"), [(1, "1 0 0"), (2, "1 1 0"), (5, "3 1 1"), (10, "6 2 2"), (100, "60 20 20")]
)
def test_shares_by_hand(n: int, expected: str) -> None:
    counts: Counter[str] = Counter()
    for _ in range(n):
        counts[furthest_below(counts, SHARES)] += 1
    assert " ".join(str(counts[split]) for split in SHARES) == expected


def test_a_share_of_zero_gets_nobody() -> None:
    shares = {"train": 1.0, "validation": 0.0, "test": 0.0}
    out = assign_splits(candidates([(i, True) for i in range(20)]), shares, place)
    assert {split for split, _ in out.values()} == {"train"}


def test_another_seed_is_another_split() -> None:
    people = candidates([(i, True) for i in range(30)])
    other = assign_splits(people, SHARES, lambda source: key("north", 1, source))
    assert splits_of(people) != other


def test_a_small_stratum_is_told() -> None:
    out = splits_of(candidates([(i, i < 4) for i in range(9)]))
    (note,) = small_strata(out)
    assert note == "only 4 generic patients with positive strips, fewer than 5: their split is coarse"


@pytest.mark.parametrize("shares", [(0.0, 1.0, 1.0), (6.0, -1.0, 2.0), (-6.0, 2.0, 2.0)])
def test_shares_that_cannot_be_used(shares: tuple[float, float, float]) -> None:
    with pytest.raises(ConfigurationError, match=r"cohort\.split"):
        check_shares(shares)
