"""The matched waveforms of MIMIC-III: which records belong to which patient.

Source: MIMIC-III Waveform Database Matched Subset 1.0 (PhysioNet); SCIENCE section 2.2.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from client.data.sources.segments import (
    RecordIndex,
    SegmentedRecordings,
    listed_lines,
    need_records,
    need_root,
    read_recording,
)

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
        need_root(root, "the matched waveforms (p00, p01, ...)")
        records: dict[str, list[str]] = {}
        for name in _record_names(root):
            match = RECORD_NAME.fullmatch(name.rpartition("/")[2])
            if match is not None:
                records.setdefault(str(int(match[1])), []).append(name)
        need_records(root, records, "p00/p000020/p000020-2183-04-28-17-47")
        super().__init__(root, records)


def _record_names(root: Path) -> list[str]:
    listing = root / INDEX
    if listing.is_file():
        return listed_lines(listing)
    found = root.glob("p[0-9][0-9]/p*/*.hea")
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in found)
