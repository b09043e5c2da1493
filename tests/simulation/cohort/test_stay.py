"""Stays: when the patient is there, when the monitor is recorded, and who is a case."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

import numpy as np
import pytest

from client.data.labels import LabelledDraw, label_draws
from client.data.sources.base import Measurement
from common.config import LabelSettings
from common.seeding import stream
from common.task import Label
from simulation.cohort.labs import SERUM, WHOLE_BLOOD, measurements
from simulation.cohort.patient import Role
from simulation.cohort.profile import PROFILES, CohortSizes, SiteProfile
from simulation.cohort.spans import merged, pieces, random_spans, without
from simulation.cohort.stay import PatientPlan, Stretch, label_of, plan_patient

NORTH = PROFILES["north"]
NATURAL = CohortSizes()
SEED = 5


def plans(
    role: Role, n: int, sizes: CohortSizes = NATURAL, profile: SiteProfile = NORTH
) -> list[PatientPlan]:
    return [plan_patient(profile, sizes, SEED, 40 + 3 * i, i, role) for i in range(n)]


def with_monitor(profile: SiteProfile, **changes: object) -> SiteProfile:
    return profile.model_copy(update={"monitor": profile.monitor.model_copy(update=changes)})


def covered(stretches: tuple[Stretch, ...], start: int, end: int) -> float:
    """Share of a time that lies in stretches."""
    inside = sum(max(0, min(s.end_s, end) - max(s.start_s, start)) for s in stretches)
    return inside / (end - start)


def as_the_client_labels(plan: PatientPlan) -> list[LabelledDraw]:
    """Label a patient's draws as a client does that reads the tables."""
    rows = [
        Measurement(
            source_row=f"{i:06d}",
            specimen_time=plan.stay.base + timedelta(minutes=draw.minute),
            text=draw.text,
            number=draw.value,
            unit="mEq/L",
            item=str(draw.item),
            specimen="serum" if draw.item == SERUM else "whole_blood",
            admitted=True,
        )
        for i, draw in enumerate(plan.draws)
    ]
    return label_draws(rows, [], LabelSettings())


@pytest.fixture(scope="module")
def usual() -> list[PatientPlan]:
    return plans("usual", 200)


def test_the_same_seed_gives_the_same_plan(usual: list[PatientPlan]) -> None:
    again = plan_patient(NORTH, NATURAL, SEED, 40, 0, "usual")
    first = usual[0]
    assert (again.draws, again.stretches, again.stay) == (first.draws, first.stretches, first.stay)
    assert np.array_equal(again.course.values, first.course.values)
    assert again.outside == first.outside
    other = plan_patient(NORTH, NATURAL, SEED + 1, 40, 0, "usual")
    assert other.draws != first.draws


@pytest.mark.parametrize("role", ["usual", "injury", "dialysis", "personal"])
@pytest.mark.parametrize("continuous", [False, True])
def test_stretches_are_in_order_apart_short_and_inside_the_stay(role: Role, continuous: bool) -> None:
    for plan in plans(role, 12, CohortSizes(continuous=continuous), with_monitor(NORTH, lead_ii_missing=0.3)):
        assert [s.index for s in plan.stretches] == list(range(len(plan.stretches)))
        assert [s.record for s in plan.stretches] == sorted(s.record for s in plan.stretches)
        for stretch in plan.stretches:
            assert 0 <= stretch.start_s < stretch.end_s <= round(plan.course.hours * 3600)
            assert stretch.seconds <= 3600
        for one, following in pairwise(plan.stretches):
            assert one.end_s < following.start_s
            if following.record > one.record:
                assert following.start_s - one.end_s >= 300  # names of records are minutes
        assert (
            len({s.record for s in plan.stretches}) == max((s.record for s in plan.stretches), default=-1) + 1
        )


def test_a_stay_lies_in_its_admission_and_lasts_as_in_the_demo(usual: list[PatientPlan]) -> None:
    for plan in usual:
        stay = plan.stay
        assert stay.admitted < stay.base < stay.icu_out < stay.discharged
        assert 0 <= (stay.icu_out - stay.base).total_seconds() - 3600 * plan.course.hours < 60
        assert 2101 <= stay.base.year <= 2200
        assert stay.died in (None, stay.discharged)
        if stay.earlier:
            assert stay.earlier.admitted < stay.earlier.discharged < stay.admitted - timedelta(days=19)
    days = [plan.course.hours / 24 for plan in usual]
    assert np.median(days) == pytest.approx(2.1, abs=0.5)  # demo: 2.1
    assert np.percentile(days, 90) > 5


def test_no_blood_is_drawn_in_the_unit_before_or_after_the_stay(usual: list[PatientPlan]) -> None:
    others = (plan for role in ("injury", "dialysis", "personal") for plan in plans(role, 60))
    for plan in (*usual, *others):
        for draw in plan.draws:
            assert plan.stay.base <= plan.stay.base + timedelta(minutes=draw.minute) <= plan.stay.icu_out


