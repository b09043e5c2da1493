"""Strips for the eye: one patient at several potassium levels, with each disease, at each monitor.

Every strip is written and read back, so it is what the monitor stores. The same names of random streams give
the same patient: only what a figure is about differs from one strip to the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from common.seeding import stream
from simulation.cohort.heart import heart_of
from simulation.cohort.labs import Draw
from simulation.cohort.patient import Patient, Role, make_beat, make_patient
from simulation.cohort.potassium import STEP_H
from simulation.cohort.profile import CohortSizes, SiteProfile
from simulation.cohort.proof.delineate import MeanBeat, mean_beat
from simulation.cohort.proof.studies import Array, Visit, plan_visit, record_visit
from simulation.cohort.rhythm import VENTRICULAR
from simulation.cohort.stay import plan_patient

LEVELS = (4.2, 6.0, 7.0, 8.0)
SWEEP = (3.0, 4.2, 5.0, 6.0, 7.0, 8.0, 9.0)
SECONDS = 60
NORMAL = 4.2
DAYS_H = (96.0, 360.0)  # a stay long enough to see a course
EPISODE, LOW = 6.3, 2.8  # mEq/L: a kidney injury that shows; not a patient low throughout
CHOICES = 60  # candidates looked at for a day with ischemia, and for patients who respond differently


@dataclass(frozen=True)
class Strip:
    """A strip as stored: what it shows, float64 (n,) mV, rate in Hz, and where to begin drawing it, s."""

    title: str
    signal: Array
    rate_hz: float
    from_s: float = 20.0  # the monitor's filter has settled


def plain_patient(profile: SiteProfile, seed: int) -> Patient:
    """Return the first patient without any disease that changes the ECG, of average T and sensitivity."""
    for attempt in range(1000):
        patient = make_patient(profile, "usual", 1, stream("figure", seed, attempt))
        healthy = not (
            patient.lvh
            or patient.strain
            or patient.bundle_branch_block
            or patient.ischemia
            or patient.amiodarone
            or patient.digoxin
            or patient.paced
            or patient.rhythm != "sinus"
        )
        beat, sensitivity = patient.beat, patient.sensitivity.t_amplitude
        if (
            healthy
            and 0.2 < beat.t < 0.3
            and beat.p > 0.11
            and 0.7 < beat.r < 1.2
            and 0.25 < sensitivity < 0.4
        ):
            return replace(patient, ectopic_share=0.0, beat=replace(beat, rate=78.0))
    return patient


def strips_at_levels(
    profile: SiteProfile, seed: int, patient: Patient, levels: Sequence[float] = LEVELS
) -> list[Strip]:
    """Record one patient at several potassium levels with the same electrodes."""
    return [
        _recorded(
            f"{level:g} mEq/L",
            plan_visit(profile, patient, ("figure", "levels", seed), [level], (0,), SECONDS),
        )
        for level in levels
    ]


def mean_beats(profile: SiteProfile, seed: int) -> list[tuple[str, dict[float, MeanBeat]]]:
    """Return the mean beats of six patients over the range of potassium, by how T responds."""
    patients = [
        make_patient(profile, "dialysis", 1, stream("figure", "beats", seed, i)) for i in range(CHOICES)
    ]
    patients = [
        replace(patient, ectopic_share=0.0)
        for patient in patients
        if patient.rhythm == "sinus" and not patient.paced and not patient.bundle_branch_block
    ]
    upright = sorted(
        (patient for patient in patients if patient.beat.t > 0.12), key=lambda p: p.sensitivity.t_amplitude
    )
    inverted = [patient for patient in patients if patient.beat.t < 0]
    chosen = [
        ("hardly responds", upright[0]),
        ("responds little", upright[len(upright) // 5]),
        ("average", upright[len(upright) // 2]),
        ("average", upright[len(upright) // 2 + 2]),
        ("responds strongly", upright[-2]),
        ("inverted T (strain)", inverted[0]),
    ]
    out = []
    for title, patient in chosen:
        beats = {}
        for level, strip in zip(SWEEP, strips_at_levels(profile, seed, patient, SWEEP), strict=True):
            beat = mean_beat(strip.signal, strip.rate_hz)
            if beat is not None:
                beats[level] = beat
        out.append((title, beats))
    return out


def confounders(profile: SiteProfile, seed: int) -> list[Strip]:
    """Record one patient at normal potassium with one disease, drug or rhythm after the other."""
    base = plain_patient(profile, seed)
    names = ("figure", "confounder", seed)

    def beat(**flags: object) -> Patient:
        # The same numbers are drawn whatever the diseases, so only the disease differs.
        made = make_beat(stream(*names, "beat"), **flags)  # type: ignore[arg-type]
        return replace(base, beat=replace(made, r=max(made.r, 0.7), rate=78.0))

    paced = replace(beat(paced=True), paced=True)
    patients: Mapping[str, Patient] = {
        "none of them": beat(),
        "hypertrophy with strain": replace(beat(lvh=True, strain=True), lvh=True, strain=True),
        "left bundle branch block": replace(beat(block="left"), bundle_branch_block=True),
        "right bundle branch block": replace(beat(block="right"), bundle_branch_block=True),
        "digoxin": replace(beat(digoxin=True), digoxin=True),
        "amiodarone": replace(beat(amiodarone=True), amiodarone=True),
        "atrial fibrillation": replace(beat(), rhythm="fibrillation"),
        "pacemaker": paced,
    }
    strips = [
        _recorded(title, plan_visit(profile, patient, names, [NORMAL], (0,), SECONDS))
        for title, patient in patients.items()
    ]
    strips.insert(4, _ischemic(profile, replace(beat(), ischemia=True), names))
    ectopic = plan_visit(profile, replace(beat(), ectopic_share=0.1), names, [NORMAL], (0,), SECONDS)
    rhythm = heart_of(ectopic.plan, ectopic.plan.stretches[0]).rhythm
    early = rhythm.times[(rhythm.kinds == VENTRICULAR) & (rhythm.times > 10.0)]
    at = float(early[0]) - 1.5 if len(early) else 20.0
    return [*strips, replace(_recorded("ventricular ectopic beat", ectopic), from_s=at)]


def devices(profiles: Sequence[SiteProfile], seed: int) -> list[Strip]:
    """Record the same patient and minute with the monitor of each site."""
    out = []
    patient = plain_patient(profiles[0], seed)
    for profile in profiles:
        monitor = profile.monitor
        # Under one name the random streams are those of one bed: only the monitor differs.
        same_bed = profile.model_copy(update={"name": profiles[0].name})
        visit = plan_visit(same_bed, patient, ("figure", "device", seed), [NORMAL], (0,), SECONDS)
        reduced = ", turning points of 500 Hz" if monitor.turning_point else ""
        low, high = monitor.band_hz
        title = (
            f"{profile.name}: {monitor.rate_hz:g} Hz{reduced}, {low:g} to {high:g} Hz, {monitor.bits} bits, "
            f"mains {monitor.mains_hz} Hz"
        )
        out.append(_recorded(title, visit))
    return out


def courses(profile: SiteProfile, seed: int) -> list[tuple[str, Array, Array, tuple[Draw, ...]]]:
    """Return title, hours and true potassium (n,), and draws of one stay of each kind."""
    roles: tuple[tuple[Role, str], ...] = (
        ("usual", "ordinary stay"),
        ("injury", "acute kidney injury"),
        ("dialysis", "dialysis, ordinary stay"),
        ("personal", "dialysis for weeks"),
    )
    out = []
    for number, (role, title) in enumerate(roles):
        for subject in range(1, 80):  # a stay of some days
            plan = plan_patient(profile, CohortSizes(), seed, 80 * number + subject, subject, role)
            highest = plan.course.values.max()
            typical = highest > EPISODE if role == "injury" else plan.course.values.min() > LOW
            if DAYS_H[0] < plan.course.hours < DAYS_H[1] and len(plan.draws) > 6 and typical:
                break
        hours = np.arange(len(plan.course.values), dtype=np.float64) * STEP_H
        out.append((title, hours, plan.course.values, plan.draws))
    return out


def _ischemic(profile: SiteProfile, patient: Patient, names: tuple[object, ...]) -> Strip:
    """Record the day, of many, on which the first strip falls into the deepest ischemic episode."""
    visits = [
        plan_visit(profile, patient, (*names, "day", day), [NORMAL], (0,), SECONDS) for day in range(CHOICES)
    ]

    def shift(visit: Visit) -> float:
        start = np.array([float(visit.plan.stretches[0].start_s)])
        return float(visit.plan.conditions.at(start).ischemia[0])

    return _recorded("ischemic episode", min(visits, key=shift))


def _recorded(title: str, visit: Visit) -> Strip:
    with TemporaryDirectory(prefix="fedkalemia-figure-") as folder:
        [(signal, rate)] = record_visit(Path(folder), visit)
    return Strip(title, signal, rate)
