"""One entry of the egress ledger: how a reply is described, and the one way it is spelled."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from flwr.app import Array, ArrayRecord, RecordDict

from common.protocol import vector_bytes

Records = Mapping[str, Mapping[str, Mapping[str, Any]]]


def described(content: RecordDict) -> Records:
    """Return what the ledger says about every key of every record of a reply."""
    return {
        str(name): {
            str(key): _described(value, isinstance(record, ArrayRecord)) for key, value in record.items()
        }
        for name, record in content.items()
    }


def size_of(records: Records) -> int:
    """Return the bytes of all values together."""
    return sum(int(value["bytes"]) for record in records.values() for value in record.values())


def _described(value: object, array: bool) -> dict[str, Any]:
    """Return type, shape or length, size in bytes, SHA-256 and, for anything but arrays, the value itself.

    Numbers that leave are what a hospital wants to look up, so they are kept; they are aggregates, and the
    ledger stays in the building. Weights are known by their hash.
    """
    if array and isinstance(value, Array):
        # The numbers themselves, without the file header around them.
        data = vector_bytes(value.data)
        own = value.data if data is None else data
        shape = {"shape": list(value.shape)}
        return {"type": str(value.dtype), **shape, "bytes": len(own), "sha256": digest_of(own)}
    if isinstance(value, bytes):
        return {"type": "bytes", "length": len(value), "bytes": len(value), "sha256": digest_of(value)}
    if isinstance(value, list):
        kind = type(value[0]).__name__ if value else "empty"
        values = [_json(item) for item in value]
        data_ = canonical(values)
        out = {"type": f"list of {kind}", "length": len(value), "bytes": len(data_)}
        return {**out, "sha256": digest_of(data_), "value": values}
    data_ = canonical(_json(value))
    return {
        "type": type(value).__name__,
        "bytes": len(data_),
        "sha256": digest_of(data_),
        "value": _json(value),
    }


def _json(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)  # JSON has no word for it, and the ledger must not fail on what it writes down
    return value if isinstance(value, bool | int | float | str) else repr(value)


def stamp(when: datetime) -> str:
    """Write a time as UTC with milliseconds: ``2026-03-01T12:30:00.250Z``."""
    return when.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def canonical(value: object) -> bytes:
    """Return the one spelling of a JSON value that the ledger writes and accepts."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def parsed(line: bytes) -> dict[str, Any] | None:
    """Return the JSON object a line holds, None unless it is spelled exactly as the ledger spells it."""
    try:
        value = json.loads(line.decode("ascii"))
        return value if isinstance(value, dict) and canonical(value) == line else None
    except (ValueError, RecursionError):
        return None


def digest_of(data: bytes | memoryview) -> str:
    """Return the SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()
