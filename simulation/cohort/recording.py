"""The signals of one stretch and one recording: rhythm, ECG, noise and monitor put together."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt

from simulation.cohort import device
from simulation.cohort.ecg import Shape, draw_day, draw_effects, seen_from_v, shape_at, synthesize
from simulation.cohort.profile import SiteProfile
from simulation.cohort.rhythm import Rhythm, make_rhythm
from simulation.cohort.stay import PatientPlan, Stretch

SECOND_ECG_SHARE = 0.06
PLETH_SHARE = 0.05
RESPIRATION_SHARE = 0.08


@dataclass(frozen=True)
class Recording:
    """One continuous run of the monitor, of which only some segments are stored.

    Attributes
    ----------
    start : surrogate date and time of the first sample.
    length : samples per channel, gaps included.
    segments : in order of time, never overlapping.
    rates : float64 (n_stretches, 2), time in s from ``start`` and mean heart rate, for the numerics.
    """

    start: datetime
    length: int
    segments: tuple[device.Segment, ...]
    rates: npt.NDArray[np.float64]


def beats_of(plan: PatientPlan, stretch: Stretch) -> tuple[Shape, Rhythm]:
    """Shape and R peaks of a stretch; the same whether or not the signal is ever made."""
    day = (plan.stay.base + timedelta(seconds=stretch.start_s)).toordinal()
    shape = shape_at(
        plan.patient,
        stretch.potassium,
        draw_day(plan.rng("electrodes", day)),
        draw_effects(plan.rng("posture", stretch.index)),
    )
    rhythm = make_rhythm(
        plan.rng("rhythm", stretch.index),
        stretch.seconds,
        shape.rate,
        plan.patient.ectopic_share,
        plan.patient.fibrillation,
    )
    return shape, rhythm


def segments_of(
    plan: PatientPlan, profile: SiteProfile, stretch: Stretch, start: int
) -> tuple[list[device.Segment], float]:
    """Make one stretch: its segments, and the mean heart rate.

    Parameters
    ----------
    plan, profile, stretch : what to make.
    start : first sample of the stretch in its recording.
    """
    shape, rhythm = beats_of(plan, stretch)
    rng = plan.rng("monitor", stretch.index)
    n = stretch.seconds * device.RATE_HZ
    disturbed = device.noise(rng, rhythm, n, plan.patient.muscle_mv, profile.mains_hz)
    if stretch.noisy:
        disturbed += device.movement(rng, n)

    views = {"II": shape} if stretch.lead_ii else {"MCL1": seen_from_v(shape)}
    if rng.random() < SECOND_ECG_SHARE:
        views["V"] = seen_from_v(shape)
    leads = {}
    for name, view in views.items():
        clean = synthesize(view, rhythm, stretch.seconds)
        scale = device.choose_gain(float(clean.min()) - 0.1, float(clean.max()) + 0.1, profile.gains)
        lower = device.choose_gain(2.0 * float(clean.min()), 2.0 * float(clean.max()), profile.gains)
        clean += disturbed
        signal = device.lead_off(rng, device.monitor_band(clean, profile.band_hz))
        leads[name] = (signal, scale, lower if rng.random() < 0.5 else scale)
    others = []
    if rng.random() < RESPIRATION_SHARE:
        others.append(device.respiration(rhythm, n))
    if rng.random() < PLETH_SHARE:
        others.append(device.pleth(rhythm, n))
    rate = 60.0 * len(rhythm.within(stretch.seconds)) / stretch.seconds
    return device.cut(rng, start, leads, others), rate


def recordings_of(plan: PatientPlan, profile: SiteProfile) -> list[Recording]:
    """Make all recordings of a stay."""
    out = []
    for number in sorted({stretch.record for stretch in plan.stretches}):
        stretches = [stretch for stretch in plan.stretches if stretch.record == number]
        begin, length = span_of(plan, number)
        segments: list[device.Segment] = []
        rates = []
        for stretch in stretches:
            offset = stretch.start_s - begin
            made, rate = segments_of(plan, profile, stretch, offset * device.RATE_HZ)
            segments += made
            rates.append((offset, rate))
        out.append(
            Recording(
                start=plan.stay.base + timedelta(seconds=begin),
                length=length * device.RATE_HZ,
                segments=tuple(segments),
                rates=np.array(rates, np.float64),
            )
        )
    return out


def span_of(plan: PatientPlan, record: int) -> tuple[int, int]:
    """Start of a recording in seconds after the start of the stay, and its length in seconds."""
    stretches = [stretch for stretch in plan.stretches if stretch.record == record]
    rng = plan.rng("record", record)
    begin = stretches[0].start_s - int(rng.integers(1, 60))
    return begin, stretches[-1].end_s + int(rng.integers(0, 90)) - begin
