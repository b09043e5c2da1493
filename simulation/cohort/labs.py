"""Blood draws: when they are taken, what the laboratory reports, and what else stands beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from simulation.cohort import clinical_parameters as table
from simulation.cohort.potassium import Course, transient_height
from simulation.cohort.profile import SiteProfile

SERUM = 50971
WHOLE_BLOOD = 50822
BEYOND_SCALE, NO_RESULT = "GREATER THAN 10", "HEMOLYZED"
CENSORED_AT = 10.0
DAY_MIN = 1440
SAME_MEASUREMENT_MIN = 30  # draws closer than this are one measurement for the cohort rules


@dataclass(frozen=True)
class Draw:
    """One potassium result.

    Attributes
    ----------
    minute : true specimen time in minutes after the start of the ICU stay; may be negative outside it.
    item : ``SERUM`` or ``WHOLE_BLOOD``.
    potassium : true potassium of the patient, mEq/L.
    value : reported value, None for a text result.
    text : VALUE as printed.
    hemolysed : potassium leaked from broken red cells; the laboratory says so only in the text result.
    has_admission : the row carries its HADM_ID.
    duplicate : the row is on the table twice.
    """

    minute: int
    item: int
    potassium: float
    value: float | None
    text: str
    hemolysed: bool
    has_admission: bool
    duplicate: bool = False

    @property
    def reading(self) -> float | None:
        """Reported value; 10 where the value is beyond the scale, None where there is no result, mEq/L."""
        return CENSORED_AT if self.text == BEYOND_SCALE else self.value


def draw_blood(
    rng: np.random.Generator, profile: SiteProfile, course: Course, day_minute: int = 0
) -> list[Draw]:
    """All potassium results of an ICU stay in order of time.

    The next draw depends on what was *reported*: the clinician knows no other potassium. It comes sooner
    after an abnormal result, soon after a surprising one, before and after dialysis sessions, and with the
    morning round.

    Parameters
    ----------
    rng : the patient's stream.
    profile : the site: how often it draws, its assay, its habits.
    course : true potassium.
    day_minute : minute of the day at which the course begins.
    """
    lab = profile.laboratory
    usual = (lab.draw_interval_h / table.WAIT_REFERENCE_H) ** table.WAIT_EXPONENT * table.WAIT_REFERENCE_H
    pace = table.WAIT_FACTOR * usual * float(np.exp(rng.normal(0.0, table.PACE_SIGMA)))
    planned = _around_sessions(rng, course)
    hours = float(rng.exponential(table.FIRST_DRAW_H)) + 0.3
    draws: list[Draw] = []
    gas = lab.whole_blood_only
    known: float | None = None
    while hours < course.hours:
        minute = _written_minute(rng, round(hours * 60), day_minute)
        draw = report(rng, profile, course.at(minute / 60), minute, WHOLE_BLOOD if gas else SERUM)
        draws.append(draw)
        twin, later = rng.random() < lab.whole_blood_share, 1 + int(rng.exponential(table.TWIN_MINUTES))
        if twin and not gas:
            minute += min(later, 28)
            draws.append(report(rng, profile, course.at(minute / 60), minute, WHOLE_BLOOD))
        surprising = draw.reading is None or (
            draw.reading > table.POSITIVE_ABOVE and (known is None or known <= table.NEGATIVE_TO)
        )
        wait, morning = _wait(rng, pace, draw.reading), _next_morning(rng, hours, day_minute)
        gas = lab.whole_blood_only
        if surprising and rng.random() < table.RECOLLECT_SHARE:
            wait = float(rng.uniform(*table.RECOLLECT_H))
            gas = gas or bool(lab.whole_blood_share > 0 and rng.random() < table.RECOLLECT_GAS_SHARE)
        following = hours + wait
        if morning is not None and following > morning - 1.5:
            following = morning
        planned = [time for time in planned if time > hours + table.SHORTEST_WAIT_H]
        if planned and planned[0] < following + 1.0:
            following = planned.pop(0)
        known = draw.reading if draw.reading is not None else known
        hours = following
    # A twin may be taken a minute after the unit was left.
    return [draw for draw in draws if draw.minute <= course.hours * 60]


def report(
    rng: np.random.Generator, profile: SiteProfile, potassium: float, minute: int, item: int = SERUM
) -> Draw:
    """Measure one specimen: assay offset and error, hemolysis, rounding, text results, clerical faults."""
    lab = profile.laboratory
    value = potassium + lab.assay_offset + rng.normal(0.0, lab.assay_sd)
    if item == WHOLE_BLOOD:
        odd = rng.random() < table.ODD_WHOLE_BLOOD_SHARE
        value += table.WHOLE_BLOOD_DIFFERENCE.normal(rng) + odd * rng.normal(0.0, table.ODD_WHOLE_BLOOD_SD)
    broken, contaminated, refused, lost, twice = rng.random(5)
    rise = _hemolysis(rng)
    hemolysed = bool(broken < lab.hemolysed_share)
    value += rise if hemolysed else 0.0
    reported = round(float(value), 1)
    draw = Draw(
        minute=minute,
        item=item,
        potassium=potassium,
        value=reported,
        text=f"{reported:.1f}",
        hemolysed=hemolysed,
        has_admission=bool(lost >= lab.no_admission_share),
        duplicate=bool(twice < lab.duplicate_share),
    )
    if refused < lab.hemolysed_text_share:
        return replace(draw, value=None, text=NO_RESULT, hemolysed=True)
    if reported > CENSORED_AT:
        return replace(draw, value=None, text=BEYOND_SCALE)
    if contaminated < table.BEYOND_SCALE_SHARE:
        # Beyond the scale while the patient is not: grossly hemolysed.
        return replace(draw, value=None, text=BEYOND_SCALE, hemolysed=True)
    return draw


def draws_elsewhere(
    rng: np.random.Generator,
    profile: SiteProfile,
    level: float,
    ward: list[tuple[int, int]],
    clinic: tuple[int, int],
    day_minute: int,
) -> list[Draw]:
    """Results without ECG: mornings on the ward, and clinic visits, which have no HADM_ID.

    Parameters
    ----------
    rng, profile : stream and site.
    level : mean potassium of the patient, mEq/L.
    ward : spans in minutes after the start of the ICU stay during which the patient is on a ward.
    clinic : span of possible clinic visits.
    day_minute : minute of the day at which the ICU stay begins.
    """
    minutes: list[tuple[int, bool]] = []
    for start, end in ward:
        first_day, last_day = (start + day_minute) // DAY_MIN, (end + day_minute) // DAY_MIN
        for day in range(first_day, last_day + 1):
            minute = day * DAY_MIN - day_minute + int(rng.normal(5.5 * 60, 50))
            if rng.random() < table.WARD_SHARE and start < minute < end:
                minutes.append((minute, True))
    visits = int(rng.poisson(table.CLINIC_VISITS)) if rng.random() < table.CLINIC_SHARE else 0
    for _ in range(visits):
        day = int(rng.integers(clinic[0] // DAY_MIN, clinic[1] // DAY_MIN))
        minutes.append((day * DAY_MIN - day_minute + int(rng.integers(8 * 60, 17 * 60)), False))
    draws = []
    for minute, admitted in sorted(minutes):
        potassium = level + float(rng.normal(0.0, table.ELSEWHERE_SD))
        potassium += transient_height(rng) * (rng.random() < table.TRANSIENT_SHARE)
        potassium = float(np.clip(potassium, table.LOWEST, table.HIGHEST))
        item = WHOLE_BLOOD if profile.laboratory.whole_blood_only else SERUM
        draw = report(rng, profile, potassium, minute, item)
        draws.append(replace(draw, has_admission=admitted and draw.has_admission))
    return draws


def label_of(potassium: float | None) -> str:
    """Positive, negative, gap or excluded, as the paper labels a reported value."""
    if potassium is None:
        return "excluded"
    if potassium > table.POSITIVE_ABOVE:
        return "positive"
    if potassium > table.NEGATIVE_TO:
        return "gap"
    return "negative" if potassium >= table.NEGATIVE_FROM else "excluded"


def measurements(draws: Sequence[Draw]) -> list[Draw]:
    """Choose the draws that count, of a patient's in order of time, as the rules of a cohort do.

    Text results are no measurement. Whole blood gives way to serum of the same minute. Draws less than half
    an hour apart are void if their labels differ; else the first is kept, and those within half an hour of
    it are the same measurement. Low potassium has no label and voids what is near it.
    """
    known = [draw for draw in draws if draw.reading is not None]
    serum = {draw.minute for draw in known if draw.item == SERUM}
    known = [draw for draw in known if draw.item == SERUM or draw.minute not in serum]
    kept: list[Draw] = []
    for draw in known:
        near = {
            label_of(other.reading)
            for other in known
            if abs(other.minute - draw.minute) < SAME_MEASUREMENT_MIN
        }
        apart = not kept or draw.minute - kept[-1].minute >= SAME_MEASUREMENT_MIN
        if len(near) == 1 and "excluded" not in near and apart:
            kept.append(draw)
    return kept


def flag_of(draw: Draw) -> str:
    """FLAG column: the laboratory's own reference range, which is not the label's."""
    low, high = table.REFERENCE_WHOLE if draw.item == WHOLE_BLOOD else table.REFERENCE_SERUM
    return "" if draw.value is None or low <= draw.value <= high else "abnormal"


def _wait(rng: np.random.Generator, pace: float, reading: float | None) -> float:
    """Hours until the next draw that was ordered, without regard to rounds and sessions."""
    wait = pace * float(np.exp(rng.normal(0.0, table.WAIT_SIGMA)))
    if reading is not None and reading > table.POSITIVE_ABOVE:
        wait *= table.AFTER_HIGH
    elif reading is not None and reading < table.NEGATIVE_FROM:
        wait *= table.AFTER_LOW
    return max(wait, table.SHORTEST_WAIT_H)


def _next_morning(rng: np.random.Generator, hours: float, day_minute: int) -> float | None:
    """Hours of the next morning round, if blood is drawn there; at least three hours from now."""
    jitter, happens = rng.normal(0.0, table.MORNING_SD), rng.random() < table.MORNING_SHARE
    clock = hours + day_minute / 60
    day = np.ceil((clock + 3.0 - table.MORNING_H) / 24.0)
    morning = float(day * 24.0 + table.MORNING_H + jitter - day_minute / 60)
    return morning if happens and morning > hours + 2.0 else None


def _around_sessions(rng: np.random.Generator, course: Course) -> list[float]:
    """Hours of the draws that belong to dialysis sessions."""
    planned = []
    for session in course.sessions:
        before = session - rng.uniform(*table.BEFORE_SESSION_H)
        after = session + table.SESSION_HOURS + rng.uniform(*table.AFTER_SESSION_H)
        if rng.random() < table.BEFORE_SESSION_SHARE:
            planned.append(float(before))
        if rng.random() < table.AFTER_SESSION_SHARE:
            planned.append(float(after))
    return sorted(planned)


def _hemolysis(rng: np.random.Generator) -> float:
    """Rise of potassium in a hemolysed specimen: mostly mild, mEq/L."""
    low, high = table.HEMOLYSED_RISE
    room = 1.0 - np.exp(-(high - low) / table.HEMOLYSED_SCALE)
    return float(low - table.HEMOLYSED_SCALE * np.log(1.0 - room * rng.random()))


def _written_minute(rng: np.random.Generator, minute: int, day_minute: int) -> int:
    """Specimen times are often rounded to five minutes of the clock."""
    if rng.random() < table.ROUNDED_SHARE:
        minute = max(5 * round((minute + day_minute) / 5) - day_minute, 1)
    return minute
