"""How well atrial fibrillation is told apart: against the experts' rhythm annotations.

    python benchmarks/rhythm.py --data FOLDER

FOLDER holds a folder ``mitdb`` with MIT-BIH records (lead MLII) and, if at hand, ``cpsc2021`` with Holter
strips (lead II). Records are cut into strips of 10 minutes and processed as ingest does it (a rest of less
than half a strip is left out; a shorter record is one short strip). Two answers are scored: that of every
window of two minutes, and that of the strip, which is the median of its windows.

A window or strip is atrial fibrillation where the experts saw it for more than 80 % of the time, another
rhythm where they saw it for less than 5 %, and mixed (counted, not scored) in between. Atrial flutter is
no atrial fibrillation: its beats can be regular; where it fills more than 20 % of the time it is counted
apart. So are paced records, with how many of their strips are suspected of pacing; two of the four paced
records of MIT-BIH have no lead II and are not here. The intervals are Wilson's and take windows as
independent, which those of one patient are not: read them together with the number of patients.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import wfdb

from client.data.ecg.rhythm import WINDOW_S, window_entropies
from client.data.ecg.strip import StripSignal, process_strip
from client.data.exclusion import Exclusion
from common.config import Settings, make_settings
from common.intervals import wilson

# Shares of the time above and below which a stretch is the one or the other.
MOSTLY, HARDLY, SOME_FLUTTER = 0.8, 0.05, 0.2
PACED = frozenset({"102", "104", "107", "217"})
# MIT-BIH: two records of one person.
SAME_PERSON = {"202": "201"}
FIBRILLATION, OTHER, MIXED, FLUTTER = "fibrillation", "other rhythm", "mixed", "flutter"
NORMAL_BEATS = frozenset("NLRe/f")
BEATS = NORMAL_BEATS | frozenset("BAaJSVrFjnE?Q")

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Truth:
    """What the experts annotated: at what times which rhythm began, and every beat."""

    changes_s: tuple[float, ...]
    rhythms: tuple[str, ...]
    beats_s: npt.NDArray[np.float64]
    beats: npt.NDArray[np.str_]

    def shares(self, start_s: float, stop_s: float) -> dict[str, float]:
        """Return the share of a stretch of time that each rhythm takes."""
        edges = np.clip([*self.changes_s, np.inf], start_s, stop_s)
        found: Counter[str] = Counter()
        for rhythm, seconds in zip(self.rhythms, np.diff(edges), strict=True):
            found[rhythm] += float(seconds) / (stop_s - start_s)
        return {rhythm: share for rhythm, share in found.most_common() if share > 0}

    def kind(self, start_s: float, stop_s: float) -> str:
        """Say what a stretch of time counts as."""
        shares = self.shares(start_s, stop_s)
        fibrillation, flutter = shares.get("AFIB", 0.0), shares.get("AFL", 0.0) + shares.get("VFL", 0.0)
        if flutter > SOME_FLUTTER:
            return FLUTTER
        if fibrillation > MOSTLY:
            return FIBRILLATION
        return OTHER if fibrillation + flutter < HARDLY else MIXED

    def ectopic_share(self, start_s: float, stop_s: float) -> float:
        """Return the share of premature and other ectopic beats; NaN without a beat."""
        symbols = self.beats[(self.beats_s >= start_s) & (self.beats_s < stop_s)]
        return float(np.mean([symbol not in NORMAL_BEATS for symbol in symbols])) if len(symbols) else np.nan


@dataclass(frozen=True)
class Answer:
    """One window or one strip: what the experts and what the software say."""

    record: str
    patient: str
    start_s: float
    seconds: float
    kind: str
    entropy: float
    called: bool
    rhythms: str
    ectopic_share: float
    pacing_suspected: bool


def read(path: Path, lead: str) -> tuple[npt.NDArray[np.float64], float, Truth]:
    """Read one lead of a record with its annotations."""
    record, notes = wfdb.rdrecord(str(path), channel_names=[lead]), wfdb.rdann(str(path), "atr")
    times = np.asarray(notes.sample) / record.fs
    texts = [text.strip("\x00") for text in notes.aux_note]
    changes = [(time, text[1:]) for time, text in zip(times, texts, strict=True) if text.startswith("(")]
    is_beat = np.array([symbol in BEATS for symbol in notes.symbol], dtype=bool)
    truth = Truth(
        tuple(time for time, _ in changes),
        tuple(rhythm for _, rhythm in changes),
        times[is_beat],
        np.asarray(notes.symbol)[is_beat],
    )
    return record.p_signal[:, 0], float(record.fs), truth


def patient_of(name: str) -> str:
    """Return who a record is of: CPSC 2021 names its records data_PATIENT_NUMBER."""
    return name.split("_")[1] if name.startswith("data_") else SAME_PERSON.get(name, name)


def answers(folder: Path, lead: str) -> Iterator[tuple[Answer, list[Answer]]]:
    """Yield for every strip of every record its answer and those of its windows."""
    settings = make_settings()
    length = settings.strip.window_s
    for header in sorted(folder.glob("*.hea")):
        if lead not in wfdb.rdheader(str(header.with_suffix(""))).sig_name:
            continue
        signal, rate_hz, truth = read(header.with_suffix(""), lead)
        seconds = len(signal) / rate_hz
        for start_s in np.arange(0.0, max(seconds - length / 2, 1.0), length):
            window = signal[round(start_s * rate_hz) : round((start_s + length) * rate_hz)]
            yield of_strip(header.stem, float(start_s), window, rate_hz, truth, settings)


def of_strip(
    name: str,
    start_s: float,
    signal: npt.NDArray[np.float64],
    rate_hz: float,
    truth: Truth,
    settings: Settings,
) -> tuple[Answer, list[Answer]]:
    """Process one strip and answer for it and for its windows of two minutes."""
    seconds = len(signal) / rate_hz
    if seconds < settings.strip.window_s / 2:  # the minima of a strip are not the question here
        settings = make_settings(overrides={"strip": {"min_signal_s": 0.0, "min_beats": 1}})
    strip = process_strip(signal, rate_hz, settings)
    limit = settings.quality.max_sample_entropy

    def answer(start: float, length: float, entropy: float, called: bool) -> Answer:
        rhythms = truth.shares(start, start + length)
        return Answer(
            name,
            patient_of(name),
            start,
            length,
            truth.kind(start, start + length),
            entropy,
            called,
            " ".join(f"{rhythm} {share:.0%}" for rhythm, share in rhythms.items()),
            truth.ectopic_share(start, start + length),
            strip.quality is not None and strip.quality.pacing_suspected,
        )

    whole = Exclusion.ATRIAL_FIBRILLATION in strip.reasons
    entropy = strip.quality.sample_entropy if strip.quality else np.nan
    windows = [
        answer(start_s + number * WINDOW_S, WINDOW_S, value, value > limit)
        for number, value in window_entropies(*intervals(strip)).items()
        if (number + 1) * WINDOW_S <= seconds
    ]
    return answer(start_s, seconds, entropy, whole), windows


def intervals(strip: StripSignal) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the RR intervals of a strip without gaps, and the times of their second beats."""
    return np.diff(strip.detected_s), strip.detected_s[1:]


