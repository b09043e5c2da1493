"""The egress ledger, checked: whether it is as its gate wrote it, and agrees with what others were told.

The chain and the HMACs find entries that were changed, removed, inserted or moved; the head finds an end that
was cut; a head that is gone is found as well. Somebody who puts back an older ledger together with its older
head is found by anchors only: the heads that replies carried to the coordinator.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from client.gate.entry import digest_of, parsed
from client.gate.ledger import (
    LOCK_WAIT_S,
    MAX_LINE,
    NOTHING,
    REPAIRED,
    Head,
    Ledger,
    ledger_of,
    make_key,
    record,
)
from common.errors import ConfigurationError, LedgerError
from common.files import read_json
from common.locking import locked

__all__ = ["Head", "Ledger", "ledger_of", "make_key", "record"]

ANCHOR = re.compile(r"([1-9][0-9]{0,14}):([0-9a-f]{64})")
CHANGED = "not as the gate wrote it: changed, or written with another key"


@dataclass(frozen=True)
class Finding:
    """Something in a ledger that its gate did not do.

    Attributes
    ----------
    first, last : numbers of the entries it is about; 0 stands for the head.
    text : what is wrong.
    """

    first: int
    last: int
    text: str

    def __str__(self) -> str:
        """Return one line."""
        if self.first == 0:
            return f"head: {self.text}"
        return f"{_entries(self.first, self.last)}: {self.text}"


@dataclass
class Examination:
    """What a check of a ledger brought to light.

    Attributes
    ----------
    entries, digest : where the ledger ends: number of entries, SHA-256 of the last line.
    findings : what its gate did not do; none in a clean ledger.
    notes : what is worth knowing and proves nothing wrong, such as a repair after a crash.
    """

    entries: int = 0
    digest: str = NOTHING
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def found(self, first: int, last: int, text: str) -> None:
        """Add a finding; one about the entries right behind the last one's, with its text, joins it."""
        before = self.findings[-1] if self.findings else None
        if before and before.first and before.last == first - 1 and before.text == text:
            self.findings[-1] = Finding(before.first, last, text)
        else:
            self.findings.append(Finding(first, last, text))


def verify(folder: Path, anchors: Iterable[Head] = ()) -> list[Finding]:
    """Return what is wrong with the ledger in a gate folder; nothing if it is as its gate wrote it.

    Parameters
    ----------
    anchors : heads that left this site with a reply and were kept elsewhere.

    Raises
    ------
    LedgerError
        If the key or the ledger cannot be read.
    """
    return examine(ledger_of(folder), anchors).findings


def examine(ledger: Ledger, anchors: Iterable[Head] = ()) -> Examination:
    """Check every entry, the chain, the head and the anchors; the memory needed does not grow.

    Raises
    ------
    LedgerError
        If the ledger cannot be read, or another process holds it for too long.
    """
    out = Examination()
    wanted = list(anchors)
    walk = _Walk(ledger, out, {anchor.entries for anchor in wanted})
    try:
        with _shared(ledger.path) as file:
            head = _head(ledger, out)
            committed = head.size if head and head.size is not None else os.fstat(file.fileno()).st_size
            for line in _lines(file, committed, out.notes):
                walk.step(line)
            walk.end()
    except FileNotFoundError:  # so it is before the first entry
        head = _head(ledger, out)
        if head is not None and head.entries:
            out.found(0, 0, f"{ledger.path} is gone, its head is still there")
            head = None
    except OSError as error:
        raise LedgerError(f"{ledger.path} cannot be read: {error.strerror}") from error
    if head is not None:
        _check_head(head, walk, out)
    _check_anchors(wanted, walk, out)
    return out


def _head(ledger: Ledger, out: Examination) -> Head | None:
    """Return the head, None with a finding if it is not there or not the gate's."""
    try:
        return ledger.read_head()
    except FileNotFoundError:
        out.found(0, 0, "missing, though it was made with the key: whether entries are gone cannot be said")
    except LedgerError:
        out.found(0, 0, CHANGED)
    return None


