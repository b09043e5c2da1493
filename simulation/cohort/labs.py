"""Blood draws: when they are taken and what the laboratory reports."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulation.cohort import parameters as table
from simulation.cohort.potassium import Course
from simulation.cohort.profile import SiteProfile

SERUM = 50971
WHOLE_BLOOD = 50822
TEXT_RESULT = "GREATER THAN 10"
CENSORED_AT = 10.0


@dataclass(frozen=True)
class Draw:
    """One potassium result.

    Attributes
    ----------
    minute : specimen time in minutes after the start of the ICU stay.
    item : ``SERUM`` or ``WHOLE_BLOOD``.
    potassium : true potassium of the patient, mEq/L.
    value : reported value, None for the text result.
    text : VALUE as printed.
    hemolysed : potassium leaked from broken red cells; the laboratory does not say so.
    has_admission : the row carries its HADM_ID.
    """

    minute: int
    item: int
    potassium: float
    value: float | None
    text: str
    hemolysed: bool
    has_admission: bool

    @property
    def reading(self) -> float:
        """Reported value; 10 for the text result, mEq/L."""
        return CENSORED_AT if self.value is None else self.value


@dataclass(frozen=True)
class OtherResult:
    """A result that is not blood potassium: the rest of the panel, or a decoy also called potassium."""

    minute: int
    item: int
    text: str
    unit: str
    abnormal: bool
    has_admission: bool


# item: label, fluid, category, LOINC code; as in the table of the MIMIC-III demo
ITEMS: dict[int, tuple[str, str, str, str]] = {
    50822: ("Potassium, Whole Blood", "Blood", "Blood Gas", "6298-4"),
    50833: ("Potassium", "Other Body Fluid", "Blood Gas", "2821-7"),
    50847: ("Potassium, Ascites", "Ascites", "Chemistry", "49789-1"),
    50882: ("Bicarbonate", "Blood", "Chemistry", "1963-8"),
    50902: ("Chloride", "Blood", "Chemistry", "2075-0"),
    50912: ("Creatinine", "Blood", "Chemistry", "2160-0"),
    50931: ("Glucose", "Blood", "Chemistry", "2345-7"),
    50971: ("Potassium", "Blood", "Chemistry", "2823-3"),
    50983: ("Sodium", "Blood", "Chemistry", "2951-2"),
    51006: ("Urea Nitrogen", "Blood", "Chemistry", "3094-0"),
    51041: ("Potassium, Body Fluid", "Other Body Fluid", "Chemistry", "2821-7"),
    51057: ("Potassium, Pleural", "Pleural", "Chemistry", ""),
    51064: ("Potassium, Stool", "Stool", "Chemistry", "15202-5"),
    51097: ("Potassium, Urine", "Urine", "Chemistry", "2828-2"),
}

# Panel that comes with a serum draw: item, mean, SD, decimals, unit, reference range
_PANEL = (
    (50983, 138.5, 4.5, 0, "mEq/L", 133.0, 145.0),
    (50902, 104.5, 5.5, 0, "mEq/L", 96.0, 108.0),
    (50882, 24.5, 4.5, 0, "mEq/L", 22.0, 32.0),
    (50931, 135.0, 45.0, 0, "mg/dL", 70.0, 105.0),
)
_REFERENCE = (3.3, 5.3)


def schedule(rng: np.random.Generator, course: Course, interval_h: float) -> list[int]:
    """Draw times in minutes: log-normal intervals, sooner after an abnormal potassium.

    The clinician knows the last result, so the next interval depends on it (SCIENCE 4.2 and 7).
    """
    minutes = []
    hours = 0.8 + rng.exponential(2.0)
    while hours < course.hours:
        minutes.append(round(hours * 60))
        wait = interval_h * float(np.exp(rng.normal(0.0, table.DRAW_INTERVAL_SIGMA)))
        if not 3.5 <= course.at(hours) <= 5.0:
            wait *= table.ABNORMAL_INTERVAL_FACTOR
        hours += float(np.clip(wait, 1.0, 36.0))
    return minutes


def report(
    rng: np.random.Generator, profile: SiteProfile, potassium: float, minute: int, item: int = SERUM
) -> Draw:
    """Measure one specimen: assay offset and error, hemolysis, rounding, and the odd text result."""
    value = potassium + profile.assay_offset + rng.normal(0.0, table.ASSAY_SD)
    if item == WHOLE_BLOOD:
        value += table.WHOLE_BLOOD_DIFFERENCE.normal(rng)
    hemolysed = bool(rng.random() < table.HEMOLYSED_SHARE)
    rise = rng.uniform(*table.HEMOLYSED_RISE)
    text_only = bool(rng.random() < table.TEXT_RESULT_SHARE)
    has_admission = bool(rng.random() >= table.NO_ADMISSION_SHARE)
    value += rise if hemolysed else 0.0
    censored = text_only or value > CENSORED_AT
    reported = round(float(value), 1)
    return Draw(
        minute=minute,
        item=item,
        potassium=potassium,
        value=None if censored else reported,
        text=TEXT_RESULT if censored else f"{reported:.1f}",
        # A specimen beyond the scale while the patient is not: grossly hemolysed.
        hemolysed=hemolysed or text_only,
        has_admission=has_admission,
    )


def draw_blood(rng: np.random.Generator, profile: SiteProfile, course: Course) -> list[Draw]:
    """All potassium results of a stay in order of time: serum, some with a whole-blood twin."""
    draws = []
    for minute in schedule(rng, course, profile.draw_interval_h):
        draws.append(report(rng, profile, course.at(minute / 60), minute))
        twin = rng.random() < profile.whole_blood_share
        later = int(rng.integers(0, 12))
        if twin:
            potassium = course.at((minute + later) / 60)
            draws.append(report(rng, profile, potassium, minute + later, WHOLE_BLOOD))
    return draws


def other_results(rng: np.random.Generator, draws: list[Draw], kidney: bool) -> list[OtherResult]:
    """Everything else on the lab table: the panel of each serum draw, and potassium of other fluids."""
    out = []
    for draw in draws:
        if draw.item != SERUM:
            continue
        panel = [*_PANEL]
        panel.append((50912, 5.5 if kidney else 1.1, 0.5, 1, "mg/dL", 0.5, 1.2))
        panel.append((51006, 60.0 if kidney else 22.0, 9.0, 0, "mg/dL", 6.0, 20.0))
        for item, mean, sd, decimals, unit, low, high in panel:
            value = round(max(float(rng.normal(mean, sd)), 0.3), decimals)
            text = f"{value:.{decimals}f}"
            out.append(
                OtherResult(draw.minute, item, text, unit, not low <= value <= high, draw.has_admission)
            )
        if rng.random() < 0.06:
            item = int(rng.choice([51097, 51097, 51097, 50833, 50847, 51041, 51057, 51064]))
            value = round(float(rng.uniform(8, 80) if item in (51097, 51064) else rng.normal(4.3, 0.6)), 1)
            out.append(OtherResult(draw.minute, item, f"{value:g}", "mEq/L", False, draw.has_admission))
    return out


def flag_of(draw: Draw) -> str:
    """FLAG column: the laboratory's own reference range, which is not the label's."""
    return "" if _REFERENCE[0] <= draw.reading <= _REFERENCE[1] else "abnormal"