def test_identifiers_are_never_shared(usual: list[PatientPlan]) -> None:
    admissions = [plan.stay.hadm_id for plan in usual]
    admissions += [plan.stay.earlier.hadm_id for plan in usual if plan.stay.earlier]
    assert len(set(admissions)) == len(admissions)
    assert len({plan.stay.icustay_id for plan in usual}) == len(usual)


def test_the_window_before_a_recorded_draw_is_recorded() -> None:
    sizes = CohortSizes(window_hours=0.5, minutes_after=1.0)
    clean = with_monitor(NORTH, recorded_share=1.0, noisy_share=0.0, lead_ii_missing=0.0)
    full = total = 0
    for plan in plans("usual", 60, sizes, clean):
        for draw in plan.draws:
            second = draw.minute * 60
            if second > 1900 and second + 60 < plan.course.hours * 3600:
                total += 1
                share = covered(plan.stretches, second - 1800, second + 60)
                full += share > 0.99
                stretch = plan.stretch_of(draw)
                assert stretch is None or stretch.start_s <= second <= stretch.end_s
    assert full / total == pytest.approx(0.95, abs=0.04)  # the others: switched on late, or a break


def test_near_windows_are_one() -> None:
    for plan in plans("usual", 40):
        windows = [(draw.minute * 60 - 1800, draw.minute * 60 + 30) for draw in plan.draws]
        assert sum(s.seconds for s in plan.stretches) <= sum(b - a for a, b in merged(windows)) + 1


def test_continuous_is_the_monitored_time_and_holds_the_windows() -> None:
    for role in ("usual", "personal"):
        around = plans(role, 8)
        whole = plans(role, 8, CohortSizes(continuous=True))
        for part, full in zip(around, whole, strict=True):
            assert full.draws == part.draws
            for stretch in part.stretches:
                assert covered(full.stretches, stretch.start_s, stretch.end_s) > 0.98
    seconds = sum(
        s.seconds for plan in plans("usual", 100, CohortSizes(continuous=True)) for s in plan.stretches
    )
    hours = sum(plan.course.hours for plan in plans("usual", 100))
    assert seconds / 3600 / hours == pytest.approx(NORTH.monitor.recorded_share, abs=0.1)


def test_lead_ii_is_away_for_hours_and_for_its_share_of_the_time() -> None:
    absent = with_monitor(NORTH, lead_ii_missing=0.2, recorded_share=1.0)
    found = plans("usual", 150, CohortSizes(continuous=True), absent)
    seconds = [(s.seconds, s.lead_ii) for plan in found for s in plan.stretches]
    share = sum(length for length, lead_ii in seconds if not lead_ii) / sum(length for length, _ in seconds)
    assert share == pytest.approx(0.2, abs=0.05)
    spans = random_spans(stream("a"), 10**8, 0.2, 3 * 3600.0)
    assert np.mean([end - start for start, end in spans]) == pytest.approx(3 * 3600, rel=0.1)
    nobody = plans("usual", 10, NATURAL, with_monitor(NORTH, lead_ii_missing=1.0))
    assert not any(s.lead_ii for plan in nobody for s in plan.stretches)


def test_movement_ruins_its_share_of_strips() -> None:
    shaken = with_monitor(NORTH, noisy_share=0.2, lead_ii_missing=0.0, recorded_share=1.0)
    hit = total = 0
    for plan in plans("usual", 120, NATURAL, shaken):
        for draw in plan.draws:
            last = draw.minute * 60
            inside = [s for s in plan.stretches if s.end_s > last - 600 and s.start_s < last]
            total += bool(inside)
            hit += any(s.noisy for s in inside)
    assert hit / total == pytest.approx(0.2, abs=0.05)


def test_measurements_are_those_the_client_keeps() -> None:
    laboratory = NORTH.laboratory.model_copy(
        update={
            "whole_blood_share": 0.5,
            "hemolysed_share": 0.2,
            "hemolysed_text_share": 0.05,
            "duplicate_share": 0,
        }
    )
    busy = NORTH.model_copy(update={"laboratory": laboratory})
    voided = 0
    for plan in plans("personal", 20, profile=busy):
        labelled = as_the_client_labels(plan)
        theirs = [row.measurement.specimen_time for row in labelled if row.label is not None]
        ours = [plan.stay.base + timedelta(minutes=draw.minute) for draw in measurements(plan.draws)]
        assert ours == theirs
        voided += sum(row.exclusion is not None for row in labelled)
    assert voided > 100


