"""Folders that are written by one process at a time, go on where they stopped, and say when they are whole.

While a folder is written, the hidden ``.fedkalemia-cohort`` in it holds what it will be (``identity.json``),
a lock, one part per finished patient and a place for unfinished ones. A whole folder has ``.complete``
instead: what it is, and how much.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import StorageError
from common.files import read_json, storage_errors, write_json

FORMAT = 3
WORK, COMPLETE = ".fedkalemia-cohort", ".complete"
MOST_NAMED = 4  # differences that a sentence lists


@dataclass(frozen=True)
class Claim:
    """A folder that is ours to write, or that is whole already.

    Attributes
    ----------
    root : the folder.
    identity : what it is made from.
    counts : what a whole folder holds; None while it is being written.
    """

    root: Path
    identity: Mapping[str, Any]
    counts: dict[str, Any] | None = None

    @property
    def whole(self) -> bool:
        """Nothing is left to do."""
        return self.counts is not None

    def finish(self, counts: Mapping[str, Any]) -> None:
        """Mark the folder as whole, and remove what was only needed on the way."""
        write_json(self.root / COMPLETE, {**self.identity, "counts": dict(counts)})
        shutil.rmtree(self.root / WORK)


def part_file(root: Path, number: int) -> Path:
    """Path of a part in a folder that is being written."""
    return root / WORK / "parts" / f"{number // 1000:03d}" / f"{number:06d}.json"


def count_parts(root: Path) -> int:
    """Count the pieces of work that are done in a folder that is being written."""
    return sum(1 for _ in (root / WORK / "parts").glob("*/*.json"))


def scratch_folder(root: Path) -> Path:
    """Path of the place for unfinished work in a folder that is being written."""
    return root / WORK / "scratch"


@contextmanager
def claimed(root: Path, identity: Mapping[str, Any]) -> Iterator[Claim]:
    """Hold a folder for writing: new, empty, interrupted with the same identity, or whole already.

    Parameters
    ----------
    root : the folder; created when missing.
    identity : JSON values that decide every byte of it.

    Raises
    ------
    StorageError
        If another process is writing it, it was made from something else, or it holds something else.
    """
    check_folder(root, identity)
    counts = _counts(root)
    if counts is not None and not (root / WORK).exists():
        yield Claim(root, identity, counts)
        return
    with storage_errors(root):
        (root / WORK).mkdir(parents=True, exist_ok=True)
    with _lock(root):
        # Another process may have begun, or ended, between the check and the lock.
        check_folder(root, identity)
        counts = _counts(root)
        if counts is None:
            write_json(root / WORK / "identity.json", identity)
            shutil.rmtree(scratch_folder(root), ignore_errors=True)
        else:  # killed between the mark and the end
            shutil.rmtree(root / WORK, ignore_errors=True)
        yield Claim(root, identity, counts)


def check_folder(root: Path, identity: Mapping[str, Any]) -> None:
    """Refuse a folder that holds anything else; write nothing.

    Raises
    ------
    StorageError
        With what differs, or that the folder is not ours.
    """
    mark = root / COMPLETE
    begun = root / WORK / "identity.json"
    if mark.is_file() or begun.is_file():
        path = mark if mark.is_file() else begun
        found = _content(path)
        other = differences(found, identity)
        if other:
            raise StorageError(
                f"{root} holds a synthetic site made from other values: {'; '.join(other)}. Choose another "
                "folder, or remove this one first"
            )
    elif root.exists() and not root.is_dir():
        raise StorageError(f"{root} is a file; choose an empty or new folder")
    elif root.is_dir() and not (root / WORK).is_dir() and any(root.iterdir()):
        raise StorageError(
            f"{root} is not empty and not a synthetic site; nothing was written. Choose an empty or "
            "new folder"
        )


def foreign_entries(root: Path) -> list[str]:
    """Name what a folder of sites holds that is no site, begun or whole; a missing folder holds nothing.

    Raises
    ------
    StorageError
        If it is a file, or cannot be read.
    """
    if root.exists() and not root.is_dir():
        raise StorageError(f"{root} is a file; choose an empty or new folder")
    with storage_errors(root):
        entries = sorted(root.iterdir()) if root.is_dir() else []
        return [entry.name for entry in entries if not _is_site(entry)]


def complete_mark(root: Path) -> dict[str, Any] | None:
    """Return what a whole folder says it is made from, with its counts; None for any other folder.

    Raises
    ------
    StorageError
        If the mark is damaged.
    """
    return _content(root / COMPLETE) if (root / COMPLETE).is_file() else None


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Say where two identities differ: ``seed is 7, not 8``; at most a few, then how many more."""
    there, here = dict(_leaves(found)), dict(_leaves(wanted))
    there = {name: value for name, value in there.items() if name.partition(".")[0] in wanted}
    other = [
        f"{name} is {_shown(there.get(name))}, not {_shown(here.get(name))}"
        for name in [*here, *(name for name in there if name not in here)]
        if there.get(name) != here.get(name)
    ]
    more = len(other) - MOST_NAMED
    return other[:MOST_NAMED] + ([f"and {more} more"] if more > 0 else [])


def _is_site(path: Path) -> bool:
    """Tell whether a folder is a site, begun or whole; an empty one is about to be."""
    if not path.is_dir():
        return False
    return (path / COMPLETE).is_file() or (path / WORK).is_dir() or not any(path.iterdir())


def _shown(value: Any) -> str:
    return "unset" if value is None else json.dumps(value)


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _content(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except StorageError:
        found = None
    if not isinstance(found, dict) or "profile" not in found:
        raise StorageError(
            f"{path} is not a mark of a synthetic site; choose an empty folder, or remove it yourself if "
            f"{path.parent} is not needed"
        )
    return found


def _counts(root: Path) -> dict[str, Any] | None:
    mark = complete_mark(root)
    return None if mark is None else dict(mark.get("counts", {}))


@contextmanager
def _lock(root: Path) -> Iterator[None]:
    """Hold the lock of a folder; it ends with the process, however that ends."""
    path = root / WORK / "lock"
    with storage_errors(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A lock on a file that was removed meanwhile, by the process that finished, protects nothing.
            valid = path.exists() and path.stat().st_ino == os.fstat(handle).st_ino
        except BlockingIOError:
            valid = False
        if not valid:
            raise StorageError(
                f"another process is writing {root}; wait until it has ended and run the same command again, "
                "or choose another folder"
            )
        yield
    finally:
        os.close(handle)
