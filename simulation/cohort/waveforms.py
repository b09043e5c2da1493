"""Write recordings in the layout of the MIMIC-III Waveform Database Matched Subset.

A patient's folder ``p00/p000878`` holds, per recording, a master header named by date and time, a layout
header, one header and one signal file per segment (format 80, 8-bit), and a numerics record of one value
per minute (format 16).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt

from simulation.cohort.device import INVALID, RATE_HZ, Channel, Segment
from simulation.cohort.recording import Recording

# name, gain, units, usual value, standard deviation
_NUMERICS = (
    ("HR", 10, "bpm", 0.0, 1.5),
    ("PULSE", 10, "bpm", 0.0, 2.5),
    ("RESP", 10, "pm", 18.0, 3.0),
    ("SpO2", 10, "%", 96.5, 1.2),
    ("NBPSys", 1, "mmHg", 122.0, 12.0),
    ("NBPDias", 1, "mmHg", 62.0, 8.0),
    ("NBPMean", 1, "mmHg", 81.0, 9.0),
)
NUMERIC_INVALID = -32768


def patient_folder(subject_id: int) -> str:
    """Relative folder of a patient: ``p00/p000878`` for SUBJECT_ID 878."""
    name = f"p{subject_id:06d}"
    return f"{name[:3]}/{name}"


def record_name(subject_id: int, start: datetime) -> str:
    """Name of a recording: ``p000878-2137-10-26-16-57``."""
    return f"p{subject_id:06d}-{start:%Y-%m-%d-%H-%M}"


def write_recording(
    root: Path, subject_id: int, number: int, recording: Recording, location: str, rng: np.random.Generator
) -> str:
    """Write one recording and its numerics.

    Parameters
    ----------
    root : folder that holds ``p00`` to ``p09``.
    subject_id, number : patient, and the number all segment names begin with.
    recording : what to write.
    location : care unit, a comment of the master header.
    rng : stream of the numerics.

    Returns
    -------
    The record's path relative to ``root``, as a line of RECORDS-waveforms.
    """
    folder = root / patient_folder(subject_id)
    folder.mkdir(parents=True, exist_ok=True)
    name = record_name(subject_id, recording.start)
    lines, position = [f"{number}_layout 0"], 0
    for index, segment in enumerate(recording.segments, start=1):
        if segment.start > position:
            lines.append(f"~ {segment.start - position}")
        segment_name = f"{number}_{index:04d}"
        _write_segment(folder, segment_name, segment, recording.start)
        lines.append(f"{segment_name} {segment.length}")
        position = segment.start + segment.length
    if recording.length > position:
        lines.append(f"~ {recording.length - position}")
    union = _layout_channels(recording.segments)
    first = (
        f"{name}/{len(lines)} {len(union)} {RATE_HZ} {recording.length} "
        f"{recording.start:%H:%M:%S}.000 {recording.start:%d/%m/%Y}"
    )
    _write_text(folder / f"{name}.hea", [first, *lines, f"# Location: {location}"])
    layout = [f"{number}_layout {len(union)} {RATE_HZ} 0 {recording.start:%H:%M:%S}"]
    layout += [f"~ 0 {_scale(channel)} 8 0 {INVALID} 0 0 {channel.name}" for channel in union]
    _write_text(folder / f"{number}_layout.hea", layout)
    _write_numerics(folder, name, number, recording, location, rng)
    return f"{patient_folder(subject_id)}/{name}"


def write_indexes(root: Path, records: Sequence[str]) -> None:
    """Write RECORDS (patient folders), RECORDS-waveforms and RECORDS-numerics."""
    root.mkdir(parents=True, exist_ok=True)
    folders = sorted({record.rsplit("/", 1)[0] + "/" for record in records})
    _write_text(root / "RECORDS", folders)
    _write_text(root / "RECORDS-waveforms", sorted(records))
    _write_text(root / "RECORDS-numerics", sorted(f"{record}n" for record in records))


def checksum(samples: npt.NDArray[np.generic]) -> int:
    """WFDB checksum: the sum of the samples as a signed 16-bit number."""
    low = int(samples.sum(dtype=np.int64)) & 0xFFFF
    return low - 0x10000 if low >= 0x8000 else low


def _write_segment(folder: Path, name: str, segment: Segment, start: datetime) -> None:
    moment = start + timedelta(seconds=segment.start / RATE_HZ)
    lines = [
        f"{name} {len(segment.channels)} {RATE_HZ} {segment.length} {moment:%H:%M:%S}{_fraction(moment)}"
    ]
    lines += [
        f"{name}.dat 80 {_scale(channel)} 8 0 {int(channel.samples[0])} {checksum(channel.samples)} 0 "
        f"{channel.name}"
        for channel in segment.channels
    ]
    _write_text(folder / f"{name}.hea", lines)
    # Format 80 is offset binary: stored byte = sample + 128.
    frames = np.stack([channel.samples.view(np.uint8) ^ 0x80 for channel in segment.channels], axis=1)
    (folder / f"{name}.dat").write_bytes(frames.tobytes())


def _write_numerics(
    folder: Path, name: str, number: int, recording: Recording, location: str, rng: np.random.Generator
) -> None:
    minutes = max(recording.length // (RATE_HZ * 60), 1)
    rate = np.interp(np.arange(minutes) * 60.0, recording.rates[:, 0], recording.rates[:, 1])
    columns, lines = [], []
    for signal, gain, units, usual, spread in _NUMERICS:
        values = (rate if usual == 0.0 else usual) + rng.normal(0.0, spread, minutes)
        stored = np.rint(values * gain).astype(np.int16)
        if signal.startswith("NBP"):
            stored[np.arange(minutes) % 15 != 0] = NUMERIC_INVALID  # a cuff measures every quarter hour
        elif signal == "SpO2":
            stored = np.minimum(stored, 100 * gain).astype(np.int16)
        columns.append(stored)
        lines.append(f"{number}n.dat 16 {gain}/{units} 16 0 {int(stored[0])} {checksum(stored)} 0 {signal}")
    first = (
        f"{name}n {len(columns)} 0.0166666666667/{RATE_HZ} {minutes} "
        f"{recording.start:%H:%M:%S}.000 {recording.start:%d/%m/%Y}"
    )
    _write_text(folder / f"{name}n.hea", [first, *lines, f"# Location: {location}"])
    (folder / f"{number}n.dat").write_bytes(np.stack(columns, axis=1).astype("<i2").tobytes())


def _layout_channels(segments: Sequence[Segment]) -> list[Channel]:
    union: dict[str, Channel] = {}
    for segment in segments:
        for channel in segment.channels:
            union.setdefault(channel.name, channel)
    return list(union.values())


def _scale(channel: Channel) -> str:
    # The baseline is left out where it equals the ADC zero, as in the real headers.
    return f"{channel.gain}{f'({channel.baseline})' if channel.baseline else ''}/{channel.units}"


def _fraction(moment: datetime) -> str:
    return f".{moment.microsecond // 1000:03d}" if moment.microsecond else ""


def _write_text(path: Path, lines: Sequence[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), newline="\n")
