"""The tables of a plain folder: ``draws.csv``, and ``patients.csv`` and ``stays.csv`` where there are any.

Each reader yields a row with its line, and gives an error in a row to ``complain``: an ingest stops at the
first one, ``check-data`` collects them all. So the two never disagree on what a table should look like.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from sys import intern
from types import MappingProxyType
from typing import Final, TypeVar

from client.data.hemolysis import reported
from client.data.problems import Problem
from client.data.sources.base import Measurement, Person, Specimen, Stay
from client.data.sources.clinical import HEIGHT_CM, HIDDEN_AGE, MAX_AGE, WEIGHT_KG, ethnic_group
from client.data.sources.csv_tables import Complain, parse_number, parse_time, raise_at_once, rows
from common.errors import SourceError

DRAWS, PATIENTS, STAYS = "draws", "patients", "stays"
DRAW_COLUMNS: Final = ("patient", "time", "potassium", "unit")
DRAW_EXTRAS: Final = ("specimen", "hemolyzed", "flag", "id")
PATIENT_COLUMNS: Final = ("patient",)
PATIENT_EXTRAS: Final = ("sex", "age", "birth_year", "ethnicity", "height_cm", "weight_kg")
STAY_COLUMNS: Final = ("patient", "start", "end")

MAX_KEY: Final = 64
# Oldest age on record, rounded up.
MAX_YEARS: Final = 130.0
SPECIMENS: Final = MappingProxyType[str, Specimen](
    {"": "serum", "serum": "serum", "plasma": "serum", "whole_blood": "whole_blood"}
)
YES_NO: Final = MappingProxyType({"": False, "no": False, "yes": True})
SEXES: Final = MappingProxyType({"": None, "m": "M", "male": "M", "f": "F", "female": "F"})
ITEM: Final = "potassium"

_COMMA_DECIMAL = re.compile(r"\D*\d+,\d+\D*")
_FORBIDDEN = re.compile(r'[/\\:*?"<>|\x00-\x1f\x7f�]')

Word = TypeVar("Word")


@dataclass(frozen=True, slots=True)
class DrawRow:
    """One line of ``draws.csv``.

    Attributes
    ----------
    measurement : None where the time is empty.
    says_hemolysis : the line says whether the specimen was hemolyzed, yes or no.
    """

    measurement: Measurement | None
    says_hemolysis: bool


@dataclass(frozen=True, slots=True)
class PersonRow:
    """One line of ``patients.csv``.

    Attributes
    ----------
    age : years at the first draw.
    birth_year : where there is no age.
    left_out : columns whose value no person can have; it counts as missing.
    """

    key: str
    sex: str | None
    age: float | None
    birth_year: int | None
    ethnicity: str | None
    height_cm: float | None
    weight_kg: float | None
    left_out: tuple[str, ...] = ()

    def person(self, first_draw: datetime | None) -> Person:
        """Return who this is, at the time of the first draw."""
        age = self.age
        if age is None and self.birth_year is not None and first_draw is not None:
            age = float(first_draw.year - self.birth_year)
        if age is not None and not 0 <= age <= MAX_YEARS:
            age = None
        return Person(
            key=self.key,
            sex=self.sex,
            age=HIDDEN_AGE if age is not None and age > MAX_AGE else age,
            ethnicity=self.ethnicity,
            height_cm=self.height_cm,
            weight_kg=self.weight_kg,
        )


def patient_key(text: str, path: Path, line: int) -> str:
    """Check a patient identifier: it is also the name of the folder with the patient's signals.

    Raises
    ------
    SourceError
        If it is empty, too long, or no name a folder can have on every system.
    """
    if 0 < len(text) <= MAX_KEY and text[0] != "." and not _FORBIDDEN.search(text) and text.isprintable():
        return intern(text)
    raise SourceError(
        f"{path}, line {line}: patient must be 1 to {MAX_KEY} characters that can name a folder: no slashes, "
        "colons or quotes, no dot at the beginning; write the text that names the folder in signals/",
        problem=Problem.BAD_KEY,
        value=text,
    )


def draw_rows(
    path: Path, *, ahead: timedelta = timedelta(0), complain: Complain = raise_at_once
) -> Iterator[tuple[int, str, DrawRow]]:
    """Read the draws: line, patient and measurement.

    Parameters
    ----------
    path : the table.
    ahead : how far the laboratory's clock is ahead of the monitors'.
    complain : told of every row that is wrong.

    Raises
    ------
    SourceError
        If the table cannot be read, or whatever ``complain`` raises.
    """

    def draw(line: int, row: tuple[str, ...]) -> tuple[str, DrawRow]:
        patient, drawn, text, unit, specimen, hemolyzed, flag, name = row
        key = patient_key(patient, path, line)
        time = parse_time(drawn, path, line)
        _refuse_comma(text, path, line, "potassium")
        fluid = _word(SPECIMENS, specimen.replace(" ", "_"), path, line, "specimen")
        broken = _word(YES_NO, hemolyzed, path, line, "hemolyzed")
        if time is None:
            return key, DrawRow(None, bool(hemolyzed))
        measurement = Measurement(
            source_row=name or f"line {line}",
            specimen_time=_moved(time, ahead, path, line),
            text=intern(text),
            number=parse_number(text),
            unit=intern(unit),
            item=ITEM,
            specimen=fluid,
            admitted=False,
            hemolysis="reported" if broken or reported(text) else None,
            flag=intern(flag),
        )
        return key, DrawRow(measurement, bool(hemolyzed))

    return _read(path, DRAW_COLUMNS, DRAW_EXTRAS, draw, complain)


def person_rows(path: Path, complain: Complain = raise_at_once) -> Iterator[tuple[int, str, PersonRow]]:
    """Read who the patients are: line, patient and what is said of each.

    Raises
    ------
    SourceError
        If the table cannot be read, or whatever ``complain`` raises.
    """

    def person(line: int, row: tuple[str, ...]) -> tuple[str, PersonRow]:
        patient, sex, age, born, ethnicity, height, weight = row
        key = patient_key(patient, path, line)
        left_out: list[str] = []

        def number(text: str, name: str, low: float, high: float) -> float | None:
            value = _number(text, path, line, name)
            if value is None or low <= value <= high:
                return value
            left_out.append(name)
            return None

        year = number(born, "birth_year", 1, 9999)
        return key, PersonRow(
            key=key,
            sex=_word(SEXES, sex, path, line, "sex"),
            age=number(age, "age", 0, MAX_YEARS),
            birth_year=None if year is None else int(year),
            ethnicity=ethnic_group(ethnicity) if ethnicity else None,
            height_cm=number(height, "height_cm", *HEIGHT_CM),
            weight_kg=number(weight, "weight_kg", *WEIGHT_KG),
            left_out=tuple(left_out),
        )

    return _read(path, PATIENT_COLUMNS, PATIENT_EXTRAS, person, complain)


def stay_rows(path: Path, complain: Complain = raise_at_once) -> Iterator[tuple[int, str, Stay]]:
    """Read the stays: line, patient and stay. A stay that has not ended yet has no end.

    Raises
    ------
    SourceError
        If the table cannot be read, or whatever ``complain`` raises.
    """

    def stay(line: int, row: tuple[str, ...]) -> tuple[str, Stay]:
        patient, begin, end = row
        key = patient_key(patient, path, line)
        start, stop = parse_time(begin, path, line), parse_time(end, path, line)
        if start is None or (stop is not None and stop < start):
            raise SourceError(
                f"{path}, line {line}: a stay needs a start, and an end that is not before it; leave the end "
                "empty for a stay that goes on",
                problem=Problem.BAD_TIME,
                value=f"{begin} to {end}",
            )
        return key, Stay(start, stop or datetime.max)

    return _read(path, STAY_COLUMNS, (), stay, complain)


def _read(
    path: Path,
    columns: tuple[str, ...],
    extras: tuple[str, ...],
    parse: Callable[[int, tuple[str, ...]], tuple[str, Word]],
    complain: Complain,
) -> Iterator[tuple[int, str, Word]]:
    for line, row in rows(path, columns, extras, exact=True, complain=complain):
        if not any(row):  # a spreadsheet leaves lines of commas at the end of a table
            continue
        try:
            key, what = parse(line, row)
        except SourceError as error:
            complain(error)
            continue
        yield line, key, what


def _number(text: str, path: Path, line: int, name: str) -> float | None:
    if not text:
        return None
    value = parse_number(text)
    if value is None:
        raise SourceError(
            f"{path}, line {line}: {name} is not a number like 61.5; write it with a decimal point, or leave "
            "the field empty",
            problem=Problem.BAD_NUMBER,
            value=text,
        )
    return value


def _refuse_comma(text: str, path: Path, line: int, name: str) -> None:
    """Refuse a comma as the decimal sign; any other text that is no number is excluded later, and counted."""
    if _COMMA_DECIMAL.fullmatch(text):
        raise SourceError(
            f"{path}, line {line}: {name} has a comma as its decimal sign; write 5.6, with a point",
            problem=Problem.BAD_NUMBER,
            value=text,
        )


def _word(words: MappingProxyType[str, Word], text: str, path: Path, line: int, name: str) -> Word:
    try:
        return words[text.lower()]
    except KeyError:
        allowed = ", ".join(word for word in words if word)
        raise SourceError(
            f"{path}, line {line}: {name} is one of {allowed}, or empty", problem=Problem.BAD_WORD, value=text
        ) from None


def _moved(time: datetime, ahead: timedelta, path: Path, line: int) -> datetime:
    try:
        return time - ahead
    except OverflowError:
        raise SourceError(
            f"{path}, line {line}: a time lies after the year 9999", problem=Problem.BAD_TIME
        ) from None
