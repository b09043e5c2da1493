"""Which strips and which of their beats are learned from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from client.learning.dataset import (
    StripRef,
    by_patient,
    check_both_labels,
    cohort_strips,
    draw_rows,
    labelled,
    read_strip,
    spread,
)
from common.errors import CohortError
from common.seeding import stream
from common.task import Label

Make = Callable[..., StripRef]


def test_beats_are_spread_evenly_over_the_strip() -> None:
    assert spread(10, 5, 0.0).tolist() == [0, 2, 4, 6, 8]
    assert spread(10, 5, 0.5).tolist() == [1, 3, 5, 7, 9]
    assert spread(7, 0).tolist() == spread(7, 9).tolist() == list(range(7))


@pytest.mark.parametrize("phase", [0.0, 0.3, 0.999])
@pytest.mark.parametrize(("n", "count"), [(800, 60), (61, 60), (3, 2)])
def test_no_beat_is_drawn_twice_and_none_outside_the_strip(n: int, count: int, phase: float) -> None:
    places = spread(n, count, phase)
    assert len(set(places.tolist())) == count
    assert places.min() >= 0
    assert places.max() < n


def test_a_drawn_beat_belongs_to_the_strip_it_is_said_to(strip: Make) -> None:
    strips = [strip(0, offset=100, n=50), strip(1, "positive", offset=150, n=4)]
    rows, owner = draw_rows(strips, 10, stream("draw"))
    assert np.bincount(owner).tolist() == [10, 4]
    for row, own in zip(rows, owner, strict=True):
        assert strips[own].offset <= row < strips[own].offset + strips[own].n_beats


def test_over_epochs_every_beat_of_a_strip_is_drawn(strip: Make) -> None:
    generator = stream("epochs")
    drawn = {int(row) for _ in range(60) for row in draw_rows([strip(0, n=100)], 10, generator)[0]}
    assert drawn == set(range(100))


def test_no_strips_give_no_beats() -> None:
    rows, owner = draw_rows([], 10, stream("none"))
    assert len(rows) == len(owner) == 0


def test_one_label_is_refused_with_the_counts(strip: Make) -> None:
    with pytest.raises(CohortError, match="2 positive and 0 negative strips"):
        check_both_labels([strip(0, "positive"), strip(1, "positive"), strip(2, "gap")], "training strips")


def test_gap_strips_are_not_labelled_and_patients_are_kept_apart(strip: Make) -> None:
    strips = [strip(0, patient=2), strip(1, "gap", patient=1), strip(2, "positive", patient=1)]
    assert [s.label for s in labelled(strips)] == [Label.NEGATIVE, Label.POSITIVE]
    assert {patient: len(own) for patient, own in by_patient(strips).items()} == {1: 2, 2: 1}


def test_reading_a_strip_gives_its_own_beats(patients: Any) -> None:
    strips, store = patients(2, 2)
    beats = read_strip(store, strips[3], 2)
    assert beats.shape == (2, 120)
    np.testing.assert_array_equal(beats, store.beats[strips[3].offset + np.array([1, 4])])
    beats[:] = 0
    assert store.beats[strips[3].offset + 1].any()


def test_a_cohort_gives_the_strips_of_the_roles_and_splits_asked_for(toy_site: Any) -> None:
    with toy_site.factory() as session:
        everything = cohort_strips(session, 2)
        train = cohort_strips(session, 2, roles=["generic"], splits=["train"])
        personal = cohort_strips(session, 2, roles=["personal"])
    assert {s.patient_id for s in train} == {1, 2, 3, 4, 12}
    assert {s.patient_id for s in personal} == {9, 10, 11}
    assert len(everything) == 8 * 5 + 4 * 17
    assert everything == sorted(everything, key=lambda s: (s.patient_id, s.start, s.label))