class _Walk:
    """One pass over the lines, in order."""

    def __init__(self, ledger: Ledger, out: Examination, keep: set[int]) -> None:
        self._ledger, self._out, self._keep = ledger, out, keep
        self._strange = 0  # lines since the last good entry that the gate did not write
        self._time = ""
        self.previous = ""  # what the last good entry says of the one before it
        self.digests: dict[int, str] = {}

    def step(self, line: bytes) -> None:
        entry = parsed(line)
        if entry is None or not self._ledger.is_sealed(entry) or not isinstance(entry.get("entry"), int):
            self._strange += 1
            return
        self._place(int(entry["entry"]), entry, digest_of(line))

    def _place(self, number: int, entry: Mapping[str, Any], digest: str) -> None:
        out, strange = self._out, self._strange
        last = out.entries
        if number <= last:
            out.found(number, number, f"repeated, or moved: it stands behind entry {last}")
            return
        between = number - 1 - last
        if between == strange and strange:
            out.found(last + 1, number - 1, CHANGED)
        elif not between and strange:
            out.found(
                number, number, f"before it {_lines_text(strange)} inserted that the gate did not write"
            )
        elif between:
            out.found(last + 1, number - 1, "missing here: removed, or moved")
        if not between and entry["previous"] != out.digest:
            out.found(number, number, "does not follow the entry before it: that one was exchanged")
        if str(entry["time"]) < self._time:
            out.notes.append(f"entry {number}: earlier than the one before it; the site's clock was set back")
        if entry["type"] == REPAIRED:
            out.notes.append(
                f"entry {number}: stands for a torn line of {entry['torn']['bytes']} bytes; a process ended "
                "while it wrote, and no reply left with it"
            )
        out.entries, out.digest, self._strange = number, digest, 0
        self._time, self.previous = str(entry["time"]), str(entry["previous"])
        if number in self._keep:
            self.digests[number] = digest

    def end(self) -> None:
        if self._strange:
            out = self._out
            out.found(out.entries + 1, out.entries + self._strange, CHANGED)
            out.entries += self._strange
            out.digest = self.previous = ""  # not known any more


def _check_head(head: Head, walk: _Walk, out: Examination) -> None:
    behind = out.entries - head.entries
    if behind < 0:
        out.found(out.entries + 1, head.entries, "missing: the end was cut")
    elif behind > 1:
        out.found(0, 0, f"{behind} entries behind the ledger: an older head was put back")
    elif behind == 1 and out.digest:
        if walk.previous == head.digest:
            out.notes.append(
                f"entry {out.entries}: the head does not count it yet; its process ended before that, the "
                "next reply mends it"
            )
        else:
            out.found(0, 0, f"does not belong to entry {head.entries}")
    elif behind == 0 and out.digest and head.digest != out.digest:
        out.found(0, 0, f"does not belong to entry {out.entries}")


def _check_anchors(anchors: list[Head], walk: _Walk, out: Examination) -> None:
    furthest = max((anchor.entries for anchor in anchors), default=0)
    if furthest > out.entries:
        out.found(
            out.entries + 1,
            furthest,
            "missing, though replies that carried them left: the ledger was cut, or an older one put back",
        )
    for anchor in sorted(set(anchors), key=lambda anchor: anchor.entries):
        if anchor.entries <= out.entries and walk.digests.get(anchor.entries) != anchor.digest:
            text = "not the one of which the coordinator was told: the ledger was written anew"
            out.found(anchor.entries, anchor.entries, text)


def anchor_of(text: str) -> Head:
    """Read an anchor, ``ENTRIES:HEAD``.

    Raises
    ------
    ConfigurationError
        If it is none.
    """
    found = ANCHOR.fullmatch(text.strip())
    if not found:
        raise ConfigurationError(
            f"{text!r} is no anchor; write the number of entries and the head: 12:9f86d081... (64 digits)"
        )
    return Head(int(found[1]), found[2])


def anchors_of(path: Path, site: str) -> list[Head]:
    """Return the heads of one site in a coordinator's ``server.json``.

    Raises
    ------
    ConfigurationError
        If the file is no such story, or knows no ledger of this site.
    StorageError
        If it cannot be read.
    """
    story = read_json(path)
    ledgers = story.get("ledgers") if isinstance(story, dict) else None
    own = ledgers.get(site) if isinstance(ledgers, dict) else None
    if not isinstance(own, list) or not own:
        raise ConfigurationError(
            f"{path} holds no heads of a ledger of the site {site!r}; give the server.json of a run in which "
            "this site took part"
        )
    try:
        return [anchor_of(f"{head['entries']}:{head['head']}") for head in own]
    except (KeyError, TypeError):
        raise ConfigurationError(
            f"{path}: the heads of {site!r} are not those a coordinator writes"
        ) from None


@contextmanager
def _shared(path: Path) -> Iterator[BinaryIO]:
    """Open the entries while nobody writes."""
    with path.open("rb") as file:
        if not locked(file.fileno(), LOCK_WAIT_S, shared=True):
            raise LedgerError(f"another process has held {path} for {LOCK_WAIT_S:g} s")
        yield file


def _lines(file: BinaryIO, committed: int, notes: list[str]) -> Iterator[bytes]:
    """Yield the lines without their ends; what is torn behind the head is noted, not yielded."""
    begin = 0
    while line := file.readline(MAX_LINE + 1):
        if not line.endswith(b"\n"):
            if begin >= committed:
                notes.append(
                    f"the last {len(line)} bytes are a torn line of a process that ended while it wrote; the "
                    "next reply mends it"
                )
                return
            line += b"?"  # its end is gone: whatever it says, it is not what was written
        begin += len(line)
        yield line.removesuffix(b"\n")


def _entries(first: int, last: int) -> str:
    return f"entry {first}" if first == last else f"entries {first} to {last}"


def _lines_text(count: int) -> str:
    return "a line was" if count == 1 else f"{count} lines were"
