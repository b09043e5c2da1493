"""How a page calls patients and times: as the site does, or so that a copy may be shown outside.

A pseudonym is a keyed digest of the site's own identifier. The key is made at the site on first use, stays in
the site folder and goes nowhere: without it nobody can go from a pseudonym back to an identifier, not even
by trying all of them; with it every copy of the site uses the same pseudonyms.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from client.database.tables import Patient
from common.errors import StorageError
from common.files import storage_errors, write_atomic

#: Below the site folder.
KEY_FILE: Final = "pseudonyms.key"
KEY_BYTES: Final = 32
PRIVATE: Final = 0o600
#: Of the digest: 40 bits, so that two patients of one hospital hardly ever share a pseudonym.
DIGEST_BYTES: Final = 5
#: Ages above are stored as one number; a pseudonymous page shows decades.
OLDEST: Final = 90


@dataclass(frozen=True)
class Naming:
    """Names of patients by their number in the database.

    Attributes
    ----------
    pseudonymous : whether the page may be shown outside: no identifier, no date.
    names : by patient.
    """

    pseudonymous: bool
    names: Mapping[int, str]

    def name(self, patient: int) -> str:
        """Return what a page calls a patient."""
        return self.names[patient]

    def order(self, patient: int) -> tuple[int, int, str]:
        """Return the place of a patient in a list by name; numbers by value.

        A pseudonymous list in another order would tell which identifiers are neighbours.
        """
        name = self.names[patient]
        return (0, int(name), "") if name.isdecimal() else (1, 0, name)

    def moment(self, when: datetime, first: datetime) -> str:
        """Write a time: as the site has it, or as days and hours since the patient's first draw."""
        if not self.pseudonymous:
            return f"{when:%Y-%m-%d %H:%M}"
        minutes = round((when - first).total_seconds() / 60)
        sign, minutes = ("−", -minutes) if minutes < 0 else ("", minutes)
        return f"{sign}day {minutes // 1440}, {minutes % 1440 // 60:02d}:{minutes % 60:02d}"

    def origin(self, first: datetime) -> datetime:
        """Return the time from which an axis counts: the midnight before the first, or the first itself.

        A midnight on a pseudonymous page would tell the hour of the day.
        """
        return first if self.pseudonymous else first.replace(hour=0, minute=0, second=0, microsecond=0)

    def age(self, years: float | None) -> str | None:
        """Write an age: in years, or as a decade."""
        if years is None:
            return None
        if years >= OLDEST:
            return f"{OLDEST} or older"
        if not self.pseudonymous:
            return f"{years:.0f}"
        decade = int(years) // 10 * 10
        return f"{decade} to {decade + 9}"

    def page(self, patient: int) -> str:
        """Return the name of a patient's page; it never holds the site's own identifier.

        A name of a file is seen by more people than what is in it.
        """
        return f"{self.names[patient] if self.pseudonymous else patient}.html"


def own_names(session: Session) -> Naming:
    """Name patients as the site's own files do."""
    return Naming(False, _keys(session))


def pseudonyms(session: Session, folder: Path) -> Naming:
    """Name patients by pseudonyms of the site in a folder.

    Raises
    ------
    StorageError
        If the key cannot be read or made.
    """
    key = read_key(folder / KEY_FILE)
    return Naming(True, {number: pseudonym(key, source) for number, source in _keys(session).items()})


def _keys(session: Session) -> dict[int, str]:
    query = select(Patient.id, Patient.source_key)
    return {row.id: row.source_key for row in session.execute(query)}


def pseudonym(key: bytes, source_key: str) -> str:
    """Return the pseudonym of an identifier: ``P-`` and eight letters and digits."""
    digest = hmac.new(key, source_key.encode(), hashlib.sha256).digest()[:DIGEST_BYTES]
    return f"P-{base64.b32encode(digest).decode()}"


def read_key(path: Path) -> bytes:
    """Read the key of a site's pseudonyms; make it where there is none.

    Raises
    ------
    StorageError
        If it cannot be read or written, or is damaged.
    """
    if not path.exists():
        write_atomic(path, secrets.token_hex(KEY_BYTES) + "\n", mode=PRIVATE)
    with storage_errors(path):
        text = path.read_text(encoding="ascii", errors="replace").strip()
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise StorageError(
            f"{path} is not a key of pseudonyms (64 hexadecimal digits); put back the file, or remove it for "
            "new pseudonyms that no older copy shares"
        )
    return key
