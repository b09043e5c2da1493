"""The clinical tables of a site in the MIMIC-IV layout: ``hosp`` and ``icu``, with the columns of 2.2.

Identifiers have eight digits, as there. The laboratory says beside a serum potassium that the specimen was
hemolyzed; a blood gas analyzer cannot see it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta

import numpy as np

from simulation.cohort import clinical_parameters as clinic
from simulation.cohort.charts import chart_rows
from simulation.cohort.labs import NO_RESULT, SERUM, WHOLE_BLOOD, Draw
from simulation.cohort.panel import ITEMS
from simulation.cohort.profile import FileStyle
from simulation.cohort.stay import PatientPlan
from simulation.cohort.tables import COLUMNS as EARLIER
from simulation.cohort.tables import Cell, LabRow, csv_line, lab_rows, stay_rows

_COLUMN_TEXT = {
    "hosp/patients": "subject_id gender anchor_age anchor_year anchor_year_group dod",
    "hosp/admissions": """subject_id hadm_id admittime dischtime deathtime admission_type admit_provider_id
        admission_location discharge_location insurance language marital_status race edregtime edouttime
        hospital_expire_flag""",
    "hosp/labevents": """labevent_id subject_id hadm_id specimen_id itemid order_provider_id charttime
        storetime value valuenum valueuom ref_range_lower ref_range_upper flag priority comments""",
    "hosp/d_labitems": "itemid label fluid category",
    "hosp/diagnoses_icd": "subject_id hadm_id seq_num icd_code icd_version",
    "icu/icustays": "subject_id hadm_id stay_id first_careunit last_careunit intime outtime los",
    "icu/chartevents": """subject_id hadm_id stay_id caregiver_id charttime storetime itemid value valuenum
        valueuom warning""",
}
COLUMNS: Mapping[str, tuple[str, ...]] = {table: tuple(text.split()) for table, text in _COLUMN_TEXT.items()}
COUNTED = frozenset({"hosp/labevents"})

#: What is added to the identifiers of a plan, so that they have eight digits and a first one of their own.
SUBJECTS, ADMISSIONS, STAYS = 10_000_000, 20_000_000, 30_000_000
SPECIMENS_PER_PATIENT = 10_000
#: Items of other analyzers that this edition lists too.
OTHER_ITEMS = {52452: ("Potassium", "Blood", "Blood Gas"), 52610: ("Potassium", "Blood", "Chemistry")}
HIDDEN_AGE, FIRST_HIDDEN_AGE = 91, 90
REMOVED = "___"  # a text that was taken out to hide who the patient is
ANCHOR_GROUP = "2014 - 2016"
UNITS = {
    "MICU": "Medical Intensive Care Unit (MICU)",
    "CCU": "Coronary Care Unit (CCU)",
    "SICU": "Surgical Intensive Care Unit (SICU)",
}
HEMOLYZED = (
    "HEMOLYSIS FALSELY ELEVATES THIS RESULT.",
    "SLIGHTLY HEMOLYZED.  HEMOLYSIS FALSELY ELEVATES K.",
    "MODERATELY HEMOLYZED.",
    "GROSSLY HEMOLYZED.",
)
REFUSED = "GROSSLY HEMOLYZED, TEST NOT PERFORMED."
OTHER_COMMENTS = ("SPECIMEN NOT HEMOLYZED.", "NO VISIBLE HEMOLYSIS.", REMOVED)
COMMENTED_SHARE = 0.03  # of the other specimens: assumption
STAT_SHARE = 0.4  # assumption
UNTIL_STORED_MIN = (20, 90)  # assumption


def subject(subject_id: int) -> int:
    """Return a patient's number in this layout."""
    return SUBJECTS + subject_id


def item_lines(style: FileStyle) -> dict[str, list[str]]:
    """Rows of the table of lab items, decoys included."""
    items = {item: texts[:3] for item, texts in ITEMS.items()} | OTHER_ITEMS
    return {"hosp/d_labitems": [csv_line((item, *texts), style) for item, texts in sorted(items.items())]}


def patient_lines(plan: PatientPlan) -> dict[str, list[str]]:
    """All rows of one patient, by table, as CSV lines. Pure: equal plans, equal lines."""
    known = stay_rows(plan)
    rows: dict[str, Iterator[Mapping[str, Cell]]] = {
        "hosp/patients": _person(plan),
        "hosp/admissions": (_admission(row) for row in _named("ADMISSIONS", known["ADMISSIONS"])),
        "hosp/diagnoses_icd": (
            row | {"icd_code": row["icd9_code"], "icd_version": 9}
            for row in _named("DIAGNOSES_ICD", known["DIAGNOSES_ICD"])
        ),
        "hosp/labevents": _labs(plan),
        "icu/icustays": (_unit(row) for row in _named("ICUSTAYS", known["ICUSTAYS"])),
        # This edition knows one charting system, and holds no entry that was marked as an error.
        "icu/chartevents": (
            row | {"stay_id": row["icustay_id"], "caregiver_id": row["cgid"]}
            for row in _named("CHARTEVENTS", chart_rows(plan, "metavision"))
            if row["error"] != 1
        ),
    }
    return {
        table: [csv_line(_cells(table, row), plan.profile.files) for row in found]
        for table, found in rows.items()
    }


