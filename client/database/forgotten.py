"""Tombstones: what is kept of a forgotten patient, so that no later ingest brings the patient back.

A tombstone is a digest of the site's name and the patient's identifier, and nothing else about the patient.
A digest hides an identifier only as well as the space of identifiers is large: whoever holds the database
and knows that identifiers are whole numbers can try them all. The threat model says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from client.database.runs import now
from client.database.tables import Forgotten

_SITE: Final = "site"


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


def set_tombstone(session: Session, site_name: str, key: str, removed: Mapping[str, int]) -> Forgotten:
    """Add the tombstone of a patient, or the counts to the one that is there. The caller commits.

    Parameters
    ----------
    removed : how many rows and files went, by name; nothing here may say who the patient was.
    """
    details: dict[str, Any] = {_SITE: site_name, **removed}
    row = find_tombstone(session, key)
    if row is None:
        row = Forgotten(key_sha256=tombstone(site_name, key), forgotten_at=now(), details=details)
        session.add(row)
    else:
        before = row.details
        row.details = {**before, **{name: before.get(name, 0) + n for name, n in removed.items()}}
    session.flush()
    return row
