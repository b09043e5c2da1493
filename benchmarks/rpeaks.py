"""How well the R peaks are found: against the experts' annotations of real recordings.

    python benchmarks/rpeaks.py --data FOLDER [--check]

FOLDER holds a folder ``mitdb`` with MIT-BIH records (.hea, .dat, .atr; lead MLII) and, if at hand, a
folder ``cpsc2021`` with Holter strips (200 Hz, lead II). Whole records; a found beat is right within
150 ms of an annotated one, each used once; counts are summed over all beats. In ventricular flutter
(record 207) there are no heartbeats to find: the first line leaves those episodes out, the second keeps
them. Four ways side by side: this project's path and sleepecg alone, each on the recording brought to
125 Hz first and on the recording at its own rate.

Then the same records in strips of 10 minutes as ingest sees them (a rest of less than half a strip is left
out; a record shorter than that is one short strip): how many of the detected beats are accepted, and how
many of those are real. With ``--check`` the exit code is 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import wfdb
from sleepecg import detect_heartbeats

from client.data.ecg.filtering import bandpass, resample
from client.data.ecg.rpeaks import detect_r_peaks, match
from client.data.ecg.strip import process_strip
from common.config import SignalSettings, make_settings

RATE_HZ = 125.0
TOLERANCE_S = 0.150
# Sensitivity and positive predictive value before beats are accepted; real beats among the accepted.
BAR, ACCEPTED_BAR = 0.988, 0.997
# Annotations that mark a heartbeat; everything else marks rhythm, noise or comments.
HEARTBEATS = frozenset("NLRBAaJSVrFejnE/fQ?")
OURS, RAW = "this project", "sleepecg alone"
AT_125, NATIVE = "from 125 Hz", "from native rate"

Times = npt.NDArray[np.float64]
Signal = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Score:
    """Counts of one detector on one record, or summed over records."""

    true_positives: int = 0
    found: int = 0
    reference: int = 0

    @property
    def sensitivity(self) -> float:
        """Share of the annotated beats that were found."""
        return self.true_positives / self.reference if self.reference else float("nan")

    @property
    def predictivity(self) -> float:
        """Share of the found beats that are annotated."""
        return self.true_positives / self.found if self.found else float("nan")

    def __add__(self, other: Score) -> Score:
        """Add counts."""
        return Score(
            self.true_positives + other.true_positives,
            self.found + other.found,
            self.reference + other.reference,
        )


@dataclass(frozen=True)
class Accepted:
    """What strips make of the detected beats: ``real`` are those matched to an annotated beat.

    ``usable`` counts the accepted beats of strips that are not excluded, which are the beats that go into
    the beat store.
    """

    detected: int = 0
    detected_real: int = 0
    accepted: int = 0
    accepted_real: int = 0
    usable: int = 0
    usable_real: int = 0
    strips: int = 0
    usable_strips: int = 0

    def __add__(self, other: Accepted) -> Accepted:
        """Add counts."""
        return Accepted(*(mine + theirs for mine, theirs in zip(_values(self), _values(other), strict=True)))


@dataclass(frozen=True)
class Record:
    """One lead of one record with the experts' annotations, all times in seconds."""

    name: str
    signal: Signal
    rate_hz: float
    beats: Times
    flutter: tuple[tuple[float, float], ...]

    def outside_flutter(self, times: Times) -> Times:
        """Return the times that lie in no episode of ventricular flutter."""
        inside = np.zeros(len(times), dtype=bool)
        for start, stop in self.flutter:
            inside |= (times >= start) & (times <= stop)
        return times[~inside]


@dataclass(frozen=True)
class Results:
    """Everything measured on one record."""

    without_flutter: Mapping[tuple[str, str], Score]
    with_flutter: Mapping[tuple[str, str], Score]
    accepted: Accepted = field(default_factory=Accepted)


def read_records(folder: Path, name: str = "*", lead: str = "MLII") -> Iterator[Record]:
    """Yield every record of a folder that has the lead, or the one of a name."""
    for header in sorted(folder.glob(f"{name}.hea")):
        path = str(header.with_suffix(""))
        if lead not in wfdb.rdheader(path).sig_name:
            continue
        record = wfdb.rdrecord(path, channel_names=[lead])
        notes = wfdb.rdann(path, "atr")
        times = np.asarray(notes.sample) / record.fs
        is_beat = np.array([symbol in HEARTBEATS for symbol in notes.symbol])
        starts = [time for time, symbol in zip(times, notes.symbol, strict=True) if symbol == "["]
        stops = [time for time, symbol in zip(times, notes.symbol, strict=True) if symbol == "]"]
        yield Record(
            header.stem,
            record.p_signal[:, 0],
            float(record.fs),
            times[is_beat],
            tuple(zip(starts, stops, strict=True)),
        )


