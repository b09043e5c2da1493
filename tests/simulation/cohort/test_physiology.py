"""The ECG follows potassium as published, and diseases change it as they do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from common.seeding import stream
from simulation.cohort.conditions import Effects, make_conditions
from simulation.cohort.ecg import synthesize
from simulation.cohort.patient import Patient, Role, Sensitivity, make_beat, make_patient
from simulation.cohort.profile import PROFILES
from simulation.cohort.rhythm import FIBRILLATING, SINUS, Rhythm, make_rhythm
from simulation.cohort.shape import Shape, rate_at, shape_at

Array = npt.NDArray[np.float64]
UNMOVED = Sensitivity(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


@cache
def dialysis_patients(n: int) -> tuple[Patient, ...]:
    """Patients on dialysis with an upright T and a narrow QRS, as in the published studies."""
    found: list[Patient] = []
    number = 0
    while len(found) < n:
        number += 1
        patient = make_patient(PROFILES["north"], "dialysis", number, stream("test", number))
        regular = patient.rhythm == "sinus" and not patient.paced
        if patient.beat.t > 0 and not patient.bundle_branch_block and regular:
            found.append(patient)
    return tuple(found)


def some(condition: Callable[[Patient], bool], role: Role = "usual") -> Patient:
    """First patient of the cardiac unit who fulfils a condition."""
    candidates = (make_patient(PROFILES["harbor"], role, i, stream("some", i)) for i in range(3000))
    return next(patient for patient in candidates if condition(patient))


def shape(patient: Patient, *potassium: float, effects: Effects | None = None) -> Shape:
    return shape_at(patient, np.array(potassium), effects or Effects.none(len(potassium)))


def repeated(one: Shape, n: int) -> Shape:
    return Shape(**{name: np.repeat(value, n) for name, value in vars(one).items()})


def regular(interval_s: float, n: int = 40, kind: int = SINUS) -> Rhythm:
    times = -1.4 + interval_s * np.arange(n)
    return Rhythm(times, np.full(n, kind, np.int8), kind == FIBRILLATING, 0.25, 0.0)


def mean_beat(patient: Patient, potassium: float, *names: object) -> tuple[Array, Shape]:
    """Mean beat of half a minute, on a day of its own: 0.4 s before R to 0.6 s after, 500 Hz."""
    rng = stream("strip", patient.subject_id, *names)
    effects = make_conditions(rng, patient, 0.0, 24.0).at(np.array([rng.uniform(0.0, 86400.0)]))
    one = shape(patient, potassium, effects=effects)
    rhythm = make_rhythm(rng, 30.0, float(one.rate[0]))
    signal = synthesize(repeated(one, len(rhythm.times)), rhythm, 30.0, 500.0)
    peaks = np.rint(rhythm.times[(rhythm.times > 1) & (rhythm.times < 29)] * 500).astype(int)
    return np.mean([signal[p - 200 : p + 300] for p in peaks], axis=0), one


def t_amplitude(beat: Array) -> float:
    """Highest point behind the J point over the segment before QRS, mV."""
    return float(beat[200 + 55 :][:180].max() - np.median(beat[200 - 35 : 200 - 25]))


def qrs_s(patient: Patient, potassium: float) -> float:
    """QRS duration by eye: from the first to the last deflection above a thirtieth of its height."""
    one = shape(patient, potassium)
    only = replace(one, p=0 * one.p, t=0 * one.t, u=0 * one.u, st=0 * one.st)
    single = Rhythm(np.array([0.6]), np.zeros(1, np.int8), False, 0.25, 0.0)
    signal = np.abs(synthesize(only, single, 1.4, 1000.0))
    above = np.flatnonzero(signal > max(signal.max() / 30, 0.03))
    return float(above[-1] - above[0]) / 1000.0


def test_t_grows_as_in_dialysis_patients() -> None:
    before, after = [], []
    for patient in dialysis_patients(200):
        rng = stream("levels", patient.subject_id)
        low, high = np.clip(rng.normal(4.5, 0.4), 3.5, 5.4), np.clip(rng.normal(6.1, 0.5), 5.5, 8.0)
        before.append(t_amplitude(mean_beat(patient, low, "normal")[0]))
        after.append(t_amplitude(mean_beat(patient, high, "high")[0]))
    # Published for lead II: .27 to .40 mV within the same 32 patients.
    assert np.mean(before) == pytest.approx(0.27, abs=0.04)
    assert np.mean(after) == pytest.approx(0.40, abs=0.06)
    assert 1.3 < np.mean(after) / np.mean(before) < 1.7
    # Some patients hardly respond, and electrodes and posture differ from day to day.
    assert 0.7 < np.mean(np.array(after) > np.array(before)) < 0.97


def test_without_a_change_of_potassium_t_does_not_change() -> None:
    change = [
        t_amplitude(mean_beat(p, 4.5, "one day")[0]) / t_amplitude(mean_beat(p, 4.5, "another")[0])
        for p in dialysis_patients(100)
    ]
    assert np.median(change) == pytest.approx(1.0, abs=0.06)
    assert 0.1 < np.std(np.log(change)) < 0.4


def test_effects_of_potassium_are_the_published_ones() -> None:
    patients = dialysis_patients(600)
    both = [shape(p, 4.5, 6.1) for p in patients]

    def change(name: str) -> Array:
        return np.array([getattr(b, name)[1] - getattr(b, name)[0] for b in both])

    # Published: PR 167 to 188 ms; QTc −9.9 ms per mEq/L, 95 % interval −18.2 to −1.6.
    assert np.mean([b.pr[0] for b in both]) == pytest.approx(0.167, abs=0.004)
    assert np.mean(change("pr")) == pytest.approx(0.021, abs=0.004)
    assert np.mean(change("qt")) / 1.6 == pytest.approx(-0.0099, abs=0.003)
    # Published: T slope over amplitude rises by 8 to 17 % per mEq/L.
    steeper = [b.t_width[0] / b.t_width[1] - 1.0 for b in both]
    assert 0.08 < np.mean(steeper) / 1.6 < 0.17
    # Published: QRS width does not tell potassium within dialysis sessions.
    assert np.mean(change("qrs_width")) / 0.0115 < 0.06
    assert (change("t") > 0).all()
    assert (change("t_width") < 0).all()
    assert (change("p") < 0).all()


def test_change_of_t_width_follows_the_change_of_potassium() -> None:
    rng = stream("pairs")
    gain, narrowing = [], []
    for patient in dialysis_patients(600):
        low, high = np.clip(rng.normal(4.5, 0.4), 3.5, 5.4), np.clip(rng.normal(6.1, 0.5), 5.5, 8.0)
        effects = make_conditions(stream("w", patient.subject_id), patient, 0.0, 96.0)
        both = shape(patient, low, high, effects=effects.at(np.array([0.0, 90.0 * 3600])))
        gain.append(high - low)
        narrowing.append(both.t_width[1] - both.t_width[0])
    # Published r = −.43, from 32 pairs.
    assert -0.55 < np.corrcoef(gain, narrowing)[0, 1] < -0.30


def test_t_changes_over_the_whole_range_and_comes_earlier() -> None:
    patient = dialysis_patients(1)[0]
    levels = np.arange(2.5, 7.6, 0.25)
    row = shape(patient, *levels)
    assert (np.diff(row.t) > 0).all()
    assert (np.diff(row.t_width) < 0).all()
    assert (np.diff(row.qt[levels < 5.5]) < 0).all()
    assert (np.diff(row.pr[levels <= 6.5]) > 0).all()
    assert (np.diff(row.pr) >= 0).all()


def test_below_a_normal_potassium_t_is_flat_and_u_shows() -> None:
    low = [shape(p, 2.6, 4.2) for p in dialysis_patients(100)]
    assert np.mean([s.t[0] / s.t[1] for s in low]) < 0.7
    assert np.mean([s.u[0] for s in low]) > 0.03
    assert np.mean([s.u[1] for s in low]) < 0.02
    assert np.mean([s.st[0] - s.st[1] for s in low]) < -0.01


def test_a_patient_without_sensitivity_keeps_the_beat_but_for_the_rate() -> None:
    patient = replace(dialysis_patients(1)[0], sensitivity=UNMOVED)
    both = shape(patient, 4.2, 5.5)
    for name, value in vars(both).items():
        assert value[0] == pytest.approx(value[1]), name


def test_an_inverted_t_loses_depth() -> None:
    row = shape(some(lambda p: p.strain), 4.2, 5.5, 6.5)
    assert row.t[0] < 0
    assert (np.diff(row.t) > 0).all()


def test_wide_qrs_and_bradycardia_stay_as_frequent_as_in_the_emergency_department() -> None:
    """Shares at normal potassium and above 7 mEq/L.

    Widening and slowing above 6.5 mEq/L were chosen with these shares in view: this keeps them, and proves
    nothing. First-degree block and peaked T, too frequent here, are not asserted.
    """
    rng = stream("signs")
    patients = [make_patient(PROFILES["north"], "injury", i, stream("signs", i)) for i in range(400)]
    patients = [p for p in patients if not p.paced]

    def shares(potassium: Array) -> tuple[float, float, float]:
        wide, slow, gone = [], [], []
        for i, (patient, level) in enumerate(zip(patients, potassium, strict=True)):
            effects = make_conditions(stream("c", i), patient, 0.0, 2.0).at(np.array([3600.0]))
            wide.append(qrs_s(patient, level) >= 0.12)
            slow.append(rate_at(patient, np.array([level]), effects)[0] < 60.0)
            gone.append(shape(patient, level).p[0] < 0.2 * patient.beat.p)
        return float(np.mean(wide)), float(np.mean(slow)), float(np.mean(gone))

    n = len(patients)
    normal = shares(rng.uniform(3.5, 5.0, n))
    severe = shares(np.minimum(7.0 + rng.exponential(0.45, n), 9.0))
    # Published: wide QRS 8.2 and 31.6 %, bradycardia 6.5 and 18.4 %.
    assert normal[0] == pytest.approx(0.082, abs=0.05)
    assert severe[0] == pytest.approx(0.316, abs=0.12)
    assert normal[1] == pytest.approx(0.065, abs=0.04)
    assert severe[1] == pytest.approx(0.184, abs=0.10)
    assert normal[2] == 0.0
    assert 0.05 < severe[2] < 0.5


def test_toward_nine_the_qrs_is_wide_p_is_lost_and_no_line_is_left_between_qrs_and_t() -> None:
    usual = [p for p in dialysis_patients(60) if p.sensitivity.qrs > 0.03]
    for patient in usual:
        row = shape(patient, 4.2, 8.0, 9.0)
        assert row.p[2] == 0.0
        assert row.qrs_width[0] < row.qrs_width[1] < row.qrs_width[2]
        assert abs(row.st[2]) < abs(row.st[0]) + 1e-9
    wider = [qrs_s(p, 9.0) / qrs_s(p, 4.2) for p in usual]
    assert np.median(wider) > 2.5

    def flat_share(patient: Patient, level: float) -> float:
        one = repeated(shape(patient, level), 40)
        signal = synthesize(one, regular(0.8), 20.0, 500.0)
        slope = np.abs(np.gradient(signal)) * 500.0  # mV/s
        return float(np.mean(slope < 0.05 * slope.max() / 10))

    assert np.mean([flat_share(p, 9.0) for p in usual]) < 0.6 * np.mean([flat_share(p, 4.2) for p in usual])


def test_bundle_branch_block_is_wide_with_the_opposite_t() -> None:
    left = [p for i in range(60) if (p := _with_block(i, "left"))]
    right = [p for i in range(60) if (p := _with_block(i, "right"))]
    assert np.median([qrs_s(p, 4.2) for p in left]) > 0.12
    assert np.median([qrs_s(p, 4.2) for p in right]) > 0.12
    assert np.median([qrs_s(p, 4.2) for p in dialysis_patients(60)]) == pytest.approx(0.09, abs=0.015)
    assert all(shape(p, 4.2).t[0] < 0 < shape(p, 4.2).r[0] for p in left)


def _with_block(number: int, block: Any) -> Patient:
    return replace(dialysis_patients(1)[0], beat=make_beat(stream("block", number), block=block))


def test_digoxin_sags_between_qrs_and_t() -> None:
    beat = make_beat(stream("digoxin"), digoxin=True)
    patient = replace(dialysis_patients(1)[0], beat=replace(beat, st=-0.1, t=0.2, rate=70.0))
    signal = synthesize(repeated(shape(patient, 4.2), 40), regular(60 / 70), 10.0, 500.0)
    at = round((-1.4 + 4 * 60 / 70) * 500)
    st = signal[at + 50 : at + 150]
    assert st.min() < -0.06
    assert 10 < np.argmin(st) < 80  # deepest in the middle, not at the J point
