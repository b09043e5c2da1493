"""One command at a time in a coordinator's folder, where it reads, asks the SuperLink, and writes."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import StorageError
from common.files import storage_errors

LOCK = ".lock"
#: Registering a site or submitting a run takes seconds.
WAIT_S = 60.0
POLL_S = 0.05


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
        _take(handle, path, wait_s)
        yield
    finally:
        os.close(handle)


def _take(handle: int, path: Path, wait_s: float) -> None:
    end = time.monotonic() + wait_s
    while True:
        with storage_errors(path):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > end:
                    raise StorageError(
                        f"another fedkalemia-server command has been changing {path.parent} for "
                        f"{wait_s:.0f} s; wait for it to end, or stop it, and run this one again"
                    ) from None
            else:
                return
        time.sleep(POLL_S)
