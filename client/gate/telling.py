"""How an error is written into the site's log: enough to find it, nothing about a patient."""

from __future__ import annotations

import traceback

from common.errors import FedkalemiaError


def told(error: BaseException) -> str:
    """Return what may be logged of an error: its place, and its sentence only if it is one of ours.

    The text of any other error may quote whatever it stumbled over, a row of the database for one.
    """
    said = f": {error}" if isinstance(error, FedkalemiaError) else ""
    frames = "".join(traceback.format_tb(error.__traceback__))
    return f"{type(error).__name__}{said}\nTraceback (most recent call last):\n{frames}".rstrip()
