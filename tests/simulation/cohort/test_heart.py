"""A heart follows its patient's potassium and conditions, and is the same however often one looks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pytest

from common.seeding import stream
from simulation.cohort.conditions import Conditions, Effects, make_conditions
from simulation.cohort.heart import Heart, heart_of, lead_signal, rates_of
from simulation.cohort.patient import Patient, make_patient
from simulation.cohort.profile import PROFILES
from simulation.cohort.shape import shape_at

Array = npt.NDArray[np.float64]
RATE = 125.0


def some(condition: Callable[[Patient], bool]) -> Patient:
    """First patient of the cardiac unit who fulfils a condition."""
    candidates = (make_patient(PROFILES["harbor"], "usual", i, stream("some", i)) for i in range(3000))
    return next(patient for patient in candidates if condition(patient))


def plain(patient: Patient) -> bool:
    return patient.beat.t > 0 and patient.rhythm == "sinus" and not patient.paced


@dataclass
class Ramp:
    """Potassium that rises evenly."""

    start: float
    per_hour: float

    def at(self, hours: Array) -> Array:
        return self.start + self.per_hour * np.asarray(hours)


@dataclass
class Span:
    index: int
    start_s: int
    end_s: int


@dataclass
class Plan:
    """As much of a patient's plan as the heart asks for."""

    patient: Patient
    course: Ramp

    @cached_property
    def conditions(self) -> Conditions:
        return make_conditions(self.rng("conditions"), self.patient, 0.0, 30.0)

    def rng(self, *names: object) -> np.random.Generator:
        return stream("plan", self.patient.subject_id, *names)


def heart(plan: Plan, span: Span) -> Heart:
    return heart_of(plan, span)  # type: ignore[arg-type]


def test_the_ecg_changes_within_a_stretch() -> None:
    patient = replace(some(plain), ischemia=False)
    made = heart(Plan(patient, Ramp(4.0, 3.0)), Span(0, 0, 3600))
    expected = shape_at(patient, np.array([4.0, 7.0]), Effects.none(2))
    ratio = made.shape.t[-50:].mean() / made.shape.t[:50].mean()
    assert ratio == pytest.approx(expected.t[1] / expected.t[0], rel=0.5)
    assert ratio > 1.2
    assert np.abs(np.diff(made.shape.t)).max() < 0.05


def test_a_stretch_is_the_same_however_often_it_is_asked_for() -> None:
    plan, span = Plan(some(lambda p: p.rhythm == "paroxysmal"), Ramp(4.2, 0.0)), Span(3, 7200, 7300)
    one, other = heart(plan, span), heart(Plan(plan.patient, plan.course), span)
    np.testing.assert_array_equal(one.rhythm.times, other.rhythm.times)
    np.testing.assert_array_equal(lead_signal(one, "II", 100.0, RATE), lead_signal(other, "II", 100.0, RATE))
    later = heart(plan, Span(4, 7200, 7300))
    assert len(later.rhythm.times) != len(one.rhythm.times) or (later.rhythm.times != one.rhythm.times).any()


@pytest.mark.parametrize("rate_hz", [125.0, 249.89, 250.0, 500.0])
def test_signals_have_the_length_and_type_of_their_stretch(rate_hz: float) -> None:
    made = heart(Plan(some(plain), Ramp(4.2, 0.0)), Span(0, 60, 97))
    for lead in ("II", "V", "MCL1"):
        signal = lead_signal(made, lead, 37.0, rate_hz)
        assert signal.dtype == np.float32
        assert len(signal) == round(37 * rate_hz)
        assert np.isfinite(signal).all()
        assert 0.1 < np.abs(signal).max() < 6.0
    assert len(made.shape.t) == len(made.rhythm.times)
    assert 40.0 < rates_of(made, 37.0) < 150.0


def test_every_kind_of_patient_has_a_finite_ecg_at_every_potassium() -> None:
    for condition in (
        lambda p: p.paced,
        lambda p: p.rhythm == "fibrillation",
        lambda p: p.strain,
        lambda p: p.bundle_branch_block,
        lambda p: p.digoxin,
        lambda p: p.amiodarone,
    ):
        patient = some(condition)
        for level in (1.5, 4.2, 7.0, 10.0):
            made = heart(Plan(patient, Ramp(level, 0.0)), Span(0, 600, 620))
            signal = lead_signal(made, "II", 20.0, RATE)
            assert np.isfinite(signal).all()
            assert np.abs(signal).max() < 6.0
