"""Write the clinical tables of a site with the real MIMIC-III columns."""

from __future__ import annotations

import gzip
import io
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np

from simulation.cohort.labs import ITEMS, WHOLE_BLOOD, flag_of, other_results
from simulation.cohort.profile import SiteProfile
from simulation.cohort.stay import PatientPlan

_COLUMN_TEXT = {
    "PATIENTS": "SUBJECT_ID GENDER DOB DOD DOD_HOSP DOD_SSN EXPIRE_FLAG",
    "ADMISSIONS": """SUBJECT_ID HADM_ID ADMITTIME DISCHTIME DEATHTIME ADMISSION_TYPE ADMISSION_LOCATION
        DISCHARGE_LOCATION INSURANCE LANGUAGE RELIGION MARITAL_STATUS ETHNICITY EDREGTIME EDOUTTIME
        DIAGNOSIS HOSPITAL_EXPIRE_FLAG HAS_CHARTEVENTS_DATA""",
    "ICUSTAYS": """SUBJECT_ID HADM_ID ICUSTAY_ID DBSOURCE FIRST_CAREUNIT LAST_CAREUNIT FIRST_WARDID
        LAST_WARDID INTIME OUTTIME LOS""",
    "LABEVENTS": "SUBJECT_ID HADM_ID ITEMID CHARTTIME VALUE VALUENUM VALUEUOM FLAG",
    "D_LABITEMS": "ITEMID LABEL FLUID CATEGORY LOINC_CODE",
    "DIAGNOSES_ICD": "SUBJECT_ID HADM_ID SEQ_NUM ICD9_CODE",
    "CHARTEVENTS": """SUBJECT_ID HADM_ID ICUSTAY_ID ITEMID CHARTTIME STORETIME CGID VALUE VALUENUM VALUEUOM
        WARNING ERROR RESULTSTATUS STOPPED""",
}
COLUMNS = {table: ("ROW_ID", *text.split()) for table, text in _COLUMN_TEXT.items()}
HEIGHT_CM, WEIGHT_KG = 226730, 226512

Cell = str | int | float | datetime | None


class Tables:
    """The clinical tables of one site, open for writing; rows go to disk as they come.

    Use as a context manager. Files are byte-equal for equal rows: compressed tables carry no time stamp.
    """

    def __init__(self, folder: Path, upper_case: bool, compressed: bool) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._rows = dict.fromkeys(COLUMNS, 0)
        self._raw: list[IO[bytes]] = []
        self._files: dict[str, io.TextIOWrapper] = {}
        self._quoted = upper_case
        for table, columns in COLUMNS.items():
            # The demo's files are upper case with lower-case headers; the full release is upper case.
            path = folder / f"{table}.csv{'.gz' if compressed else ''}"
            raw = path.open("wb")
            self._raw.append(raw)
            stream = gzip.GzipFile("", "wb", 6, raw, mtime=0) if compressed else raw
            self._files[table] = io.TextIOWrapper(stream, encoding="utf-8", newline="")
            names = [f'"{name}"' if upper_case else name.lower() for name in columns]
            self._files[table].write(",".join(names) + "\n")

    def add(self, table: str, *cells: Cell) -> None:
        """Append a row; ROW_ID is counted here."""
        self._rows[table] += 1
        row: Sequence[Cell] = (self._rows[table], *cells)
        self._files[table].write(",".join(self._text(cell) for cell in row) + "\n")

    def __enter__(self) -> Tables:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            file.close()
        for raw in self._raw:
            raw.close()

    def _text(self, cell: Cell) -> str:
        if cell is None:
            return ""
        if isinstance(cell, datetime):
            return f"{cell:%Y-%m-%d %H:%M:%S}"
        if isinstance(cell, str):
            # The full release quotes every text, the demo only those that need it.
            return f'"{cell}"' if cell and (self._quoted or "," in cell) else cell
        return str(cell)


def write_items(tables: Tables) -> None:
    """Write D_LABITEMS, decoys included."""
    for item, (label, fluid, category, loinc) in ITEMS.items():
        tables.add("D_LABITEMS", item, label, fluid, category, loinc)


def write_patient(tables: Tables, profile: SiteProfile, plan: PatientPlan) -> None:
    """Write all rows of one patient."""
    rng = plan.rng("tables")
    _write_identity(tables, profile, plan, rng)
    _write_diagnoses(tables, plan)
    _write_labs(tables, profile, plan, rng)
    _write_body(tables, profile, plan, rng)


