"""How large a cohort will be and how long it will take, before anything is written.

A little ECG is really made and written the way of each site, to a folder that is thrown away.
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from common.errors import StorageError
from common.files import free_bytes
from simulation.cohort import monitor_parameters as monitors
from simulation.cohort.folder import complete_mark, count_parts
from simulation.cohort.forecast import Forecast
from simulation.cohort.parts import SiteOrder
from simulation.cohort.profile import CohortSizes, SiteProfile
from simulation.cohort.recording import records_of, wiring_of
from simulation.cohort.stay import PatientPlan, Stretch, plan_patient
from simulation.cohort.truth import patient_truth, write_beats
from simulation.cohort.waveforms import write_waveforms

CALIBRATION_S, WARM_UP_S = (120, 1800), 20  # of ECG, not of time
BLOCK_BYTES = 4096  # of common file systems; the last block of a file is half empty on average
HEADER_BYTES = 250
RESERVE = 1.05
PACKED = 0.2  # size of a compressed table by its text
TRUTH_BYTES_PER_HOUR = 40_000  # R times and kinds
START_S = 1.5  # until a worker process works


@dataclass(frozen=True)
class Cost:
    """Disk and time of what is still to be written.

    Attributes
    ----------
    patients : how many.
    ecg_h : hours of ECG.
    bytes, files : on the disk.
    seconds : processor time, s.
    """

    patients: float = 0.0
    ecg_h: float = 0.0
    bytes: float = 0.0
    files: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            patients=self.patients + other.patients,
            ecg_h=self.ecg_h + other.ecg_h,
            bytes=self.bytes + other.bytes,
            files=self.files + other.files,
            seconds=self.seconds + other.seconds,
        )

    def times(self, factor: float) -> Cost:
        """Return that much of it."""
        return Cost(
            patients=self.patients * factor,
            ecg_h=self.ecg_h * factor,
            bytes=self.bytes * factor,
            files=self.files * factor,
            seconds=self.seconds * factor,
        )

    def wall_s(self, workers: int) -> float:
        """Time it takes with so many worker processes, on the processors there are, s."""
        at_once = max(1, min(workers, os.cpu_count() or 1))
        return self.seconds / at_once + (START_S if workers > 1 else 0.0)


def measure_pace(profile: SiteProfile, sizes: CohortSizes, truth: bool = True) -> float:
    """Make and write one stretch of lead II as it is made for a cohort; return seconds per hour of ECG.

    Parameters
    ----------
    profile, sizes : whose monitors, and how long a stretch is.
    truth : whether the ground truth is written too.

    Returns
    -------
    Processor time on this machine, s per h of ECG.
    """
    seconds = int(np.clip(3600 * sizes.window_hours, *CALIBRATION_S))
    plan = _single_lead(profile)
    end = plan.draws[-1].minute * 60
    with tempfile.TemporaryDirectory(prefix="fedkalemia-") as folder:
        for length in (WARM_UP_S, seconds):
            stretch = Stretch(0, end - length, end, lead_ii=True, noisy=False, record=0)
            one = replace(plan, stretches=(stretch,))
            begun = time.process_time()
            write_waveforms(Path(folder), one, 0)
            if truth:
                patient_truth(one)
                write_beats(Path(folder), one)
            took = time.process_time() - begun
    return took * 3600 / seconds


def cost_of(found: Forecast, pace_s: float, profile: SiteProfile, truth: bool = True) -> Cost:
    """Disk and time of a whole site.

    Parameters
    ----------
    found : what the site will hold.
    pace_s : processor time per hour of ECG, s.
    profile : the site.
    truth : whether the ground truth is written too.
    """
    segments = found.stretches * (1.0 + monitors.INTERRUPTED + monitors.TINY)
    files = 2.0 * segments + 4.0 * found.records
    channels = 1.0 + monitors.SECOND_ECG_SHARE + monitors.RESPIRATION_SHARE + monitors.PLETH_SHARE
    ecg_bytes = found.ecg_h * 3600.0 * profile.monitor.rate_hz * profile.monitor.bits / 8.0 * channels
    tables = found.table_bytes * (PACKED if profile.files.compressed else 1.0)
    if truth:
        files += found.patients
        tables += found.ecg_h * TRUTH_BYTES_PER_HOUR
    return Cost(
        patients=found.patients,
        ecg_h=found.ecg_h,
        bytes=ecg_bytes + tables + files * (HEADER_BYTES + BLOCK_BYTES) / 2.0,
        files=files,
        seconds=found.ecg_h * pace_s * (1.0 + monitors.SECOND_ECG_SHARE) + found.seconds,
    )


def is_whole(order: SiteOrder) -> bool:
    """Tell whether a site and its ground truth are complete, whatever they were made from."""
    roots = [order.folder] if order.truth is None else [order.folder, order.truth]
    return all(complete_mark(root) is not None for root in roots)


def missing_share(order: SiteOrder) -> float:
    """Share of a site's patients that is still to be written."""
    if complete_mark(order.folder) is not None:
        return 0.0
    return 1.0 - min(1.0, count_parts(order.folder) / order.sizes.patients)


def check_space(folder: Path, cost: Cost) -> int:
    """Return the free bytes where ``folder`` is.

    Raises
    ------
    StorageError
        If they are too few.
    """
    free = free_bytes(folder)
    if cost.bytes * RESERVE > free:
        raise StorageError(
            f"about {size_text(cost.bytes)} are needed in {folder} and {size_text(free)} are free; nothing "
            "was written. Free some space, choose another folder, or ask for fewer patients or shorter "
            "windows"
        )
    return free


def size_text(count: float) -> str:
    """Write a number of bytes as people say it: ``340 MB``."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            value = count / size
            return f"{value:.1f} {unit}" if value < 10 else f"{value:,.0f} {unit}"
    return f"{max(count, 0.0) / 1e3:.0f} kB"


def _single_lead(profile: SiteProfile) -> PatientPlan:
    """Plan a patient whose first record holds one lead and nothing else, and who had blood drawn."""
    sizes = CohortSizes(patients=1, personal_patients=0)
    number = 0
    while True:
        number += 1
        plan = plan_patient(profile, sizes, 0, number, 0, "usual")
        if not plan.draws or plan.draws[-1].minute * 60 < CALIBRATION_S[1] or not records_of(plan):
            continue
        wiring = wiring_of(plan, records_of(plan)[0])
        if wiring.second is None and not wiring.respiration and not wiring.pleth:
            return plan