def scores(found: Sequence[Answer], what: str) -> list[str]:
    """Write sensitivity, specificity and what was not scored, of windows or strips."""
    lines = []
    measured = [answer for answer in found if np.isfinite(answer.entropy)]
    for kind, name, right in ((FIBRILLATION, "sensitivity", True), (OTHER, "specificity", False)):
        of_kind = [answer for answer in measured if answer.kind == kind]
        patients = len({answer.patient for answer in of_kind})
        k, n = sum(answer.called is right for answer in of_kind), len(of_kind)
        if n:
            low, high = wilson(k, n)
            lines.append(
                f"  {what:9}{name:13}{k / n:7.1%}  ({low:.1%} to {high:.1%}; {k} of {n}, {patients} patients)"
            )
        else:
            lines.append(f"  {what:9}{name:13}      -  (none)")
    for kind in (FLUTTER, MIXED):
        of_kind = [answer for answer in measured if answer.kind == kind]
        if of_kind:
            called, patients = sum(a.called for a in of_kind), len({a.patient for a in of_kind})
            lines.append(
                f"  {what:9}{kind + ', not scored':26}called fibrillation {called} of {len(of_kind)}, "
                f"{patients} patients"
            )
    if missing := len(found) - len(measured):
        lines.append(f"  {what:9}too few RR intervals to tell: {missing}")
    return lines


