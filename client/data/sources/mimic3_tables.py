"""The clinical tables of MIMIC-III: which blood potassium was measured when, in whom, during which stay.

Source: MIMIC-III 1.4 table definitions (MIT-LCP/mimic-code); SCIENCE section 2.1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from sys import intern
from types import MappingProxyType
from typing import Final

from client.data.sources.base import Measurement, Person, Specimen, Stay
from client.data.sources.csv_tables import find_table, need_table, parse_number, parse_time, rows
from common.errors import SourceError

POTASSIUM_LABEL: Final = re.compile(r"potassium(\s*,\s*(serum|plasma|whole blood))?", re.IGNORECASE)
# Ages above 89 are shifted by some 200 years to hide them; 91.4 is the median of the real ones.
HIDDEN_AGE: Final = 91.4
MAX_AGE: Final = 89.0
DAYS_PER_YEAR: Final = 365.2425

# Chart items of height and weight, with the factor to centimetres and kilograms.
HEIGHT_ITEMS: Final = MappingProxyType(
    dict.fromkeys(("920", "1394", "4187", "3486", "226707"), 2.54)
    | dict.fromkeys(("3485", "4188", "226730"), 1.0)
)
WEIGHT_ITEMS: Final = MappingProxyType(
    dict.fromkeys(("762", "226512", "763", "224639", "3723", "3580"), 1.0) | {"226531": 0.45359237}
)
HEIGHT_CM: Final = (120.0, 230.0)
WEIGHT_KG: Final = (30.0, 300.0)

# First match wins. The groups are those of the paper's Table 1.
ETHNICITY_PREFIXES: Final = (
    ("WHITE", "White"),
    ("BLACK", "African American"),
    ("HISPANIC", "Hispanic"),
    ("ASIAN", "Asian"),
    ("AMERICAN INDIAN", "American Indian"),
    ("UNKNOWN", "unknown"),
    ("UNABLE", "unknown"),
    ("PATIENT DECLINED", "unknown"),
)


@dataclass
class _Chart:
    """First plausible height and weight of a patient, with their times."""

    values: dict[str, tuple[datetime, float]] = field(default_factory=dict)

    def add(self, name: str, time: datetime, value: float) -> None:
        if name not in self.values or time < self.values[name][0]:
            self.values[name] = (time, value)

    def get(self, name: str) -> float | None:
        return round(self.values[name][1], 1) if name in self.values else None


class ClinicalTables:
    """What the clinical folder says, by patient.

    Parameters
    ----------
    folder : folder of the tables.
    whole_blood : take potassium from blood gas analyzers too.
    lab_clock_ahead_min : minutes the laboratory's clock is ahead of the monitors'; specimen times are moved
        back by it, so that a strip ends when the blood was drawn.

    Raises
    ------
    SourceError
        If the folder or a needed table is missing or damaged, or no blood potassium is found in it.
    """

    def __init__(self, folder: Path, *, whole_blood: bool = True, lab_clock_ahead_min: int = 0) -> None:
        if not folder.is_dir():
            raise SourceError(
                f"{folder} does not exist; it should hold the clinical tables (LABEVENTS and others): "
                "check source.folder and source.clinical in site.toml"
            )
        items = potassium_items(need_table(folder, "D_LABITEMS"))
        if not whole_blood:
            items = {item: specimen for item, specimen in items.items() if specimen == "serum"}
        self._people = _patients(need_table(folder, "PATIENTS"))
        self.draws_without_time = 0
        self._ahead = timedelta(minutes=lab_clock_ahead_min)
        self._measurements = self._potassium(need_table(folder, "LABEVENTS"), items)
        self._stays, self._ethnicity = _stays(folder)
        chart = find_table(folder, "CHARTEVENTS")
        self._charts = _charts(chart, self._measurements) if chart else {}

    @property
    def keys(self) -> list[str]:
        """Patients with a potassium measurement, by number."""
        return sorted(self._measurements, key=int)

    @property
    def n_patients(self) -> int:
        """Number of patients in the patient table."""
        return len(self._people)

    def measurements(self, key: str) -> list[Measurement]:
        """Return a patient's potassium rows in the order of the table."""
        return self._measurements.get(key, [])

    def stays(self, key: str) -> list[Stay]:
        """Return a patient's admissions and intensive care stays."""
        return self._stays.get(key, [])

    def person(self, key: str) -> Person:
        """Return who a patient is."""
        sex, born = self._people.get(key, (None, None))
        chart = self._charts.get(key, _Chart())
        first = min((row.specimen_time for row in self.measurements(key)), default=None)
        return Person(
            key=key,
            sex=sex,
            age=_age(born, first) if born and first else None,
            ethnicity=self._ethnicity.get(key, "unknown"),
            height_cm=chart.get("height"),
            weight_kg=chart.get("weight"),
        )

    def _potassium(self, path: Path, items: dict[str, Specimen]) -> dict[str, list[Measurement]]:
        columns = ("SUBJECT_ID", "ITEMID", "CHARTTIME", "VALUE", "VALUENUM", "VALUEUOM")
        found: dict[str, list[Measurement]] = {}
        for line, row in rows(path, columns, ("HADM_ID", "ROW_ID"), containing=sorted(items)):
            subject, item, charted, text, number, unit, admission, row_id = row
            if item not in items:
                continue
            time = parse_time(charted, path, line)
            if time is None:
                self.draws_without_time += 1
                continue
            key = _key(subject, path, line)
            found.setdefault(key, []).append(
                Measurement(
                    source_row=row_id or f"line {line}",
                    specimen_time=time - self._ahead,
                    text=intern(text),
                    number=parse_number(number),
                    unit=intern(unit),
                    item=intern(item),
                    specimen=items[item],
                    admitted=bool(admission),
                )
            )
        if not found:
            raise SourceError(
                f"{path} holds no row of the potassium items {', '.join(sorted(items))}: there is nothing to "
                "label; check that the table is complete"
            )
        return found


