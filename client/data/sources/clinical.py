"""Clinical tables of the MIMIC family: which blood potassium was measured when, in whom, in which stay.

What both editions share is read here; an edition says where its tables are, how columns are named, how old a
patient is, and whether its laboratory reports hemolysis.

Source: MIMIC-III 1.4 and MIMIC-IV table definitions (MIT-LCP/mimic-code); SCIENCE sections 2.1 and 2.4.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from sys import intern
from types import MappingProxyType
from typing import Final

from client.data.hemolysis import contaminated, reported, with_suspicions
from client.data.problems import Problem
from client.data.sources.base import Measurement, Person, Specimen, Stay
from client.data.sources.csv_tables import parse_number, parse_time, rows
from client.data.values import UNITS
from common.errors import SourceError

POTASSIUM_LABEL: Final = re.compile(r"potassium(\s*,\s*(serum|plasma|whole blood))?", re.IGNORECASE)
SODIUM_LABEL: Final = re.compile(r"sodium(\s*,\s*(serum|plasma|whole blood))?", re.IGNORECASE)
GLUCOSE_LABEL: Final = re.compile(r"glucose(\s*,\s*(serum|plasma|whole blood))?", re.IGNORECASE)
GLUCOSE_UNIT: Final = "mg/dl"
# Ages above 89 are hidden; 91.4 is the median of the real ones.
HIDDEN_AGE: Final = 91.4
MAX_AGE: Final = 89.0

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


@dataclass(frozen=True)
class Edition:
    """How the tables of one edition are named, where they differ.

    Attributes
    ----------
    row_id : column that numbers the rows of the laboratory.
    ethnicity : columns of the admissions that name ethnicity, in order of preference.
    comments : column in which the laboratory writes about the specimen; empty where there is none.
    """

    row_id: str
    ethnicity: tuple[str, ...]
    comments: str = ""


@dataclass(frozen=True)
class TableFiles:
    """Where the tables are; None for those that are not there and not needed."""

    items: Path
    patients: Path
    labs: Path
    admissions: Path | None
    units: Path | None
    chart: Path | None

    def paths(self) -> list[Path]:
        """Return all that are there."""
        found = (self.items, self.patients, self.admissions, self.units, self.labs, self.chart)
        return [path for path in found if path is not None]


@dataclass
class _Chart:
    """First plausible height and weight of a patient, with their times."""

    values: dict[str, tuple[datetime, float]] = field(default_factory=dict)

    def add(self, name: str, time: datetime, value: float) -> None:
        if name not in self.values or time < self.values[name][0]:
            self.values[name] = (time, value)

    def get(self, name: str) -> float | None:
        return round(self.values[name][1], 1) if name in self.values else None


class MimicTables:
    """What the clinical folder says, by patient.

    Parameters
    ----------
    files : where the tables are.
    edition : how they are named.
    whole_blood : take potassium from blood gas analyzers too.
    lab_clock_ahead_min : minutes the laboratory's clock is ahead of the monitors'; specimen times are moved
        back by it, so that a strip ends when the blood was drawn.

    Raises
    ------
    SourceError
        If a table is damaged, or no blood potassium is found in it.
    """

    def __init__(
        self, files: TableFiles, edition: Edition, *, whole_blood: bool, lab_clock_ahead_min: int
    ) -> None:
        self.files, self._edition = files, edition
        items = potassium_items(files.items)
        if not whole_blood:
            items = {item: specimen for item, specimen in items.items() if specimen == "serum"}
        self._sexes = self._read_people(files.patients)
        self.draws_without_time = 0
        self._ahead = timedelta(minutes=lab_clock_ahead_min)
        self._measurements = self._potassium(files.labs, items)
        self._stays, self._ethnicity = _stays(files, edition)
        self._charts = _charts(files.chart, self._measurements) if files.chart else {}

    def _read_people(self, path: Path) -> Mapping[str, str | None]:
        """Read the patient table; return the sex of each patient."""
        raise NotImplementedError

    def _age(self, key: str, at: datetime) -> float | None:
        """Return the age of a patient at a time, years; None where it is not known."""
        raise NotImplementedError

    @property
    def keys(self) -> list[str]:
        """Patients with a potassium measurement, by number."""
        return sorted(self._measurements, key=int)

    @property
    def n_patients(self) -> int:
        """Number of patients in the patient table."""
        return len(self._sexes)

    def measurements(self, key: str) -> list[Measurement]:
        """Return a patient's potassium rows in the order of the table."""
        return self._measurements.get(key, [])

    def stays(self, key: str) -> list[Stay]:
        """Return a patient's admissions and intensive care stays."""
        return self._stays.get(key, [])

    def person(self, key: str) -> Person:
        """Return who a patient is."""
        chart = self._charts.get(key, _Chart())
        first = min((row.specimen_time for row in self.measurements(key)), default=None)
        age = None if first is None else self._age(key, first)
        return Person(
            key=key,
            sex=self._sexes.get(key),
            age=age if age is None or age <= MAX_AGE else HIDDEN_AGE,
            ethnicity=self._ethnicity.get(key, "unknown"),
            height_cm=chart.get("height"),
            weight_kg=chart.get("weight"),
        )

    def _potassium(self, path: Path, items: dict[str, Specimen]) -> dict[str, list[Measurement]]:
        edition = self._edition
        # A laboratory that writes about its specimens is not second-guessed by its panels.
        panel = {} if edition.comments else panel_items(self.files.items)
        columns = ("SUBJECT_ID", "ITEMID", "CHARTTIME", "VALUE", "VALUENUM", "VALUEUOM")
        more = ("HADM_ID", "FLAG", edition.row_id, *([edition.comments] if edition.comments else []))
        found: dict[str, list[Measurement]] = {}
        dubious: dict[str, set[datetime]] = {}
        commented = False
        for line, row in rows(path, columns, more, containing=sorted({*items, *panel})):
            subject, item, charted, text, number, unit, admission, flag, row_id, *comments = row
            if item not in items:
                if item in panel and _contaminates(panel[item], number, unit):
                    time = parse_time(charted, path, line)
                    if time is not None:
                        dubious.setdefault(key_of(subject, path, line), set()).add(time - self._ahead)
                continue
            time = parse_time(charted, path, line)
            if time is None:
                self.draws_without_time += 1
                continue
            comment = comments[0] if comments else ""
            commented = commented or bool(comment)
            found.setdefault(key_of(subject, path, line), []).append(
                Measurement(
                    source_row=row_id or f"line {line}",
                    specimen_time=time - self._ahead,
                    text=intern(text),
                    number=parse_number(number),
                    unit=intern(unit),
                    item=intern(item),
                    specimen=items[item],
                    admitted=bool(admission),
                    hemolysis="reported" if reported(f"{text}; {comment}") else None,
                    flag=intern(flag),
                )
            )
        if not found:
            raise SourceError(
                f"{path} holds no row of the potassium items {', '.join(sorted(items))}: there is nothing to "
                "label; check that the table is complete",
                problem=Problem.NO_DRAWS,
            )
        if commented:
            return found
        return {key: with_suspicions(found[key], dubious.get(key, ())) for key in found}


