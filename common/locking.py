"""One wait for a file lock, for all that must not write, or read, at the same time."""

from __future__ import annotations

import fcntl
import time

POLL_S = 0.02


def locked(handle: int, wait_s: float, *, shared: bool = False) -> bool:
    """Lock an open file; return whether that worked in time. Closing the file lets go of it, as does a crash.

    Parameters
    ----------
    handle : descriptor of the open file.
    wait_s : how long another process is waited for, seconds.
    shared : others may hold it as well, but nobody alone.

    Raises
    ------
    OSError
        If the file system knows no locks.
    """
    how = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB
    until = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(handle, how)
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(POLL_S)
        else:
            return True
