"""Potassium courses and what the laboratory makes of them."""

from __future__ import annotations

import numpy as np
import pytest

from common.seeding import stream
from simulation.cohort import PROFILES
from simulation.cohort.labs import (
    ITEMS,
    SERUM,
    TEXT_RESULT,
    WHOLE_BLOOD,
    draw_blood,
    other_results,
    report,
    schedule,
)
from simulation.cohort.potassium import Course, dialysis_course, injury_course, usual_course

NORTH = PROFILES["north"]


def test_usual_potassium_has_the_marginals_of_the_demo_tables() -> None:
    values = np.concatenate([usual_course(stream("u", i), 48.0).values for i in range(400)])
    assert np.mean(values) == pytest.approx(4.05, abs=0.08)
    assert np.std(values) == pytest.approx(0.62, abs=0.06)
    # 1.9 % of serum values of the demo are above 5.5; a part of them are episodes.
    assert np.mean(values > 5.5) < 0.03
    within = [np.std(usual_course(stream("w", i), 96.0).values) for i in range(100)]
    assert np.median(within) == pytest.approx(0.39, abs=0.06)


def test_dialysis_alternates_between_both_labels() -> None:
    crossings = []
    for i in range(40):
        values = dialysis_course(stream("d", i), 24.0 * 12).values
        state = values[(values > 5.5) | (values < 5.0)] > 5.5
        crossings.append(int(np.count_nonzero(np.diff(state.astype(int)) == 1)))
    # Twelve days hold about five sessions.
    assert np.median(crossings) >= 4


def test_injury_rises_and_is_treated() -> None:
    peaks = []
    for i in range(200):
        course = injury_course(stream("i", i), 72.0)
        top = int(np.argmax(course.values))
        peaks.append(course.values[top])
        assert course.values[0] < 5.5
    assert np.mean(np.array(peaks) > 5.5) > 0.9
    assert np.mean(peaks) == pytest.approx(6.9, abs=0.3)


def test_a_course_is_read_between_grid_points() -> None:
    course = Course("usual", np.array([4.0, 5.0]))
    assert course.at(0.125) == pytest.approx(4.5)
    assert course.hours == 0.25


def test_draws_come_sooner_when_potassium_is_abnormal() -> None:
    def typical(level: float) -> float:
        waits = [
            np.diff(schedule(stream("s", level, i), Course("usual", np.full(400, level)), 8.6))
            for i in range(60)
        ]
        return float(np.median(np.concatenate(waits))) / 60

    assert typical(4.2) == pytest.approx(8.6, rel=0.15)
    assert typical(6.0) < 0.8 * typical(4.2)


def test_the_assay_has_offset_error_and_hemolysis() -> None:
    draws = [report(stream("r", i), NORTH, 4.2, 60) for i in range(3000)]
    clean = np.array([d.reading for d in draws if not d.hemolysed])
    broken = np.array([d.reading for d in draws if d.hemolysed and d.value is not None])
    assert np.mean(clean) == pytest.approx(4.2, abs=0.02)
    assert np.std(clean) == pytest.approx(0.104, abs=0.01)
    assert len(broken) / len(draws) == pytest.approx(0.03, abs=0.01)
    assert np.mean(broken) > 5.0
    shifted = [report(stream("r", i), PROFILES["valley"], 4.2, 60).reading for i in range(300)]
    assert np.median(shifted) == pytest.approx(4.3, abs=0.03)


def test_values_are_printed_as_the_laboratory_prints_them() -> None:
    draws = [report(stream("t", i), NORTH, 4.2, 60) for i in range(3000)]
    texts = [d for d in draws if d.value is None]
    assert texts
    assert all(d.text == TEXT_RESULT and d.reading == 10.0 for d in texts)
    assert all(d.text == f"{d.value:.1f}" for d in draws if d.value is not None)
    assert report(stream("t", 0), NORTH, 10.6, 60).text == TEXT_RESULT


def test_twins_and_decoys_exist() -> None:
    course = usual_course(stream("c"), 24.0 * 20)
    draws = draw_blood(stream("b"), PROFILES["harbor"], course)
    assert {d.item for d in draws} == {SERUM, WHOLE_BLOOD}
    assert [d.minute for d in draws] == sorted(d.minute for d in draws)
    others = {o.item for i in range(30) for o in other_results(stream("o", i), draws, kidney=True)}
    assert SERUM not in others
    assert WHOLE_BLOOD not in others
    decoys = {item for item in others if "Potassium" in ITEMS[item][0]}
    assert 51097 in decoys
    assert len(decoys) >= 4
