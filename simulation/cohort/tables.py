"""Write the clinical tables of a site with the real MIMIC-III columns."""

from __future__ import annotations

import gzip
import io
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import IO

from simulation.cohort import clinical_parameters as clinic
from simulation.cohort.charts import chart_rows, charting_system
from simulation.cohort.labs import WHOLE_BLOOD, Draw, flag_of
from simulation.cohort.panel import ITEMS, Kidney, other_results
from simulation.cohort.profile import FileStyle
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

_HIDDEN_AGE, _HIDDEN_YEARS = 89.0, 300
_WARDS = {"MICU": 52, "CCU": 7, "SICU": 57, "TSICU": 14, "CSRU": 12}
_HOMES = ("HOME", "HOME HEALTH CARE", "SNF", "REHAB/DISTINCT PART HOSP")
_FAITHS = ("CATHOLIC", "NOT SPECIFIED", "PROTESTANT QUAKER", "UNOBTAINABLE", "JEWISH")
_MARRIAGES = ("MARRIED", "SINGLE", "WIDOWED", "DIVORCED")
_REASONS = ("SEPSIS", "PNEUMONIA", "CONGESTIVE HEART FAILURE", "RESPIRATORY DISTRESS", "PULMONARY EDEMA, MI")
_KIDNEY_REASONS = ("HYPERKALEMIA", "RENAL FAILURE", "HYPOTENSION, RENAL FAILURE", "SEPSIS")

Cell = str | int | float | datetime | None
Rows = Iterator[tuple[Cell, ...]]
Printed = tuple[str, float | int | None, str, str]  # VALUE, VALUENUM, VALUEUOM, FLAG


class Tables:
    """The clinical tables of one site, open for writing; rows go to disk as they come.

    Use as a context manager. Files are byte-equal for equal rows: compressed tables carry no time stamp.

    Parameters
    ----------
    folder : made if it is missing.
    style : upper-case quoted or lower-case plain, compressed or not.
    columns : of each table, by its path below the folder without extension.
    counted : tables whose first column is a running number, which is added here.
    """

    def __init__(
        self,
        folder: Path,
        style: FileStyle,
        columns: Mapping[str, Sequence[str]] = COLUMNS,
        counted: Collection[str] = frozenset(COLUMNS),
    ) -> None:
        self._counted = counted
        self._rows = dict.fromkeys(columns, 0)
        self._raw: list[IO[bytes]] = []
        self._files: dict[str, io.TextIOWrapper] = {}
        for table, header in columns.items():
            path = folder / f"{table}.csv{'.gz' if style.compressed else ''}"
            path.parent.mkdir(parents=True, exist_ok=True)
            raw = path.open("wb")
            self._raw.append(raw)
            stream = gzip.GzipFile("", "wb", 6, raw, mtime=0) if style.compressed else raw
            self._files[table] = io.TextIOWrapper(stream, encoding="utf-8", newline="")
            names = [f'"{name}"' if style.upper_case else name.lower() for name in header]
            self._files[table].write(",".join(names) + "\n")

    def add_lines(self, table: str, lines: Iterable[str]) -> None:
        """Append lines, without the running number of those tables that have one."""
        for line in lines:
            self._rows[table] += 1
            number = f"{self._rows[table]}," if table in self._counted else ""
            self._files[table].write(f"{number}{line}\n")

    def __enter__(self) -> Tables:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            file.close()
        for raw in self._raw:
            raw.close()


def item_rows(style: FileStyle) -> dict[str, list[str]]:
    """Rows of D_LABITEMS, decoys included, without ROW_ID."""
    return {"D_LABITEMS": [csv_line((item, *texts), style) for item, texts in ITEMS.items()]}


@dataclass(frozen=True)
class LabRow:
    """One row of the laboratory's table.

    Attributes
    ----------
    specimen : number of the specimen among the patient's.
    draw : the draw it belongs to.
    item : what was measured.
    charted : time of the specimen by the laboratory's clock.
    hadm_id : admission, if the row carries it.
    text, number, unit, flag : VALUE, VALUENUM, VALUEUOM and FLAG.
    """

    specimen: int
    draw: Draw
    item: int
    charted: datetime
    hadm_id: int | None
    text: str
    number: float | int | None
    unit: str
    flag: str