def comment_on(rng: np.random.Generator, draw: Draw) -> str:
    """Return what the laboratory writes beside a potassium."""
    wording, other, chance = rng.random(3)
    if draw.text == NO_RESULT:
        return REFUSED
    if draw.hemolysed and draw.item == SERUM:
        return HEMOLYZED[int(wording * len(HEMOLYZED))]
    return OTHER_COMMENTS[int(other * len(OTHER_COMMENTS))] if chance < COMMENTED_SHARE else ""


def _cells(table: str, row: Mapping[str, Cell]) -> tuple[Cell, ...]:
    """Return the cells of a row in the order of its columns, without the running number."""
    names = COLUMNS[table][1:] if table in COUNTED else COLUMNS[table]
    moved = {"subject_id": SUBJECTS, "hadm_id": ADMISSIONS, "stay_id": STAYS}
    cells = []
    for name in names:
        cell = row.get(name)
        cells.append(cell + moved[name] if name in moved and isinstance(cell, int) else cell)
    return tuple(cells)


def _named(table: str, rows: Iterator[tuple[Cell, ...]]) -> Iterator[dict[str, Cell]]:
    """Yield rows of the earlier edition by lower-case names of columns."""
    names = [name.lower() for name in EARLIER[table][1:]]
    for row in rows:
        yield dict(zip(names, row, strict=True))


def _person(plan: PatientPlan) -> Iterator[Mapping[str, Cell]]:
    patient, stay = plan.patient, plan.stay
    age = int(patient.age)
    yield {
        "subject_id": patient.subject_id,
        "gender": patient.sex,
        "anchor_age": HIDDEN_AGE if age >= FIRST_HIDDEN_AGE else age,
        "anchor_year": stay.admitted.year,
        "anchor_year_group": ANCHOR_GROUP,
        "dod": _day(stay.died),
    }


def _admission(row: Mapping[str, Cell]) -> Mapping[str, Cell]:
    emergency = row["admission_type"] == "EMERGENCY"
    return {
        **row,
        "admission_type": "EW EMER." if emergency else "ELECTIVE",
        "admission_location": "EMERGENCY ROOM" if emergency else "PHYSICIAN REFERRAL",
        "language": "ENGLISH",
        "race": row["ethnicity"],
    }


def _unit(row: Mapping[str, Cell]) -> Mapping[str, Cell]:
    unit = UNITS.get(str(row["first_careunit"]), row["first_careunit"])
    return {**row, "stay_id": row["icustay_id"], "first_careunit": unit, "last_careunit": unit}


def _labs(plan: PatientPlan) -> Iterator[Mapping[str, Cell]]:
    rng = plan.rng("tables", "specimens")
    seen: LabRow | None = None
    stored, priority = timedelta(), ""
    for row in lab_rows(plan):
        if seen is None or row.specimen != seen.specimen:  # one specimen, one way through the laboratory
            stored = timedelta(minutes=int(rng.integers(*UNTIL_STORED_MIN)))
            priority = "STAT" if rng.random() < STAT_SHARE else "ROUTINE"
        seen = row
        potassium = row.item in (SERUM, WHOLE_BLOOD)
        low, high = clinic.REFERENCE_WHOLE if row.item == WHOLE_BLOOD else clinic.REFERENCE_SERUM
        yield {
            "subject_id": plan.patient.subject_id,
            "hadm_id": row.hadm_id,
            "specimen_id": SPECIMENS_PER_PATIENT * plan.patient.subject_id + row.specimen,
            "itemid": row.item,
            "charttime": row.charted,
            "storetime": row.charted + stored,
            "value": REMOVED if row.text == NO_RESULT else row.text,
            "valuenum": row.number,
            "valueuom": row.unit,
            "ref_range_lower": low if potassium else None,
            "ref_range_upper": high if potassium else None,
            "flag": row.flag,
            "priority": priority,
            "comments": comment_on(rng, row.draw) if potassium else "",
        }


def _day(moment: datetime | None) -> str | None:
    return None if moment is None else f"{moment:%Y-%m-%d}"
