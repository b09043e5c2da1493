"""Potassium courses, and what the laboratory makes of them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from common.seeding import stream
from simulation.cohort.clinical_parameters import ORDINARY_PEAK, ORDINARY_PEAK_RANGE
from simulation.cohort.labs import (
    BEYOND_SCALE,
    NO_RESULT,
    SERUM,
    WHOLE_BLOOD,
    Draw,
    draw_blood,
    flag_of,
    label_of,
    report,
)
from simulation.cohort.panel import ITEMS, Kidney, OtherResult, other_results
from simulation.cohort.potassium import Course, dialysis_course, injury_course, usual_course
from simulation.cohort.profile import PROFILES, SiteProfile

NORTH = PROFILES["north"]
DAYS = 24.0


def with_laboratory(profile: SiteProfile, **changes: object) -> SiteProfile:
    return profile.model_copy(update={"laboratory": profile.laboratory.model_copy(update=changes)})


# a site that reports exactly what it is given, but for the assay
PLAIN = with_laboratory(
    NORTH,
    hemolysed_share=0.0,
    hemolysed_text_share=0.0,
    whole_blood_share=0.0,
    duplicate_share=0.0,
    no_admission_share=0.0,
)


def flat(level: float, hours: float = 24.0 * 20, sessions: tuple[float, ...] = ()) -> Course:
    return Course("usual", np.full(int(hours * 4) + 1, level), sessions)


def test_usual_potassium_varies_within_and_between_patients_as_published() -> None:
    courses = [usual_course(stream("u", i), 4 * DAYS).values for i in range(300)]
    assert np.mean(courses) == pytest.approx(4.0, abs=0.08)
    assert np.std([course.mean() for course in courses]) == pytest.approx(0.43, abs=0.08)
    assert np.median([course.std() for course in courses]) == pytest.approx(0.39, abs=0.05)


def test_usual_potassium_forgets_within_hours() -> None:
    values = np.array([usual_course(stream("f", i), 4 * DAYS).values for i in range(300)])
    values -= values.mean(axis=1, keepdims=True)
    correlation = [np.mean(values[:, lag:] * values[:, : -lag or None]) for lag in (0, 8, 48)]
    assert 0.4 < correlation[1] / correlation[0] < 0.75  # after 2 h
    assert abs(correlation[2] / correlation[0]) < 0.2  # after 12 h


def test_kidney_injury_rises_over_half_a_day_and_halves_within_hours_of_treatment() -> None:
    peaks = []
    for i in range(200):
        values = injury_course(stream("i", i), 3 * DAYS).values
        top = int(np.argmax(values))
        peaks.append(values[top])
        # From the peak downwards potassium falls within eight hours by more than half of its excess.
        if top + 32 < len(values):
            assert values[top + 32] - values[-1] < 0.75 * (values[top] - values[-1]) + 0.4
    assert np.mean(np.array(peaks) > 5.5) > 0.9
    assert 6.2 < np.mean(peaks) < 6.9


def test_some_kidney_injuries_rebound_after_treatment() -> None:
    rebounds = 0
    for i in range(200):
        values = injury_course(stream("i", i), 6 * DAYS).values
        after = values[int(np.argmax(values)) :]
        low = int(np.argmin(after[:48]))
        rebounds += int(after[low : low + 80].max() > after[low] + 0.8)
    assert 0.1 < rebounds / 200 < 0.5


def test_dialysis_alternates_between_both_labels_with_its_sessions() -> None:
    crossings, falls = [], []
    for i in range(40):
        course = dialysis_course(stream("d", i), 12 * DAYS)
        state = course.values[(course.values > 5.5) | (course.values < 5.0)] > 5.5
        crossings.append(int(np.count_nonzero(np.diff(state.astype(int)) == 1)))
        inside = np.array([s for s in course.sessions if 0 <= s < course.hours - 4])
        falls += list(course.at(inside) - course.at(inside + 4.0))
        assert np.all(np.diff(course.sessions) >= 47.9)
    assert np.median(crossings) >= 4  # twelve days hold about five sessions
    assert np.mean(falls) == pytest.approx(3.0, abs=0.4)


def test_most_patients_on_dialysis_are_not_hyperkalemic_most_of_the_time() -> None:
    courses = [
        dialysis_course(stream("o", i), 6 * DAYS, ORDINARY_PEAK, ORDINARY_PEAK_RANGE) for i in range(200)
    ]
    share = np.mean([np.mean(course.values > 5.5) for course in courses])
    assert 0.03 < share < 0.15
    assert min(course.values.min() for course in courses) >= 2.2


def test_potassium_after_a_session_comes_partly_back_from_the_cells() -> None:
    rise = []
    for i in range(60):
        course = dialysis_course(stream("b", i), 8 * DAYS)
        ends = np.array([s + 4.0 for s in course.sessions if 0 <= s < course.hours - 12])
        rise += list((course.at(ends + 3.0) - course.at(ends)) / 3.0)
    later = (6.65 - 4.2) / 37.0  # what follows until the next session, mEq/L per hour
    assert np.mean(rise) > 2.0 * later


def test_a_course_is_read_between_grid_points_alone_or_many_at_once() -> None:
    course = Course("usual", np.array([4.0, 5.0, 5.0]))
    assert course.at(0.125) == pytest.approx(4.5)
    assert np.allclose(course.at(np.array([-1.0, 0.05, 9.0])), [4.0, 4.2, 5.0])
    assert course.hours == 0.5
    assert course.until(0.2).hours == 0.25


def test_intervals_follow_the_profile() -> None:
    courses = [usual_course(stream("c", i), 10 * DAYS) for i in range(60)]
    for interval in (6.0, 12.0):
        profile = with_laboratory(PLAIN, draw_interval_h=interval)
        found = [draw_blood(stream("w", i), profile, course) for i, course in enumerate(courses)]
        waits = [np.diff([draw.minute for draw in draws]) for draws in found]
        assert np.median(np.concatenate(waits)) / 60 == pytest.approx(interval, rel=0.25)


def test_draws_come_sooner_after_an_abnormal_result() -> None:
    def typical(level: float) -> float:
        draws = [draw_blood(stream("s", level, i), PLAIN, flat(level)) for i in range(20)]
        return float(np.median(np.concatenate([np.diff([d.minute for d in found]) for found in draws])))

    assert typical(6.0) < 0.8 * typical(4.2)
    assert typical(3.0) < typical(4.2)


def test_the_clinician_knows_the_result_and_not_the_potassium() -> None:
    """Hemolysis alone, in a patient whose potassium never changes, brings the next draw forward."""
    profile = with_laboratory(PLAIN, hemolysed_share=0.15)
    after: dict[bool, list[int]] = {True: [], False: []}
    for i in range(40):
        draws = draw_blood(stream("k", i), profile, flat(4.4))
        for draw, following in pairwise(draws):
            after[label_of(draw.reading) == "positive"].append(following.minute - draw.minute)
    assert len(after[True]) > 30
    assert np.median(after[True]) < 0.5 * np.median(after[False])
    assert np.mean(np.array(after[True]) <= 4 * 60 + 5) > 0.5  # blood is taken again


def test_mornings_are_when_most_blood_is_drawn() -> None:
    minutes = [d.minute + 600 for i in range(40) for d in draw_blood(stream("m", i), PLAIN, flat(4.2), 600)]
    hours = np.array(minutes) // 60 % 24
    assert 0.25 < np.mean((hours >= 1) & (hours < 5)) < 0.55  # demo: 45 %; 17 % if it did not matter


def test_blood_is_drawn_before_and_after_dialysis_sessions() -> None:
    sessions = tuple(30.0 + 48.0 * i for i in range(9))
    before = after = 0
    for i in range(20):
        hours = np.array(
            [d.minute / 60 for d in draw_blood(stream("x", i), PLAIN, flat(4.2, sessions=sessions))]
        )
        for s in sessions:
            before += bool(np.any((hours >= s - 1.6) & (hours <= s)))
            after += bool(np.any((hours >= s + 4.9) & (hours <= s + 8.1)))
    assert before / 180 > 0.75
    assert after / 180 > 0.5


def test_the_assay_has_offset_and_error_and_hemolysis_adds() -> None:
    profile = with_laboratory(PLAIN, hemolysed_share=0.2)
    draws = [report(stream("r", i), profile, 4.2, 60) for i in range(3000)]
    clean = np.array([d.value for d in draws if not d.hemolysed and d.value is not None])
    broken = np.array([d.value for d in draws if d.hemolysed and d.value is not None])
    assert np.mean(clean) == pytest.approx(4.2, abs=0.02)
    assert np.std(clean) == pytest.approx(0.104, abs=0.01)
    assert len(broken) / len(draws) == pytest.approx(0.2, abs=0.03)
    assert 0.5 < np.mean(broken) - 4.2 < 1.0
    assert broken.max() - 4.2 < 2.6
    shifted = with_laboratory(PLAIN, assay_offset=0.1)
    values = [report(stream("r", i), shifted, 4.2, 60).value or 0.0 for i in range(300)]
    assert np.median(values) == pytest.approx(4.3, abs=0.03)


def test_values_and_texts_are_printed_as_the_laboratory_prints_them() -> None:
    draws = [
        report(stream("t", i), with_laboratory(NORTH, hemolysed_text_share=0.02), 4.2, 60)
        for i in range(4000)
    ]
    texts = {d.text: d for d in draws if d.value is None}
    assert set(texts) == {BEYOND_SCALE, NO_RESULT}
    assert texts[BEYOND_SCALE].reading == 10.0
    assert texts[NO_RESULT].reading is None
    assert all(d.text == f"{d.value:.1f}" and d.reading == d.value for d in draws if d.value is not None)
    assert report(stream("t", 1), PLAIN, 10.6, 60).text == BEYOND_SCALE
    assert report(stream("t", 1), PLAIN, 9.4, 60).text != BEYOND_SCALE


def test_whole_blood_differs_from_serum_as_in_the_demo() -> None:
    profile = with_laboratory(PLAIN, whole_blood_share=1.0)
    pairs = []
    for i in range(30):
        draws = draw_blood(stream("b", i), profile, usual_course(stream("c", i), 20 * DAYS))
        assert [d.minute for d in draws] == sorted(d.minute for d in draws)
        for draw, twin in pairwise(draws):
            if (draw.item, twin.item) == (SERUM, WHOLE_BLOOD) and twin.minute - draw.minute < 60:
                pairs.append((draw.reading or 0.0) - (twin.reading or 0.0))
    assert np.median(pairs) == pytest.approx(0.02, abs=0.08)
    core = np.percentile(pairs, 84) - np.percentile(pairs, 16)
    assert core == pytest.approx(2 * 0.17, rel=0.25)  # demo: .15
    assert np.std(np.clip(pairs, -3, 3)) == pytest.approx(0.32, abs=0.08)  # demo: .32, by a few odd specimens


def test_a_site_without_a_serum_analyzer_reports_whole_blood_only() -> None:
    draws = draw_blood(stream("g"), PROFILES["island"], flat(4.2))
    assert {d.item for d in draws} == {WHOLE_BLOOD}


def test_labels_have_the_limits_of_the_paper() -> None:
    assert [label_of(k) for k in (3.4, 3.5, 5.0, 5.1, 5.5, 5.6, None)] == [
        "excluded",
        "negative",
        "negative",
        "gap",
        "gap",
        "positive",
        "excluded",
    ]


def test_the_flag_follows_the_laboratory_and_not_the_label() -> None:
    draw = replace(report(stream("q"), PLAIN, 4.2, 60), value=5.4, text="5.4")
    assert flag_of(draw) == "abnormal"
    assert flag_of(replace(draw, value=3.4)) == ""
    assert flag_of(replace(draw, value=3.4, item=WHOLE_BLOOD)) == "abnormal"


def some_draws(n: int = 400, level: float = 4.2) -> list[Draw]:
    return [report(stream("p", i), PLAIN, level, 60 * i) for i in range(n)]


def numbers(results: list[OtherResult], item: int) -> dict[int, float]:
    return {r.position: float(r.text) for r in results if r.item == item}


def test_the_panel_is_plausible_and_adds_up() -> None:
    results = [r for i in range(60) for r in other_results(stream("n", i), some_draws(8), "healthy")]
    means = {
        item: np.mean([float(r.text) for r in results if r.item == item])
        for item in (50983, 50902, 50882, 50912, 50960)
    }
    # demo tables: sodium 139, chloride 104, bicarbonate 25, creatinine .9 (median), magnesium 2.1
    assert means[50983] == pytest.approx(139, abs=2)
    assert means[50902] == pytest.approx(104, abs=3)
    assert means[50882] == pytest.approx(25.4, abs=2)
    assert means[50912] == pytest.approx(1.0, abs=0.25)
    assert means[50960] == pytest.approx(2.08, abs=0.15)
    draws, one = some_draws(8), other_results(stream("n", 0), some_draws(8), "healthy")
    parts = [numbers(one, item) for item in (50983, 50902, 50882, 50868)]
    for position in set.intersection(*(set(part) for part in parts)):
        sodium, chloride, bicarbonate, gap = (part[position] for part in parts)
        assert gap == pytest.approx(sodium + (draws[position].value or 0.0) - chloride - bicarbonate, abs=0.6)


def test_the_panel_follows_the_kidneys() -> None:
    def median(kidney: Kidney, item: int) -> float:
        found = [other_results(stream("y", i), some_draws(4), kidney) for i in range(60)]
        return float(np.median([float(r.text) for results in found for r in results if r.item == item]))

    for item in (50912, 51006, 50970):
        assert median("injured", item) > 1.3 * median("healthy", item)
        assert median("failed", item) > 1.3 * median("healthy", item)
    assert median("injured", 50882) < median("healthy", 50882) - 2


def test_hemolysis_leaves_sodium_alone() -> None:
    draws = some_draws(100)
    broken = [replace(d, hemolysed=True, value=round((d.value or 0.0) + 1.0, 1)) for d in draws]
    clean, leaked = (other_results(stream("z"), specimens, "healthy") for specimens in (draws, broken))
    assert numbers(clean, 50983) == numbers(leaked, 50983)
    before, after = numbers(clean, 50970), numbers(leaked, 50970)
    assert np.mean([after[i] - before[i] for i in before]) == pytest.approx(0.3, abs=0.1)


def test_decoys_are_also_called_potassium_but_are_not_blood() -> None:
    results = other_results(stream("v"), some_draws(3000), "healthy")
    decoys = {r.item for r in results if "Potassium" in ITEMS[r.item][0]}
    assert {SERUM, WHOLE_BLOOD}.isdisjoint(decoys)
    assert {ITEMS[item][1] for item in decoys} == {"Urine", "Stool", "Pleural", "Ascites", "Other Body Fluid"}
    assert {ITEMS[item][2] for item in decoys} == {"Chemistry", "Blood Gas"}
    urine = list(numbers(results, 51097).values())
    assert np.median(urine) > 20  # demo: 11 to 60 mEq/L