def per_record(strips: Sequence[Answer], windows: Sequence[Answer]) -> list[str]:
    """Write one line for every record: how many of each kind, and how many were called fibrillation."""
    kinds = (FIBRILLATION, OTHER, FLUTTER, MIXED)
    heads = "".join(f"{kind:>13}" for kind in kinds)
    lines = [
        "called fibrillation, of so many (windows | strips), by what the experts say",
        f"{'record':12}{heads} |{heads}",
    ]
    for name in dict.fromkeys(answer.record for answer in strips):
        cells = []
        for found in (windows, strips):
            of_record = [a for a in found if a.record == name and np.isfinite(a.entropy)]
            counted = {kind: [a.called for a in of_record if a.kind == kind] for kind in kinds}
            cells.append(
                "".join(f"{f'{sum(c)}/{len(c)}' if c else '':>13}" for c in (counted[k] for k in kinds))
            )
        lines.append(f"{name:12}{cells[0]} |{cells[1]}")
    return lines


def false_alarms(windows: Sequence[Answer]) -> list[str]:
    """Write every window wrongly called fibrillation, with its rhythms and ectopic beats."""
    wrong = [a for a in windows if a.kind == OTHER and a.called]
    lines = ["windows wrongly called fibrillation:"] if wrong else []
    for a in wrong:
        where = f"  {a.record:11}{a.start_s:6.0f} s  CosEn {a.entropy:5.2f}"
        lines.append(f"{where}  ectopic beats {a.ectopic_share:4.0%}  {a.rhythms}")
    return lines


def missed(windows: Sequence[Answer]) -> list[str]:
    """Write every window of fibrillation that was not called so."""
    wrong = [a for a in windows if a.kind == FIBRILLATION and not a.called and np.isfinite(a.entropy)]
    lines = ["windows of fibrillation missed:"] if wrong else []
    lines += [f"  {a.record:11}{a.start_s:6.0f} s  CosEn {a.entropy:5.2f}" for a in wrong]
    return lines


def measure(folder: Path, lead: str) -> tuple[list[Answer], list[Answer]]:
    """Return the answers of all strips and of all windows of a folder."""
    found = list(answers(folder, lead))
    return [strip for strip, _ in found], [window for _, windows in found for window in windows]


def table(strips: Sequence[Answer], windows: Sequence[Answer], what: str) -> str:
    """Write everything about one database as plain text."""
    lines = [f"atrial fibrillation, {what}"]
    for paced, name in ((False, "not paced"), (True, "paced records")):
        some = [a for a in strips if (a.record in PACED) is paced]
        if some:
            lines.append(f" {name}: {len({a.record for a in some})} records")
            lines += scores([a for a in windows if (a.record in PACED) is paced], "windows")
            lines += scores(some, "strips")
            lines.append(
                f"  strips   suspected of pacing: {sum(a.pacing_suspected for a in some)} of {len(some)}"
            )
    lines += ["", *per_record(strips, windows), "", *false_alarms(windows), *missed(windows)]
    return "\n".join(lines)


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
    strips, windows = measure(folder / "mitdb" if (folder / "mitdb").is_dir() else folder, "MLII")
    if not strips:
        print(f"{folder} holds no MIT-BIH record with lead MLII; give the folder with the .hea files")
        return 2
    print(table(strips, windows, "MIT-BIH, lead MLII"))
    strips, windows = measure(folder / "cpsc2021", "II")
    if strips:
        print("\n" + table(strips, windows, "CPSC 2021 Holter strips, lead II"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
