"""Write the records of a stay in the layout of the MIMIC-IV waveforms.

``waves/p100/p10000020/80001000`` holds one record: a master header, a layout header, numerics as a table, and
per segment a header and a FLAC file for each rate: ``e`` for ECG (four samples per frame), ``p`` for pulse
(two), ``r`` for respiration (one). Segments begin and end on the grid of frames; samples of a broken frame
that belong to no signal are marked as invalid.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt

from simulation.cohort import monitor_parameters as table
from simulation.cohort.device import INVALID, Channel, Segment
from simulation.cohort.heart import heart_of
from simulation.cohort.mimic4_rows import subject
from simulation.cohort.recording import Array, Record, minute_rates, records_of, segments_of, wiring_of
from simulation.cohort.stay import PatientPlan
from simulation.cohort.waveforms import checksum, fraction, numerics, write_lines

WAVES = "waves"
PER_FRAME = 4  # samples of ECG
COUNTER_HZ = 999.56  # ticks in which the numerics count time
FLAC_RATE_HZ = 96_000  # what the stream itself says has no meaning; this is what the WFDB software writes
BITS, ADC_ZERO = 14, 8192
FIRST_RECORD, RECORDS_PER_PATIENT = 80_000_000, 50
Stored = npt.NDArray[np.int16]


@dataclass(frozen=True)
class Family:
    """Signals that share a file of a segment."""

    letter: str
    per_frame: int
    bits: int
    adc_zero: int


ECG = Family("e", PER_FRAME, BITS, ADC_ZERO)
#: Signals that are no ECG, by the name the monitor gives them: name in the header, and family.
OTHERS: Mapping[str, tuple[str, Family]] = {
    "PLETH": ("Pleth", Family("p", 2, 16, 0)),
    "RESP": ("Resp", Family("r", 1, 16, 0)),
}


def patient_folder(subject_id: int) -> str:
    """Relative folder of a patient: ``waves/p100/p10000878`` for SUBJECT_ID 878 of the plan."""
    name = f"p{subject(subject_id)}"
    return f"{WAVES}/{name[:4]}/{name}"


def record_path(plan: PatientPlan, record: Record) -> str:
    """Path of a record below the waveform folder."""
    number = FIRST_RECORD + RECORDS_PER_PATIENT * plan.patient.subject_id + record.number
    return f"{patient_folder(plan.patient.subject_id)}/{number}/{number}"


def write_waves(root: Path, plan: PatientPlan, number: int) -> list[str]:
    """Write every waveform file of one patient, one stretch in memory at a time.

    Parameters
    ----------
    root : folder that holds ``waves``; created when missing.
    plan : the patient.
    number : position of the patient in the site; these names do not need it.

    Returns
    -------
    Paths of the records relative to ``root``.
    """
    return [_write_record(root, plan, record) for record in records_of(plan)]


def write_lists(root: Path, records: Iterable[str]) -> None:
    """Write RECORDS: folders of patients in the root, and in each of those its records."""
    root.mkdir(parents=True, exist_ok=True)
    by_patient: dict[str, list[str]] = {}
    for name in sorted(records):
        folder, record, _ = name.rsplit("/", 2)
        by_patient.setdefault(folder, []).append(f"{record}/{record}")
    write_lines(root / "RECORDS", [f"{folder}/" for folder in by_patient], "\n")
    for folder, names in by_patient.items():
        write_lines(root / folder / "RECORDS", names, "\n")


def framed(segment: Segment, first_free: int) -> tuple[int, Segment] | None:
    """Move a segment to the grid of frames without moving a sample in time.

    Parameters
    ----------
    segment : as the monitor cut it.
    first_free : first frame that no earlier segment holds.

    Returns
    -------
    First frame, and the segment with whole frames, padded with invalid samples; None if nothing is left.
    """
    begin = max(segment.start // PER_FRAME, first_free)
    cut = max(PER_FRAME * begin - segment.start, 0)
    if cut >= segment.length:
        return None
    before = segment.start + cut - PER_FRAME * begin
    after = -(before + segment.length - cut) % PER_FRAME

    def padded(channel: Channel) -> Channel:
        samples = np.pad(channel.samples[cut:].astype(np.int16), (before, after), constant_values=INVALID[16])
        return Channel(channel.name, channel.units, channel.gain, channel.baseline, samples)

    return begin, Segment(PER_FRAME * begin, tuple(padded(channel) for channel in segment.channels))


def _write_record(root: Path, plan: PatientPlan, record: Record) -> str:
    """Write one record and its numerics; return its path relative to ``root``."""
    path = record_path(plan, record)
    folder, name = (root / path).parent, path.rpartition("/")[2]
    folder.mkdir(parents=True, exist_ok=True)
    rate = f"{record.rate_hz / PER_FRAME:g}/{COUNTER_HZ:g}"
    wiring = wiring_of(plan, record)
    lines, position, count = [f"{name}_0000 0"], 0, 0
    union: dict[str, str] = {}
    rates: list[Array] = []
    for stretch in record.stretches:
        heart = heart_of(plan, stretch)
        for segment in segments_of(plan, record, stretch, heart, wiring):
            found = framed(segment, position)
            if found is None:
                continue
            count += 1
            begin, whole = found
            if begin > position:
                lines.append(f"~ {begin - position}")
            frames = whole.length // PER_FRAME
            lines.append(f"{name}_{count:04d} {frames}")
            union |= _write_segment(folder, f"{name}_{count:04d}", whole, record, rate)
            position = begin + frames
        minutes = minute_rates(heart, stretch.seconds)
        minutes[:, 0] += stretch.start_s - record.begin_s
        rates.append(minutes)
    length = max(-(-record.length // PER_FRAME), position)
    if length > position:
        lines.append(f"~ {length - position}")
    moment = f"{record.start:%H:%M:%S}.000 {record.start:%d/%m/%Y}"
    _write_header(
        folder / f"{name}.hea", [f"{name}/{len(lines)} {len(union)} {rate} {length} {moment}", *lines]
    )
    layout = [f"~ {text}" for text in union.values()]
    _write_header(folder / f"{name}_0000.hea", [f"{name}_0000 {len(union)} {rate} 0", *layout])
    values = numerics(
        plan.rng("numerics", record.number), np.concatenate(rates), record.length, record.rate_hz
    )
    (folder / f"{name}n.csv.gz").write_bytes(_numerics_table(values))
    return path


def _write_segment(folder: Path, name: str, segment: Segment, record: Record, rate: str) -> dict[str, str]:
    """Write header and files of one segment; return lines of the layout header, by signal."""
    moment = record.start + timedelta(milliseconds=round(1000 * segment.start / record.rate_hz))
    families: dict[Family, list[tuple[str, Channel, Stored]]] = {}
    for channel in segment.channels:
        shown, family = OTHERS.get(channel.name, (channel.name, ECG))
        stored = _stored(channel, family)
        families.setdefault(family, []).append((shown, channel, stored))
    lines, layout = [], {}
    for family, signals in families.items():
        file = f"{name}{family.letter}.dat"
        write_flac(folder / file, [stored for _, _, stored in signals])
        for shown, channel, stored in signals:
            scale = f"{channel.gain}/{channel.units} {family.bits} {family.adc_zero}"
            lines.append(
                f"{file} 516x{family.per_frame} {scale} {int(stored[0])} {checksum(stored)} 0 {shown}"
            )
            layout[shown] = f"0x{family.per_frame} {scale} 0 0 0 {shown}"
    frames = segment.length // PER_FRAME
    head = f"{name} {len(segment.channels)} {rate} {frames} {moment:%H:%M:%S}{fraction(moment)}"
    _write_header(folder / f"{name}.hea", [head, *lines])
    return layout


def write_flac(path: Path, signals: Sequence[Stored]) -> None:
    """Write signals of one rate as the channels of a FLAC stream (WFDB format 516)."""
    from client.data.sources.flac import flac_package  # here, because it brings all readers with it

    with flac_package().SoundFile(
        path, "w", samplerate=FLAC_RATE_HZ, channels=len(signals), subtype="PCM_16", format="FLAC"
    ) as file:
        file.write(np.stack(signals, axis=1))


def _stored(channel: Channel, family: Family) -> Stored:
    """Take the samples of a signal that its family has room for, as the converter numbers them."""
    samples = channel.samples[:: PER_FRAME // family.per_frame].astype(np.int32)
    shifted = np.where(samples == INVALID[16], samples, samples - channel.baseline + family.adc_zero)
    return shifted.astype(np.int16)


def _numerics_table(values: Mapping[str, npt.NDArray[np.int16]]) -> bytes:
    """One row a minute: ticks since the start, then every numeric, empty where it is not known."""
    units = {name: (gain, unit) for name, gain, unit, _, _ in table.NUMERICS}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["time", *(f"{name} [{units[name][1]}]" for name in values)])
    for minute, row in enumerate(zip(*values.values(), strict=True)):
        cells = [
            "" if value == INVALID[16] else f"{value / units[name][0]:g}"
            for name, value in zip(values, row, strict=True)
        ]
        writer.writerow([round((60 * minute + 30) * COUNTER_HZ), *cells])
    return gzip.compress(text.getvalue().encode("ascii"), mtime=0)


def _write_header(path: Path, lines: Sequence[str]) -> None:
    write_lines(path, lines, "\n")
