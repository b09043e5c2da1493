"""What only a test may know: true potassium, R peaks, flags."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from simulation.cohort.heart import Heart, heart_of
from simulation.cohort.profile import PROFILES, CohortSizes
from simulation.cohort.recording import records_of
from simulation.cohort.rhythm import FIBRILLATING, PACED
from simulation.cohort.stay import PatientPlan, Stretch, label_of, plan_patient
from simulation.cohort.truth import TRUTH_COLUMNS, beats_file, patient_truth, read_beats, write_beats
from simulation.cohort.waveforms import record_path, write_waveforms

SIZES = CohortSizes(patients=1, personal_patients=1, personal_strips=3, window_hours=0.2)


def plan_of(name: str = "north", subject: int = 878) -> PatientPlan:
    return plan_patient(PROFILES[name], SIZES, 3, subject, 0, "personal")


def draws_of(plan: PatientPlan) -> list[dict[str, str]]:
    rows = patient_truth(plan)["draws"]
    return [dict(zip(TRUTH_COLUMNS["draws"], map(str, row), strict=True)) for row in rows]


@pytest.mark.parametrize("name", list(PROFILES))
def test_every_draw_of_the_stay_is_there_with_its_true_potassium(name: str) -> None:
    plan = plan_of(name)
    rows = draws_of(plan)
    assert len(rows) == len(plan.draws)
    offset = timedelta(minutes=plan.profile.laboratory.clock_offset_min)
    for row, draw in zip(rows, plan.draws, strict=True):
        charted = plan.stay.base + timedelta(minutes=draw.minute) + offset
        assert row["charttime"] == f"{charted:%Y-%m-%d %H:%M:%S}"
        assert float(row["potassium"]) == pytest.approx(draw.potassium, abs=0.001)
        assert row["label"] == label_of(draw.reading)
        assert (row["reported"] == "") == (draw.reading is None)
    assert {row["label"] for row in rows} >= {"positive", "negative"}


def test_a_recorded_draw_names_the_record_and_stretch_that_hold_it() -> None:
    plan = plan_of()
    records = {record_path(plan, record): record for record in records_of(plan)}
    stretches = {stretch.index: stretch for stretch in plan.stretches}
    recorded = 0
    for row, draw in zip(draws_of(plan), plan.draws, strict=True):
        if not row["record"]:
            assert plan.stretch_of(draw) is None
            assert row["rate"] == row["stretch"] == row["rhythm"] == ""
            continue
        stretch = stretches[int(row["stretch"])]
        assert stretch in records[row["record"]].stretches
        assert stretch.start_s <= draw.minute * 60 <= stretch.end_s
        assert row["lead_ii"] == str(int(stretch.lead_ii))
        assert 30 < float(row["rate"]) < 200
        assert row["rhythm"] == "sinus"  # as of every patient who is dialysed for weeks
        recorded += 1
    assert recorded > 5


@pytest.mark.parametrize(("kind", "name"), [(PACED, "paced"), (FIBRILLATING, "fibrillation")])
def test_the_rhythm_is_that_of_the_minutes_before_the_draw(
    monkeypatch: pytest.MonkeyPatch, kind: int, name: str
) -> None:
    plan = plan_of()

    def other(plan: PatientPlan, stretch: Stretch) -> Heart:
        heart = heart_of(plan, stretch)
        return replace(heart, rhythm=replace(heart.rhythm, kinds=np.full_like(heart.rhythm.kinds, kind)))

    monkeypatch.setattr("simulation.cohort.truth.heart_of", other)
    assert {row["rhythm"] for row in draws_of(plan) if row["record"]} == {name}


def test_a_patients_row_holds_every_flag_and_sensitivity() -> None:
    plan = plan_of("river")
    (row,) = patient_truth(plan)["patients"]
    found = dict(zip(TRUTH_COLUMNS["patients"], row, strict=True))
    assert (found["subject_id"], found["site"], found["role"]) == (878, "river", "personal")
    assert found["esrd"] == int(plan.patient.esrd)
    assert found["rhythm"] == plan.patient.rhythm
    assert float(str(found["k_t_amplitude"])) == pytest.approx(plan.patient.sensitivity.t_amplitude, abs=1e-4)
    assert found["dates_off_days"] == 0


@pytest.mark.parametrize("name", ["north", "river"])
def test_r_peaks_are_in_seconds_of_the_records_own_samples(tmp_path: Path, name: str) -> None:
    plan = plan_of(name)
    assert write_beats(tmp_path, plan) == beats_file(tmp_path, 878)
    beats = read_beats(beats_file(tmp_path, 878))
    assert len(beats) == len(plan.stretches)
    for record in records_of(plan):
        for stretch in record.stretches:
            times, kinds = beats[record_path(plan, record), stretch.index]
            assert times.dtype == np.float64
            assert len(times) == len(kinds)
            assert (np.diff(times) > 0.2).all()
            begin = record.first_sample(stretch) / record.rate_hz
            assert begin <= times[0]
            assert times[-1] <= begin + stretch.seconds
            expected = heart_of(plan, stretch).rhythm.within(stretch.seconds)
            assert times - begin == pytest.approx(expected, abs=1e-6)


def test_the_same_beats_give_the_same_bytes_on_any_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of()
    first = write_beats(tmp_path / "today", plan).read_bytes()
    later = time.time() + 400 * 86_400
    local = time.localtime(later)
    monkeypatch.setattr(time, "time", lambda: later)
    monkeypatch.setattr(time, "localtime", lambda *_: local)
    assert write_beats(tmp_path / "next year", plan).read_bytes() == first


def test_a_patient_without_ecg_has_an_empty_file(tmp_path: Path) -> None:
    plan = replace(plan_of(), stretches=())
    assert read_beats(write_beats(tmp_path, plan)) == {}
    assert all(row["record"] == "" for row in draws_of(plan))
    assert write_waveforms(tmp_path / "site", plan, 0) == []
