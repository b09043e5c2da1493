"""A look at folders of the other layouts: which one it is, and what its own reader says."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.data.check_layout import check_data
from client.data.checking import Level, Report

HOUR = timedelta(hours=1)


def findings(report: Report) -> dict[str, list[str]]:
    return {f"{level} {kind}": [one.text for one in kept] for level, kind, _, kept in report.findings.kinds()}


def fill(hospital: Any) -> None:
    """Write two patients: one with ten minutes of lead II before a draw, one recorded with another lead."""
    for subject, lead, value in ((20, "II", 6.1), (101, "V", 4.2)):
        hospital.patient(subject)
        hospital.draw(subject, hospital.t0, value)
        signal = hospital.heartbeats(660, seed=subject)
        hospital.record(subject, hospital.t0 - timedelta(minutes=11), [hospital.segment(660, {lead: signal})])
    hospital.draw(20, hospital.t0 + HOUR, "HEMOLYZED")


def test_a_folder_in_the_mimic3_layout_is_recognized_and_read_as_a_sample(hospital: Any) -> None:
    fill(hospital)
    hospital.write()
    report = check_data(hospital.root)
    assert (report.layout, report.fits, report.patients, report.draws) == ("mimic3", True, 2, 3)
    assert report.by_label == {"negative": 1, "no_numeric_value": 1, "positive": 1}
    assert report.counts["patients_with_both"] == 2
    assert report.notes == ("of 2 windows before draws that were read as a sample, 1 hold lead II",)
    assert findings(report) == {
        "warning lead_ii_absent": ["1 of 2 windows that were read: The window was recorded without lead II."]
    }


def test_the_reader_s_own_error_is_a_finding(hospital: Any) -> None:
    fill(hospital)
    hospital.write()
    path = hospital.clinical / "LABEVENTS.csv"
    path.write_text(path.read_text().replace("2150-03-01 08:00:00", "3/1/50 8:00"))
    report = check_data(hospital.root)
    assert not report.fits
    (told,) = findings(report)["error bad-time"]
    assert f"{path}, line 2: a time is not written like" in told


def test_damaged_headers_of_the_sample_are_warnings(hospital: Any) -> None:
    fill(hospital)
    hospital.write()
    (hospital.waveforms / f"{hospital.records[1]}.hea").write_text("nonsense\n")
    report = check_data(hospital.root)
    assert report.fits
    assert report.findings.count(Level.WARNING) == 2
    assert "a header file does not follow the WFDB header format" in findings(report)["warning bad-header"]


def test_tables_without_waveforms_must_be_fixed(hospital: Any) -> None:
    fill(hospital)
    hospital.write()
    report = check_data(hospital.clinical)
    assert report.fits or findings(report)
    for path in sorted(hospital.waveforms.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    report = check_data(hospital.root)
    assert not report.fits


def test_nothing_is_written(hospital: Any) -> None:
    fill(hospital)
    hospital.write()
    before = {path: path.stat().st_mtime_ns for path in hospital.root.rglob("*")}
    check_data(hospital.root)
    assert {path: path.stat().st_mtime_ns for path in hospital.root.rglob("*")} == before


@pytest.mark.data
def test_the_mit_bih_records_are_recognized(real_data: Path) -> None:
    report = check_data(real_data / "mitdb")
    assert (report.layout, report.fits, report.patients) == ("mitbih", True, 26)
    assert report.recordings == 25  # of the first 25 persons


@pytest.mark.data
def test_real_records_of_bedside_monitors_fit_into_a_plain_folder(real_data: Path, tmp_path: Path) -> None:
    """Real segments, some missing, under the identifiers of a plain folder."""
    signals = tmp_path / "signals"
    signals.mkdir()
    for record in ("p000878", "s00001"):
        (signals / record).symlink_to(real_data / "mimic_wfdb" / record)
    (tmp_path / "draws.csv").write_text(
        "patient,time,potassium,unit\ns00001,2896-10-10 04:00:00,6.1,mmol/L\n"
        "s00001,2896-10-10 01:31:00,4.1,mmol/L\np000878,2137-10-27 02:00:00,4.1,mmol/L\n"
    )
    report = check_data(tmp_path)
    assert report.layout == "folder"
    assert report.whole == 3
    told = findings(report)
    # Most segments of one record are not here.
    assert "a header file cannot be read: no such file or directory" in told["warning bad-header"]
    assert np.isfinite(report.hours)
    assert report.hours > 100
