"""From a patient to a stay: potassium course, draws, and when the monitor was recorded. No signal is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property

import numpy as np

from common.seeding import stream
from simulation.cohort import clinical_parameters as table
from simulation.cohort.conditions import Conditions, make_conditions
from simulation.cohort.labs import Draw, draw_blood, draws_elsewhere, label_of
from simulation.cohort.patient import Patient, Role, make_patient
from simulation.cohort.potassium import Course, dialysis_course, injury_course, usual_course, whole_steps
from simulation.cohort.profile import CohortSizes, SiteProfile
from simulation.cohort.spans import Span
from simulation.cohort.watch import Stretch, Watch

__all__ = ["Admission", "PatientPlan", "Stay", "Stretch", "label_of", "patient_stream", "plan_patient"]

CASE_TRIES = 40  # courses until one is a case


@dataclass(frozen=True)
class Admission:
    """One hospital admission."""

    hadm_id: int
    admitted: datetime
    discharged: datetime


@dataclass(frozen=True)
class Stay:
    """Hospital admission and ICU stay.

    Attributes
    ----------
    base : the minute from which draws and ECG are counted: entry to the unit.
    monitor_base : what the monitor's clock says at ``base``; the same, except where its dates do not fit.
    earlier : a former admission without ICU stay, if any.
    """

    hadm_id: int
    icustay_id: int
    admitted: datetime
    base: datetime
    icu_out: datetime
    discharged: datetime
    died: datetime | None
    monitor_base: datetime
    earlier: Admission | None = None


@dataclass(frozen=True)
class PatientPlan:
    """Everything about one patient except the signal itself."""

    profile: SiteProfile
    seed: int
    patient: Patient
    stay: Stay
    course: Course
    draws: tuple[Draw, ...]
    stretches: tuple[Stretch, ...]

    @property
    def site(self) -> str:
        """Name of the site."""
        return self.profile.name

    @cached_property
    def conditions(self) -> Conditions:
        """What else than potassium changes in time over the stay."""
        base = self.stay.base
        midnight_s = float(base.hour * 3600 + base.minute * 60 + base.second)
        return make_conditions(self.rng("conditions"), self.patient, midnight_s, self.course.hours)

    @cached_property
    def outside(self) -> tuple[Draw, ...]:
        """Draws of the same patient outside the unit: wards, an earlier admission, clinics. None has ECG."""
        stay = self.stay
        first = stay.earlier.admitted if stay.earlier else stay.admitted
        ward = [(stay.admitted, stay.base), (stay.icu_out, stay.discharged)]
        if stay.earlier:
            ward.append((stay.earlier.admitted, stay.earlier.discharged))
        clinic = (first - timedelta(days=500), first - timedelta(days=3))
        return tuple(
            draws_elsewhere(
                self.rng("outside"),
                self.profile,
                self.course.level,
                [(self.minute_of(start), self.minute_of(end)) for start, end in ward],
                (self.minute_of(clinic[0]), self.minute_of(clinic[1])),
                _day_minute(stay.base),
            )
        )

    def rng(self, *names: object) -> np.random.Generator:
        """Stream of one part of this patient."""
        return patient_stream(self.seed, self.site, self.patient.subject_id, *names)

    def charted(self, draw: Draw) -> datetime:
        """CHARTTIME of a draw: by the laboratory's clock, which may be ahead of the monitors'."""
        return self.stay.base + timedelta(minutes=draw.minute + self.profile.laboratory.clock_offset_min)

    def stretch_of(self, draw: Draw) -> Stretch | None:
        """Find the recorded stretch that holds a draw, if any."""
        second = draw.minute * 60
        return next((s for s in self.stretches if s.start_s <= second <= s.end_s), None)

    def minute_of(self, when: datetime) -> int:
        """Whole minutes from the start of the ICU stay to a time; negative before it."""
        return int((when - self.stay.base).total_seconds() // 60)


def patient_stream(seed: int, site: str, subject_id: int, *names: object) -> np.random.Generator:
    """Stream of one patient, independent of every other patient and of the order of work."""
    return stream("cohort", seed, site, subject_id, *names)


def plan_patient(
    profile: SiteProfile, sizes: CohortSizes, seed: int, subject_id: int, number: int, role: Role
) -> PatientPlan:
    """Plan one patient's stay.

    An ordinary stay lasts days; the monitor is recorded during a part of it. A personal patient is recorded
    throughout and stays until ``sizes.personal_strips`` usable strips of each label were recorded, at most
    four weeks. That condition is on the length of the stay only; physiology knows nothing of it. In a
    case-control cohort (``sizes.positive_share``) a patient with kidney injury or dialysis is a case: a
    patient in whom real hyperkalemia was measured while the monitor ran, with the ECG of one to four draws,
    that one among them. Stays are drawn until one is such. Lead II may be absent there, and the strip
    ruined by movement. After ``CASE_TRIES`` stays the last is returned as it is, without a word: such a
    patient has the role of a case and no recorded hyperkalemia.

    Parameters
    ----------
    profile, sizes, seed : the site, how much of it is written, and the root of every random stream.
    subject_id : identifier at the site.
    number : position in the site, for the other identifiers.
    role : see ``make_patient``.
    """

    def rng(*names: object) -> np.random.Generator:
        return patient_stream(seed, profile.name, subject_id, *names)

    patient = make_patient(profile, role, subject_id, rng("patient"))
    dice = rng("stay")
    base = _surrogate_start(dice)
    # Course, monitor and exit from the unit end at the same moment, on the grid of the course.
    hours = table.LONGEST_STAY_H
    if role != "personal":
        hours = whole_steps(float(np.clip(table.STAY_HOURS.lognormal(dice), *table.STAY_RANGE_H)))
    is_case = sizes.positive_share is not None and role in ("injury", "dialysis")
    for attempt in range(CASE_TRIES if is_case else 1):
        course = _course(rng("potassium", attempt), role, hours)
        draws = draw_blood(rng("labs", attempt), profile, course, _day_minute(base))
        watch = Watch(rng("device"), profile, sizes, draws, hours)
        if _cases(draws, watch):
            break
    if role == "personal":
        draws = draws[: watch.enough(draws)]
        last = draws[-1].minute / 60
        hours = min(whole_steps(last + float(dice.uniform(*table.AFTER_LAST_DRAW_H))), hours)
        course = course.until(hours)
        monitored, recorded = (0, round(hours * 3600)), draws
    else:
        cases = _cases(draws, watch) if is_case else []
        monitored, recorded = _recorded_part(rng("recorded"), profile, sizes, draws, hours, cases)
    return PatientPlan(
        profile=profile,
        seed=seed,
        patient=patient,
        stay=_stay(dice, profile, role, base, hours, number),
        course=course,
        draws=tuple(draws),
        stretches=watch.stretches(monitored, recorded),
    )


def _course(rng: np.random.Generator, role: Role, hours: float) -> Course:
    if role == "injury":
        return injury_course(rng, hours)
    if role == "dialysis":
        return dialysis_course(rng, hours, table.ORDINARY_PEAK, table.ORDINARY_PEAK_RANGE)
    return dialysis_course(rng, hours) if role == "personal" else usual_course(rng, hours)


def _cases(draws: Sequence[Draw], watch: Watch) -> list[int]:
    """Positions of the draws with hyperkalemia that was measured, is real, and has ECG before it."""
    return [
        i
        for i, draw in enumerate(draws)
        if label_of(draw.reading) == "positive"
        and draw.potassium > table.POSITIVE_ABOVE
        and watch.running(draw)
    ]


def _recorded_part(
    rng: np.random.Generator,
    profile: SiteProfile,
    sizes: CohortSizes,
    draws: Sequence[Draw],
    hours: float,
    cases: Sequence[int],
) -> tuple[Span, list[Draw]]:
    """Choose the monitored part of an ordinary stay, and the draws in it whose ECG is kept.

    In a case-control cohort the draws stand around the highest of ``cases``, if there are any.
    """
    seconds = round(hours * 3600)
    mean = profile.monitor.recorded_share
    share = mean + min(mean, 1.0 - mean) * rng.normal(0.0, table.SHARE_SPREAD)
    length = round(seconds * float(np.clip(share, 0.1, 1.0)))
    start = int(rng.integers(0, seconds - length + 1))
    most = sizes.most_draws or len(draws)
    if sizes.positive_share is None:
        inside = [draw for draw in draws if start <= draw.minute * 60 <= start + length]
        skip = int(rng.integers(0, max(len(inside) - most, 0) + 1))
        recorded = inside[skip : skip + most]
        narrowed = len(recorded) < len(inside)
    else:
        wanted = min(1 + int(rng.poisson(table.MORE_DRAWS)), table.MOST_DRAWS, most, len(draws))
        at = int(rng.integers(0, len(draws) - wanted + 1))
        if cases:
            highest = max(cases, key=lambda i: draws[i].potassium)
            at = min(max(highest - int(rng.integers(0, wanted)), 0), len(draws) - wanted)
        recorded = list(draws[at : at + wanted])
        narrowed = True
    if narrowed and recorded:
        first, last = recorded[0].minute * 60, recorded[-1].minute * 60
        start = max(first - round(sizes.window_hours * 3600), 0)
        return (start, min(last + round(sizes.minutes_after * 60), seconds)), recorded
    return (start, start + length), recorded


def _day_minute(when: datetime) -> int:
    return when.hour * 60 + when.minute


def _surrogate_start(rng: np.random.Generator) -> datetime:
    """Draw a minute of the surrogate years 2103 to 2198, as MIMIC shifts its dates."""
    return datetime(2103, 1, 1) + timedelta(minutes=int(rng.integers(0, 95 * 365 * 1440)))


def _stay(
    rng: np.random.Generator, profile: SiteProfile, role: Role, base: datetime, hours: float, number: int
) -> Stay:
    icu_out = base + timedelta(minutes=round(hours * 60), seconds=int(rng.integers(0, 60)))
    ward_min = int(min(rng.exponential(4 * 1440), 40 * 1440)) + 30
    discharged = (icu_out + timedelta(minutes=ward_min)).replace(second=0)
    admitted = base - timedelta(minutes=int(rng.exponential(600)) + 5)
    died, misdated, had_earlier = rng.random(3)
    days = int(rng.integers(*table.DATES_OFF_DAYS)) * (1 if rng.random() < 0.5 else -1)
    fits = role == "personal" or misdated >= profile.monitor.dates_off_share
    left = admitted - timedelta(minutes=int(rng.integers(20 * 1440, 90 * 1440)))
    came = left - timedelta(minutes=int(rng.uniform(*table.EARLIER_DAYS) * 1440))
    identifiers = 17 * number + rng.integers(0, 8, size=3)
    earlier = Admission(100_008 + int(identifiers[2]), came, left)
    return Stay(
        hadm_id=100_000 + int(identifiers[0]),
        icustay_id=200_000 + int(identifiers[1]),
        admitted=admitted,
        base=base,
        icu_out=icu_out,
        discharged=discharged,
        died=discharged if died < table.DIED_SHARE else None,
        monitor_base=base if fits else base + timedelta(days=days),
        earlier=earlier if had_earlier < table.EARLIER_SHARE else None,
    )
