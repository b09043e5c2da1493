"""Samples of FLAC signal files (WFDB formats 508, 516 and 524), as few of them as are asked for.

Such a file is an ordinary FLAC stream: its channels are the signals of the file, its samples the stored
numbers; the sampling rate it names has no meaning. The decoder seeks, so that the time to read a window does
not depend on the length of the recording.

Source: WFDB signal file formats (PhysioNet).
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Final, cast

import numpy as np
import numpy.typing as npt

from client.data.problems import Problem
from common.errors import SourceError

#: Bits of a stored sample, by format.
BITS: Final = {508: 8, 516: 16, 524: 24}
# The decoder fills the highest bits of the smallest type that it can return.
_READ_AS: Final = {"PCM_S8": (8, "int16", 8), "PCM_16": (16, "int16", 0), "PCM_24": (24, "int32", 8)}


def flac_package() -> ModuleType:
    """Return the package that decodes FLAC.

    Raises
    ------
    SourceError
        If it, or the library it needs, is not installed.
    """
    try:
        import soundfile
    except (ImportError, OSError):  # the latter where its library libsndfile is missing
        raise SourceError(
            "FLAC signals need the Python package soundfile and its library libsndfile; install them with "
            "'pip install soundfile'",
            problem=Problem.MISSING_PACKAGE,
        ) from None
    return cast("ModuleType", soundfile)


def read_flac(
    path: Path, form: int, channel: int, n_channels: int, start: int, stop: int
) -> npt.NDArray[np.int32]:
    """Read a stretch of one channel.

    Parameters
    ----------
    path : the file.
    form : WFDB format, a key of ``BITS``.
    channel, n_channels : which of the signals that the header finds in this file, and how many there are.
    start, stop : sample numbers, half open.

    Returns
    -------
    int32 (stop - start,), stored numbers; the lowest of the format means that there was no signal.

    Raises
    ------
    SourceError
        If the file is missing, no FLAC file, of other channels or bits, or too short.
    """
    package = flac_package()
    try:
        with package.SoundFile(path) as file:
            bits, kind, shift = _READ_AS.get(file.subtype, (0, "", 0))
            if file.format != "FLAC" or not 0 < bits <= BITS[form] or file.channels != n_channels:
                raise SourceError(
                    "a FLAC signal file holds other signals than its header says",
                    problem=Problem.BAD_SIGNAL_FILE,
                )
            if stop > file.frames:
                raise SourceError(
                    "a signal file is shorter than its header says", problem=Problem.BAD_SIGNAL_FILE
                )
            file.seek(start)
            samples = np.asarray(file.read(stop - start, dtype=kind, always_2d=True)[:, channel], np.int32)
    except (OSError, RuntimeError, ValueError) as error:  # the decoder's own errors are RuntimeErrors
        raise SourceError("a signal file is missing or damaged", problem=Problem.BAD_SIGNAL_FILE) from error
    if len(samples) != stop - start:
        raise SourceError("a signal file is shorter than its header says", problem=Problem.BAD_SIGNAL_FILE)
    return samples >> shift
