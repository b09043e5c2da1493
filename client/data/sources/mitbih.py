"""Recordings with every beat named by experts: the MIT-BIH Arrhythmia Database and its like.

Source: Moody and Mark, IEEE Eng Med Biol 2001;20(3):45-50; WFDB annotation codes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt
import wfdb

from client.data.sources.base import Person, Piece, Stretch
from client.data.sources.wfdb_files import Header, piece_of, read_header, read_lead
from client.data.sources.windows import LEAD_II
from common.errors import SourceError

MINUTE_S: Final = 60
# So much is in memory at a time, however long a record is.
MINUTES_PER_STRETCH: Final = 10
# Beats, as opposed to changes of rhythm or signal quality (WFDB annotation codes).
BEAT_SYMBOLS: Final = frozenset("NLRBAaJSVrFejnE/fQ?")
# Persons with more than one record, in the order the records follow one another here.
PERSONS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType({"201": ("201", "202")})
# The recordings carry no date. Each record of a person gets a day of its own.
FIRST_DAY: Final = datetime(2000, 1, 1)

_SAME_PERSON: Final = {record: key for key, records in PERSONS.items() for record in records}


class MitbihSource:
    """Reader of one folder of annotated records; see ``client.data.sources.base.AnnotatedSource``.

    Parameters
    ----------
    folder : folder of ``NAME.hea``, ``NAME.dat`` and ``NAME.atr``.
    records : records to take; empty for all.

    Raises
    ------
    SourceError
        If the folder is missing, holds no annotated record, or lacks one that is asked for.
    """

    def __init__(self, folder: Path, records: Sequence[str] = ()) -> None:
        if not folder.is_dir():
            raise SourceError(
                f"{folder} does not exist; it should hold annotated records (101.hea, 101.dat, 101.atr): "
                "check source.folder in site.toml"
            )
        present = sorted(path.stem for path in folder.glob("*.hea") if path.with_suffix(".atr").is_file())
        if not present:
            raise SourceError(f"{folder} holds no annotated record: each has a .hea, a .dat and a .atr file")
        if unknown := sorted(set(records) - set(present)):
            raise SourceError(
                f"{folder} has no annotated record {', '.join(unknown)}; present: {', '.join(present)}"
            )
        self._folder = folder
        self._records: dict[str, list[str]] = {}
        for name in sorted(set(records)) or present:
            self._records.setdefault(_SAME_PERSON.get(name, name), []).append(name)

    def keys(self) -> list[str]:
        """Return all persons: the name of their first record."""
        return sorted(self._records)

    def fingerprint(self) -> str:
        """Return a SHA-256 of the names and sizes of all files."""
        names = [name for key in self.keys() for name in self._records[key]]
        paths = [self._folder / f"{name}{end}" for name in names for end in (".hea", ".dat", ".atr")]
        sizes = [f"{path.name} {path.stat().st_size if path.is_file() else 'missing'}" for path in paths]
        return hashlib.sha256("\n".join(sizes).encode()).hexdigest()

    def counts(self) -> Mapping[str, int]:
        """Return how many persons and records there are, and how many records lack the lead."""
        records = [name for names in self._records.values() for name in names]
        without = sum(self._header(name).channel(*LEAD_II) is None for name in records)
        return {
            "patients": len(self._records),
            "waveform_records": len(records),
            "records_without_lead_ii": without,
        }

    @property
    def waveform_root(self) -> Path:
        """The folder of the records."""
        return self._folder

    def waveform_files(self, key: str) -> list[str]:
        """Name the three files of each of a person's records."""
        return [f"{name}{end}" for name in self._records[key] for end in (".atr", ".dat", ".hea")]

    def person(self, key: str) -> Person:
        """Return age and sex from the first comment of the header, such as ``69 M 1085 1629 x1``."""
        comments = self._header(self._records[key][0]).comments
        fields = comments[0].split() if comments else []
        age = float(fields[0]) if fields and fields[0].isdigit() else None
        sex = fields[1] if len(fields) > 1 and fields[1] in ("F", "M") else None
        return Person(key=key, sex=sex, age=age)

    def stretches(self, key: str, margin_s: int) -> Iterator[Stretch]:
        """Read a person's records, ten minutes at a time, with a margin in whole seconds.

        Raises
        ------
        SourceError
            If a file of a record is missing or damaged. The recordings are public: the sentence names it.
        """
        order = PERSONS.get(key, (key,))
        for name in self._records[key]:
            yield from self._stretches(name, FIRST_DAY + timedelta(days=order.index(name)), margin_s)

    def _stretches(self, name: str, start: datetime, margin_s: int) -> Iterator[Stretch]:
        header, (peaks, symbols) = self._header(name), self._annotations(name)
        channel, n = header.channel(*LEAD_II), header.n_samples or 0
        # Whole seconds at an integer rate keep every stretch on the same 125 Hz grid.
        minute, margin = round(MINUTE_S * header.rate_hz), round(margin_s * header.rate_hz)
        for first in range(0, n, MINUTES_PER_STRETCH * minute):
            last = min(first + MINUTES_PER_STRETCH * minute, n)
            a, b = max(first - margin, 0), min(last + margin, n)
            inside = (peaks >= first) & (peaks < last)
            yield Stretch(
                record=name,
                start=start,
                first_minute=first // minute,
                n_minutes=-(-(last - first) // minute),
                lead_in=first - a,
                signal_mv=np.empty(0) if channel is None else self._signal(name, header, channel, a, b),
                rate_hz=header.rate_hz,
                r_samples=peaks[inside] - a,
                symbols=symbols[inside],
                has_lead=channel is not None,
                piece=None if channel is None else self._piece(name, header, channel, a, b),
            )

    def _piece(self, name: str, header: Header, channel: int, start: int, stop: int) -> Piece:
        return piece_of(self._folder, self._folder / name, header, channel, start, stop)

    def _header(self, name: str) -> Header:
        try:
            return read_header(self._folder / f"{name}.hea")
        except SourceError as error:
            raise SourceError(f"record {name}: {error}; copy it again") from None

    def _signal(
        self, name: str, header: Header, channel: int, start: int, stop: int
    ) -> npt.NDArray[np.float64]:
        try:
            return read_lead(self._folder / name, header, channel, start, stop)
        except SourceError as error:
            raise SourceError(f"record {name}: {error}; copy it again") from None

    def _annotations(self, name: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.str_]]:
        try:
            found = wfdb.rdann(str(self._folder / name), "atr")
        except Exception as error:  # the package raises whatever a damaged file makes it stumble over
            raise SourceError(f"record {name}: the annotation file is damaged; copy it again") from error
        beats = np.array([symbol in BEAT_SYMBOLS for symbol in found.symbol], dtype=bool)
        return np.asarray(found.sample, dtype=np.int64)[beats], np.asarray(found.symbol, dtype=np.str_)[beats]
