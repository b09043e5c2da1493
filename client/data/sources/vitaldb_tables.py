"""The tables of VitalDB: which operation was whose, and which potassium was measured when.

VitalDB has no dates: every time is in seconds from the start of the case, whose recording begins at 0. Here
each case gets a surrogate start, so that times read as dates: the first case of every patient begins at
2100-01-01 00:00, each further one ten years later, in the order of the case numbers. A time of day is thus
the time since the recording began. Which of two cases of a patient was the earlier one is not known.

Source: VitalDB 1.0.0 (PhysioNet), clinical_data.csv and lab_data.csv; SCIENCE section 2.3.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from sys import intern
from typing import Final

from client.data.hemolysis import contaminated, with_suspicions
from client.data.problems import Problem
from client.data.sources.base import Measurement, Person, Stay
from client.data.sources.clinical import HIDDEN_AGE, MAX_AGE
from client.data.sources.csv_tables import find_table, parse_number, rows
from common.errors import SourceError

#: Names a table goes by: in the archive, and as the interface of the data set delivers it.
CASES: Final = ("clinical_data", "cases")
LABS: Final = ("lab_data", "labs")
#: Blood potassium among the names of the lab table.
POTASSIUM: Final = "k"
#: What shows that a specimen was not blood alone: mmol/L and mg/dL.
SODIUM: Final = "na"
GLUCOSE: Final = "gluc"
#: Unit of potassium where the table has no column for one (lab_parameters.csv).
UNIT: Final = "mmol/L"

FIRST_YEAR: Final = 2100
#: Between two cases of a patient; laboratory results reach from 90 days before a case to 90 days after it.
YEARS_APART: Final = 10
#: Further from the start of its case no time is believed: three years, so that none reaches a neighbour.
MAX_DISTANCE_S: Final = 1096 * 86_400.0
MAX_CASES: Final = 500
# Operations on infants are in the data.
HEIGHT_CM: Final = (30.0, 250.0)
WEIGHT_KG: Final = (1.0, 300.0)

_AGE = re.compile(r"(?P<above>[>≥])?\s*=?\s*(?P<years>\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class Case:
    """One operation.

    Attributes
    ----------
    number : caseid; its recording is named by it.
    subject : whose.
    start : surrogate start of the recording.
    seconds : recorded, by the table; 0 where it does not say.
    stay : from admission to discharge; None where the table does not say.
    """

    number: int
    subject: str
    start: datetime
    seconds: float
    stay: Stay | None

    @property
    def recorded(self) -> Stay:
        """The time of the recording; it counts as a stay."""
        return Stay(self.start, self.start + timedelta(seconds=self.seconds))


@dataclass(frozen=True)
class _Row:
    """A line of the table of cases."""

    number: int
    subject: str
    seconds: float
    admitted_s: float | None
    discharged_s: float | None
    person: Person


class CaseTables:
    """What the tables say, by patient.

    Parameters
    ----------
    folder : folder of the tables.
    lab_clock_ahead_min : minutes the laboratory's clock is ahead of the monitors'; specimen times are moved
        back by it.

    Raises
    ------
    SourceError
        If the folder or a table is missing or damaged, or no potassium is found in it.
    """

    def __init__(self, folder: Path, *, lab_clock_ahead_min: int = 0) -> None:
        if not folder.is_dir():
            raise SourceError(
                f"{folder} does not exist; it should hold the tables clinical_data.csv and lab_data.csv: "
                "check source.folder and source.clinical in site.toml",
                problem=Problem.MISSING_FOLDER,
            )
        self.files = (_need(folder, CASES), _need(folder, LABS))
        self._cases: dict[int, Case] = {}
        self._of: dict[str, list[Case]] = {}
        self._people: dict[str, Person] = {}
        self._add_cases(self.files[0])
        self.draws_without_time = self.draws_without_case = 0
        self._measurements = self._potassium(self.files[1], timedelta(minutes=lab_clock_ahead_min))

    @property
    def keys(self) -> list[str]:
        """Patients with a potassium measurement, by number."""
        return sorted(self._measurements, key=int)

    @property
    def cases(self) -> list[Case]:
        """All cases, by number."""
        return [self._cases[number] for number in sorted(self._cases)]

    @property
    def n_patients(self) -> int:
        """Number of patients in the table of cases."""
        return len(self._of)

    def of(self, key: str) -> list[Case]:
        """Return the cases of a patient in the order of their numbers."""
        return self._of.get(key, [])

    def person(self, key: str) -> Person:
        """Return who a patient is: by the first case in which something is known."""
        return self._people.get(key, Person(key))

    def measurements(self, key: str) -> list[Measurement]:
        """Return a patient's potassium rows in the order of the table."""
        return self._measurements.get(key, [])

    def stays(self, key: str) -> list[Stay]:
        """Return a patient's recordings and admissions."""
        return [stay for case in self.of(key) for stay in (case.recorded, case.stay) if stay is not None]

    def _add_cases(self, path: Path) -> None:
        found: dict[int, _Row] = {}
        columns = ("caseid", "subjectid", "caseend")
        optional = ("casestart", "adm", "dis", "age", "sex", "height", "weight")
        for line, (case, subject, end, start, adm, dis, age, sex, height, weight) in rows(
            path, columns, optional
        ):
            number, key = _whole(case, "caseid", path, line), str(_whole(subject, "subjectid", path, line))
            if _seconds(start, "casestart", path, line):
                raise SourceError(
                    f"{path}, line {line}: casestart is not 0, but in this layout every time counts from the "
                    "start of the case; convert the table, or write draws.csv instead (layout 'folder')",
                    problem=Problem.BAD_NUMBER,
                    value=start,
                )
            if number in found and found[number].subject != key:
                raise SourceError(
                    f"{path}, line {line}: the case is already there with another subjectid; a case has one "
                    "patient: export the table again",
                    problem=Problem.BAD_KEY,
                    value=case,
                )
            found.setdefault(
                number,
                _Row(
                    number,
                    key,
                    max(_seconds(end, "caseend", path, line) or 0.0, 0.0),
                    _seconds(adm, "adm", path, line),
                    _seconds(dis, "dis", path, line),
                    Person(
                        key=key,
                        sex=sex.upper()[:1] if sex.upper()[:1] in ("F", "M") else None,
                        age=age_of(age),
                        height_cm=_between(height, HEIGHT_CM),
                        weight_kg=_between(weight, WEIGHT_KG),
                    ),
                ),
            )
        for number in sorted(found):
            self._add_case(found[number], path)

    def _add_case(self, row: _Row, path: Path) -> None:
        mine = self._of.setdefault(row.subject, [])
        if len(mine) >= MAX_CASES:
            raise SourceError(
                f"{path}: a subjectid has more than {MAX_CASES} cases; that is no single patient: export the "
                "table again",
                problem=Problem.BAD_KEY,
                value=row.subject,
            )
        start = datetime(FIRST_YEAR + YEARS_APART * len(mine), 1, 1)
        case = Case(row.number, row.subject, start, row.seconds, _stay(start, row))
        self._cases[row.number] = case
        mine.append(case)
        known, new = self._people.get(row.subject, Person(row.subject)), row.person
        self._people[row.subject] = Person(
            key=row.subject,
            sex=known.sex or new.sex,
            age=known.age if known.age is not None else new.age,
            height_cm=known.height_cm or new.height_cm,
            weight_kg=known.weight_kg or new.weight_kg,
        )

    def _potassium(self, path: Path, ahead: timedelta) -> dict[str, list[Measurement]]:
        found: dict[str, list[Measurement]] = {}
        contaminated_at: dict[str, set[datetime]] = {}
        repeats = Counter[str]()
        columns = ("caseid", "dt", "name", "result")
        names = (POTASSIUM, SODIUM, GLUCOSE)
        # Wherever the name stands in a row; names of other items have these letters too, which is no harm.
        letters = [form for name in names for form in (name, name.upper(), name.title())]
        for line, (number, dt, printed, result, unit) in rows(path, columns, ("unit",), sorted(set(letters))):
            name = printed.lower()
            if name not in names:
                continue
            value = parse_number(result)
            if name != POTASSIUM and not _no_blood(name, value):
                continue
            seconds = _seconds(dt, "dt", path, line)
            case = self._cases.get(_whole(number, "caseid", path, line))
            if seconds is None or case is None:
                if name == POTASSIUM:
                    self.draws_without_time += seconds is None
                    self.draws_without_case += seconds is not None
                continue
            time = case.start + timedelta(seconds=seconds) - ahead
            if name != POTASSIUM:
                contaminated_at.setdefault(case.subject, set()).add(time)
                continue
            # By case and time, so that a table that is exported again in another order has the same rows.
            row = f"case {case.number} at {dt}"
            repeats[row] += 1
            found.setdefault(case.subject, []).append(
                Measurement(
                    source_row=row if repeats[row] == 1 else f"{row} ({repeats[row]})",
                    specimen_time=time,
                    text=intern(result),
                    number=value,
                    unit=intern(unit or UNIT),
                    item=POTASSIUM,
                    # The table does not say which of its potassium comes from blood gas analyzers.
                    specimen="serum",
                    # Without times of admission every draw belongs to its case; with them, time decides.
                    admitted=case.stay is None,
                )
            )
        if not found:
            raise SourceError(
                f"{path} holds no row with the name {POTASSIUM} (blood potassium) of a case in "
                f"{self.files[0].name}: there is nothing to label; check that both tables are complete",
                problem=Problem.NO_DRAWS,
            )
        return {key: with_suspicions(draws, contaminated_at.get(key, ())) for key, draws in found.items()}