def ours(signal: Signal, rate_hz: float) -> Times:
    """Return the times of R peaks as this project finds them, seconds."""
    filtered = bandpass(signal, rate_hz, SignalSettings())
    return np.asarray(detect_r_peaks(resample(filtered, rate_hz).astype(np.float32)) / RATE_HZ)


def raw(signal: Signal, rate_hz: float) -> Times:
    """Return the times of R peaks as sleepecg finds them, without any step of this project."""
    return np.sort(np.asarray(detect_heartbeats(signal, rate_hz))) / rate_hz


def score(record: Record) -> Results:
    """Score all four ways on one record, and what strips accept of it."""
    at_125 = resample(record.signal, record.rate_hz)
    ways: dict[tuple[str, str], Callable[[], Times]] = {
        (OURS, AT_125): lambda: ours(at_125, RATE_HZ),
        (RAW, AT_125): lambda: raw(at_125, RATE_HZ),
        (OURS, NATIVE): lambda: ours(record.signal, record.rate_hz),
        (RAW, NATIVE): lambda: raw(record.signal, record.rate_hz),
    }
    found = {way: detect() for way, detect in ways.items()}
    left = record.outside_flutter
    return Results(
        {way: Score(*match(left(t), left(record.beats), TOLERANCE_S)) for way, t in found.items()},
        {way: Score(*match(t, record.beats, TOLERANCE_S)) for way, t in found.items()},
        accepted(record),
    )


def accepted(record: Record) -> Accepted:
    """Cut a record into strips, process them, and look which of their beats the experts know."""
    settings = make_settings()
    length, seconds = settings.strip.window_s, len(record.signal) / record.rate_hz
    if seconds < length / 2:
        settings = make_settings(overrides={"strip": {"min_signal_s": 0.0, "min_beats": 1}})
    total = Accepted()
    reference = record.outside_flutter(record.beats)
    for start_s in np.arange(0.0, max(seconds - length / 2, 1.0), length):
        first = round(start_s * record.rate_hz)
        window = record.signal[first : first + round(length * record.rate_hz)]
        strip = process_strip(window, record.rate_hz, settings)
        good = np.array([reason is None for reason in strip.rejected], dtype=bool)
        detected = record.outside_flutter(first / record.rate_hz + strip.detected_s)
        kept = record.outside_flutter(first / record.rate_hz + strip.detected_s[good])
        real = match(detected, reference, TOLERANCE_S)[0]
        kept_real = match(kept, reference, TOLERANCE_S)[0]
        usable = strip.exclusion is None
        total += Accepted(
            len(detected), real, len(kept), kept_real, usable * len(kept), usable * kept_real, 1, int(usable)
        )
    return total


def measure(folder: Path, lead: str = "MLII") -> dict[str, Results]:
    """Score every record of a folder that has the lead."""
    return {record.name: score(record) for record in read_records(folder, lead=lead)}


def totals(results: Mapping[str, Results], flutter: bool) -> dict[tuple[str, str], Score]:
    """Sum the counts of each way over records (gross statistics), with flutter or without it."""
    summed: dict[tuple[str, str], Score] = {}
    for of_record in results.values():
        for way, value in (of_record.with_flutter if flutter else of_record.without_flutter).items():
            summed[way] = summed.get(way, Score()) + value
    return summed


def total_accepted(results: Mapping[str, Results]) -> Accepted:
    """Sum what strips accepted over records."""
    total = Accepted()
    for of_record in results.values():
        total += of_record.accepted
    return total


