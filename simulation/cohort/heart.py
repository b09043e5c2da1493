"""The heart of one patient during one stretch: when it beats, and how each beat looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from simulation.cohort.ecg import Signal, synthesize
from simulation.cohort.rhythm import LEAD_IN_S, Rhythm, make_rhythm
from simulation.cohort.shape import Lead, Shape, rate_at, seen_from, shape_at

if TYPE_CHECKING:
    from simulation.cohort.stay import PatientPlan, Stretch

GRID_S = 15.0  # potassium and rate are known this often, and interpolated between


@dataclass(frozen=True)
class Heart:
    """Beats of one stretch: ``shape`` and ``rhythm`` have one entry per beat, in the same order."""

    shape: Shape
    rhythm: Rhythm


def heart_of(plan: PatientPlan, stretch: Stretch) -> Heart:
    """Compute the beats of a stretch; the same whether or not its signal is ever made.

    Potassium and conditions are those of each beat's own time, so the ECG changes within a stretch, too.

    Parameters
    ----------
    plan : patient, course, conditions and random streams.
    stretch : seconds after the start of the stay.
    """
    duration = float(stretch.end_s - stretch.start_s)
    steps = int(np.ceil((duration + 2 * LEAD_IN_S) / GRID_S)) + 1
    grid = np.linspace(-LEAD_IN_S, duration + LEAD_IN_S, steps)
    potassium = np.asarray(plan.course.at((stretch.start_s + grid) / 3600.0), np.float64)
    effects = plan.conditions.at(stretch.start_s + grid)
    patient = plan.patient
    rhythm = make_rhythm(
        plan.rng("rhythm", stretch.index),
        duration,
        rate_at(patient, potassium, effects),
        patient.ectopic_share,
        effects.fibrillation,
        patient.paced,
    )
    shape = shape_at(
        patient,
        np.interp(rhythm.times, grid, potassium),
        plan.conditions.at(stretch.start_s + rhythm.times),
    )
    return Heart(shape, rhythm)


def lead_signal(heart: Heart, lead: Lead, duration_s: float, rate_hz: float) -> Signal:
    """Make one lead of a stretch without noise: float32 (round(duration_s · rate_hz),), mV."""
    return synthesize(seen_from(heart.shape, lead), heart.rhythm, duration_s, rate_hz)


def rates_of(heart: Heart, duration_s: float) -> float:
    """Mean heart rate of a stretch, beats per minute."""
    return 60.0 * len(heart.rhythm.within(duration_s)) / duration_s
