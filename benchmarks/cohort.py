"""Speed and memory of the synthetic cohort: ``python benchmarks/cohort.py``.

Makes hours of ECG of one patient per site profile, one lead, and prints hours of ECG per second of processor
time, before writing (heart, noise, monitor, digitizing) and with writing, the share of each part, and the
spread over repeated runs. The bars, before writing: 5 hours per core-second at 125 Hz, 2 where the monitor
samples at 500 Hz and keeps turning points. Then whole stays of days are written, one and four of them,
each in a process of its own, and the peak memory is printed: it must not grow with either.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from itertools import count
from pathlib import Path

from simulation.cohort.heart import heart_of, lead_signal
from simulation.cohort.profile import PROFILES, CohortSizes, SiteProfile
from simulation.cohort.recording import disturbance_of, monitored, records_of, segments_of, wiring_of
from simulation.cohort.stay import PatientPlan, Stretch, plan_patient
from simulation.cohort.waveforms import write_waveforms

BARS = {"turning point": 2.0, "125 Hz": 5.0}
SEED = 5
PARTS = ("heart", "noise", "monitor", "digits")
SIZES = CohortSizes(patients=1, personal_patients=0, continuous=True)


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--profiles", nargs="+", default=list(PROFILES), help="site profiles to measure")
    parser.add_argument("--hours", type=float, default=4.0, help="hours of ECG per run")
    parser.add_argument("--repeats", type=int, default=5, help="runs per profile; the median is printed")
    parser.add_argument("--no-memory", action="store_true", help="leave the long stays out")
    parser.add_argument("--one", nargs=2, metavar=("PROFILE", "STAYS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(long_stays(PROFILES[options.one[0]], int(options.one[1]))))
        return
    print(f"hours of ECG per core-second, medians of {options.repeats} runs of {options.hours:g} h")
    named = "".join(f"{part:>9}" for part in PARTS)
    print(f"{'profile':8} {'sampled':>9} {'before writing':>26} {'written':>8}{named}")
    for name in options.profiles:
        speed(PROFILES[name], options.hours, options.repeats)
    if options.no_memory:
        return
    print(f"\n{'profile':8} {'stays':>5} {'ECG':>8} {'on disk':>9} {'CPU':>8} {'peak memory':>12}")
    for name in options.profiles[:2]:
        for stays in (1, 4):
            memory(name, stays)


def speed(profile: SiteProfile, hours: float, repeats: int) -> None:
    """Measure one profile and print its line."""
    monitor = profile.monitor
    parts: dict[str, list[float]] = {}
    for repeat in range(repeats + 1):
        found = measure(profile, hours)
        if repeat:  # the first run imports and warms up
            for part, rate in found.items():
                parts.setdefault(part, []).append(rate)
    seconds = {part: statistics.median(values) for part, values in parts.items()}
    before = [1 / value for value in parts["before writing"]]
    rate = 1 / seconds["before writing"]
    bar = 0.0
    if monitor.rate_hz == 125.0:
        bar = BARS["turning point" if monitor.turning_point else "125 Hz"]
    verdict = ("reached" if rate >= bar else "MISSED") if bar else "no bar"
    whole = sum(seconds[part] for part in PARTS)
    shares = "".join(f"{seconds[part] / whole:9.0%}" for part in PARTS)
    print(
        f"{profile.name:8} {monitor.acquired_hz:6g} Hz {rate:7.1f} ({min(before):.1f}-{max(before):.1f}) "
        f"{verdict:>7} {1 / seconds['written']:8.1f}{shares}"
    )


def measure(profile: SiteProfile, hours: float) -> dict[str, float]:
    """Make some hours of one patient's ECG; return seconds of processor time per hour of ECG and part."""
    # A second lead and other signals would take their own time.
    plan = next(plan for plan in (patient(profile, number) for number in count()) if one_lead(plan))
    stretches: list[Stretch] = []
    for stretch in plan.stretches:
        if sum(s.seconds for s in stretches) < hours * 3600:
            stretches.append(stretch)
    made = sum(s.seconds for s in stretches) / 3600
    part = replace(plan, stretches=tuple(stretches))
    seconds = dict.fromkeys((*PARTS, "before writing", "written"), 0.0)

    since = time.process_time()
    for record in records_of(part):
        wiring = wiring_of(part, record)
        for stretch in record.stretches:
            segments_of(part, record, stretch, heart_of(part, stretch), wiring)
    seconds["before writing"] = time.process_time() - since

    rate = profile.monitor.acquired_hz
    for stretch in stretches:
        marks = [time.process_time()]
        heart = heart_of(part, stretch)
        signal = lead_signal(heart, "II", stretch.seconds, rate)
        marks.append(time.process_time())
        signal += disturbance_of(part, stretch, heart, "II", len(signal))
        marks.append(time.process_time())
        monitored(profile.monitor, signal)
        marks.append(time.process_time())
        for name, start, end in zip(PARTS, marks, marks[1:], strict=False):
            seconds[name] += end - start
    seconds["digits"] = max(seconds["before writing"] - sum(seconds[name] for name in PARTS), 0.0)

    with tempfile.TemporaryDirectory() as folder:
        since = time.process_time()
        write_waveforms(Path(folder), part, 0)
        seconds["written"] = time.process_time() - since
    return {name: value / made for name, value in seconds.items()}


def one_lead(plan: PatientPlan) -> bool:
    """Tell whether the records of a stay hold one ECG lead and nothing else."""
    wirings = [wiring_of(plan, record) for record in records_of(plan)]
    return not any(w.second or w.respiration or w.pleth for w in wirings)


def patient(profile: SiteProfile, number: int = 0) -> PatientPlan:
    """Plan an ordinary stay of which all monitored hours are recorded."""
    return plan_patient(profile, SIZES, SEED, 100 + number, number, "usual")


def long_stays(profile: SiteProfile, stays: int) -> dict[str, float]:
    """Write whole stays into a folder that is thrown away."""
    before = time.process_time()
    hours = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for number in range(stays):
            plan = patient(profile, number)
            write_waveforms(Path(folder), plan, number)
            hours += sum(stretch.seconds for stretch in plan.stretches) / 3600
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    return {
        "hours": hours,
        "cpu_s": time.process_time() - before,
        "megabytes": size / 1e6,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def memory(name: str, stays: int) -> None:
    """Write long stays in a fresh process, so that the peak memory is theirs alone, and print the line."""
    command = [sys.executable, str(Path(__file__)), "--one", name, str(stays)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(
        f"{name:8} {stays:5} {found['hours']:6.0f} h {found['megabytes']:6.0f} MB {found['cpu_s']:6.1f} s "
        f"{found['peak_mb']:9.0f} MB"
    )


if __name__ == "__main__":
    main()
