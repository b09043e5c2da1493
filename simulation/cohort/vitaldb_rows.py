"""The tables of a site in the VitalDB layout: ``clinical_data`` (a row per case) and ``lab_data``.

They have no dates: every time is in seconds from the start of its case. A draw belongs to the last case that
began before it, or to the first one; draws more than 90 days away are not in the table, nor are results
without a number, nor items that the data set does not have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta

from simulation.cohort import clinical_parameters as clinic
from simulation.cohort.labs import Draw
from simulation.cohort.panel import Kidney, other_results
from simulation.cohort.profile import FileStyle
from simulation.cohort.recording import Record
from simulation.cohort.stay import PatientPlan
from simulation.cohort.tables import Cell, csv_line
from simulation.cohort.vitaldb_files import case_number, cases_of

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "clinical_data": (
        "caseid", "subjectid", "casestart", "caseend", "anestart", "aneend", "opstart", "opend", "adm", "dis",
        "icu_days", "death_inhosp", "age", "sex", "height", "weight", "bmi", "emop", "preop_k",
    ),
    "lab_data": ("caseid", "dt", "name", "result"),
}  # fmt: skip
POTASSIUM = "k"
#: Name of each item in this data set; the others are not in it.
NAMES: Mapping[int, str] = {
    50808: "ica", 50809: "gluc", 50813: "lac", 50820: "ph", 50824: "na", 50882: "hco3", 50902: "cl",
    50912: "cr", 50931: "gluc", 50983: "na", 51006: "bun",
}  # fmt: skip
REACH_S = 90 * 86_400
_HIDDEN_AGE = 89


def patient_lines(plan: PatientPlan) -> dict[str, list[str]]:
    """All rows of one patient, by table, as CSV lines. Pure: equal plans, equal lines."""
    cases = cases_of(plan) or (_unrecorded(plan),)
    rows = {"clinical_data": _cases(plan, cases), "lab_data": _labs(plan, cases)}
    return {table: [csv_line(row, plan.profile.files) for row in found] for table, found in rows.items()}


def no_items(style: FileStyle) -> dict[str, list[str]]:
    """No rows but those of patients."""
    return {}


def _unrecorded(plan: PatientPlan) -> Record:
    """Return a case of which no file was kept."""
    seconds = round((plan.stay.icu_out - plan.stay.base).total_seconds())
    return Record(0, 0, plan.stay.base, seconds, plan.profile.monitor.rate_hz, ())


def _cases(plan: PatientPlan, cases: tuple[Record, ...]) -> Iterator[tuple[Cell, ...]]:
    patient, stay, mix = plan.patient, plan.stay, plan.profile.patients
    rng = plan.rng("tables", "cases")
    no_height, no_weight = rng.random(2)
    height = round(patient.height_cm, 1) if no_height >= mix.height_missing else None
    weight = round(patient.weight_kg, 1) if no_weight >= mix.weight_missing else None
    age = f">{_HIDDEN_AGE}" if patient.age > _HIDDEN_AGE else f"{patient.age:.0f}"
    for case in cases:
        begin = stay.base + timedelta(seconds=case.begin_s)
        before = int(rng.integers(120, 900))
        yield (
            case_number(plan, case.number), patient.subject_id, 0, case.seconds,
            -before, case.seconds, case.seconds // 8, case.seconds - case.seconds // 8,
            _from(begin, stay.admitted), _from(begin, stay.discharged),
            round((stay.icu_out - stay.base) / timedelta(days=1)), int(stay.died is not None),
            age, patient.sex, height, weight,
            round(weight / (height / 100) ** 2, 1) if height and weight else None,
            int(rng.random() < clinic.EMERGENCY_SHARE), f"{plan.course.level:.1f}",
        )  # fmt: skip


def _labs(plan: PatientPlan, cases: tuple[Record, ...]) -> Iterator[tuple[Cell, ...]]:
    patient = plan.patient
    draws = sorted((*plan.outside, *plan.draws), key=lambda draw: (draw.minute, draw.item))
    kidney: Kidney = "failed" if patient.esrd else "injured" if patient.aki else "healthy"
    rows: list[tuple[int, str, str]] = []
    for position, draw in enumerate(draws):
        if draw.value is not None:
            rows += [(position, POTASSIUM, draw.text)] * (2 if draw.duplicate else 1)
    for other in other_results(plan.rng("tables", "panel"), draws, kidney):
        if other.item in NAMES:
            rows.append((other.position, NAMES[other.item], other.text))
    for position, name, text in sorted(rows, key=lambda row: row[:2]):
        case, seconds = _placed(plan, cases, draws[position])
        if abs(seconds) <= REACH_S:
            yield case_number(plan, case.number), seconds, name, float(text)


def _placed(plan: PatientPlan, cases: tuple[Record, ...], draw: Draw) -> tuple[Record, int]:
    """Return a draw's case, and its time there by the laboratory's clock, s."""
    moment = 60 * draw.minute
    case = next((case for case in reversed(cases) if case.begin_s <= moment), cases[0])
    return case, moment + 60 * plan.profile.laboratory.clock_offset_min - case.begin_s


def _from(begin: datetime, when: datetime) -> int:
    return round((when - begin).total_seconds())
