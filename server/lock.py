"""One command at a time in a coordinator's folder, where it reads, asks the SuperLink, and writes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import StorageError
from common.files import storage_errors
from common.locking import locked

LOCK = ".lock"
#: Registering a site or submitting a run takes seconds.
WAIT_S = 60.0


@contextmanager
def alone(folder: Path, wait_s: float = WAIT_S) -> Iterator[None]:
    """Keep every other command that asks for it out of a coordinator's folder; a crash lets go of it.

    Parameters
    ----------
    folder : the coordinator folder.
    wait_s : how long another command is waited for, seconds.

    Raises
    ------
    StorageError
        If another command does not end in that time, or the folder cannot be written.
    """
    path = folder / LOCK
    with storage_errors(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with storage_errors(path):
            taken = locked(handle, wait_s)
        if not taken:
            raise StorageError(
                f"another fedkalemia-server command has been changing {folder} for {wait_s:.0f} s; wait for "
                "it to end, or stop it, and run this one again"
            )
        yield
    finally:
        os.close(handle)
