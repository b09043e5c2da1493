"""Tombstones: what is kept of a forgotten patient, so that no later ingest brings the patient back.

A tombstone is a digest of the site's name and the patient's identifier, with counts of what was removed. A
digest hides an identifier only as well as the space of identifiers is large: whoever holds the database and
knows that identifiers are whole numbers can try them all. The threat model says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from client.database.runs import now
from client.database.tables import Forgotten

_SITE: Final = "site"
_UNFINISHED: Final = "unfinished"


def tombstone(site_name: str, key: str) -> str:
    """Return the digest that stands for a forgotten patient: SHA-256 of site name, zero byte, identifier."""
    return hashlib.sha256(f"{site_name}\0{key}".encode()).hexdigest()


def forgotten_filter(session: Session) -> Callable[[str], bool]:
    """Return the test whether an identifier is one of a forgotten patient.

    The tombstones are read once, here. A tombstone holds under whichever name the site had when it was
    made: a site that was renamed since does not bring its patients back.
    """
    rows = session.execute(select(Forgotten.key_sha256, Forgotten.details)).all()
    digests = {digest for digest, _ in rows}
    names = sorted({str(details[_SITE]) for _, details in rows})

    def is_forgotten(key: str) -> bool:
        return any(tombstone(name, key) in digests for name in names)

    return is_forgotten


def find_tombstone(session: Session, key: str) -> Forgotten | None:
    """Return the tombstone of a patient, None if the patient was never forgotten."""
    for row in session.scalars(select(Forgotten)):
        if row.key_sha256 == tombstone(str(row.details[_SITE]), key):
            return row
    return None


def set_tombstone(
    session: Session, site_name: str, key: str, details: Mapping[str, Any], beats: Sequence[tuple[int, int]]
) -> Forgotten:
    """Add the tombstone of a patient, or take the one that is there; mark it as unfinished. No commit.

    Parameters
    ----------
    details : what was removed and what cannot be; nothing in it may say who the patient was.
    beats : first row and number of rows in the beat store that are still to be overwritten.
    """
    row = find_tombstone(session, key)
    if row is None:
        row = Forgotten(key_sha256=tombstone(site_name, key), forgotten_at=now(), details={_SITE: site_name})
        session.add(row)
    todo = [*row.details.get(_UNFINISHED, []), *([first, n] for first, n in beats)]
    row.details = {**row.details, **details, _UNFINISHED: todo}
    session.flush()
    return row


def unfinished(session: Session) -> list[tuple[int, int]] | None:
    """Return what is still to be done about forgotten patients, or None if nothing is.

    Returns
    -------
    First row and number of rows in the beat store that are to be overwritten; an empty list where only files
    or freed pages of the database may be left.
    """
    open_ = [
        row.details[_UNFINISHED]
        for row in session.scalars(select(Forgotten).order_by(Forgotten.id))
        if _UNFINISHED in row.details
    ]
    return [(int(first), int(n)) for todo in open_ for first, n in todo] if open_ else None


def mark_finished(session: Session) -> None:
    """Note of every tombstone that nothing is left of the patient. The caller commits."""
    for row in session.scalars(select(Forgotten)):
        row.details = {name: value for name, value in row.details.items() if name != _UNFINISHED}
