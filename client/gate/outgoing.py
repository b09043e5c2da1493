"""What left this site between two moments, read from the ledger: for a person, or for a machine."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any

from client.gate.entry import parsed
from client.gate.ledger import ENTRIES_NAME, REPAIRED, ledger_of
from common.errors import ConfigurationError, LedgerError

SPAN = re.compile(r"([1-9][0-9]{0,4})([hdw])")
HOURS = {"h": 1, "d": 24, "w": 168}
#: Weight digests shown for a row; the JSON form has all.
SHOWN = 3


@dataclass
class Outgoing:
    """Replies of one run and message type.

    Attributes
    ----------
    run, type : number of the run, type of the message that was answered.
    first, last : times of the first and the last of them, UTC.
    bytes : of all values together.
    keys : ``record.key`` -> how many replies held it.
    weights : SHA-256 of each trainable vector that left, in order.
    """

    run: int
    type: str
    first: str
    last: str = ""
    replies: int = 0
    bytes: int = 0
    keys: dict[str, int] = field(default_factory=dict)
    weights: list[str] = field(default_factory=list)

    def add(self, entry: dict[str, Any]) -> None:
        """Count one reply."""
        self.replies += 1
        self.bytes += int(entry["bytes"])
        self.last = str(entry["time"])
        for name, values in entry["records"].items():
            for key in values:
                self.keys[f"{name}.{key}"] = self.keys.get(f"{name}.{key}", 0) + 1
        if weights := entry["records"].get("weights", {}).get("trainable"):
            self.weights.append(str(weights["sha256"]))


def entries(
    gate_folder: Path, since: datetime | None = None, until: datetime | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the replies written down from ``since`` to before ``until``, in order.

    Each is one that the gate wrote; whether one is missing or out of order is for ``audit verify``.

    Raises
    ------
    LedgerError
        If the ledger or its key cannot be read, or a line is not as the gate wrote it.
    """
    path = gate_folder / ENTRIES_NAME
    ledger = ledger_of(gate_folder)
    try:
        with path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break  # being written
                entry = parsed(line.removesuffix(b"\n"))
                if entry is None or not ledger.is_sealed(entry):
                    raise ValueError
                if entry.get("type") == REPAIRED:
                    continue
                when = datetime.fromisoformat(str(entry["time"]))
                if (since is None or when >= since) and (until is None or when < until):
                    yield entry
    except FileNotFoundError:
        return  # nothing has left yet
    except OSError as error:
        raise LedgerError(f"{path} cannot be read: {error.strerror}") from error
    except (KeyError, TypeError, ValueError):
        raise LedgerError(
            f"{path} holds a line that is not as the gate wrote it and cannot be shown as what left; "
            "'fedkalemia-site audit verify' names it"
        ) from None


def outgoing(found: Iterable[dict[str, Any]]) -> list[Outgoing]:
    """Return one row per run and message type, in the order in which they began."""
    rows: dict[tuple[int, str], Outgoing] = {}
    for entry in found:
        key = (int(entry["run"]), str(entry["type"]))
        rows.setdefault(key, Outgoing(*key, first=str(entry["time"]))).add(entry)
    return list(rows.values())


def table(rows: Sequence[Outgoing]) -> Iterator[str]:
    """Yield aligned lines, one per row, and their sum."""
    head = ("run", "message", "replies", "bytes", "keys", "first", "last", "weights (SHA-256)")
    cells = [
        (
            str(row.run),
            row.type,
            str(row.replies),
            f"{row.bytes:,}",
            str(len(row.keys)),
            local(row.first),
            local(row.last),
            _some(row.weights),
        )
        for row in rows
    ]
    total = (
        "all",
        "",
        str(sum(row.replies for row in rows)),
        f"{sum(row.bytes for row in rows):,}",
        "",
        "",
        "",
        "",
    )
    widths = [max(len(line[n]) for line in (head, *cells, total)) for n in range(len(head))]
    for line in (head, *cells, total):
        pairs = enumerate(zip(line, widths, strict=True))
        padded = [cell.rjust(w) if n in (2, 3, 4) else cell.ljust(w) for n, (cell, w) in pairs]
        yield "  ".join(padded).rstrip()


def values(found: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield every value of every reply, one per line; of weights the hash."""
    for entry in found:
        yield f"entry {entry['entry']}, {local(str(entry['time']))}, run {entry['run']}, {entry['type']}"
        for name, record in entry["records"].items():
            for key, value in record.items():
                shown = value["value"] if "value" in value else f"SHA-256 {value['sha256']}"
                kind = f"{value['type']} {value['shape']}" if "shape" in value else value["type"]
                yield f"    {name}.{key} = {shown} ({kind})"


def _some(digests: Sequence[str]) -> str:
    shown = ", ".join(digest[:12] for digest in digests[:SHOWN])
    return shown if len(digests) <= SHOWN else f"{shown}, {len(digests) - SHOWN} more"


def local(text: str) -> str:
    """Write a time of the ledger in this machine's time zone."""
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def moment(text: str, *, end: bool = False) -> datetime:
    """Read a date or a time, in this machine's time zone unless it names one.

    Parameters
    ----------
    end : a date alone stands for the end of its day, not for the beginning.

    Raises
    ------
    ConfigurationError
        If it is neither.
    """
    try:
        when = datetime.fromisoformat(text)
        if "T" not in text and " " not in text and end:
            when = datetime.combine(when.date() + timedelta(days=1), time())
        return when.astimezone()
    except (ValueError, OverflowError):
        raise ConfigurationError(
            f"{text!r} is no date; write it like 2026-03-31, or with a time like 2026-03-31T14:30"
        ) from None


def span(text: str, now: datetime) -> datetime:
    """Return the moment from which the last hours, days or weeks count: ``48h``, ``30d``, ``4w``.

    Raises
    ------
    ConfigurationError
        If it is no such span.
    """
    found = SPAN.fullmatch(text)
    if not found:
        raise ConfigurationError(f"{text!r} is no span of time; write it like 48h, 30d or 4w")
    try:
        return now.astimezone(UTC) - timedelta(hours=int(found[1]) * HOURS[found[2]])
    except OverflowError:
        raise ConfigurationError(f"{text!r} begins before all calendars; write it like 30d") from None
