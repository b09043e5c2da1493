"""The matched waveforms of MIMIC-III: which records belong to which patient.

Source: MIMIC-III Waveform Database Matched Subset 1.0 (PhysioNet); SCIENCE section 2.2.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from client.data.problems import Problem
from client.data.sources.segments import RecordIndex, SegmentedRecordings, read_recording
from common.errors import SourceError

__all__ = ["MatchedRecordings", "WaveformIndex", "read_recording"]

INDEX: Final = "RECORDS-waveforms"
# p000020-2183-04-28-17-47; the numerics record of the same time ends with n and is not meant.
RECORD_NAME: Final = re.compile(r"[ps](\d+)-\d{4}-\d\d-\d\d-\d\d-\d\d")

#: The records of one patient.
MatchedRecordings = SegmentedRecordings


class WaveformIndex(RecordIndex):
    """Which records belong to which patient.

    Parameters
    ----------
    root : folder with ``RECORDS-waveforms`` and ``p00`` to ``p09``. Without that list the folders are
        looked through.

    Raises
    ------
    SourceError
        If the folder is missing or holds no waveform record.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise SourceError(
                f"{root} does not exist; it should hold the matched waveforms (p00, p01, ...): check "
                "source.folder and source.waveforms in site.toml",
                problem=Problem.MISSING_FOLDER,
            )
        records: dict[str, list[str]] = {}
        for name in _record_names(root):
            match = RECORD_NAME.fullmatch(name.rpartition("/")[2])
            if match is not None:
                records.setdefault(str(int(match[1])), []).append(name)
        if not records:
            raise SourceError(
                f"{root} holds no waveform record like p00/p000020/p000020-2183-04-28-17-47; check "
                "source.waveforms in site.toml",
                problem=Problem.NO_WAVEFORMS,
            )
        super().__init__(root, records)


def _record_names(root: Path) -> list[str]:
    listing = root / INDEX
    if listing.is_file():
        try:
            lines = listing.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError as error:
            raise SourceError(
                f"{listing} cannot be read: {(error.strerror or 'unknown').lower()}; copy it again",
                problem=Problem.DAMAGED_FILE,
            ) from None
        return [line.strip() for line in lines]
    found = root.glob("p[0-9][0-9]/p*/*.hea")
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in found)
