"""Beats on disk: one file of float32 rows, appended at ingest, memory-mapped when read.

The database knows which rows belong to which strip. Rows are written and flushed to the disk before the
database row that points at them, so after a crash the file may hold rows nobody knows, never the other way
round; the next ingest cuts them off.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from client.data.ecg.beats import BEAT_SAMPLES, R_INDEX, RATE_HZ
from common.errors import StorageError
from common.files import read_json, storage_errors, write_json

FORMAT: Final = 1
HEADER: Final[dict[str, Any]] = {
    "format": FORMAT,
    "beat_samples": BEAT_SAMPLES,
    "rate_hz": RATE_HZ,
    "r_index": R_INDEX,
    "dtype": "<f4",
    "unit": "mV",
}
ROW_BYTES: Final = BEAT_SAMPLES * 4
#: Zeros written at a time.
ERASE_BYTES: Final = 1 << 20

Beats = npt.NDArray[np.float32]


class BeatStore:
    """The beats of one site, float32 (n_rows, 120), mV, R peak at index 40.

    Nothing is opened or created before the first read or write. Reading maps the file into memory: the
    operating system keeps what is used and forgets the rest, so memory does not grow with the site.

    Parameters
    ----------
    folder : holds ``beats.f32`` and its header ``beats.json``.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path, self._header = folder / "beats.f32", folder / "beats.json"
        self._writer: int | None = None
        self._map: Beats = np.empty((0, BEAT_SAMPLES), dtype=np.float32)
        self._checked = False

    @property
    def path(self) -> Path:
        """The file of the beats."""
        return self._path

    def __len__(self) -> int:
        """Return the number of whole rows in the file."""
        return self._path.stat().st_size // ROW_BYTES if self._path.exists() else 0

    def read(self, offset: int, n: int) -> Beats:
        """Return a read-only view of ``n`` rows from ``offset``, without copying them.

        Raises
        ------
        StorageError
            If the file does not hold these rows, or was written by another version.
        """
        if n == 0:
            return np.empty((0, BEAT_SAMPLES), dtype=np.float32)
        return self._mapped(offset, offset + n)[offset : offset + n]

    def gather(self, rows: npt.ArrayLike) -> Beats:
        """Return a copy of the rows of these numbers, in their order.

        Raises
        ------
        StorageError
            If the file does not hold all of them.
        """
        wanted = np.asarray(rows, dtype=np.int64)
        if not wanted.size:
            return np.empty((0, BEAT_SAMPLES), dtype=np.float32)
        return self._mapped(int(wanted.min()), int(wanted.max()) + 1)[wanted]

    def lock(self) -> None:
        """Keep other writers out until ``close``; creates an empty store where there is none.

        Raises
        ------
        StorageError
            If another process is writing, or the folder cannot be written.
        """
        self._open_writer()

    def append(self, beats: Beats) -> int:
        """Write beats after the last row and return the number of the first.

        They are safe only after ``flush``.

        Raises
        ------
        StorageError
            If the disk is full, the folder cannot be written, or another process is writing; the rows
            that were there stay as they are.
        """
        if beats.ndim != 2 or beats.shape[1] != BEAT_SAMPLES:
            raise StorageError(
                f"the beat store holds rows of {BEAT_SAMPLES} samples, got shape {beats.shape}"
            )
        content = memoryview(np.ascontiguousarray(beats, dtype=HEADER["dtype"]).tobytes())
        writer, offset = self._open_writer(), len(self)
        try:
            with storage_errors(self._path):
                written = 0
                while written < len(content):
                    written += os.pwrite(writer, content[written:], offset * ROW_BYTES + written)
        except BaseException:
            os.ftruncate(writer, offset * ROW_BYTES)
            raise
        return offset

    def flush(self) -> None:
        """Return when everything that was appended is on the disk."""
        if self._writer is not None:
            with storage_errors(self._path):
                os.fsync(self._writer)

    def truncate(self, rows: int) -> int:
        """Cut the file after ``rows`` rows and return the number of bytes that were cut off.

        Raises
        ------
        StorageError
            If the file holds fewer rows: beats the database counts on are lost.
        """
        size = self._path.stat().st_size if self._path.exists() else 0
        if size < rows * ROW_BYTES:
            raise StorageError(
                f"{self._path} holds {size // ROW_BYTES} beats, the database knows {rows}: the file was "
                "replaced or cut; restore it from a backup, or ingest into a fresh site folder"
            )
        if size > rows * ROW_BYTES:
            with storage_errors(self._path):
                os.ftruncate(self._open_writer(), rows * ROW_BYTES)
        return size - rows * ROW_BYTES

    def erase(self, offset: int, n: int) -> None:
        """Overwrite ``n`` rows from ``offset`` with zeros, on the disk when this returns.

        The rows keep their place, and all others theirs: their numbers are in the database.

        Raises
        ------
        StorageError
            If the file cannot be written, or another process is writing.
        """
        writer = self._open_writer()
        end = min(offset + n, len(self)) * ROW_BYTES
        with storage_errors(self._path):
            for place in range(offset * ROW_BYTES, end, ERASE_BYTES):
                os.pwrite(writer, bytes(min(ERASE_BYTES, end - place)), place)
            os.fsync(writer)

    def close(self) -> None:
        """Give the file free for another writer."""
        if self._writer is not None:
            os.close(self._writer)
            self._writer = None

    def __enter__(self) -> BeatStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open_writer(self) -> int:
        if self._writer is not None:
            return self._writer
        with storage_errors(self._path):
            self._folder.mkdir(parents=True, exist_ok=True)
            # Beats are patients' data: readable by the owner only.
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            raise StorageError(
                f"another process is writing to {self._path}; wait until it ends and run the command again"
            ) from None
        try:
            self._write_header()
        except BaseException:
            os.close(handle)
            raise
        self._writer = handle
        return handle

    def _write_header(self) -> None:
        if self._header.exists():
            self._check_header()
        elif self._path.stat().st_size:
            raise StorageError(
                f"{self._path} has lost its header {self._header.name}; restore both from a backup"
            )
        else:
            write_json(self._header, HEADER)

    def _check_header(self) -> None:
        found = read_json(self._header)
        if found != HEADER:
            version = found.get("format") if isinstance(found, dict) else None
            raise StorageError(
                f"{self._header} describes beats of another form (format {version}) than this version reads "
                f"(format {FORMAT}, {BEAT_SAMPLES} samples at {RATE_HZ} Hz); ingest into a fresh site folder"
            )
        self._checked = True

    def _mapped(self, first: int, stop: int) -> Beats:
        """Return a map of the whole file that reaches at least to row ``stop``."""
        if not self._checked:
            self._check_header()
        if stop > len(self._map) and (rows := len(self)) > len(self._map):
            self._map = np.memmap(self._path, dtype=HEADER["dtype"], mode="r", shape=(rows, BEAT_SAMPLES))
        if first < 0 or stop > len(self._map):
            raise StorageError(
                f"{self._path} holds {len(self._map)} beats; rows {first} to {stop - 1} were asked for: "
                "the file was replaced or cut; restore it from a backup, or ingest into a fresh site folder"
            )
        return self._map
