"""From a patient to a stay: potassium course, draws, and which of them have ECG. No signal is made here."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt

from common.seeding import stream
from simulation.cohort.labs import SERUM, Draw, draw_blood
from simulation.cohort.patient import Patient, Role, make_patient
from simulation.cohort.potassium import Course, dialysis_course, injury_course, usual_course
from simulation.cohort.profile import CohortSizes, SiteProfile

SAME_MEASUREMENT_MIN = 30  # draws closer than this are one measurement for the cohort rules
LONGEST_STAY_H = 24.0 * 28
LATE_SHARE = 1 / 30  # draws before which the monitor was switched on too late
RECORD_BREAK = 0.3  # share of longer stays whose monitoring was stopped and started again


@dataclass(frozen=True)
class Stretch:
    """Recorded ECG around one draw, or around several near ones.

    Attributes
    ----------
    index : position within the patient's stay.
    start_s, end_s : seconds after the start of the stay, multiples of one second.
    potassium : true potassium, mEq/L; constant over these minutes.
    lead_ii : lead II is recorded (else another lead).
    noisy : ruined by movement.
    record : which recording of the stay it belongs to.
    """

    index: int
    start_s: int
    end_s: int
    potassium: float
    lead_ii: bool
    noisy: bool
    record: int

    @property
    def seconds(self) -> int:
        """Length, s."""
        return self.end_s - self.start_s


@dataclass(frozen=True)
class Stay:
    """Hospital admission and ICU stay. ``base`` is the minute from which draws are counted."""

    hadm_id: int
    icustay_id: int
    admitted: datetime
    base: datetime
    icu_out: datetime
    discharged: datetime
    died: datetime | None


@dataclass(frozen=True)
class PatientPlan:
    """Everything about one patient except the signal itself."""

    site: str
    seed: int
    patient: Patient
    stay: Stay
    course: Course
    draws: tuple[Draw, ...]
    stretches: tuple[Stretch, ...]

    def rng(self, *names: object) -> np.random.Generator:
        """Stream of one part of this patient."""
        return patient_stream(self.seed, self.site, self.patient.subject_id, *names)

    def stretch_of(self, draw: Draw) -> Stretch | None:
        """Find the recorded stretch that holds a draw, if any."""
        second = draw.minute * 60
        return next((s for s in self.stretches if s.start_s <= second <= s.end_s), None)


def patient_stream(seed: int, site: str, subject_id: int, *names: object) -> np.random.Generator:
    """Stream of one patient, independent of every other patient and of the order of work."""
    return stream("cohort", seed, site, subject_id, *names)


def plan_patient(
    profile: SiteProfile, sizes: CohortSizes, seed: int, subject_id: int, number: int, role: Role
) -> PatientPlan:
    """Plan one patient's stay.

    A usual or episode patient has a stay of days and one to four draws with ECG, around the highest value
    of an episode: monitors run, and draws are taken, when patients are ill. A personal patient stays until
    at least ``sizes.personal_strips`` usable strips of each label were recorded, at most four weeks. That
    condition is on the length of the stay only; physiology knows nothing of it.

    Parameters
    ----------
    profile, sizes, seed : as for ``write_site``.
    subject_id : identifier at the site.
    number : position in the site, for the other identifiers.
    role : see ``make_patient``.
    """

    def rng(*names: object) -> np.random.Generator:
        return patient_stream(seed, profile.name, subject_id, *names)

    patient = make_patient(profile, role, subject_id, rng("patient"))
    dice = rng("stay")
    hours = LONGEST_STAY_H
    if role != "personal":
        hours = float(np.clip(dice.lognormal(np.log(60.0), 0.45), 24.0, 168.0))
    base = _surrogate_start(dice)
    if role == "usual":
        course = usual_course(rng("potassium"), hours)
    elif role == "personal" or patient.esrd:
        course = dialysis_course(rng("potassium"), hours)
    else:
        course = injury_course(rng("potassium"), hours)
    draws = draw_blood(rng("labs"), profile, course)
    device = rng("device")
    absent = _days_without_lead_ii(device, profile, base, hours)
    noisy = device.random(len(draws)) < profile.noisy_share
    late = device.random(len(draws)) < LATE_SHARE

    if role == "personal":
        usable = [
            draw.item == SERUM and not noisy[i] and not late[i] and not absent[_day(base, draw)]
            for i, draw in enumerate(draws)
        ]
        draws = draws[: _enough(draws, usable, sizes.personal_strips)]
        recorded = draws
        hours = draws[-1].minute / 60 + float(dice.uniform(4.0, 20.0))
    else:
        recorded = _recorded_part(device, draws, role)
    stretches = _stretches(device, sizes, base, draws, recorded, course, absent, noisy, late)
    return PatientPlan(
        site=profile.name,
        seed=seed,
        patient=patient,
        stay=_stay(dice, base, hours, number),
        course=course,
        draws=tuple(draws),
        stretches=tuple(stretches),
    )


def label_of(potassium: float) -> str:
    """Positive, negative, gap or excluded, as the paper labels a reported value."""
    if potassium > 5.5:
        return "positive"
    if potassium > 5.0:
        return "gap"
    return "negative" if potassium >= 3.5 else "excluded"


def _enough(draws: list[Draw], usable: list[bool], wanted: int) -> int:
    """Length of the shortest start of ``draws`` with ``wanted`` usable strips of each label.

    Draws closer than half an hour are one measurement, and none if their labels differ.
    """
    counts = {"positive": 0, "negative": 0}
    for i, draw in enumerate(draws):
        near = [d for d in draws if abs(d.minute - draw.minute) < SAME_MEASUREMENT_MIN]
        labels = {label_of(d.reading) for d in near}
        label = label_of(draw.reading)
        if usable[i] and label in counts and labels == {label} and near[0] is draw:
            counts[label] += 1
        if min(counts.values()) >= wanted:
            return i + 1
    return len(draws)


def _recorded_part(rng: np.random.Generator, draws: list[Draw], role: Role) -> list[Draw]:
    """One to four draws in a row (mean 1.9, as in the source paper) during which the monitor ran."""
    if not draws:
        return []
    wanted = min(1 + int(rng.poisson(0.95)), 4, len(draws))
    at = int(rng.integers(0, len(draws) - wanted + 1))
    if role == "episode":
        highest = max(range(len(draws)), key=lambda i: draws[i].potassium)
        at = min(max(highest - int(rng.integers(0, wanted)), 0), len(draws) - wanted)
    return draws[at : at + wanted]


def _stretches(
    rng: np.random.Generator,
    sizes: CohortSizes,
    base: datetime,
    draws: list[Draw],
    recorded: list[Draw],
    course: Course,
    absent: dict[int, bool],
    noisy: npt.NDArray[np.bool_],
    late: npt.NDArray[np.bool_],
) -> list[Stretch]:
    before, after = round(sizes.minutes_before * 60), round(sizes.minutes_after * 60)
    spans: list[list[int]] = []
    for draw in recorded:
        second = draw.minute * 60
        position = draws.index(draw)
        missing = int(0.7 * before) if late[position] else 0
        start, end = max(second - before + missing, 60), second + after
        if spans and start <= spans[-1][1] + 60:
            spans[-1][1] = max(spans[-1][1], end)
        else:
            spans.append([start, end, position])
    breaks = int(rng.integers(1, len(spans))) if len(spans) >= 4 and rng.random() < RECORD_BREAK else 0
    return [
        Stretch(
            index=index,
            start_s=start,
            end_s=end,
            potassium=course.at((start + end) / 7200),
            lead_ii=not absent[_day(base, draws[first])],
            noisy=bool(noisy[first]),
            record=int(breaks > 0 and index >= breaks),
        )
        for index, (start, end, first) in enumerate(spans)
    ]


def _days_without_lead_ii(
    rng: np.random.Generator, profile: SiteProfile, base: datetime, hours: float
) -> dict[int, bool]:
    first = base.toordinal()
    days = range(first, first + int(hours // 24) + 3)
    return {day: bool(rng.random() < profile.lead_ii_missing) for day in days}


def _day(base: datetime, draw: Draw) -> int:
    return (base + timedelta(minutes=draw.minute)).toordinal()


def _surrogate_start(rng: np.random.Generator) -> datetime:
    """Draw a minute of the surrogate years 2101 to 2198, as MIMIC shifts its dates."""
    return datetime(2101, 1, 1) + timedelta(minutes=int(rng.integers(0, 97 * 365 * 1440)))


def _stay(rng: np.random.Generator, base: datetime, hours: float, number: int) -> Stay:
    icu_out = base + timedelta(minutes=round(hours * 60), seconds=int(rng.integers(0, 60)))
    discharged = icu_out + timedelta(minutes=int(rng.exponential(4 * 1440)) + 30)
    died = bool(rng.random() < 0.1)
    return Stay(
        hadm_id=100_000 + 17 * number + int(rng.integers(0, 17)),
        icustay_id=200_000 + 17 * number + int(rng.integers(0, 17)),
        admitted=base - timedelta(minutes=int(rng.exponential(600)) + 5),
        base=base,
        icu_out=icu_out,
        discharged=discharged.replace(second=0),
        died=discharged.replace(second=0) if died else None,
    )
