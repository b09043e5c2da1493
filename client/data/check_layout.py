"""Look at a hospital's folder of any layout: all of a plain folder, of the others what their readers say.

The readers of the MIMIC and VitalDB layouts go through their tables when they are opened; of the recordings
the windows of some draws are read, spread over the patients.
"""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Final

from client.data.check_folder import check_folder
from client.data.checking import Findings, Level, Report
from client.data.exclusion import EXCLUSION_TEXT, Exclusion
from client.data.labels import label_draws
from client.data.problems import Problem
from client.data.sources import AnnotatedSource, LabSource, open_source
from client.data.sources.csv_tables import find_table
from client.data.sources.folder_tables import DRAWS
from client.data.sources.guess import Guess, guess_layout
from client.site import Site, SourceSettings
from common.config import make_settings
from common.errors import SourceError
from common.logs import stage
from common.wording import plural

#: Patients whose recordings are opened, and windows that are read of each.
PATIENTS_READ: Final = 25
WINDOWS_READ: Final = 4


def check_data(root: Path) -> Report:
    """Check a hospital's folder. Nothing is written.

    Parameters
    ----------
    root : the folder that ``source.folder`` of a site would name, or one near it.

    Raises
    ------
    SourceError
        If there is no such folder.
    """
    if not root.is_dir():
        raise SourceError(f"{root} is no folder; name the data root", problem=Problem.MISSING_FOLDER)
    root = root.resolve()
    guess = guess_layout(root)
    if guess.kind is None or not guess.certain:
        return _unclear(root, guess)
    report = check_folder(guess.folder) if guess.kind == "folder" else _check_other(guess)
    if guess.folder != root:
        report.notes = (f"the data root is {guess.folder}", *report.notes)
    return report


def _unclear(root: Path, guess: Guess) -> Report:
    """Say what is missing; whatever has a table of draws is meant as a plain folder, and checked as one."""
    if find_table(root, DRAWS) is not None:
        return check_folder(root)
    if guess.kind == "folder":
        return check_folder(guess.folder)
    findings = Findings(root)
    findings.add(
        Level.ERROR,
        "unknown-layout",
        f"the layout is not clear: {guess.sentence()}; 'fedkalemia-site check-data --template DIR' writes an "
        "example of a layout that any hospital can export",
    )
    return Report(root, guess.kind, findings)


def _check_other(guess: Guess) -> Report:
    findings = Findings(guess.folder)
    report = Report(guess.folder, guess.kind, findings)
    task = "ventricular" if guess.kind == "mitbih" else "hyperkalemia"
    site = Site(
        name="check",
        folder=guess.folder,
        settings=make_settings(task),
        source=SourceSettings.model_validate(guess.settings()),
        database_url="",
    )
    try:
        source = open_source(site)
        report.counts = dict(source.counts())
        if isinstance(source, AnnotatedSource):
            _read_annotated(source, report)
        else:
            _read_lab(source, site, report)
    except SourceError as error:
        findings.error(error, Level.ERROR)
    return report


def _read_lab(source: LabSource, site: Site, report: Report) -> None:
    keys = source.keys()
    names = Counter[str]()
    candidates = []
    for key in keys:
        draws = label_draws(source.measurements(key), source.stays(key), site.settings.label)
        names.update(str(draw.label or draw.exclusion) for draw in draws)
        times = [draw.measurement.specimen_time for draw in draws if draw.label is not None]
        if times:
            candidates.append((key, times))
    report.patients, report.draws = len(keys), names.total()
    report.by_label = dict(sorted(names.items()))
    read = Counter[str]()
    window = timedelta(seconds=site.settings.strip.window_s)
    with_files = ((key, times) for key, times in candidates if source.waveform_files(key))
    with stage("Reading some recordings", PATIENTS_READ, "patient") as bar:
        for key, times in islice(with_files, PATIENTS_READ):
            recordings = source.opener(key)()
            for time in times[:: max(1, len(times) // WINDOWS_READ)][:WINDOWS_READ]:
                read[str(recordings.lead_ii(time - window, time).exclusion or "read")] += 1
            for sentence in recordings.unreadable_records:
                report.findings.add(Level.WARNING, Problem.BAD_HEADER, sentence, value=key)
            bar.advance()
    _tell(read, report)


def _tell(read: Counter[str], report: Report) -> None:
    """Say what became of the windows that were read."""
    n = read.total()
    for name, number in sorted(read.items()):
        if name != "read":
            text = f"{number} of {plural(n, 'window')} that were read: {EXCLUSION_TEXT[Exclusion(name)]}"
            report.findings.add(Level.WARNING, name, text)
    report.notes += (
        f"of {plural(n, 'window')} before draws that were read as a sample, {read['read']} hold lead II",
    )
    if n == 0:
        report.findings.add(
            Level.ERROR, "no-window", "no patient has both a draw with a label and a recording"
        )


def _read_annotated(source: AnnotatedSource, report: Report) -> None:
    keys = source.keys()
    report.patients = len(keys)
    with stage("Reading some recordings", min(len(keys), PATIENTS_READ), "person") as bar:
        for key in keys[:PATIENTS_READ]:
            try:
                report.recordings += sum(1 for _ in islice(source.stretches(key, 0), 1))
            except SourceError as error:
                report.findings.error(error, Level.WARNING)
            bar.advance()
    report.notes += (f"the beginnings of {plural(report.recordings, 'recording')} were read",)
