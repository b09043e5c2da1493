"""Which layout a folder looks like, from a short look: names of files and folders, first lines of tables.

The look is bounded (see ``glance``): a folder of millions of files takes no longer than a small one. Whatever
cannot be read counts as absent, so a guess is never an error.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

from client.data.sources.glance import Listing, columns, first_line, list_folder, look_through
from client.site import SourceSettings
from common.errors import ConfigurationError

Kind = Literal["mimic3", "mimic4", "vitaldb", "folder", "mitbih"]
Part = Literal["clinical", "waveforms"]

#: The parts of a layout that settings of ``[source]`` name; a layout without any lies in the data root.
PARTS: Final[Mapping[Kind, tuple[Part, ...]]] = MappingProxyType(
    {
        "folder": (),
        "mimic4": ("clinical", "waveforms"),
        "mimic3": ("clinical", "waveforms"),
        "vitaldb": ("clinical", "waveforms"),
        "mitbih": (),
    }
)
#: So many folders above the given one are tried when it holds no whole layout: it may be a part of one.
LEVELS_UP: Final = 3
#: So many folders p00, p01, ... are looked into; some may be empty.
GROUPS: Final = 10
#: Folders inside the one that a setting names, in the archives of MIMIC-IV and VitalDB.
INNER: Final = frozenset({"hosp", "waves", "vital_files"})

_GROUP_3, _PATIENT_3 = re.compile(r"p\d\d"), re.compile(r"p\d{6}")
_GROUP_4, _PATIENT_4 = re.compile(r"p\d{3}"), re.compile(r"p\d{8}")
_INDEX_3 = re.compile(r"p\d\d/p\d{6}/")
_INDEX_4 = re.compile(r"waves/p\d{3}/")


@dataclass(frozen=True)
class Guess:
    """What a folder looks like.

    Attributes
    ----------
    kind : the layout, as ``source.kind`` names it; None if nothing was recognized.
    folder : what ``source.folder`` should be: the folder that was given, or one above or below it.
    clinical, waveforms : what the settings of these names should be, relative to ``folder``; empty where
        the layout has no such setting or the part was not found.
    evidence : what the layout was recognized by, relative to ``folder``; no patient's file or folder.
    missing : parts of the layout that were not found.
    others : further layouts that fit as well.
    places : number of places in which a layout of this kind lies, whole.
    """

    kind: Kind | None
    folder: Path
    clinical: str = ""
    waveforms: str = ""
    evidence: tuple[str, ...] = ()
    missing: tuple[Part, ...] = ()
    others: tuple[Kind, ...] = ()
    places: int = 1

    @property
    def certain(self) -> bool:
        """One layout, whole, in one place; otherwise a person must choose."""
        return self.kind is not None and not self.missing and not self.others and self.places == 1

    def settings(self) -> dict[str, str]:
        """Return what ``[source]`` of ``site.toml`` should say, as far as it was found."""
        found = {
            "kind": self.kind or "",
            "folder": str(self.folder),
            "clinical": self.clinical,
            "waveforms": self.waveforms,
        }
        return {name: value for name, value in found.items() if value}

    def fits(self, source: SourceSettings, data_root: Path) -> bool:
        """Return whether this is the layout, and these the places, that a site's settings name."""
        if self.kind != source.kind:
            return False
        if not PARTS[source.kind]:
            return _same(self.folder, data_root)
        named: Mapping[Part, str] = {"clinical": source.clinical, "waveforms": source.waveforms}
        found: Mapping[Part, str] = {"clinical": self.clinical, "waveforms": self.waveforms}
        return not self.missing and all(
            _same(_outer(self.folder / found[part]), _outer(data_root / named[part]))
            for part in PARTS[source.kind]
        )

    def sentence(self) -> str:
        """Say what the folder looks like."""
        if self.kind is None:
            return "looks like none of the layouts"
        text = f"looks like {self.kind} ({', '.join(self.evidence)})"
        if self.missing:
            text += f" without its {' and its '.join(self.missing)}"
        if self.places > 1:
            text += f", in {self.places} places"
        return text + (f"; it also looks like {' and '.join(self.others)}" if self.others else "")


