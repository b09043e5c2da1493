"""The waveforms of MIMIC-IV: which records belong to which patient.

``waves/p100/p10014354/81739927/81739927.hea`` is the master header of record 81739927 of patient 10014354.
Its frames come 62.47 times a second, and lead II has several samples in each: four make 249.89 Hz.

Source: MIMIC-IV Waveform Database 0.1.0 (PhysioNet); SCIENCE section 2.4.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from client.data.sources.segments import RecordIndex, listed_lines, need_records, need_root

INDEX: Final = "RECORDS"
WAVES: Final = "waves"
_GROUP: Final = re.compile(r"p\d{3}")
_PATIENT: Final = re.compile(r"p(\d{5,10})")
_RECORD: Final = re.compile(r"\d{4,12}")
# 81739927/81739927 in the list of a patient; p100/p10014354/81739927/81739927, or the patient's folder
_OWN_PATH: Final = re.compile(r"(?P<record>\d{4,12})/(?P=record)")
_RECORD_PATH: Final = re.compile(r"(?:\w+/)*p(?P<patient>\d{5,10})/(?P<record>\d{4,12})/(?P=record)")
_FOLDER_PATH: Final = re.compile(r"(?:\w+/)*p(?P<patient>\d{5,10})/?")


class WaveIndex(RecordIndex):
    """Which records belong to which patient.

    Parameters
    ----------
    root : folder with ``waves``, or that folder itself. ``RECORDS`` in it lists records, or folders of
        patients, whose own ``RECORDS`` list theirs; without such a list the folders are looked through. A
        listed folder of a patient that is not there, as after a partial download, holds no record.

    Raises
    ------
    SourceError
        If the folder is missing or holds no waveform record.
    """

    def __init__(self, root: Path) -> None:
        need_root(root, "the waveforms (waves/p100, waves/p101, ...)")
        records: dict[str, list[str]] = {}
        for key, name in _listed(root) if (root / INDEX).is_file() else _seen(root):
            records.setdefault(key, []).append(name)
        need_records(root, records, "waves/p100/p10014354/81739927/81739927")
        super().__init__(root, records, framed=True)


def _listed(root: Path) -> Iterator[tuple[str, str]]:
    """Yield patient and record of every line of the list, patient by patient where it lists those."""
    for line in listed_lines(root / INDEX):
        if record := _RECORD_PATH.fullmatch(line):
            yield _key(record["patient"]), line
        elif folder := _FOLDER_PATH.fullmatch(line):
            yield from _of_patient(root, root / line, folder["patient"])


def _of_patient(root: Path, folder: Path, patient: str) -> Iterator[tuple[str, str]]:
    if not folder.is_dir():
        return
    place = folder.relative_to(root).as_posix()
    if (folder / INDEX).is_file():
        names = [line for line in listed_lines(folder / INDEX) if _OWN_PATH.fullmatch(line)]
    else:
        names = [f"{path.name}/{path.name}" for path in _folders(folder, _RECORD)]
    for name in names:
        yield _key(patient), f"{place}/{name}"


def _seen(root: Path) -> Iterator[tuple[str, str]]:
    """Yield patient and record of every folder that is one of a record."""
    waves = root / WAVES if (root / WAVES).is_dir() else root
    for group in _folders(waves, _GROUP):
        for folder in _folders(group, _PATIENT):
            yield from _of_patient(root, folder, folder.name[1:])


def _folders(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    return sorted(path for path in folder.iterdir() if pattern.fullmatch(path.name) and path.is_dir())


def _key(digits: str) -> str:
    return str(int(digits))
