"""A short look at a folder: bounded lists of names and the first lines of tables; whatever fails is absent.

A hospital's folder may hold millions of files on a slow network disk. Nothing here lists more than a fixed
number of folders and entries, opens anything but a regular file, or reads more than a first line.
"""

from __future__ import annotations

import csv
import gzip
import os
import re
import time
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, cast

#: Entries of one folder that are looked at.
MOST_ENTRIES: Final = 2000
#: Folders that are looked at, nearest first.
MOST_FOLDERS: Final = 300
#: Levels below the folder that are looked at: physionet.org/files/mimiciv/2.2/hosp.
MOST_LEVELS: Final = 4
#: A look ends after this time, whatever was seen by then.
MOST_S: Final = 5.0
LONGEST_LINE: Final = 65_536

# Folders of one patient or of a group of patients (p00, p000020, s00001): many, and alike.
_OF_PATIENTS: Final = re.compile(r"[ps]\d{2,}")
_TABLE: Final = re.compile(r"(.+?)\.csv(\.gz)?", re.IGNORECASE)


@dataclass(frozen=True)
class Listing:
    """Names in one folder, sorted; of a very large folder only some of them.

    Attributes
    ----------
    folder : the folder.
    folders, files : names of the folders and of all else in it.
    """

    folder: Path
    folders: tuple[str, ...]
    files: tuple[str, ...]

    def table(self, *names: str) -> Path | None:
        """Return the file of the first of these tables that is there, ``NAME.csv`` or ``NAME.csv.gz``."""
        for name in names:
            for file in self.files:
                match = _TABLE.fullmatch(file)
                if match is not None and match[1].lower() == name:
                    return self.folder / file
        return None

    def any_folder(self, pattern: re.Pattern[str]) -> bool:
        """Return whether a folder in it has such a name."""
        return any(pattern.fullmatch(name) for name in self.folders)


def list_folder(folder: Path) -> Listing:
    """List a folder; one that is missing or may not be read is empty."""
    folders: list[str] = []
    files: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry, _ in zip(entries, range(MOST_ENTRIES), strict=False):
                (folders if _is_folder(entry) else files).append(entry.name)
    except OSError:
        pass
    return Listing(folder, tuple(sorted(folders)), tuple(sorted(files)))


def look_through(root: Path) -> Iterator[Listing]:
    """List a folder and the folders below it, level by level, as far as the bounds reach."""
    deadline = time.monotonic() + MOST_S
    waiting = deque([(root, 0)])
    for _ in range(MOST_FOLDERS):
        if not waiting or time.monotonic() > deadline:
            return
        folder, level = waiting.popleft()
        listing = list_folder(folder)
        yield listing
        if level < MOST_LEVELS:
            inside = (n for n in listing.folders if not n.startswith(".") and not _OF_PATIENTS.fullmatch(n))
            waiting.extend((folder / name, level + 1) for name in inside)


def first_line(path: Path) -> str:
    """Return the first line of a text file, plain or ``.gz``; empty if it cannot be read."""
    try:
        if not path.is_file():  # a pipe would be waited for
            return ""
        with path.open("rb") as file:
            packed = path.name.lower().endswith(".gz")
            line = (cast("IO[bytes]", gzip.GzipFile(fileobj=file)) if packed else file).readline(LONGEST_LINE)
    except (OSError, EOFError, zlib.error):
        return ""
    return line.removeprefix(b"\xef\xbb\xbf").decode("utf-8", errors="replace")


def columns(path: Path) -> frozenset[str]:
    """Return the names of a table's columns in lower case; none if it cannot be read."""
    try:
        return frozenset(name.strip().lower() for name in next(csv.reader([first_line(path)]), []))
    except csv.Error:
        return frozenset()


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
