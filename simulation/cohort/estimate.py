"""How large a cohort will be and how long it will take, before anything is written.

A little ECG is really made and written the way of each site, to a folder that is thrown away.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from common.errors import StorageError
from common.files import free_bytes
from simulation.cohort import monitor_parameters as monitors
from simulation.cohort.folder import complete_mark, count_parts
from simulation.cohort.forecast import Forecast
from simulation.cohort.layouts import layout_of
from simulation.cohort.parts import SiteOrder
from simulation.cohort.profile import CohortSizes, LayoutName, SiteProfile
from simulation.cohort.recording import records_of, wiring_of
from simulation.cohort.stay import PatientPlan, Stretch, plan_patient
from simulation.cohort.truth import patient_truth, write_beats

CALIBRATION_S, WARM_UP_S = (120, 1800), 20  # of ECG, not of time
BLOCK_BYTES = 4096  # of common file systems; the last block of a file is half empty on average
HEADER_BYTES = 250
RESERVE = 1.05
PACKED = 0.2  # size of a compressed table by its text
STORED: Mapping[LayoutName, float] = {"mimic3": 1.0, "mimic4": 0.25, "vitaldb": 1.0}  # of a signal's samples
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
    truth_bytes : of them, the ground truth's.
    seconds : processor time, s.
    """

    patients: float = 0.0
    ecg_h: float = 0.0
    bytes: float = 0.0
    files: float = 0.0
    truth_bytes: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            patients=self.patients + other.patients,
            ecg_h=self.ecg_h + other.ecg_h,
            bytes=self.bytes + other.bytes,
            files=self.files + other.files,
            truth_bytes=self.truth_bytes + other.truth_bytes,
            seconds=self.seconds + other.seconds,
        )

    def times(self, factor: float) -> Cost:
        """Return that much of it."""
        return Cost(
            patients=self.patients * factor,
            ecg_h=self.ecg_h * factor,
            bytes=self.bytes * factor,
            files=self.files * factor,
            truth_bytes=self.truth_bytes * factor,
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
            layout_of(profile).write_waveforms(Path(folder), one, 0)
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
    samples = (found.lead_h + found.other_h) * 3600.0 * profile.monitor.rate_hz
    tables = found.table_bytes * (PACKED if profile.files.compressed else 1.0)
    truth_files, truth_bytes = (found.patients, found.ecg_h * TRUTH_BYTES_PER_HOUR) if truth else (0, 0.0)
    truth_bytes += truth_files * BLOCK_BYTES / 2.0
    stored = samples * profile.monitor.bits / 8.0 * STORED[profile.files.layout]
    own_bytes = stored + tables + files * (HEADER_BYTES + BLOCK_BYTES) / 2.0
    return Cost(
        patients=found.patients,
        ecg_h=found.ecg_h,
        bytes=own_bytes + truth_bytes,
        files=files + truth_files,
        truth_bytes=truth_bytes,
        seconds=found.lead_h * pace_s + found.seconds,
    )


def is_whole(order: SiteOrder) -> bool:
    """Tell whether a site and its ground truth are complete, whatever they were made from."""
    return not _unfinished(order)


def missing_share(order: SiteOrder) -> float:
    """Share of a site's patients of whom something is still to be written: signals, rows or truth."""
    return max(
        (1.0 - min(1.0, count_parts(root) / order.sizes.patients) for root in _unfinished(order)), default=0.0
    )


def check_places(order: SiteOrder) -> None:
    """Refuse a site that cannot be written where it, or its ground truth, is to be.

    Raises
    ------
    StorageError
        With the folder above it that is a file, or takes no new files.
    """
    for root in _unfinished(order):
        place = _existing(root)
        if not place.is_dir():
            raise StorageError(
                f"{root} cannot be written: {place} is not a directory; choose an empty or new folder"
            )
        try:
            # Permissions do not tell: the whole file system may be read-only, or not one for files.
            tempfile.TemporaryDirectory(prefix=".fedkalemia-", dir=place).cleanup()
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise StorageError(
                f"{root} cannot be written: no folder can be made in {place} ({reason}); choose "
                "another folder"
            ) from None


def check_space(folder: Path, cost: Cost, truth: Path | None = None) -> int:
    """Return the free bytes where ``folder`` is.

    Parameters
    ----------
    folder : of a site.
    cost : what is to be written.
    truth : folder of its ground truth, perhaps on another disk.

    Raises
    ------
    StorageError
        If they are too few, on either disk.
    """
    needed = {folder: cost.bytes}
    if truth is not None and _device(truth) != _device(folder):
        needed = {folder: cost.bytes - cost.truth_bytes, truth: cost.truth_bytes}
    free = {place: free_bytes(place) for place in needed}
    for place, count in needed.items():
        if count * RESERVE > free[place]:
            raise StorageError(
                f"about {size_text(count)} are needed in {place} and {size_text(free[place])} are free; "
                "nothing was written. Free some space, choose another folder, or ask for fewer patients or "
                "shorter windows"
            )
    return free[folder]


def size_text(count: float) -> str:
    """Write a number of bytes as people say it: ``340 MB``."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            value = count / size
            return f"{value:.1f} {unit}" if value < 10 else f"{value:,.0f} {unit}"
    return f"{max(count, 0.0) / 1e3:.0f} kB"


def _unfinished(order: SiteOrder) -> list[Path]:
    roots = [order.folder] if order.truth is None else [order.folder, order.truth]
    return [root for root in roots if complete_mark(root) is None]


def _device(path: Path) -> int:
    return _existing(path).stat().st_dev


def _existing(path: Path) -> Path:
    """Nearest folder above a path, or the path itself, that exists; a file where that is in the way."""
    place = path.absolute()
    while not place.exists():
        place = place.parent
    return place


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
