"""Look through the recordings of a plain folder: every header, line of a CSV file, and last sample."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from client.data.checking import Findings, Level
from client.data.problems import Problem
from client.data.sources.base import Stay
from client.data.sources.folder_csv import CsvSignal
from client.data.sources.folder_edf import EdfSignal
from client.data.sources.folder_signals import HEADER, OPENERS, Opened, ending, is_text, recordings
from client.data.sources.segments import Recording
from client.data.sources.wfdb_files import read_lead
from client.data.sources.windows import LEAD_II
from common.errors import SourceError

# What lies beside WFDB headers and needs no word: samples, annotations.
BESIDE_HEADERS: Final = (".dat", ".atr", ".qrs")
LINES_AT_A_TIME: Final = 100_000


def check_patient(root: Path, key: str, findings: Findings) -> list[Opened]:
    """Check the recordings of one patient.

    Parameters
    ----------
    root : folder of the signals.
    key : the patient.
    findings : what does not fit is added to it.

    Returns
    -------
    the recordings with lead II, in order of time.
    """
    _check_other_files(root, key, findings)
    opened = recordings(root, key, lambda name, error: findings.error(error, Level.WARNING, root / name))
    for one in opened:
        if not one.has_lead_ii:
            findings.add(
                Level.WARNING,
                "no-lead-ii",
                f"recorded without lead II: none of its signals is named {' or '.join(LEAD_II)}",
                root / one.file,
            )
    usable = [one for one in opened if one.has_lead_ii]
    last: Opened | None = None
    for one in usable:
        if last is not None and one.signal.start < last.signal.end:
            findings.add(
                Level.WARNING,
                "overlap",
                f"overlaps in time with {last.file}; where both have a signal, the earlier one counts",
                root / one.file,
            )
        if last is None or one.signal.end > last.signal.end:
            last = one
        _check_samples(root, one, findings)
    return usable


def covered_s(one: Opened, start: datetime, end: datetime) -> float:
    """Return how much of a time interval a recording covers, without its gaps, seconds."""
    signal = one.signal
    if not isinstance(signal, Recording):
        return max(0.0, (min(signal.end, end) - max(signal.start, start)).total_seconds())
    first, last = (round((at - signal.start).total_seconds() * signal.rate_hz) for at in (start, end))
    return sum(b - a for _, _, a, b in signal.overlapping(first, last)) / signal.rate_hz


def believed(one: Opened, stays: Sequence[Stay] | None) -> bool:
    """Return whether a recording touches a stay of its patient, as far as stays are known."""
    return stays is None or any(stay.overlaps(one.signal.start, one.signal.end) for stay in stays)


def _check_samples(root: Path, one: Opened, findings: Findings) -> None:
    signal = one.signal
    if isinstance(signal, CsvSignal):
        _check_lines(signal, findings)
    elif isinstance(signal, EdfSignal):
        if signal.n_stored < signal.n_samples:
            missing = timedelta(seconds=round((signal.n_samples - signal.n_stored) / signal.rate_hz))
            findings.add(
                Level.WARNING,
                Problem.BAD_SIGNAL_FILE,
                f"the last {missing} of what the header promises are missing; copy the file again",
                root / one.file,
            )
        _check_part(root, one, findings, signal.n_stored - 1)
    else:
        _check_segments(root, one, signal, findings)
    if signal.end == signal.start:
        findings.add(Level.WARNING, Problem.BAD_SIGNAL_FILE, "holds no samples", root / one.file)


def _check_lines(signal: CsvSignal, findings: Findings) -> None:
    try:
        for first in range(0, signal.n_samples, LINES_AT_A_TIME):
            for error in signal.problems(first, min(first + LINES_AT_A_TIME, signal.n_samples)):
                findings.error(error, Level.WARNING, signal.path)
    except SourceError as error:
        findings.error(error, Level.WARNING, signal.path)


def _check_part(root: Path, one: Opened, findings: Findings, sample: int) -> None:
    if sample >= 0 and any(part.found == "damaged" for part in one.signal.parts(sample, sample + 1)):
        findings.add(
            Level.WARNING,
            Problem.BAD_SIGNAL_FILE,
            "its samples cannot be read; copy it again",
            root / one.file,
        )


def _check_segments(root: Path, one: Opened, signal: Recording, findings: Findings) -> None:
    """Read the last sample of each segment: its header, unit, file and length are checked by that."""
    folder = (root / one.file).parent
    with_lead = 0
    for name, length in zip(signal.segments, signal.lengths, strict=True):
        path = folder / name
        try:
            header = signal.headers(path)
            channel = header.channel(*LEAD_II)
            if channel is None:
                continue
            with_lead += 1
            read_lead(path, header, channel, int(length) - 1, int(length))
        except SourceError as error:
            with_lead += 1
            findings.error(error, Level.WARNING, path.with_name(f"{name}{HEADER}"))
    if signal.segments and not with_lead:
        findings.add(
            Level.WARNING, "no-lead-ii", "none of its segments was recorded with lead II", root / one.file
        )


def _check_other_files(root: Path, key: str, findings: Findings) -> None:
    """Name what nobody reads."""
    try:
        with os.scandir(root / key) as entries:
            found = sorted((entry.name, entry.is_dir()) for entry in entries)
    except OSError:
        return
    known = (*OPENERS, HEADER, *BESIDE_HEADERS)
    for name, is_folder in found:
        if name.startswith(".") or not is_text(name) or (not is_folder and ending(name) in known):
            continue
        what = (
            "a folder inside a patient's folder" if is_folder else f"a file that ends with {ending(name)!r}"
        )
        findings.add(
            Level.WARNING,
            "ignored-file",
            f"{what} is not read: recordings are {', '.join((HEADER, *OPENERS))} files directly in it",
            root / key / name,
        )
