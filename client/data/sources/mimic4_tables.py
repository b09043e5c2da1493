"""The clinical tables of MIMIC-IV: folders ``hosp`` and ``icu``, an anchor age, a laboratory that comments.

The laboratory writes beside a result what it saw of the specimen, hemolysis too; so no rule second-guesses
it. VALUE is sometimes ``___``, a text that was removed to hide who the patient is: such a result has no
value, even where VALUENUM holds a number, because nobody knows what the text said about it. Numbers inside
``comments`` are never read.

Source: MIMIC-IV 2.2 table definitions (MIT-LCP/mimic-code); SCIENCE section 2.4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from client.data.problems import Problem
from client.data.sources.clinical import Edition, MimicTables, TableFiles, key_of, need_folder, sex_of
from client.data.sources.csv_tables import find_table, parse_number, rows
from common.errors import SourceError

#: Version 1 still called it ethnicity.
EDITION: Final = Edition(row_id="LABEVENT_ID", ethnicity=("RACE", "ETHNICITY"), comments="COMMENTS")
MODULES: Final = ("hosp", "icu")


class Mimic4Tables(MimicTables):
    """What the clinical folder says, by patient; see ``client.data.sources.clinical.MimicTables``.

    Parameters
    ----------
    folder : holds ``hosp`` and ``icu``, or the tables themselves.
    whole_blood, lab_clock_ahead_min : as for ``MimicTables``.

    Raises
    ------
    SourceError
        If the folder or a needed table is missing or damaged, or no blood potassium is found in it.
    """

    def __init__(self, folder: Path, *, whole_blood: bool = True, lab_clock_ahead_min: int = 0) -> None:
        need_folder(folder, "the clinical tables (hosp/labevents and others)")
        self._anchors: dict[str, tuple[int, float]] = {}
        super().__init__(
            table_files(folder), EDITION, whole_blood=whole_blood, lab_clock_ahead_min=lab_clock_ahead_min
        )

    def _read_people(self, path: Path) -> Mapping[str, str | None]:
        sexes = {}
        columns = ("SUBJECT_ID", "GENDER", "ANCHOR_AGE", "ANCHOR_YEAR")
        for line, (subject, gender, age, year) in rows(path, columns):
            key = key_of(subject, path, line)
            sexes[key] = sex_of(gender)
            years, anchor = parse_number(age), parse_number(year)
            if years is not None and anchor is not None:
                self._anchors[key] = (int(anchor), years)
        return sexes

    def _age(self, key: str, at: datetime) -> float | None:
        """Return the age of that year: the anchor age and the years since the anchor year."""
        if key not in self._anchors:
            return None
        year, age = self._anchors[key]
        years = age + (at.year - year)
        return None if years < 0 else round(years, 1)


def table_files(folder: Path) -> TableFiles:
    """Find the tables in ``hosp`` and ``icu``, or in the folder itself.

    Of admissions and intensive care stays one is enough.

    Raises
    ------
    SourceError
        If a needed table is missing.
    """
    modules = [path for path in folder.iterdir() if path.name.lower() in MODULES and path.is_dir()]
    places = [folder, *sorted(modules)]
    units = _find(places, "icustays")
    return TableFiles(
        items=_need(places, "d_labitems"),
        patients=_need(places, "patients"),
        labs=_need(places, "labevents"),
        admissions=_find(places, "admissions") if units else _need(places, "admissions"),
        units=units,
        chart=_find(places, "chartevents"),
    )


def _find(places: Sequence[Path], name: str) -> Path | None:
    return next((path for place in places if (path := find_table(place, name)) is not None), None)


def _need(places: Sequence[Path], name: str) -> Path:
    path = _find(places, name)
    if path is None:
        raise SourceError(
            f"{places[0]} holds no table {name}: looked for {name}.csv and {name}.csv.gz in it and in its "
            "folders hosp and icu; put the table there or set source.clinical in site.toml",
            problem=Problem.MISSING_TABLE,
        )
    return path