def patient_rows(plan: PatientPlan) -> dict[str, list[str]]:
    """All rows of one patient, by table, as CSV lines without ROW_ID. Pure: equal plans, equal lines."""
    labs = (
        (plan.patient.subject_id, r.hadm_id, r.item, r.charted, r.text, r.number, r.unit, r.flag)
        for r in lab_rows(plan)
    )
    rows: dict[str, Rows] = {
        **stay_rows(plan),
        "LABEVENTS": labs,
        "CHARTEVENTS": chart_rows(plan),
    }
    return {table: [csv_line(row, plan.profile.files) for row in found] for table, found in rows.items()}


def stay_rows(plan: PatientPlan) -> dict[str, Rows]:
    """Who the patient is, the stays and their diagnoses: rows by table, in the order of ``COLUMNS``."""
    return {
        "PATIENTS": _person(plan),
        "ADMISSIONS": _admissions(plan),
        "ICUSTAYS": _unit(plan),
        "DIAGNOSES_ICD": _diagnoses(plan),
    }


def csv_line(cells: Sequence[Cell], style: FileStyle) -> str:
    """One line: the full release quotes every text, the demo only those that need it."""
    return ",".join(_text(cell, style.upper_case) for cell in cells)


def _text(cell: Cell, quoted: bool) -> str:
    if cell is None:
        return ""
    if isinstance(cell, datetime):
        return f"{cell:%Y-%m-%d %H:%M:%S}"
    if isinstance(cell, str):
        needed = any(mark in cell for mark in ',"\n')
        return '"' + cell.replace('"', '""') + '"' if cell and (quoted or needed) else cell
    return str(cell)


def _person(plan: PatientPlan) -> Rows:
    patient, stay = plan.patient, plan.stay
    born = stay.admitted - timedelta(days=round(patient.age * 365.2425))
    if patient.age > _HIDDEN_AGE:
        # MIMIC hides the very old: their age reads 300 years.
        born = born.replace(year=stay.admitted.year - _HIDDEN_YEARS, day=min(born.day, 28))
    died = stay.died.replace(hour=0, minute=0) if stay.died else None
    born = born.replace(hour=0, minute=0, second=0)
    yield patient.subject_id, patient.sex, born, died, died, None, int(died is not None)


def _admissions(plan: PatientPlan) -> Rows:
    patient, stay, rng = plan.patient, plan.stay, plan.rng("tables", "admissions")
    faith, marriage, home = (str(rng.choice(names)) for names in (_FAITHS, _MARRIAGES, _HOMES))
    reason = str(rng.choice(_KIDNEY_REASONS if patient.esrd or patient.aki else _REASONS))
    spans = [(stay.hadm_id, stay.admitted, stay.discharged, stay.died, reason)]
    if stay.earlier:
        earlier = stay.earlier
        spans.insert(
            0, (earlier.hadm_id, earlier.admitted, earlier.discharged, None, str(rng.choice(_REASONS)))
        )
    for number, admitted, discharged, died, diagnosis in spans:
        emergency = bool(rng.random() < clinic.EMERGENCY_SHARE)
        yield (
            patient.subject_id, number, admitted, discharged, died,
            "EMERGENCY" if emergency else "ELECTIVE",
            "EMERGENCY ROOM ADMIT" if emergency else "PHYS REFERRAL/NORMAL DELI",
            "DEAD/EXPIRED" if died else home,
            "Medicare" if patient.age >= 65 or patient.esrd else "Private",
            "ENGL", faith, marriage, patient.ethnicity,
            admitted - timedelta(hours=4) if emergency else None,
            admitted + timedelta(minutes=50) if emergency else None,
            diagnosis, int(died is not None), 1,
        )  # fmt: skip


