"""Checkpoints: named arrays and their story in one safetensors file, with a JSON sidecar people can read.

Nothing here can run code when it is read (no pickle). The file carries a hash of its own content, so it is
verified even without the sidecar; the sidecar says the hash of the file as the database stores it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors import numpy as safetensors

from common.errors import ModelError
from common.files import read_json, write_atomic, write_json

FORMAT = "fedkalemia-checkpoint"
VERSION = 1
KINDS = ("float32", "float64")

Arrays = dict[str, npt.NDArray[np.floating[Any]]]


def save_checkpoint(
    path: Path | str,
    arrays: Mapping[str, npt.NDArray[np.floating[Any]]],
    metadata: Mapping[str, Any],
    *,
    mode: int | None = None,
) -> str:
    """Write a checkpoint and its sidecar ``path.with_suffix(".json")``; equal content gives equal bytes.

    Parameters
    ----------
    path : ends in ``.safetensors``. The old file stays until the new one is on the disk.
    arrays : float32 or float64 arrays by name.
    metadata : what JSON can hold, without NaN.
    mode : who may read and write both files, such as 0o600; None for what any new file gets.

    Returns
    -------
    SHA-256 of the file.

    Raises
    ------
    StorageError
        If the disk is full or the folder cannot be written; an older checkpoint is intact then.
    ModelError
        If an array is not float32 or float64, or the path has another ending.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ModelError(f"a checkpoint's name ends in .safetensors, got {path.name!r}")
    whole = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    for name, array in whole.items():
        if array.dtype.name not in KINDS:
            raise ModelError(f"array {name!r} is {array.dtype}; a checkpoint holds {' and '.join(KINDS)}")
    story = json.dumps(dict(metadata), sort_keys=True, allow_nan=False)
    # One key only: safetensors writes several in no fixed order, and equal content must give equal bytes.
    own = {
        "version": VERSION,
        "content-sha256": _content_digest(whole, story),
        "metadata": story,
    }
    data = safetensors.save(whole, metadata={FORMAT: json.dumps(own, sort_keys=True)})
    digest = hashlib.sha256(data).hexdigest()
    # The old sidecar goes before the old file: a crash in between leaves a whole checkpoint without a
    # sidecar, never one that its sidecar contradicts.
    sidecar = path.with_suffix(".json")
    write_atomic(path, data, before_replace=lambda: sidecar.unlink(missing_ok=True), mode=mode)
    write_json(sidecar, _description(digest, len(data), whole, json.loads(story)), mode=mode)
    return digest


def load_checkpoint(path: Path | str) -> tuple[Arrays, dict[str, Any]]:
    """Read a checkpoint and verify it.

    Returns
    -------
    arrays : by name, in the order of names.
    metadata : what was saved.

    Raises
    ------
    ModelError
        If the file is missing, damaged, not a checkpoint of this project or version, or not the file its
        sidecar describes.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise ModelError(f"checkpoint {path} does not exist; train or copy it first") from None
    except OSError as error:
        raise ModelError(f"checkpoint {path} cannot be read: {error.strerror or error}") from error
    own = _own_header(path, data)
    try:
        loaded = safetensors.load(data)
        arrays: Arrays = {name: loaded[name] for name in sorted(loaded)}
        intact = own["content-sha256"] == _content_digest(arrays, own["metadata"])
    except (SafetensorError, KeyError, TypeError, ValueError):
        intact = False
    if not intact:
        raise ModelError(f"checkpoint {path} is damaged; copy it again or train anew")
    sidecar = path.with_suffix(".json")
    if sidecar.exists():
        described = read_json(sidecar)
        stated = described.get("sha256") if isinstance(described, dict) else None
        if stated != hashlib.sha256(data).hexdigest():
            raise ModelError(
                f"checkpoint {path} is not the file that {sidecar.name} beside it describes; one of the two "
                "was replaced, copy both again"
            )
    metadata: dict[str, Any] = json.loads(own["metadata"])
    return arrays, metadata


def _own_header(path: Path, data: bytes) -> dict[str, Any]:
    """Return this project's entry in the safetensors header: 8 bytes length, then JSON."""
    foreign = ModelError(
        f"{path} is not a checkpoint of this project, or its beginning is damaged; expected is a file "
        "written by a training run"
    )
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > len(data) - 8:
        raise foreign
    try:
        own = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][FORMAT])
        version = own["version"]
    except (ValueError, KeyError, TypeError):
        raise foreign from None
    if version != VERSION:
        raise ModelError(
            f"checkpoint {path} has format version {version}, this software reads {VERSION}; use the "
            "software that wrote it"
        )
    result: dict[str, Any] = own
    return result


def _description(digest: str, size: int, arrays: Arrays, metadata: Any) -> dict[str, Any]:
    described = {
        name: {
            "shape": list(array.shape),
            "dtype": array.dtype.name,
            "sha256": hashlib.sha256(array.tobytes()).hexdigest(),
        }
        for name, array in arrays.items()
    }
    return {
        "format": FORMAT,
        "version": VERSION,
        "sha256": digest,
        "bytes": size,
        "arrays": described,
        "metadata": metadata,
    }


def _content_digest(arrays: Arrays, story: str) -> str:
    out = hashlib.sha256(story.encode())
    for name in sorted(arrays):
        array = arrays[name]
        out.update(f"\n{name} {array.dtype.name} {array.shape}\n".encode())
        out.update(array.tobytes())
    return out.hexdigest()
