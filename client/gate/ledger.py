"""The egress ledger, written: one line for every reply, on the disk before the reply leaves.

``gate/ledger.jsonl`` holds one canonical JSON object per line. Each carries the SHA-256 of the line before it
and an HMAC-SHA256 with the key in ``gate/ledger.key``. ``gate/ledger.head`` says, under the same key, how
many entries there are, the last one's digest and how long the file is: an entry is appended without reading
those before it, and a cut end shows. It is made with the key, for no entries: that it is gone shows as well.
Reading and checking is in ``client.gate.audit``.

Order of a write: entry, flush to the disk, head, flush, and only then the reply. A process that dies in
between leaves an entry without a reply, never a reply without an entry. What it can leave behind is repaired
by the next write: a whole entry that the head does not count yet is counted; a torn line is removed, and an
entry of the type ``ledger.repaired`` says how long it was and what its SHA-256 was.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flwr.app import RecordDict

from client.gate.entry import canonical, described, digest_of, parsed, size_of, stamp
from common.errors import LedgerError, StorageError
from common.files import storage_errors, write_atomic
from common.identity import new_secret, open_to_others, write_secret
from common.locking import locked

KEY_NAME, ENTRIES_NAME, HEAD_NAME = "ledger.key", "ledger.jsonl", "ledger.head"
KEY_BYTES = 32
NOTHING = "0" * 64
#: Message type of the entry that stands for a torn line.
REPAIRED = "ledger.repaired"
LOCK_WAIT_S = 20.0
#: Longest line that is read back; a reply of 5,000 keys with full lists stays below it.
MAX_LINE = 64 * 2**20


@dataclass(frozen=True)
class Head:
    """Where a ledger ends.

    Attributes
    ----------
    entries : number of entries.
    digest : SHA-256 of the last entry's line, 64 zeros where there is none.
    size : bytes of the file of entries, None where only the other two are known.
    """

    entries: int
    digest: str
    size: int | None = None


class Ledger:
    """The ledger in one gate folder.

    Parameters
    ----------
    folder : the gate folder.
    key : the secret of the HMACs, at least 32 bytes.
    """

    def __init__(self, folder: Path, key: bytes) -> None:
        if len(key) < KEY_BYTES:
            raise LedgerError(
                f"{folder / KEY_NAME} holds {len(key)} bytes, a ledger key has at least {KEY_BYTES}; restore "
                "it from where you keep a copy"
            )
        self.folder = folder
        self._key = key

    @property
    def path(self) -> Path:
        """The file of entries."""
        return self.folder / ENTRIES_NAME

    @property
    def head_path(self) -> Path:
        """The file of the head."""
        return self.folder / HEAD_NAME

    def append(self, fields: Mapping[str, Any]) -> Head:
        """Add an entry; it and the new head are on the disk when this returns.

        Parameters
        ----------
        fields : what the entry says, JSON values; number, previous digest and HMAC are added.

        Raises
        ------
        LedgerError
            If the ledger or its head is damaged, or cannot be written: then nothing was added.
        """
        try:
            with self._locked() as handle:
                head = self._mend(handle, self._whole_head(os.fstat(handle).st_size))
                return self._add(handle, head, fields)
        except (OSError, StorageError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise LedgerError(
                f"the ledger {self.path} cannot be written ({why}); without it nothing leaves this site: "
                "free space, or give this process the right to write there"
            ) from error

    def sealed(self, entry: Mapping[str, Any]) -> str:
        """Return the HMAC of an entry, or of a head, without its own ``mac``."""
        own = {name: value for name, value in entry.items() if name != "mac"}
        return hmac.new(self._key, canonical(own), hashlib.sha256).hexdigest()

    def is_sealed(self, entry: Mapping[str, Any]) -> bool:
        """Return whether an entry, or a head, carries the HMAC of this key."""
        mac = entry.get("mac")
        return isinstance(mac, str) and hmac.compare_digest(mac.encode(), self.sealed(entry).encode())

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """Open the file of entries for this process alone."""
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            if not locked(handle, LOCK_WAIT_S):
                raise LedgerError(
                    f"another process has held {self.path} for {LOCK_WAIT_S:g} s; one executor per "
                    "site is allowed, stop the other"
                )
            yield handle
        finally:
            os.close(handle)

    def _whole_head(self, size: int) -> Head:
        try:
            head = self.read_head()
        except FileNotFoundError:
            # Written with the key, before any entry: it can only have been removed.
            raise LedgerError(
                f"{self.head_path} is missing; nothing leaves this site until ledger and head are restored "
                f"from a copy. Only if this site has never sent a reply: move {KEY_NAME} away and run "
                "'fedkalemia-site init' as the first time, which makes key and head anew"
            ) from None
        if head.size is None or size < head.size:
            raise LedgerError(
                f"{self.path} is shorter than its head says: its end was cut; nothing leaves this site until "
                "it is restored: see 'fedkalemia-site audit verify'"
            )
        return head

    def read_head(self) -> Head:
        """Return the head.

        Raises
        ------
        LedgerError
            If its HMAC is not of this key, or it is not a head.
        FileNotFoundError
            If there is none.
        """
        line = self.head_path.read_bytes()
        values = parsed(line.removesuffix(b"\n"))
        try:
            if values is None or not self.is_sealed(values):
                raise KeyError
            return Head(int(values["entries"]), str(values["digest"]), int(values["size"]))
        except (KeyError, TypeError, ValueError):
            raise LedgerError(
                f"{self.head_path} was changed, or written with another key than {KEY_NAME}; nothing leaves "
                "this site until it is restored: see 'fedkalemia-site audit verify'"
            ) from None

    def write_head(self, head: Head) -> Head:
        """Write the head and return it; ``StorageError`` if that cannot be done."""
        values = {"entries": head.entries, "digest": head.digest, "size": head.size}
        write_atomic(self.head_path, canonical({**values, "mac": self.sealed(values)}) + b"\n")
        return head

    def _mend(self, handle: int, head: Head) -> Head:
        """Bring the head and the file together after a process that died while it wrote."""
        size = os.fstat(handle).st_size
        begin = head.size or 0
        if size == begin:
            return head
        if size - begin > MAX_LINE:
            raise self._foreign()
        tail = os.pread(handle, size - begin, begin)
        line, end, rest = tail.partition(b"\n")
        if rest:
            raise self._foreign()
        if end and self.follows(line, head):
            return self.write_head(Head(head.entries + 1, digest_of(line), size))
        # It was never flushed, so nothing left after it.
        os.ftruncate(handle, begin)
        torn = {"bytes": len(tail), "sha256": digest_of(tail)}
        return self._add(handle, head, {"time": stamp(datetime.now(UTC)), "type": REPAIRED, "torn": torn})

    def follows(self, line: bytes, head: Head) -> bool:
        """Say whether a line is the next entry after ``head``."""
        entry = parsed(line)
        return (
            entry is not None
            and entry.get("entry") == head.entries + 1
            and entry.get("previous") == head.digest
            and self.is_sealed(entry)
        )

    def _foreign(self) -> LedgerError:
        return LedgerError(
            f"{self.path} goes on behind its head with lines that this site's gate did not write; nothing "
            "leaves this site until they are removed: see 'fedkalemia-site audit verify'"
        )

    def _add(self, handle: int, head: Head, fields: Mapping[str, Any]) -> Head:
        entry = {**fields, "entry": head.entries + 1, "previous": head.digest}
        line = canonical({**entry, "mac": self.sealed(entry)})
        begin = head.size or 0
        if len(line) > MAX_LINE:
            raise LedgerError(f"an entry of {len(line)} bytes does not fit the ledger; at most {MAX_LINE}")
        try:
            data = line + b"\n"
            while data:
                data = data[os.write(handle, data) :]
            os.fsync(handle)
            return self.write_head(Head(head.entries + 1, digest_of(line), begin + len(line) + 1))
        except (OSError, StorageError):
            os.ftruncate(handle, begin)  # a full disk lets a file shrink; what is left is what was there
            raise


def ledger_of(gate_folder: Path) -> Ledger:
    """Return the ledger of a gate folder, with its key.

    Raises
    ------
    LedgerError
        If the key is missing, cannot be read, can be read by others, or is too short.
    """
    path = gate_folder / KEY_NAME
    try:
        if open_to_others(path):
            raise LedgerError(f"{path} can be read or written by others; set it with 'chmod 600 {path}'")
        key = path.read_bytes()
    except FileNotFoundError:
        raise LedgerError(
            f"{path} does not exist; 'fedkalemia-site init' makes it for a new site, otherwise restore it: "
            "with another key the entries so far cannot be verified"
        ) from None
    except OSError as error:
        raise LedgerError(f"{path} cannot be read: {error.strerror}") from error
    return Ledger(gate_folder, key)


def make_key(gate_folder: Path) -> Path:
    """Make the ledger's key, readable by its owner only, and the head of no entries; one that is there stays.

    From then on a missing head means that somebody removed it. An empty file is no key: it is replaced as
    long as there are no entries, nor a head that counts any.

    Raises
    ------
    LedgerError
        If there are entries whose key is gone.
    StorageError
        If it cannot be written; then there is none, not half of one.
    """
    path = gate_folder / KEY_NAME
    if path.exists() and path.stat().st_size:
        return path
    key = new_secret()
    ledger = Ledger(gate_folder, key)
    if (ledger.path.exists() and ledger.path.stat().st_size) or _counts_entries(ledger.head_path):
        raise LedgerError(
            f"{ledger.path} has, or had, entries but {path} is gone or empty; restore the key, or move "
            "the ledger and its head to an archive to begin a new one"
        )
    with storage_errors(gate_folder):
        gate_folder.mkdir(parents=True, exist_ok=True)
    ledger.write_head(Head(0, NOTHING, 0))  # first: a process that ends here leaves no key, and is run again
    write_secret(path, key)
    return path


def _counts_entries(head: Path) -> bool:
    """Say whether a head, of whatever key, is anything but that of an empty ledger."""
    if not head.exists():
        return False
    values = parsed(head.read_bytes().removesuffix(b"\n"))
    return values is None or values.get("entries") != 0


def record(
    ledger: Ledger,
    message_type: str,
    run_id: int,
    content: RecordDict,
    when: datetime,
    message_id: str = "",
) -> Head:
    """Write down a reply that is about to leave.

    Parameters
    ----------
    message_type, run_id, message_id : of the message it answers.
    content : the reply without the ledger's own record, which holds what this returns.
    when : time of leaving, with its zone.

    Raises
    ------
    LedgerError
        See ``Ledger.append``. Then the reply must not leave.
    """
    records = described(content)
    return ledger.append(
        {
            "time": stamp(when),
            "run": run_id,
            "type": message_type,
            "message": message_id,
            "records": records,
            "bytes": size_of(records),
        }
    )