def _unit(plan: PatientPlan) -> Rows:
    stay, unit = plan.stay, plan.profile.location.upper()
    entered = stay.base + timedelta(seconds=int(plan.rng("tables", "unit").integers(0, 60)))
    ward, days = _WARDS.get(unit, 52), round((stay.icu_out - entered).total_seconds() / 86400, 4)
    numbers = plan.patient.subject_id, stay.hadm_id, stay.icustay_id
    yield *numbers, charting_system(plan), unit, unit, ward, ward, entered, stay.icu_out, days


def _diagnoses(plan: PatientPlan) -> Rows:
    patient, stay, rng = plan.patient, plan.stay, plan.rng("tables", "diagnoses")
    chance = rng.random(8)
    high = any((draw.reading or 0.0) > clinic.POSITIVE_ABOVE for draw in plan.draws)
    coded = clinic.CODED_SHARE
    atrial = coded if patient.rhythm != "sinus" else clinic.FORMER_FIBRILLATION_SHARE
    hypertension = clinic.KIDNEY_HYPERTENSION_SHARE if patient.esrd else clinic.HYPERTENSION_SHARE
    codes = [  # code, present, chronic
        ("41071", patient.ischemia and bool(chance[0] < clinic.INFARCTION_SHARE), False),
        ("5849", patient.aki and bool(chance[1] < coded), False),
        ("2767", high and bool(chance[2] < clinic.NAMED_HYPERKALEMIA_SHARE), False),
        ("5856", patient.esrd, True),
        ("V4511", patient.esrd, True),
        ("42731", bool(chance[3] < atrial), True),
        ("V4501", patient.paced, True),
        ("4293", patient.lvh and bool(chance[4] < coded), True),
        (
            "4263" if patient.beat.notch > 0.0 else "4264",
            patient.bundle_branch_block and bool(chance[5] < coded),
            True,
        ),
        ("41401", patient.ischemia, True),
        ("40391" if patient.esrd else "4019", bool(chance[6] < hypertension), True),
        ("25000", bool(chance[7] < clinic.DIABETES_SHARE), True),
        ("0389", not (patient.ischemia or patient.esrd or patient.aki), False),
    ]
    admissions = [(stay.hadm_id, False)]
    if stay.earlier:
        admissions.insert(0, (stay.earlier.hadm_id, True))
    for number, chronic_only in admissions:
        present = [code for code, has, chronic in codes if has and (chronic or not chronic_only)]
        for sequence, code in enumerate(present or ["78650"], start=1):
            yield patient.subject_id, number, sequence, code


def lab_rows(plan: PatientPlan) -> Iterator[LabRow]:
    """Rows of the laboratory's table of one patient, specimen by specimen."""
    patient, stay = plan.patient, plan.stay
    draws = sorted((*plan.outside, *plan.draws), key=lambda draw: (draw.minute, draw.item))
    unit: str = plan.profile.laboratory.unit
    kidney: Kidney = "failed" if patient.esrd else "injured" if patient.aki else "healthy"
    rows: list[tuple[int, int, Printed]] = []
    for position, draw in enumerate(draws):
        # The profile's unit is the central laboratory's; blood gas analyzers print mEq/L everywhere. A site
        # may thus mix the two, as real hospitals do; for potassium they are the same number.
        printed = "mEq/L" if draw.item == WHOLE_BLOOD else unit
        row: Printed = (draw.text, _number(draw.value), printed, flag_of(draw))
        rows += [(position, draw.item, row)] * (2 if draw.duplicate else 1)
    for other in other_results(plan.rng("tables", "panel"), draws, kidney):
        flag = "abnormal" if other.abnormal else ""
        row = (other.text, _number(float(other.text)), other.unit, flag)
        rows.append((other.position, other.item, row))
    for position, item, cells in sorted(rows, key=lambda row: row[:2]):
        draw = draws[position]
        when, admission = plan.charted(draw), None
        if draw.has_admission:
            early = stay.earlier is not None and draw.minute < plan.minute_of(stay.earlier.discharged)
            admission = stay.earlier.hadm_id if early and stay.earlier else stay.hadm_id
        yield LabRow(position, draw, item, when, admission, *cells)


def _number(value: float | None) -> float | int | None:
    """VALUENUM as the database prints it: 4 and not 4.0."""
    return int(value) if value is not None and value == int(value) else value