@pytest.mark.parametrize("site", ["north", "river", "island"])
def test_personal_patients_reach_the_wanted_strips_of_each_label(site: str) -> None:
    profile, sizes = PROFILES[site], CohortSizes(personal_strips=9)
    item = WHOLE_BLOOD if profile.laboratory.whole_blood_only else SERUM
    reached = []
    for plan in plans("personal", 16, sizes, profile):
        assert plan.stay.monitor_base == plan.stay.base
        assert plan.course.hours <= 24 * 28
        counts = dict.fromkeys(Label, 0)
        for row in as_the_client_labels(plan):
            second = round((row.measurement.specimen_time - plan.stay.base).total_seconds())
            window = second - 600, second
            inside = [s for s in plan.stretches if s.end_s > window[0] and s.start_s < window[1]]
            good = covered(plan.stretches, *window) > 0.99 and all(s.lead_ii and not s.noisy for s in inside)
            if row.label is not None and row.measurement.item == str(item) and good:
                counts[row.label] += 1
        reached.append(min(counts[Label.POSITIVE], counts[Label.NEGATIVE]))
    # Whoever needs more than four weeks leaves with fewer.
    assert np.mean(np.array(reached) >= 9) > 0.8
    assert np.median(reached) <= 11  # and nobody stays much longer than needed


def test_cases_have_ecg_at_a_real_hyperkalemia() -> None:
    sizes = CohortSizes(positive_share=0.5, most_draws=3)
    for role in ("injury", "dialysis"):
        without = 0
        for plan in plans(role, 100, sizes):
            recorded = [draw for draw in plan.draws if plan.stretch_of(draw)]
            without += not any(label_of(d.reading) == "positive" and d.potassium > 5.5 for d in recorded)
        assert without == 0
    numbers = [sum(plan.stretch_of(d) is not None for d in plan.draws) for plan in plans("usual", 80, sizes)]
    assert 1.4 < np.mean(numbers) < 2.6
    assert max(numbers) <= 6  # three draws, some with a twin beside


def test_most_draws_caps_ordinary_patients_only() -> None:
    sizes = CohortSizes(most_draws=2)
    for plan in plans("usual", 40, sizes):
        assert sum(s.seconds for s in plan.stretches) <= 2 * (1800 + 30)
    assert all(len(plan.stretches) > 4 for plan in plans("personal", 4, sizes))


def test_dates_that_do_not_fit_are_off_by_months_or_years() -> None:
    off = plans("usual", 60, NATURAL, with_monitor(NORTH, dates_off_share=0.5))
    shifts = [
        abs((p.stay.monitor_base - p.stay.base).days) for p in off if p.stay.monitor_base != p.stay.base
    ]
    assert len(shifts) / 60 == pytest.approx(0.5, abs=0.2)
    assert min(shifts) >= 180
    for plan in off:
        stay = plan.stay
        begin, end = stay.monitor_base, stay.monitor_base + (stay.icu_out - stay.base)
        for admitted, left in (
            (stay.admitted, stay.discharged),
            *((e.admitted, e.discharged) for e in [stay.earlier] if e),
        ):
            near = begin < left + timedelta(hours=12) and end > admitted - timedelta(hours=12)
            assert near == (stay.monitor_base == stay.base and admitted == stay.admitted)


def test_the_laboratory_clock_may_be_ahead(usual: list[PatientPlan]) -> None:
    ahead = plans("usual", 1, NATURAL, PROFILES["island"])[0]
    for plan, minutes in ((usual[0], 0), (ahead, 60)):
        draw = plan.draws[0]
        assert plan.charted(draw) == plan.stay.base + timedelta(minutes=draw.minute + minutes)


def test_draws_outside_the_unit_have_no_ecg_and_clinics_no_admission(usual: list[PatientPlan]) -> None:
    clinic = 0
    for plan in usual:
        stay = plan.stay
        for draw in plan.outside:
            when = stay.base + timedelta(minutes=draw.minute)
            assert not stay.base <= when <= stay.icu_out
            assert plan.stretch_of(draw) is None
            spans = [(stay.admitted, stay.discharged)]
            if stay.earlier:
                spans.append((stay.earlier.admitted, stay.earlier.discharged))
            inside = any(start <= when <= end for start, end in spans)
            clinic += not inside
            assert inside or not draw.has_admission
    draws = sum(len(plan.outside) + len(plan.draws) for plan in usual)
    assert 0.1 < clinic / draws < 0.35  # demo: 20 %


def test_spans_are_joined_cut_and_holed() -> None:
    assert merged([(5, 9), (0, 3), (8, 12), (40, 41)], near_s=2) == [(0, 12), (40, 41)]
    assert without([(0, 10), (20, 30)], [(3, 5), (8, 22)]) == [(0, 3), (5, 8), (22, 30)]
    assert pieces([(0, 10), (20, 21)], [4, 20, 50], 100) == [(0, 4), (5, 10), (20, 21)]
    assert pieces([(0, 10)], [], 4) == [(0, 4), (5, 9), (10, 10)][:2] or pieces([(0, 10)], [], 4)[-1][1] == 10
    assert random_spans(stream("a"), 100, 0.0, 10.0) == []
    assert random_spans(stream("a"), 100, 1.0, 10.0) == [(0, 100)]
