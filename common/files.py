"""Files that are whole or absent: written beside their place, flushed to the disk, then renamed.

Whoever reads a file of this project may read it while it is being replaced, or after a crash or a full
disk, and finds either the old or the new content.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from common.errors import StorageError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system says about writing ``path`` into a sentence.

    Raises
    ------
    StorageError
        If the disk is full, the folder is read-only or forbidden, or anything else keeps the file from
        being written.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _FULL:
            sentence = (
                f"disk full while writing {path}: nothing was written there; free some space and run the "
                "same command again, it goes on where it stopped"
            )
        elif error.errno in _FORBIDDEN:
            sentence = f"{path} cannot be written: {reason.lower()}; choose another folder"
        else:
            sentence = f"{path} cannot be written: {reason}"
        raise StorageError(sentence) from error


def write_atomic(
    path: Path | str,
    content: bytes | str,
    *,
    before_replace: Callable[[], None] | None = None,
    mode: int | None = None,
) -> None:
    """Write a whole file or nothing; missing parent folders are made.

    Parameters
    ----------
    path : where the file ends up. What was there before stays until the new content is on the disk.
    content : bytes, or text that is written as UTF-8 with unchanged line ends.
    before_replace : called when the new content is on the disk and the old file still in its place.
    mode : who may read and write the file, such as 0o600; None for what any new file gets.

    Raises
    ------
    StorageError
        If the disk is full or the folder cannot be written. No temporary file is left.
    """
    path = Path(path)
    data = content.encode("utf-8") if isinstance(content, str) else content
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            # mkstemp makes files only their owner may read; this one gets what any new file would get.
            Path(name).chmod(0o666 & ~_umask() if mode is None else mode)
            if before_replace is not None:
                before_replace()
            Path(name).replace(path)
        except BaseException:  # Ctrl-C too must not leave half a file behind
            with suppress(OSError):
                Path(name).unlink()
            raise
        _flush_folder(path.parent)


def write_json(path: Path | str, value: Any, *, mode: int | None = None) -> None:
    """Write JSON with sorted keys, atomically, with a mode as there; equal values give equal bytes.

    Raises
    ------
    StorageError
        See ``write_atomic``.
    ValueError
        For NaN or infinity, which JSON has no word for: write None.
    """
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"
    write_atomic(path, text, mode=mode)


def read_json(path: Path | str) -> Any:
    """Read a JSON file.

    Raises
    ------
    StorageError
        If the file is missing, cannot be read or is not JSON.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StorageError(f"{path} does not exist") from None
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise StorageError(f"{path} is not valid JSON: {error}; restore it or delete it") from error


def free_bytes(path: Path | str) -> int:
    """Return the bytes a user may still write where ``path`` is, or will be once its folders are made."""
    place = Path(path).absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def _umask() -> int:
    # The only portable way to read the mask is to set it.
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _flush_folder(folder: Path) -> None:
    # Without this a rename may be undone by a power cut; some file systems refuse, which is no loss.
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
