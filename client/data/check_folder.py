"""Look through a plain folder: every line of its tables, every recording, and which draws have one."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from client.data.check_signals import believed, check_patient, covered_s
from client.data.checking import Findings, Level, Report
from client.data.exclusion import EXCLUSION_TEXT, Exclusion
from client.data.hemolysis import with_suspicions
from client.data.labels import LabelledDraw, label_draws
from client.data.sources.base import Measurement, Stay
from client.data.sources.csv_tables import Complain, find_table, need_table
from client.data.sources.folder import SIGNALS, no_draws, signal_root
from client.data.sources.folder_signals import Opened
from client.data.sources.folder_tables import DRAWS, PATIENTS, STAYS, draw_rows, person_rows, stay_rows
from common.config import Settings, make_settings
from common.errors import SourceError
from common.logs import stage

# A window counts as whole if no more than this is missing: clocks and rates are not exact.
SLACK_S: Final = 1.0
# Reasons of the draw itself that a person can do something about; the others are only counted.
TOLD: Final = frozenset(
    {
        Exclusion.NO_NUMERIC_VALUE,
        Exclusion.WRONG_UNIT,
        Exclusion.IMPLAUSIBLE_VALUE,
        Exclusion.NOT_IN_STAY,
    }
)


@dataclass
class _Tables:
    """What the tables say.

    Attributes
    ----------
    path : the table of draws.
    draws : line and measurement, by patient.
    stays : None where there is no table of them.
    """

    path: Path
    draws: dict[str, list[tuple[int, Measurement]]] = field(default_factory=dict)
    stays: dict[str, list[Stay]] | None = None

    def stays_of(self, key: str) -> list[Stay] | None:
        return None if self.stays is None else self.stays.get(key, [])


@dataclass(frozen=True)
class _Line:
    """A draw with its label, and the line it stands on."""

    number: int
    draw: LabelledDraw


def check_folder(root: Path) -> Report:
    """Check a plain folder.

    Parameters
    ----------
    root : the data root. Nothing is written to it.
    """
    findings, settings = Findings(root), make_settings()
    report = Report(root, "folder", findings)
    tables = _read_tables(root, findings)
    labelled = {key: _labelled(rows, tables.stays_of(key), settings) for key, rows in tables.draws.items()}
    _tell_draws(tables.path, labelled, findings)
    report.patients, report.draws = len(labelled), sum(map(len, labelled.values()))
    names = Counter(str(one.draw.label or one.draw.exclusion) for draws in labelled.values() for one in draws)
    report.by_label = dict(sorted(names.items()))
    try:
        signals = signal_root(root)
    except SourceError as error:
        findings.error(error, Level.ERROR, root / SIGNALS)
        return report
    _check_folders(signals, labelled.keys(), findings)
    windows = Counter[str]()
    with stage("Checking the signals", len(labelled), "patient") as bar:
        for key in sorted(labelled):
            opened = check_patient(signals, key, findings)
            report.recordings += len(opened)
            report.hours += sum((one.signal.end - one.signal.start).total_seconds() for one in opened) / 3600
            windows += _windows(tables, labelled[key], opened, tables.stays_of(key), settings, findings)
            bar.advance()
    report.whole, report.part, report.none = windows["whole"], windows["part"], windows["none"]
    if windows and not (report.whole or report.part):
        findings.add(
            Level.ERROR,
            "no-window",
            "no draw has a recording of lead II in the time before it: check that the folders in signals/ "
            "are named like the patients, and that draws and signals use one clock",
        )
    return report


@contextmanager
def _into(findings: Findings, path: Path) -> Iterator[None]:
    """Note an error that ends the reading of a table."""
    try:
        yield
    except SourceError as error:
        findings.error(error, Level.ERROR, path)


def _collect(findings: Findings, path: Path) -> Complain:
    return lambda error: findings.error(error, Level.ERROR, path)


def _read_tables(root: Path, findings: Findings) -> _Tables:
    tables = _Tables(root / f"{DRAWS}.csv")
    with _into(findings, tables.path):
        tables.path = need_table(root, DRAWS)
        _read_draws(tables, findings)
    people, stays = find_table(root, PATIENTS), find_table(root, STAYS)
    if people is not None:
        _check_known(people, _read_people(people, findings), tables.draws.keys(), findings)
    if stays is not None:
        tables.stays = {}
        with _into(findings, stays):
            for _, key, stay in stay_rows(stays, _collect(findings, stays)):
                tables.stays.setdefault(key, []).append(stay)
        _check_known(stays, tables.stays.keys(), tables.draws.keys(), findings)
    return tables


def _read_draws(tables: _Tables, findings: Findings) -> None:
    path = tables.path
    seen: dict[tuple[object, ...], int] = {}
    reports_hemolysis = False
    with _into(findings, path):
        for line, key, row in draw_rows(path, complain=_collect(findings, path)):
            reports_hemolysis |= row.says_hemolysis
            measurement = row.measurement
            if measurement is None:
                findings.add(Level.WARNING, "no-time", "a draw without a time is left out", path, line)
                continue
            same = (key, measurement.specimen_time, measurement.text, measurement.specimen)
            if (first := seen.setdefault(same, line)) != line:
                findings.add(
                    Level.WARNING,
                    "duplicate-draw",
                    f"the same patient, time, specimen and result as line {first}; one of them is used",
                    path,
                    line,
                )
            tables.draws.setdefault(key, []).append((line, measurement))
    if not tables.draws and not findings.count(Level.ERROR):
        findings.error(no_draws(path), Level.ERROR, path)
    if not reports_hemolysis:
        for key, rows in tables.draws.items():
            lines, measurements = zip(*rows, strict=True)
            tables.draws[key] = list(zip(lines, with_suspicions(measurements), strict=True))


def _read_people(path: Path, findings: Findings) -> set[str]:
    found: dict[str, int] = {}
    with _into(findings, path):
        for line, key, person in person_rows(path, _collect(findings, path)):
            if (first := found.setdefault(key, line)) != line:
                findings.add(
                    Level.WARNING,
                    "duplicate-patient",
                    f"the patient is already in line {first}, which counts",
                    path,
                    line,
                    key,
                )
            for name in person.left_out:
                findings.add(
                    Level.WARNING,
                    "implausible-person",
                    f"{name} is a value no adult has; it counts as missing",
                    path,
                    line,
                )
    return set(found)


def _check_known(path: Path, known: AbstractSet[str], draws: AbstractSet[str], findings: Findings) -> None:
    for key in sorted(draws - known):
        findings.add(
            Level.WARNING, "patient-not-listed", "a patient with draws has no line here", path, value=key
        )


def _labelled(
    rows: Sequence[tuple[int, Measurement]], stays: Sequence[Stay] | None, settings: Settings
) -> list[_Line]:
    """Label the draws of one patient as an ingest does, and keep their lines."""
    lines = {f"{line}": line for line, _ in rows}
    # The number of the line takes the place of the laboratory's, which need not be unique.
    measurements = [replace(row, source_row=f"{line}", admitted=stays is None) for line, row in rows]
    draws = label_draws(measurements, stays or (), settings.label)
    return [_Line(lines[draw.measurement.source_row], draw) for draw in draws]


def _tell_draws(path: Path, labelled: Mapping[str, Sequence[_Line]], findings: Findings) -> None:
    told = [one for lines in labelled.values() for one in lines if one.draw.exclusion in TOLD]
    for one in sorted(told, key=lambda one: one.number):
        reason, measurement = one.draw.exclusion, one.draw.measurement
        if reason is None:
            continue
        value = {
            Exclusion.WRONG_UNIT: measurement.unit,
            Exclusion.NOT_IN_STAY: measurement.specimen_time.isoformat(" "),
        }.get(reason, measurement.text)
        findings.add(Level.WARNING, reason, _excluded(reason), path, one.number, value)


def _excluded(reason: Exclusion) -> str:
    text = EXCLUSION_TEXT[reason].rstrip(".")
    return f"excluded: {text[0].lower()}{text[1:]}"


def _check_folders(signals: Path, patients: AbstractSet[str], findings: Findings) -> None:
    """Compare the names in the folder of the signals with the patients."""
    folded = {key.casefold().strip(): key for key in patients}
    with os.scandir(signals) as entries:
        found = {entry.name: entry.is_dir() for entry in entries if not entry.name.startswith(".")}
    for name in sorted(found.keys() - patients):
        if not found[name]:
            text = "a file outside the patients' folders is not read; put it into signals/PATIENT/"
            findings.add(Level.WARNING, "ignored-file", text, signals / name)
            continue
        near = folded.get(name.casefold().strip())
        hint = f"; {near!r} is written otherwise" if near is not None else ""
        text = f"the folder of a patient without draws is not read{hint}"
        findings.add(Level.WARNING, "unknown-patient", text, signals / name)
    for key in sorted(patients - {name for name, is_folder in found.items() if is_folder}):
        text = f"a patient with draws has no folder {SIGNALS}/PATIENT"
        findings.add(Level.WARNING, "no-signals", text, value=key)


def _windows(
    tables: _Tables,
    lines: Sequence[_Line],
    opened: Sequence[Opened],
    stays: Sequence[Stay] | None,
    settings: Settings,
    findings: Findings,
) -> Counter[str]:
    """Count which windows of labelled draws are covered whole, in part or not at all."""
    window_s = settings.strip.window_s
    trusted = [one for one in opened if believed(one, stays)]
    for one in opened:
        if not believed(one, stays):
            findings.add(
                Level.WARNING,
                Exclusion.NO_CLINICAL_OVERLAP,
                "touches no stay of its patient, give or take 12 hours, so its dates are not believed",
                tables.path.parent / SIGNALS / one.file,
            )
    found = Counter[str]()
    for line in (one for one in lines if one.draw.label is not None):
        end: datetime = line.draw.measurement.specimen_time
        start = end - timedelta(seconds=window_s)
        seconds = sum(covered_s(one, start, end) for one in trusted)
        name = "none" if seconds <= 0 else "part" if seconds < window_s - SLACK_S else "whole"
        found[name] += 1
        if name == "none" and opened:
            text = f"no recording of lead II in the {window_s / 60:g} minutes before the draw"
            findings.add(
                Level.WARNING, Exclusion.NO_WAVEFORM, text, tables.path, line.number, end.isoformat(" ")
            )
    return found