def need_folder(folder: Path, holds: str) -> None:
    """Refuse a clinical folder that is not there.

    Raises
    ------
    SourceError
        With what it should hold.
    """
    if not folder.is_dir():
        raise SourceError(
            f"{folder} does not exist; it should hold {holds}: check source.folder and source.clinical in "
            "site.toml",
            problem=Problem.MISSING_FOLDER,
        )


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
            f"{path} lists no potassium item (label Potassium, fluid Blood; 50971 in MIMIC): without it "
            "no draw can be labelled; check that this is the table of lab items of the same hospital",
            problem=Problem.NO_POTASSIUM_ITEM,
        )
    return items


def panel_items(path: Path) -> dict[str, str]:
    """Return the lab items that are ``sodium`` or ``glucose`` in blood, verified by label and fluid."""
    found = {}
    for _, (item, label, fluid) in rows(path, ("ITEMID", "LABEL", "FLUID")):
        if fluid.lower() == "blood":
            for name, form in (("sodium", SODIUM_LABEL), ("glucose", GLUCOSE_LABEL)):
                if form.fullmatch(label):
                    found[item] = name
    return found


def ethnic_group(text: str) -> str:
    """Map an ETHNICITY or RACE entry to one of the seven groups of the paper."""
    upper = text.strip().upper()
    if not upper:
        return "unknown"
    return next((group for prefix, group in ETHNICITY_PREFIXES if upper.startswith(prefix)), "other")


def sex_of(text: str) -> str | None:
    """Map a GENDER entry to ``F`` or ``M``; None for anything else."""
    letter = text.upper()[:1]
    return letter if letter in ("F", "M") else None


def key_of(subject: str, path: Path, line: int) -> str:
    """Return the key of a patient.

    Raises
    ------
    SourceError
        If it is no whole number.
    """
    if subject.isascii() and subject.isdigit():
        return str(int(subject))
    raise SourceError(
        f"{path}, line {line}: SUBJECT_ID is not a whole number; export the table again",
        problem=Problem.BAD_KEY,
        value=subject,
    )


def _contaminates(name: str, number: str, unit: str) -> bool:
    value = parse_number(number)
    if name == "sodium":
        return unit.lower() in UNITS and contaminated(sodium=value)
    return unit.lower() == GLUCOSE_UNIT and contaminated(glucose=value)


def _stays(files: TableFiles, edition: Edition) -> tuple[dict[str, list[Stay]], dict[str, str]]:
    """Read admissions and intensive care stays."""
    stays: dict[str, list[Stay]] = {}
    ethnicity: dict[str, str] = {}
    tables = (
        (files.admissions, "ADMITTIME", "DISCHTIME", edition.ethnicity),
        (files.units, "INTIME", "OUTTIME", ()),
    )
    for path, begins, ends, extra in tables:
        if path is None:
            continue
        for line, (subject, begin, end, *texts) in rows(path, ("SUBJECT_ID", begins, ends), extra):
            key = key_of(subject, path, line)
            start, stop = parse_time(begin, path, line), parse_time(end, path, line)
            if start is not None:  # a stay that has not ended yet has a start only
                stays.setdefault(key, []).append(Stay(start, max(start, stop) if stop else datetime.max))
            if extra and ethnicity.get(key, "unknown") == "unknown":
                ethnicity[key] = ethnic_group(next((text for text in texts if text), ""))
    return stays, ethnicity


def _charts(path: Path, of: Collection[str]) -> dict[str, _Chart]:
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
        time, key = parse_time(charted, path, line), key_of(subject, path, line)
        name = "height" if item in HEIGHT_ITEMS else "weight"
        low, high = HEIGHT_CM if name == "height" else WEIGHT_KG
        if time is not None and key in of and low <= value * factor <= high:
            charts.setdefault(key, _Chart()).add(name, time, value * factor)
    return charts