def verdicts(results: Mapping[str, Results]) -> list[tuple[str, bool]]:
    """Return every bar with whether it is reached, flutter left out."""
    found = []
    of_all = totals(results, flutter=False)
    for rate in (AT_125, NATIVE):
        mine, other = of_all[OURS, rate], of_all[RAW, rate]
        found += [
            (f"sensitivity {rate} at least {BAR:.1%}", mine.sensitivity >= BAR),
            (f"PPV {rate} at least {BAR:.1%}", mine.predictivity >= BAR),
            (f"sensitivity {rate} no worse than {RAW}", mine.sensitivity >= other.sensitivity),
            (f"PPV {rate} no worse than {RAW}", mine.predictivity >= other.predictivity),
        ]
    beats = total_accepted(results)
    for what, real, n in (
        ("accepted beats", beats.accepted_real, beats.accepted),
        ("accepted beats of usable strips", beats.usable_real, beats.usable),
    ):
        found.append((f"{what}: at least {ACCEPTED_BAR:.1%} are real", n > 0 and real / n >= ACCEPTED_BAR))
    return found


def table(results: Mapping[str, Results], what: str) -> str:
    """Write totals, every record, and what strips accepted, as plain text."""
    without, with_ = totals(results, flutter=False), totals(results, flutter=True)
    beats = without[OURS, AT_125].reference
    lines = [
        f"R peaks, {what}: {len(results)} records, {beats} beats, within 150 ms, summed over beats",
        f"{'':36}{'without flutter':>20}{'with flutter':>20}",
        f"{'':36}" + f"{'sensitivity':>12}{'PPV':>8}" * 2,
    ]
    for way in without:
        numbers = "".join(f"{t[way].sensitivity:12.2%}{t[way].predictivity:8.2%}" for t in (without, with_))
        lines.append(f"{', '.join(way):36}{numbers}")
    lines += ["", *_per_record(results), "", *_acceptance(total_accepted(results))]
    return "\n".join(lines)


def _per_record(results: Mapping[str, Results]) -> list[str]:
    lines = [
        f"{'without flutter':12}{OURS:>31}{RAW:>32}{'strips':>32}",
        f"{'record':12}" + f"{AT_125:>15}{NATIVE:>17}" * 2 + f"{'usable':>10}{'accepted':>11}{'real':>10}",
    ]
    for name, of_record in results.items():
        cells = ""
        for way in ((OURS, AT_125), (OURS, NATIVE), (RAW, AT_125), (RAW, NATIVE)):
            value = of_record.without_flutter[way]
            cells += f"{100 * value.sensitivity:9.2f}{100 * value.predictivity:7.2f}"
        strips = of_record.accepted
        shares = _share(strips.accepted, strips.detected), _share(strips.accepted_real, strips.accepted)
        lines.append(
            f"{name:12}{cells}{strips.usable_strips:6}/{strips.strips}{shares[0]:>12}{shares[1]:>10}"
        )
    return lines


def _acceptance(beats: Accepted) -> list[str]:
    return [
        f"strips of 10 minutes, flutter left out: {beats.usable_strips} of {beats.strips} usable",
        _line("detected", beats.detected, beats.detected_real, beats.detected),
        _line("accepted", beats.accepted, beats.accepted_real, beats.detected),
        _line("in usable strips", beats.usable, beats.usable_real, beats.detected),
    ]


def _line(what: str, n: int, real: int, detected: int) -> str:
    return f"  {what:18}{n:7} ({_share(n, detected)}), real {_share(real, n)}: {n - real} are not"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.2%}" if whole else "-"


def _values(beats: Accepted) -> Sequence[int]:
    return tuple(vars(beats).values())


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    named = os.environ.get("FEDKALEMIA_TEST_DATA")
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(named) if named else None,
        help="folder with MIT-BIH records; default: FEDKALEMIA_TEST_DATA",
    )
    parser.add_argument("--check", action="store_true", help="exit with 1 where a bar is missed")
    options = parser.parse_args()
    folder: Path | None = options.data
    if folder is None:
        print("not measured: name the folder of the MIT-BIH records with --data or FEDKALEMIA_TEST_DATA")
        return 2 if options.check else 0
    results = measure(folder / "mitdb" if (folder / "mitdb").is_dir() else folder)
    if not results:
        print(f"{folder} holds no MIT-BIH record with lead MLII; give the folder with the .hea files")
        return 2
    print(table(results, "MIT-BIH, lead MLII, 360 Hz"))
    if holter := measure(folder / "cpsc2021", lead="II"):
        print("\n" + table(holter, "CPSC 2021 Holter strips, lead II, 200 Hz (no bar)"))
    print()
    for what, reached in verdicts(results):
        print(f"{'reached' if reached else 'MISSED':8} {what}")
    return int(options.check and not all(reached for _, reached in verdicts(results)))


if __name__ == "__main__":
    sys.exit(main())
