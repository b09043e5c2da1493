"""How well the R peaks are found: against the experts' annotations of the MIT-BIH database.

    python benchmarks/rpeaks.py --data FOLDER

FOLDER holds MIT-BIH records (.hea, .dat, .atr), or a folder ``mitdb`` with them. Lead MLII, whole
records at 125 Hz, a beat counts as found within 150 ms, gross over all beats. In ventricular flutter
(record 207) there are no heartbeats to find: the first table leaves those episodes out, the second
keeps them. The raw detector is sleepecg on the resampled signal without any step of this project.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import wfdb

from client.data.ecg.filtering import bandpass, resample
from client.data.ecg.rpeaks import detect_r_peaks, find_complexes, match
from common.config import SignalSettings

RATE_HZ = 125.0
TOLERANCE_S = 0.150
# Annotations that mark a heartbeat; everything else marks rhythm, noise or comments.
HEARTBEATS = frozenset("NLRBAaJSVrFejnE/fQ?")

Times = npt.NDArray[np.float64]


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
class Record:
    """Lead MLII of one record with the experts' annotations, all times in seconds."""

    name: str
    signal: npt.NDArray[np.float64]
    rate_hz: float
    beats: Times
    flutter: tuple[tuple[float, float], ...]

    def outside_flutter(self, times: Times) -> Times:
        """Return the times that lie in no episode of ventricular flutter."""
        inside = np.zeros(len(times), dtype=bool)
        for start, stop in self.flutter:
            inside |= (times >= start) & (times <= stop)
        return times[~inside]


def read_records(folder: Path, name: str = "*") -> Iterator[Record]:
    """Yield every record of a folder that has lead MLII, or the one of a name."""
    for header in sorted(folder.glob(f"{name}.hea")):
        path = str(header.with_suffix(""))
        if "MLII" not in wfdb.rdheader(path).sig_name:
            continue
        record = wfdb.rdrecord(path, channel_names=["MLII"])
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


def score(record: Record) -> dict[tuple[str, str], Score]:
    """Score both detectors on one record, with and without the episodes of flutter."""
    raw = resample(record.signal, record.rate_hz)
    filtered = resample(
        bandpass(record.signal, record.rate_hz, SignalSettings()).astype(np.float32), record.rate_hz
    )
    scores = {}
    for detector, peaks in (("ours", detect_r_peaks(filtered)), ("raw sleepecg", find_complexes(raw))):
        times = peaks / RATE_HZ
        scores[detector, "with flutter"] = Score(*match(times, record.beats, TOLERANCE_S))
        scores[detector, "without flutter"] = Score(
            *match(record.outside_flutter(times), record.outside_flutter(record.beats), TOLERANCE_S)
        )
    return scores


def totals(scores: dict[str, dict[tuple[str, str], Score]]) -> dict[tuple[str, str], Score]:
    """Sum the counts over records (gross statistics)."""
    summed: dict[tuple[str, str], Score] = {}
    for of_record in scores.values():
        for name, value in of_record.items():
            summed[name] = summed.get(name, Score()) + value
    return summed


def table(scores: dict[str, dict[tuple[str, str], Score]], worst: int = 6) -> str:
    """Write the totals and the worst records as plain text."""
    beats = totals(scores)["ours", "without flutter"].reference
    lines = [
        f"R peaks, {len(scores)} records, {beats} beats, lead MLII at 125 Hz, within 150 ms, gross",
        f"{'':34}{'sensitivity':>12}{'PPV':>9}",
    ]
    for (detector, flutter), value in sorted(totals(scores).items(), key=lambda item: item[0][::-1]):
        lines.append(f"{detector + ', ' + flutter:34}{value.sensitivity:12.2%}{value.predictivity:9.2%}")
    lines.append("worst records, ours without flutter:")

    def errors(name: str) -> int:
        value = scores[name]["ours", "without flutter"]
        return value.found + value.reference - 2 * value.true_positives

    for name in sorted(scores, key=errors, reverse=True)[:worst]:
        ours, raw = scores[name]["ours", "without flutter"], scores[name]["raw sleepecg", "without flutter"]
        lines.append(
            f"  {name:32}{ours.sensitivity:12.2%}{ours.predictivity:9.2%}"
            f"   (raw {raw.sensitivity:.2%} {raw.predictivity:.2%})"
        )
    return "\n".join(lines)


def measure(folder: Path) -> dict[str, dict[tuple[str, str], Score]]:
    """Score every record with lead MLII in a folder."""
    return {record.name: score(record) for record in read_records(folder)}


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
    folder: Path | None = parser.parse_args().data
    if folder is None:
        print("not measured: name the folder of the MIT-BIH records with --data or FEDKALEMIA_TEST_DATA")
        return 0
    if (folder / "mitdb").is_dir():
        folder = folder / "mitdb"
    scores = measure(folder)
    if not scores:
        print(f"{folder} holds no MIT-BIH record with lead MLII; give the folder with the .hea files")
        return 2
    print(table(scores))
    return 0


if __name__ == "__main__":
    sys.exit(main())