def potassium_items(path: Path) -> dict[str, Specimen]:
    """Return the lab items that are potassium in blood, verified by label and fluid.

    Potassium in urine, stool, ascites and other fluids carries almost the same label and is refused.

    Raises
    ------
    SourceError
        If there is no such item.
    """
    items: dict[str, Specimen] = {}
    for _, (item, label, fluid, category) in rows(path, ("ITEMID", "LABEL", "FLUID"), ("CATEGORY",)):
        if fluid.lower() != "blood" or not POTASSIUM_LABEL.fullmatch(label):
            continue
        whole = "whole blood" in label.lower() or category.lower() == "blood gas"
        items[item] = "whole_blood" if whole else "serum"
    if "serum" not in items.values():
        raise SourceError(
            f"{path} lists no potassium item (label Potassium, fluid Blood; 50971 in MIMIC-III): without it "
            "no draw can be labelled; check that this is the table of lab items of the same hospital"
        )
    return items


def ethnic_group(text: str) -> str:
    """Map an ETHNICITY entry to one of the seven groups of the paper."""
    upper = text.strip().upper()
    if not upper:
        return "unknown"
    return next((group for prefix, group in ETHNICITY_PREFIXES if upper.startswith(prefix)), "other")


def _age(born: datetime, at: datetime) -> float | None:
    years = (at - born).days / DAYS_PER_YEAR
    if years < 0:
        return None
    return HIDDEN_AGE if years > MAX_AGE else round(years, 1)


def _patients(path: Path) -> dict[str, tuple[str | None, datetime | None]]:
    people = {}
    for line, (subject, gender, born) in rows(path, ("SUBJECT_ID", "GENDER", "DOB")):
        sex = gender.upper()[:1]
        people[_key(subject, path, line)] = (sex if sex in ("F", "M") else None, parse_time(born, path, line))
    return people


def _stays(folder: Path) -> tuple[dict[str, list[Stay]], dict[str, str]]:
    """Read admissions and intensive care stays; at least one of the two tables is needed."""
    stays: dict[str, list[Stay]] = {}
    ethnicity: dict[str, str] = {}
    units = find_table(folder, "ICUSTAYS")
    admissions = find_table(folder, "ADMISSIONS") if units else need_table(folder, "ADMISSIONS")
    tables = ((admissions, "ADMITTIME", "DISCHTIME", "ETHNICITY"), (units, "INTIME", "OUTTIME", "LOS"))
    for path, begins, ends, extra in tables:
        if path is None:
            continue
        for line, (subject, begin, end, text) in rows(path, ("SUBJECT_ID", begins, ends), (extra,)):
            key = _key(subject, path, line)
            start, stop = parse_time(begin, path, line), parse_time(end, path, line)
            if start is not None:  # a stay that has not ended yet has a start only
                stays.setdefault(key, []).append(Stay(start, max(start, stop) if stop else datetime.max))
            if extra == "ETHNICITY" and ethnicity.get(key, "unknown") == "unknown":
                ethnicity[key] = ethnic_group(text)
    return stays, ethnicity


def _charts(path: Path, of: dict[str, list[Measurement]]) -> dict[str, _Chart]:
    items = (*HEIGHT_ITEMS, *WEIGHT_ITEMS)
    charts: dict[str, _Chart] = {}
    columns = ("SUBJECT_ID", "ITEMID", "CHARTTIME", "VALUENUM")
    # As whole fields, because a number like 763 is part of many others.
    separated = [f"{left}{item}{right}" for item in items for left, right in ((",", ","), (',"', '",'))]
    for line, (subject, item, charted, number, error) in rows(path, columns, ("ERROR",), separated):
        factor = HEIGHT_ITEMS.get(item) or WEIGHT_ITEMS.get(item)
        value = parse_number(number)
        if factor is None or value is None or error == "1":
            continue
        time, key = parse_time(charted, path, line), _key(subject, path, line)
        name = "height" if item in HEIGHT_ITEMS else "weight"
        low, high = HEIGHT_CM if name == "height" else WEIGHT_KG
        if time is not None and key in of and low <= value * factor <= high:
            charts.setdefault(key, _Chart()).add(name, time, value * factor)
    return charts


def _key(subject: str, path: Path, line: int) -> str:
    try:
        return str(int(subject))
    except ValueError:
        raise SourceError(
            f"{path}, line {line}: SUBJECT_ID is not a whole number; export the table again"
        ) from None
