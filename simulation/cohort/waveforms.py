"""Write the records of a stay in the layout of the MIMIC-III Waveform Database Matched Subset.

A patient's folder ``p00/p000878`` holds, per record, a master header named by date and time, a layout header,
one header and one signal file per segment (format 80 with 8 bits, 16 with 16), and a numerics record of one
value per minute (format 16). Lines of headers end as in the real files, with CR LF.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt

from simulation.cohort import monitor_parameters as table
from simulation.cohort.device import INVALID, Channel, Samples, Segment
from simulation.cohort.heart import heart_of
from simulation.cohort.recording import Array, Record, minute_rates, records_of, segments_of, wiring_of
from simulation.cohort.stay import PatientPlan

# Seven digits, as in the real names: room for fifty records of each of 140,000 patients.
FIRST_NUMBER, NUMBERS, RECORDS_PER_PATIENT = 3_000_000, 7_000_000, 50
FORMATS = {8: 80, 16: 16}


def patient_folder(subject_id: int) -> str:
    """Relative folder of a patient: ``p00/p000878`` for SUBJECT_ID 878."""
    name = f"p{subject_id:06d}"
    return f"{name[:3]}/{name}"


def record_name(subject_id: int, start: datetime) -> str:
    """Name of a record: ``p000878-2137-10-26-16-57``."""
    return f"p{subject_id:06d}-{start:%Y-%m-%d-%H-%M}"


def record_path(plan: PatientPlan, record: Record) -> str:
    """Path of a record below the waveform folder, as a line of RECORDS-waveforms."""
    subject = plan.patient.subject_id
    return f"{patient_folder(subject)}/{record_name(subject, record.start)}"


def write_waveforms(root: Path, plan: PatientPlan, number: int) -> list[str]:
    """Write every waveform file of one patient, one stretch in memory at a time.

    Parameters
    ----------
    root : folder that holds ``p00`` to ``p09``; created when missing.
    plan : the patient.
    number : position of the patient in the site; the names of the segments count on from it.

    Returns
    -------
    Paths of the records relative to ``root``, as lines of RECORDS-waveforms.
    """
    return [
        _write_record(
            root,
            plan,
            record,
            FIRST_NUMBER + (RECORDS_PER_PATIENT * number + position) % NUMBERS,
        )
        for position, record in enumerate(records_of(plan))
    ]


def write_indexes(root: Path, records: Iterable[str]) -> None:
    """Write RECORDS (patient folders), RECORDS-waveforms and RECORDS-numerics, sorted."""
    names = sorted(records)
    root.mkdir(parents=True, exist_ok=True)
    folders = sorted({name.rpartition("/")[0] + "/" for name in names})
    write_lines(root / "RECORDS", folders, "\n")
    write_lines(root / "RECORDS-waveforms", names, "\n")
    write_lines(root / "RECORDS-numerics", [f"{name}n" for name in names], "\n")


def checksum(samples: npt.NDArray[np.generic]) -> int:
    """WFDB checksum: the sum of the samples as a signed 16-bit number."""
    low = int(samples.sum(dtype=np.int64)) & 0xFFFF
    return low - 0x10000 if low >= 0x8000 else low


def _write_record(root: Path, plan: PatientPlan, record: Record, number: int) -> str:
    """Write one record and its numerics; return its path relative to ``root``."""
    path = record_path(plan, record)
    folder = (root / path).parent
    folder.mkdir(parents=True, exist_ok=True)
    bits, rate = plan.profile.monitor.bits, f"{record.rate_hz:g}"
    wiring = wiring_of(plan, record)
    lines, position, count = [f"{number}_layout 0"], 0, 0
    union: dict[str, str] = {}
    rates: list[Array] = []
    for stretch in record.stretches:
        heart = heart_of(plan, stretch)
        for segment in segments_of(plan, record, stretch, heart, wiring):
            count += 1
            name = f"{number}_{count:04d}"
            _write_segment(folder, name, segment, record, bits)
            for channel in segment.channels:
                union.setdefault(channel.name, _scale(channel))
            if segment.start > position:
                lines.append(f"~ {segment.start - position}")
            lines.append(f"{name} {segment.length}")
            position = segment.start + segment.length
        minutes = minute_rates(heart, stretch.seconds)
        minutes[:, 0] += stretch.start_s - record.begin_s
        rates.append(minutes)
    length = max(record.length, position)
    if length > position:
        lines.append(f"~ {length - position}")
    name, comment = path.rpartition("/")[2], f"# Location: {plan.profile.location}"
    moment = f"{record.start:%H:%M:%S}.000 {record.start:%d/%m/%Y}"
    first = f"{name}/{len(lines)} {len(union)} {rate} {length} {moment}"
    _write_header(folder / f"{name}.hea", [first, *lines, comment])
    layout = [f"{number}_layout {len(union)} {rate} 0 {record.start:%H:%M:%S}"]
    layout += [f"~ 0 {scale} {bits} 0 {INVALID[bits]} 0 0 {signal}" for signal, scale in union.items()]
    _write_header(folder / f"{number}_layout.hea", layout)

    values = numerics(plan.rng("numerics", record.number), np.concatenate(rates), length, record.rate_hz)
    head = [f"{name}n {len(values)} 0.0166666666667/{rate} {len(values['HR'])} {moment}"]
    head += [
        f"{number}n.dat 16 {gain}/{units} 16 0 {values[signal][0]} {checksum(values[signal])} 0 {signal}"
        for signal, gain, units, _, _ in table.NUMERICS
    ]
    _write_header(folder / f"{name}n.hea", [*head, comment])
    (folder / f"{number}n.dat").write_bytes(_frames(list(values.values())))
    return path


def _write_segment(folder: Path, name: str, segment: Segment, record: Record, bits: int) -> None:
    moment = record.start + timedelta(milliseconds=round(1000 * segment.start / record.rate_hz))
    lines = [
        f"{name} {len(segment.channels)} {record.rate_hz:g} {segment.length} "
        f"{moment:%H:%M:%S}{fraction(moment)}"
    ]
    lines += [
        f"{name}.dat {FORMATS[bits]} {_scale(channel)} {bits} 0 {int(channel.samples[0])} "
        f"{checksum(channel.samples)} 0 {channel.name}"
        for channel in segment.channels
    ]
    _write_header(folder / f"{name}.hea", lines)
    (folder / f"{name}.dat").write_bytes(_frames([channel.samples for channel in segment.channels]))


def _frames(samples: Sequence[Samples]) -> bytes:
    """Interleave signals: format 80 (offset binary, stored byte = sample + 128) or 16 (little endian)."""
    frames = np.stack(samples, axis=1)
    if frames.dtype == np.int8:
        return (frames.view(np.uint8) ^ np.uint8(0x80)).tobytes()
    return frames.astype("<i2").tobytes()


def numerics(
    rng: np.random.Generator, rates: Array, length: int, rate_hz: float
) -> Mapping[str, npt.NDArray[np.int16]]:
    """Make one value per minute of every numeric: int16 (n_minutes,), in units of the header.

    Parameters
    ----------
    rng : stream of the record's numerics.
    rates : float64 (n, 2), seconds from the start of the record and heart rate.
    length, rate_hz : samples of the record, and their rate, Hz.
    """
    count = max(int(length / (rate_hz * 60)), 1)
    heart_rate = np.interp((np.arange(count) + 0.5) * 60.0, rates[:, 0], rates[:, 1])
    out = {}
    for name, gain, _, usual, spread in table.NUMERICS:
        values = (heart_rate if usual is None else usual) + rng.normal(0.0, spread, count)
        if name == "SpO2":
            values = np.minimum(values, 100.0)
        stored = np.rint(values * gain).astype(np.int16)
        if name.startswith("NBP"):
            stored[np.arange(count) % table.CUFF_MIN != 0] = INVALID[16]
        elif name == "SpO2":
            stored[rng.random(count) < table.PROBE_OFF] = INVALID[16]
        out[name] = stored
    return out


def _scale(channel: Channel) -> str:
    # The baseline is left out where it equals the ADC zero, as in the real headers.
    return f"{channel.gain}{f'({channel.baseline})' if channel.baseline else ''}/{channel.units}"


def fraction(moment: datetime) -> str:
    """Write the milliseconds of a time, with their point; nothing where there are none."""
    return f".{moment.microsecond // 1000:03d}" if moment.microsecond else ""


def _write_header(path: Path, lines: Sequence[str]) -> None:
    write_lines(path, lines, "\r\n")


def write_lines(path: Path, lines: Sequence[str], end: str) -> None:
    """Write lines of a text file with the given line end."""
    path.write_bytes("".join(f"{line}{end}" for line in lines).encode("ascii"))