def _no_blood(name: str, value: float | None) -> bool:
    """Return whether a result is one that shows a contaminated specimen; see ``client.data.hemolysis``."""
    return contaminated(sodium=value if name == SODIUM else None, glucose=value if name == GLUCOSE else None)


def age_of(text: str) -> float | None:
    """Read an age in years; above 89 it is 91.4, None where there is none.

    >>> age_of("77"), age_of("0.3"), age_of("89"), age_of(">89"), age_of("")
    (77.0, 0.3, 89.0, 91.4, None)
    """
    match = _AGE.fullmatch(text.strip())
    if match is None:
        return None
    years = float(match["years"])
    above = years > MAX_AGE or (match["above"] is not None and years >= MAX_AGE)
    return HIDDEN_AGE if above else round(years, 1)


def _need(folder: Path, names: tuple[str, ...]) -> Path:
    path = next((found for name in names if (found := find_table(folder, name))), None)
    if path is None:
        present = ", ".join(sorted(p.name for p in folder.iterdir() if ".csv" in p.name.lower())) or "none"
        wanted = " and ".join(f"{name}.csv" for name in names)
        raise SourceError(
            f"{folder} holds no table {names[0]}: looked for {wanted}, also with .gz, in any case; tables "
            f"present: {present}; put the table there or set source.clinical in site.toml",
            problem=Problem.MISSING_TABLE,
        )
    return path