@dataclass(frozen=True)
class _Mark:
    """A part of a layout, or a whole one: the folder a setting would name, and what it was recognized by."""

    kind: Kind
    part: Part | None
    folder: Path
    seen: Path


def guess_layout(root: Path) -> Guess:
    """Guess the layout of a data root: the best of ``guesses``.

    Parameters
    ----------
    root : the folder; it may lie some levels too high or too low. One that is missing looks like nothing.
    """
    found = guesses(root)
    return found[0] if found else Guess(None, root)


def suggest(root: Path) -> Guess:
    """Choose a layout for a data root where nobody has named one.

    Returns
    -------
    The guess that the default settings fit, or the only one there is; of kind None if nothing was recognized.

    Raises
    ------
    ConfigurationError
        If there are several.
    """
    found = guesses(root)
    for guess in found:
        if guess.kind and guess.fits(SourceSettings(kind=guess.kind, folder=str(root)), root):
            return guess
    best = found[0] if found else Guess(None, root)
    if best.others or best.places > 1:
        raise ConfigurationError(
            f"{root} {best.sentence()}: name one data root with --data, or one layout with --source"
        )
    return best


def guesses(root: Path) -> list[Guess]:
    """Return everything a folder may be, best first; empty if nothing was recognized.

    A whole layout comes before a part of one. Where the folder holds no whole one, those of the folders above
    it count that it is a part of.
    """
    root = Path(os.path.abspath(root))  # noqa: PTH100 - a folder keeps its name where it is a link
    if not os.path.isdir(root):  # noqa: PTH112 - never raises
        return []
    below = _ranked(root, _marks(root))
    if any(not guess.missing for guess in below):
        return below
    for above in root.parents[:LEVELS_UP]:
        if above == above.parent:
            break  # the root of the file system holds everything
        around = _ranked(above, _marks(above), part_of=root)
        if any(not guess.missing for guess in around):
            return around
    return below


def _marks(root: Path) -> list[_Mark]:
    """Return the parts of layouts in a folder and below it, nearest first, each once."""
    found: dict[tuple[Kind, Part | None, Path], _Mark] = {}
    for listing in look_through(root):
        for mark in (*_tables(listing), *_recordings(listing)):
            found.setdefault((mark.kind, mark.part, mark.folder), mark)
    own = [mark.folder for mark in found.values() if mark.kind == "folder"]
    # A hospital's own folder may hold signals of any form.
    return [
        mark
        for mark in found.values()
        if mark.kind == "folder" or not any(mark.folder.is_relative_to(folder) for folder in own)
    ]


def _tables(listing: Listing) -> Iterator[_Mark]:
    folder = listing.folder
    if (labs := listing.table("labevents")) is not None:
        names = columns(labs)
        fourth = bool(names & {"labevent_id", "specimen_id"}) or (not names and folder.name.lower() == "hosp")
        if fourth:
            yield _Mark("mimic4", "clinical", _outer(folder), labs)
        elif not names or {"subject_id", "itemid"} <= names:
            yield _Mark("mimic3", "clinical", folder, labs)
    if (labs := listing.table("labs", "lab_data")) is not None and {"caseid", "dt"} <= columns(labs):
        yield _Mark("vitaldb", "clinical", folder, labs)
    if (draws := listing.table("draws")) is not None and {"patient", "potassium"} <= columns(draws):
        yield _Mark("folder", None, folder, draws)