def _write_identity(
    tables: Tables, profile: SiteProfile, plan: PatientPlan, rng: np.random.Generator
) -> None:
    patient, stay = plan.patient, plan.stay
    born = stay.admitted - timedelta(days=round(patient.age * 365.2425))
    if patient.age > 89.0:
        # MIMIC hides the very old: their age reads 300 years.
        born = born.replace(year=stay.admitted.year - 300, day=min(born.day, 28))
    tables.add(
        "PATIENTS",
        patient.subject_id,
        patient.sex,
        born.replace(hour=0, minute=0, second=0),
        stay.died and stay.died.replace(hour=0, minute=0),
        stay.died and stay.died.replace(hour=0, minute=0),
        None,
        int(stay.died is not None),
    )
    emergency = bool(rng.random() < 0.8)
    tables.add(
        "ADMISSIONS",
        patient.subject_id,
        stay.hadm_id,
        stay.admitted,
        stay.discharged,
        stay.died,
        "EMERGENCY" if emergency else "ELECTIVE",
        "EMERGENCY ROOM ADMIT" if emergency else "PHYS REFERRAL/NORMAL DELI",
        "DEAD/EXPIRED" if stay.died else str(rng.choice(["HOME", "SNF", "HOME HEALTH CARE"])),
        "Medicare" if patient.age >= 65 else "Private",
        "ENGL",
        str(rng.choice(["CATHOLIC", "NOT SPECIFIED", "PROTESTANT QUAKER", "UNOBTAINABLE"])),
        str(rng.choice(["MARRIED", "SINGLE", "WIDOWED", "DIVORCED"])),
        patient.ethnicity,
        stay.admitted - timedelta(hours=4) if emergency else None,
        stay.admitted - timedelta(minutes=20) if emergency else None,
        "RENAL FAILURE" if patient.esrd or patient.aki else "PNEUMONIA;SEPSIS",
        int(stay.died is not None),
        1,
    )
    entered = stay.base + timedelta(seconds=int(rng.integers(0, 60)))
    unit = profile.location.upper()
    tables.add(
        "ICUSTAYS",
        patient.subject_id,
        stay.hadm_id,
        stay.icustay_id,
        "metavision",
        unit,
        unit,
        52,
        52,
        entered,
        stay.icu_out,
        round((stay.icu_out - entered).total_seconds() / 86400, 4),
    )


def _write_diagnoses(tables: Tables, plan: PatientPlan) -> None:
    patient = plan.patient
    hyperkalemic = any(draw.reading > 5.5 for draw in plan.draws)
    codes = [
        ("5856", patient.esrd),
        ("V4511", patient.esrd),
        ("5849", patient.aki),
        ("2767", hyperkalemic),
        ("42731", patient.fibrillation),
        ("4293", patient.lvh),
        ("4263", patient.bundle_branch_block),
        ("4019", True),
        ("0389", patient.subject_id % 3 == 0),
        ("25000", patient.subject_id % 4 == 0),
    ]
    present = [code for code, has in codes if has]
    for sequence, code in enumerate(present, start=1):
        tables.add("DIAGNOSES_ICD", patient.subject_id, plan.stay.hadm_id, sequence, code)


def _write_labs(tables: Tables, profile: SiteProfile, plan: PatientPlan, rng: np.random.Generator) -> None:
    patient, stay = plan.patient, plan.stay
    rows: list[tuple[datetime, int, bool, str, float | None, str, str]] = []
    for draw in plan.draws:
        when = stay.base + timedelta(minutes=draw.minute)
        unit = "mEq/L" if draw.item == WHOLE_BLOOD else profile.unit
        rows.append((when, draw.item, draw.has_admission, draw.text, draw.value, unit, flag_of(draw)))
    for other in other_results(rng, list(plan.draws), patient.esrd or patient.aki):
        when = stay.base + timedelta(minutes=other.minute)
        flag = "abnormal" if other.abnormal else ""
        rows.append((when, other.item, other.has_admission, other.text, float(other.text), other.unit, flag))
    # Clinic visits of the weeks before: potassium without admission and without ECG.
    for _ in range(int(rng.poisson(0.6))):
        when = stay.admitted - timedelta(minutes=int(rng.integers(3 * 1440, 60 * 1440)))
        value = round(float(rng.normal(4.3, 0.5)), 1)
        rows.append((when, 50971, False, f"{value:.1f}", value, profile.unit, ""))
    for when, item, has_admission, text, reading, unit, flag in sorted(
        rows, key=lambda row: (row[0], row[1])
    ):
        hadm = stay.hadm_id if has_admission else None
        number = int(reading) if reading is not None and reading == int(reading) else reading
        tables.add("LABEVENTS", patient.subject_id, hadm, item, when, text, number, unit, flag)


def _write_body(tables: Tables, profile: SiteProfile, plan: PatientPlan, rng: np.random.Generator) -> None:
    patient, stay = plan.patient, plan.stay
    charted = [
        (HEIGHT_CM, round(patient.height_cm), "cm", rng.random() >= profile.height_missing),
        (WEIGHT_KG, round(patient.weight_kg, 1), "kg", rng.random() >= profile.weight_missing),
    ]
    when = stay.base + timedelta(minutes=int(rng.integers(5, 120)))
    for item, value, unit, present in charted:
        if present:
            tables.add(
                "CHARTEVENTS", patient.subject_id, stay.hadm_id, stay.icustay_id, item, when,
                when + timedelta(minutes=3), 20_000 + patient.subject_id % 97, f"{value}", value, unit,
                0, 0, None, None,
            )  # fmt: skip
