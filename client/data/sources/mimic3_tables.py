"""The clinical tables of MIMIC-III: one folder, a date of birth, and a laboratory without comments.

Source: MIMIC-III 1.4 table definitions (MIT-LCP/mimic-code); SCIENCE section 2.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Final

from client.data.sources.clinical import (
    Edition,
    MimicTables,
    TableFiles,
    ethnic_group,
    key_of,
    need_folder,
    potassium_items,
    sex_of,
)
from client.data.sources.csv_tables import find_table, need_table, parse_time, rows

__all__ = ["ClinicalTables", "ethnic_group", "potassium_items"]

EDITION: Final = Edition(row_id="ROW_ID", ethnicity=("ETHNICITY",))
DAYS_PER_YEAR: Final = 365.2425


class ClinicalTables(MimicTables):
    """What the clinical folder says, by patient; see ``client.data.sources.clinical.MimicTables``.

    Parameters
    ----------
    folder : folder of the tables.
    whole_blood, lab_clock_ahead_min : as for ``MimicTables``.

    Raises
    ------
    SourceError
        If the folder or a needed table is missing or damaged, or no blood potassium is found in it.
    """

    def __init__(self, folder: Path, *, whole_blood: bool = True, lab_clock_ahead_min: int = 0) -> None:
        need_folder(folder, "the clinical tables (LABEVENTS and others)")
        self._born: dict[str, datetime] = {}
        super().__init__(
            table_files(folder), EDITION, whole_blood=whole_blood, lab_clock_ahead_min=lab_clock_ahead_min
        )

    def _read_people(self, path: Path) -> Mapping[str, str | None]:
        sexes = {}
        for line, (subject, gender, born) in rows(path, ("SUBJECT_ID", "GENDER", "DOB")):
            key, birth = key_of(subject, path, line), parse_time(born, path, line)
            sexes[key] = sex_of(gender)
            if birth is not None:
                self._born[key] = birth
        return sexes

    def _age(self, key: str, at: datetime) -> float | None:
        """Return the age; those above 89 are shifted by some 200 years to hide them."""
        born = self._born.get(key)
        years = -1.0 if born is None else (at - born).days / DAYS_PER_YEAR
        return None if years < 0 else round(years, 1)


def table_files(folder: Path) -> TableFiles:
    """Find the tables; of admissions and intensive care stays one is enough.

    Raises
    ------
    SourceError
        If a needed table is missing.
    """
    units = find_table(folder, "ICUSTAYS")
    return TableFiles(
        items=need_table(folder, "D_LABITEMS"),
        patients=need_table(folder, "PATIENTS"),
        labs=need_table(folder, "LABEVENTS"),
        admissions=find_table(folder, "ADMISSIONS") if units else need_table(folder, "ADMISSIONS"),
        units=units,
        chart=find_table(folder, "CHARTEVENTS"),
    )