def _recordings(listing: Listing) -> Iterator[_Mark]:
    folder = listing.folder
    if (group := _group(listing, _GROUP_3, _PATIENT_3)) is not None:
        yield _Mark("mimic3", "waveforms", folder, group)
    elif "RECORDS-waveforms" in listing.files and _INDEX_3.match(first_line(folder / "RECORDS-waveforms")):
        yield _Mark("mimic3", "waveforms", folder, folder / "RECORDS-waveforms")
    if (group := _group(listing, _GROUP_4, _PATIENT_4)) is not None:
        yield _Mark("mimic4", "waveforms", _outer(folder), group)
    elif "RECORDS" in listing.files and _INDEX_4.match(first_line(folder / "RECORDS")):
        yield _Mark("mimic4", "waveforms", folder, folder / "RECORDS")
    if any(name.lower().endswith(".vital") for name in listing.files):
        yield _Mark("vitaldb", "waveforms", _outer(folder), folder / "*.vital")
    headers = {name.removesuffix(".hea") for name in listing.files if name.endswith(".hea")}
    if any(name.removesuffix(".atr") in headers for name in listing.files if name.endswith(".atr")):
        yield _Mark("mitbih", None, folder, folder / "*.atr")


def _group(listing: Listing, group: re.Pattern[str], patient: re.Pattern[str]) -> Path | None:
    """Return the first folder of a group of patients that holds one, of the first few."""
    groups = (listing.folder / name for name in listing.folders if group.fullmatch(name))
    return next((path for path in islice(groups, GROUPS) if list_folder(path).any_folder(patient)), None)


def _ranked(top: Path, marks: Sequence[_Mark], part_of: Path | None = None) -> list[Guess]:
    """Put the parts together.

    Parameters
    ----------
    top : the folder that was looked through.
    part_of : keep only what this folder, below ``top``, is a part of; the other part lies beside it.
    """
    found: list[Guess] = []
    for kind, parts in PARTS.items():
        own = [mark for mark in marks if mark.kind == kind]
        whole = [(mark,) for mark in own] if not parts else _pairs(own)
        if part_of is not None:
            whole = [some for some in whole if _holds(some, part_of)]
        same = [_guess(top if part_of is None else None, kind, some) for some in whole]
        complete = [guess for guess in same if not guess.missing]
        found += [replace(guess, places=len(complete)) for guess in complete] or same
    found.sort(key=lambda guess: len(guess.missing))  # keeps the order of PARTS, and nearest first
    return [replace(guess, others=_others(guess, found)) for guess in found]


def _pairs(marks: Sequence[_Mark]) -> list[tuple[_Mark, ...]]:
    """Pair each folder of tables with the nearest of waveforms; what finds no partner stays alone."""
    tables = [mark for mark in marks if mark.part == "clinical"]
    waves = [mark for mark in marks if mark.part == "waveforms"]
    if not tables or not waves:
        return [(mark,) for mark in marks]
    return [(table, max(waves, key=lambda wave: _shared(table.folder, wave.folder))) for table in tables]


def _guess(top: Path | None, kind: Kind, marks: Sequence[_Mark]) -> Guess:
    shared = Path(os.path.commonpath([mark.folder for mark in marks]))
    folder = shared if top is None or not PARTS[kind] else top
    place = {mark.part: mark.folder.relative_to(folder).as_posix() for mark in marks}
    return Guess(
        kind=kind,
        folder=folder,
        clinical=place.get("clinical", ""),
        waveforms=place.get("waveforms", ""),
        evidence=tuple(mark.seen.relative_to(folder).as_posix() for mark in marks),
        missing=tuple(part for part in PARTS[kind] if part not in place),
    )


def _others(guess: Guess, found: Iterable[Guess]) -> tuple[Kind, ...]:
    alike = (other.kind for other in found if len(other.missing) == len(guess.missing))
    return tuple(dict.fromkeys(kind for kind in alike if kind is not None and kind != guess.kind))


def _shared(one: Path, other: Path) -> int:
    """Return how many folders two paths have in common, from the root."""
    return len(Path(os.path.commonpath([one, other])).parts)


def _holds(marks: Sequence[_Mark], part: Path) -> bool:
    around = [mark.folder for mark in marks if part.is_relative_to(mark.folder)]
    # Parts that do not lie side by side belong to two hospitals.
    return any(all(mark.folder.is_relative_to(folder.parent) for mark in marks) for folder in around)


def _outer(folder: Path) -> Path:
    """Return the folder that a setting names: readers look into these inner ones by themselves."""
    return folder.parent if folder.name.lower() in INNER else folder


def _same(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)
