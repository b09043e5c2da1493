"""What a folder of annotated recordings holds, before anything is read into a site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import wfdb

from client.data.annotated import LABEL_OF_SYMBOL
from client.data.sources.mitbih import PERSONS
from client.data.sources.windows import LEAD_II
from common.config import Settings
from common.errors import SourceError
from common.task import Label
from simulation.folds import PACED, Counts, Fold

MINUTE_S = 60.0


@dataclass(frozen=True)
class Survey:
    """Records and patients of a folder.

    Attributes
    ----------
    present : every record in the folder.
    records : those that can be used.
    without_lead : those that lack the lead.
    person : record -> patient key.
    counts : patient key -> strips of each label, by the annotations.
    """

    present: tuple[str, ...]
    records: tuple[str, ...]
    without_lead: tuple[str, ...]
    person: Mapping[str, str]
    counts: Mapping[str, Counts]

    def records_of(self, key: str, folds: Sequence[Fold]) -> tuple[str, ...]:
        """Return a patient's records, as far as the folds use them."""
        allowed = {record for fold in folds for record in fold.records} or set(self.records)
        return tuple(r for r in self.records if self.person[r] == key and r in allowed)


def survey_recordings(folder: Path, settings: Settings, *, include_paced: bool = False) -> Survey:
    """Count the strips of every patient from headers and annotations alone.

    Raises
    ------
    SourceError
        If the folder is missing, or holds no annotated record that can be read and used.
    """
    if not folder.is_dir():
        raise SourceError(
            f"{folder} does not exist or is no folder; --data takes the folder with the files of the MIT-BIH "
            "Arrhythmia Database"
        )
    present = tuple(sorted(path.stem for path in folder.glob("*.hea") if path.with_suffix(".atr").is_file()))
    if not present:
        raise SourceError(
            f"{folder} holds no annotated record (a .hea with an .atr beside it); "
            "--data takes the folder with the files of the MIT-BIH Arrhythmia Database"
        )
    leads = {record: _leads(folder / record) for record in present}
    with_lead = tuple(record for record in present if any(lead in leads[record] for lead in LEAD_II))
    records = tuple(record for record in with_lead if include_paced or record not in PACED)
    if not records:
        raise SourceError(
            f"none of the {len(present)} annotated records in {folder} can be used: "
            f"{len(present) - len(with_lead)} lack lead {' or '.join(LEAD_II)}, the others have paced beats; "
            "add records"
        )
    same = {name: key for key, names in PERSONS.items() for name in names}
    person = {record: same.get(record, record) for record in records}
    counts: dict[str, Counts] = {}
    for record in records:
        found = count_strips(folder / record, settings.strip.min_beats)
        before = counts.get(person[record], Counts(0, 0))
        counts[person[record]] = Counts(before.positive + found.positive, before.negative + found.negative)
    return Survey(present, records, tuple(r for r in present if r not in with_lead), person, counts)


def count_strips(record: Path, min_beats: int) -> Counts:
    """Count the minutes of a record with enough beats of each label.

    Raises
    ------
    SourceError
        If the annotation file is damaged.
    """
    try:
        notes = wfdb.rdann(str(record), "atr")
    except Exception as error:  # the package raises whatever a damaged file makes it stumble over
        raise SourceError(f"{record.with_suffix('.atr')} is damaged; copy it again") from error
    labels = np.array([LABEL_OF_SYMBOL.get(symbol, "") for symbol in notes.symbol], dtype=object)
    minutes = (notes.sample / notes.fs // MINUTE_S).astype(int)
    return Counts(
        *(
            int(np.sum(np.bincount(minutes[labels == label]) >= min_beats))
            for label in (Label.POSITIVE, Label.NEGATIVE)
        )
    )


def _leads(record: Path) -> list[str]:
    try:
        return list(wfdb.rdheader(str(record)).sig_name or [])
    except Exception as error:  # as above
        path = record.with_suffix(".hea")
        raise SourceError(f"{path} is not a readable header: {error}; copy it again") from None
