"""Write the recordings of a stay as VitalDB keeps them: one ``.vital`` file per case.

An operation lasts hours and a stay in the unit weeks, so a stay becomes several cases of one subject: a new
one begins where the monitor paused for hours. The vitaldb package writes the files, in blocks of one second,
as the recorder of that data set does; lead II at 500 Hz, another lead by the name of V5, and the heart rate.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from simulation.cohort.device import digitize, lead_off
from simulation.cohort.heart import heart_of
from simulation.cohort.recording import Record, analog_of, leads_of, minute_rates, monitored, wiring_of
from simulation.cohort.stay import PatientPlan, Stretch

#: A pause of the monitor after which the rest is another case, and the longest case, s.
PAUSE_S, LONGEST_CASE_S = 2 * 3600, 12 * 3600
#: Cases before the next patient's numbers begin: more than there are pauses in the longest stay.
CASES_PER_PATIENT = 500
LEAD_IN_S = 30
#: 2100-01-01 00:00 UTC: the package moves anonymous recordings to that day.
FILE_BEGIN_S = 4_102_444_800.0
DEVICE, LEAD_II, OTHER_LEAD = "SNUADC", "ECG_II", "ECG_V5"
HEART_RATE = "Solar8000/HR"
SHORT = 5  # the package's code for samples of 16 bits
#: Voltage of a stored zero: the converter's range does not lie even about 0 mV.
OFFSET_MV = -0.5
BLOCK_S = 1
COMPRESSION = 6

Stored = npt.NDArray[np.int16]


@dataclass(frozen=True)
class Wave:
    """Digitized samples of one lead without a gap: the first one's number in the file, and the samples."""

    first: int
    samples: Stored


def cases_of(plan: PatientPlan) -> tuple[Record, ...]:
    """Find the cases of a stay: what was recorded without a long pause, at most half a day at a time."""
    groups: list[list[Stretch]] = []
    for stretch in plan.stretches:
        if groups:
            first, last = groups[-1][0], groups[-1][-1]
            paused = stretch.start_s - last.end_s >= PAUSE_S
            if not paused and stretch.end_s - first.start_s <= LONGEST_CASE_S:
                groups[-1].append(stretch)
                continue
        groups.append([stretch])
    found: list[Record] = []
    for number, group in enumerate(groups):
        lead_in = int(plan.rng("case", number).integers(0, LEAD_IN_S + 1))
        free = found[-1].begin_s + found[-1].seconds if found else 0
        begin = max(group[0].start_s - lead_in, min(free, group[0].start_s))
        found.append(
            Record(
                number=number,
                begin_s=begin,
                start=plan.stay.base,  # no file says when that was
                seconds=group[-1].end_s - begin,
                rate_hz=plan.profile.monitor.rate_hz,
                stretches=tuple(group),
            )
        )
    return tuple(found)


def case_number(plan: PatientPlan, number: int) -> int:
    """Return the caseid of a case of a patient."""
    return CASES_PER_PATIENT * plan.patient.subject_id + number + 1


def case_path(plan: PatientPlan, case: Record) -> str:
    """Path of a recording below the waveform folder, without its ending."""
    return f"{case_number(plan, case.number):04d}"


def write_cases(root: Path, plan: PatientPlan, number: int) -> list[str]:
    """Write the recordings of one patient; return their paths relative to ``root``, without endings.

    Parameters
    ----------
    root : folder of the recordings; created when missing.
    plan : the patient.
    number : position of the patient in the site; these names do not need it.
    """
    root.mkdir(parents=True, exist_ok=True)
    names = []
    for case in cases_of(plan):
        names.append(case_path(plan, case))
        _write_case(root / f"{names[-1]}.vital", plan, case)
    return names


def write_lists(root: Path, records: Iterable[str]) -> None:
    """Do nothing but make the folder: this layout has no list of its recordings."""
    root.mkdir(parents=True, exist_ok=True)


def own_folder(subject_id: int) -> str:
    """Name a folder that is never there: the files of all patients lie together, and replace themselves."""
    return f"p{subject_id}"


