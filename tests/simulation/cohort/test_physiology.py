"""The ECG follows potassium as published, and nothing else does in its place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from common.seeding import stream
from simulation.cohort import PROFILES, device
from simulation.cohort.ecg import (
    Shape,
    draw_day,
    draw_effects,
    overlap_add,
    shape_at,
    synthesize,
)
from simulation.cohort.patient import Patient, Sensitivity, make_patient
from simulation.cohort.rhythm import SINUS, VENTRICULAR, Rhythm, make_rhythm

RATE = device.RATE_HZ
UNMOVED = Sensitivity(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def dialysis_patients(n: int) -> list[Patient]:
    """Patients on dialysis with an upright T and a narrow QRS, as in the published studies."""
    found: list[Patient] = []
    number = 0
    while len(found) < n:
        number += 1
        patient = make_patient(PROFILES["north"], "personal", number, stream("test", number))
        if patient.esrd and patient.beat.t > 0 and not patient.bundle_branch_block:
            found.append(patient)
    return found


def recorded_t(patient: Patient, potassium: float, *names: object) -> float:
    """T amplitude in mV, measured on the mean beat of 40 s of what the monitor stored."""
    rng = stream("strip", patient.subject_id, *names)
    shape = shape_at(patient, potassium, draw_day(rng), draw_effects(rng))
    rhythm = make_rhythm(rng, 40.0, shape.rate)
    clean = synthesize(shape, rhythm, 40.0)
    noisy = clean + device.noise(rng, rhythm, len(clean), patient.muscle_mv, 60)
    gain, baseline = device.choose_gain(float(clean.min()) - 0.1, float(clean.max()) + 0.1, (127, 83, 55))
    samples = device.digitize(device.monitor_band(noisy, (0.05, 40.0)), gain, baseline)
    signal = (samples.astype(float) - baseline) / gain
    peaks = np.round(rhythm.times[(rhythm.times > 1) & (rhythm.times < 39)] * RATE).astype(int)
    beat = np.mean([signal[p - 30 : p + 55] for p in peaks], axis=0)
    isoelectric = np.median(beat[18:24])  # PR segment
    return float(beat[45:].max() - isoelectric)


def test_t_grows_as_in_dialysis_patients() -> None:
    patients = dialysis_patients(150)
    before, after = [], []
    for patient in patients:
        rng = stream("levels", patient.subject_id)
        before.append(recorded_t(patient, float(np.clip(rng.normal(4.5, 0.4), 3.5, 5.4)), "normal"))
        after.append(recorded_t(patient, float(np.clip(rng.normal(6.1, 0.5), 5.5, 8.0)), "high"))
    # Published for lead II: .27 to .40 mV within the same 32 patients.
    assert np.mean(before) == pytest.approx(0.27, abs=0.06)
    assert np.mean(after) == pytest.approx(0.40, abs=0.09)
    assert 1.25 < np.mean(after) / np.mean(before) < 1.75
    # Some patients hardly respond, and electrodes and posture differ from day to day.
    assert 0.6 < np.mean(np.array(after) > np.array(before)) < 0.99


def test_without_a_change_of_potassium_t_does_not_change() -> None:
    patients = dialysis_patients(150)
    change = [recorded_t(p, 4.5, "one day") / recorded_t(p, 4.5, "another") for p in patients]
    assert np.median(change) == pytest.approx(1.0, abs=0.06)


def test_a_patient_without_sensitivity_keeps_the_beat_but_for_the_rate() -> None:
    patient = replace(dialysis_patients(1)[0], sensitivity=UNMOVED)
    low, high = shape_at(patient, 4.2), shape_at(patient, 5.5)
    assert low == high


def test_high_potassium_lengthens_pr_widens_qrs_narrows_t_and_flattens_p() -> None:
    patients = dialysis_patients(200)
    normal = [shape_at(p, 4.5) for p in patients]
    high = [shape_at(p, 6.1) for p in patients]

    def ratio(name: str) -> npt.NDArray[np.float64]:
        return np.array([getattr(b, name) / getattr(a, name) for a, b in zip(normal, high, strict=True)])

    assert (ratio("qrs_width") > 1).all()
    assert (ratio("t_width") < 1).all()
    assert (ratio("p") < 1).all()
    # Published: 167 to 188 ms.
    assert np.mean([s.pr for s in normal]) == pytest.approx(0.172, abs=0.006)
    assert np.mean([b.pr - a.pr for a, b in zip(normal, high, strict=True)]) == pytest.approx(
        0.016, abs=0.006
    )


def test_an_inverted_t_loses_depth() -> None:
    strained = next(
        patient
        for number in range(2000)
        if (patient := make_patient(PROFILES["north"], "episode", number, stream("test", number))).beat.t < 0
    )
    assert shape_at(strained, 4.2).t < shape_at(strained, 6.5).t


SIMPLE = Shape(
    rate=60.0, p=0.1, q=0.0, r=1.0, s=0.0, t=0.3, st=0.0, pr=0.16, qrs_width=0.012, qt=0.40, t_width=0.036,
    t_asymmetry=1.4,
)  # fmt: skip


def regular(interval_s: float, n: int = 30) -> Rhythm:
    times = 0.5 + interval_s * np.arange(n)
    return Rhythm(times, np.zeros(n, np.int8), False, 0.25, 0.0)


def test_r_peaks_stand_where_the_rhythm_says() -> None:
    signal = synthesize(replace(SIMPLE, t=0.0, p=0.0), regular(1.0), 20.0)
    assert np.argmax(signal[:RATE]) in (62, 63)
    tops = np.arange(20) * RATE + 62
    # 0.5 s is sample 62.5: both neighbours stand a third of a sigma from the top.
    assert signal[tops].min() > 0.85
    assert signal[tops].max() <= 1.06


def test_t_comes_earlier_when_the_heart_beats_faster() -> None:
    def t_delay(interval: float) -> float:
        signal = synthesize(replace(SIMPLE, rate=60 / interval, p=0.0), regular(interval, 60), 20.0)
        start = round((0.5 + 10 * interval) * RATE) + 12
        return float(np.argmax(signal[start : start + 45]))

    assert t_delay(1.0) > t_delay(0.7) > t_delay(0.5)


def test_sampling_rate_changes_nothing_but_the_grid() -> None:
    rhythm = make_rhythm(stream("r"), 20.0, 80.0)
    coarse, fine = synthesize(SIMPLE, rhythm, 20.0, 125.0), synthesize(SIMPLE, rhythm, 20.0, 500.0)
    assert np.abs(coarse - fine[::4]).max() < 0.01


def test_signal_is_proportional_to_its_amplitudes() -> None:
    rhythm = make_rhythm(stream("r"), 20.0, 80.0)
    double = replace(SIMPLE, p=0.2, r=2.0, t=0.6)
    once = synthesize(SIMPLE, rhythm, 20.0)
    np.testing.assert_allclose(synthesize(double, rhythm, 20.0), 2 * once, atol=1e-6)


def test_overlapping_waves_add_up() -> None:
    def wave(center: float) -> tuple[npt.NDArray[np.float64], ...]:
        return np.array([center]), np.array([1.0]), np.array([0.05]), np.array([0.05])

    together = overlap_add([wave(1.0), wave(1.04)], 2.0, 125.0)  # type: ignore[list-item]
    apart = overlap_add([wave(1.0)], 2.0, 125.0) + overlap_add([wave(1.04)], 2.0, 125.0)  # type: ignore[list-item]
    np.testing.assert_allclose(together, apart, atol=1e-6)
    assert together[130] == pytest.approx(np.exp(-0.5 * 0.8**2) + 1.0, abs=1e-5)


def test_fibrillation_is_irregular_and_has_no_p() -> None:
    sinus = make_rhythm(stream("a"), 300.0, 80.0)
    chaos = make_rhythm(stream("a"), 300.0, 80.0, fibrillation=True)
    assert np.std(np.diff(sinus.times)) / 0.75 < 0.06
    assert np.std(np.diff(chaos.times)) / 0.75 > 0.15
    louder = replace(SIMPLE, p=0.0)
    one = Rhythm(np.array([1.0]), np.zeros(1, np.int8), True, 0.25, 0.0)
    with_p = synthesize(SIMPLE, replace(one, fibrillation=False), 2.0)
    without = synthesize(louder, one, 2.0)
    before_r = slice(round(0.84 * RATE), round(0.92 * RATE))
    assert with_p[before_r].max() > 0.08
    assert np.abs(without[before_r]).max() < 0.01


def test_early_ventricular_beats_are_followed_by_a_pause() -> None:
    rhythm = make_rhythm(stream("pvc"), 600.0, 75.0, ectopic_share=0.05)
    intervals = np.diff(rhythm.times)
    early = np.flatnonzero(rhythm.kinds[1:-1] == VENTRICULAR) + 1
    assert len(early) > 5
    assert np.all(intervals[early - 1] < 0.75 * 0.8)
    after = intervals[early][rhythm.kinds[early + 1] == SINUS]
    assert np.all(after > 0.8 * 1.15)


def test_rate_and_duration_are_kept() -> None:
    rhythm = make_rhythm(stream("rate"), 600.0, 90.0)
    assert len(rhythm.within(600.0)) == pytest.approx(900, rel=0.02)
    assert rhythm.times[0] < 0.0 < 600.0 < rhythm.times[-1]