def _stay(start: datetime, row: _Row) -> Stay | None:
    if row.admitted_s is None or row.discharged_s is None or row.discharged_s < row.admitted_s:
        return None
    return Stay(start + timedelta(seconds=row.admitted_s), start + timedelta(seconds=row.discharged_s))


def _whole(text: str, column: str, path: Path, line: int) -> int:
    try:
        if not (text.isascii() and text.isdigit()):
            raise ValueError(text)
        return int(text)
    except ValueError:
        raise SourceError(
            f"{path}, line {line}: {column} is not a whole number; export the table again",
            problem=Problem.BAD_KEY,
            value=text,
        ) from None


def _seconds(text: str, column: str, path: Path, line: int) -> float | None:
    """Read a time in seconds from the start of the case; None for an empty field."""
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        raise SourceError(
            f"{path}, line {line}: {column} is not a number of seconds from the start of the case; export "
            "the table again",
            problem=Problem.BAD_NUMBER,
            value=text,
        ) from None
    if math.isnan(seconds):
        return None
    if abs(seconds) > MAX_DISTANCE_S:
        raise SourceError(
            f"{path}, line {line}: {column} lies more than three years from the start of the case; in this "
            "layout times are seconds from that start, not dates: export the table again",
            problem=Problem.BAD_TIME,
            value=text,
        )
    return seconds


def _between(text: str, limits: tuple[float, float]) -> float | None:
    value = parse_number(text)
    return round(value, 1) if value is not None and limits[0] <= value <= limits[1] else None