def write_vital(
    path: Path,
    seconds: float,
    rate_hz: float,
    gain: float,
    waves: dict[str, Sequence[Wave]],
    numerics: dict[str, npt.NDArray[np.float64]] | None = None,
    *,
    packed: bool = False,
) -> None:
    """Write a ``.vital`` file; equal arguments give equal bytes.

    Parameters
    ----------
    path : the file.
    seconds : length of the recording, s.
    rate_hz : sampling rate of all waveforms, Hz.
    gain : stored units per mV.
    waves : what was recorded of each waveform, by device and track (``SNUADC/ECG_II``).
    numerics : float64 (n, 2) of each numeric track: s from the begin of the file, and value.
    packed : one record per waveform, gaps filled, instead of blocks of a second.
    """
    # Not at the top: readers and the package bring pandas along, which other layouts do without.
    from client.data.sources.vital_files import quiet, vital_package

    with quiet():
        file = vital_package().VitalFile()
        file.dgmt, file.dtstart, file.dtend = 0, FILE_BEGIN_S, FILE_BEGIN_S + seconds
        for name, values in (numerics or {}).items():
            file.add_track(
                name, [{"dt": FILE_BEGIN_S + at, "val": value} for at, value in values.tolist()], unit="/min"
            )
        for name, parts in waves.items():
            blocks = [block for wave in parts for block in _blocks(wave, rate_hz)]
            if blocks:
                file.add_track(name, blocks, srate=rate_hz, unit="mV", mindisp=-1.0, maxdisp=2.5)
                track = file.trks[name]
                track.fmt, track.gain, track.offset = SHORT, 1.0 / gain, OFFSET_MV
        written = file.to_vital(str(path), compresslevel=COMPRESSION, packed=packed)
    if not written:
        raise OSError(f"{path.name} could not be written")
    with path.open("r+b") as raw:  # the time at which gzip wrote, bytes 4 to 7 of its header
        raw.seek(4)
        raw.write(bytes(4))


def wave_parts(signal: npt.NDArray[np.float32], first: int, gain: float) -> Iterator[Wave]:
    """Digitize a lead and cut it at its gaps.

    Parameters
    ----------
    signal : float32 (n,), mV, NaN where nothing was recorded.
    first : number of the first sample in the file.
    gain : stored units per mV.
    """
    stored = digitize(signal, gain, round(-OFFSET_MV * gain), bits=16).astype(np.int16)
    there = np.concatenate([[False], np.isfinite(signal), [False]])
    edges = np.flatnonzero(there[1:] != there[:-1])
    for begin, end in edges.reshape(-1, 2).tolist():
        yield Wave(first + begin, stored[begin:end])


def _write_case(path: Path, plan: PatientPlan, case: Record) -> None:
    monitor, wiring = plan.profile.monitor, wiring_of(plan, case)
    gain = float(max(monitor.gains))
    waves: dict[str, list[Wave]] = {}
    rates = []
    for stretch in case.stretches:
        heart = heart_of(plan, stretch)
        rng = plan.rng("monitor", stretch.index)
        first = case.first_sample(stretch)
        for lead in leads_of(wiring, stretch):
            signal = lead_off(rng, monitored(monitor, analog_of(plan, stretch, heart, lead)), case.rate_hz)
            name = f"{DEVICE}/{LEAD_II if lead == 'II' else OTHER_LEAD}"
            waves.setdefault(name, []).extend(wave_parts(signal, first, gain))
        minutes = minute_rates(heart, stretch.seconds)
        minutes[:, 0] += stretch.start_s - case.begin_s
        rates.append(minutes)
    heart_rates = np.rint(np.concatenate(rates))
    write_vital(path, case.seconds, case.rate_hz, gain, dict(waves), {HEART_RATE: heart_rates})


def _blocks(wave: Wave, rate_hz: float) -> Iterator[dict[str, Any]]:
    """Cut samples into blocks of a second, each with the time of its first sample."""
    size = max(round(BLOCK_S * rate_hz), 1)
    for begin in range(0, len(wave.samples), size):
        yield {
            "dt": FILE_BEGIN_S + (wave.first + begin) / rate_hz,
            "val": wave.samples[begin : begin + size],
        }
