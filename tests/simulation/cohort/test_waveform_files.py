"""The waveform folder is the matched subset's layout, read back with the reference library."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import wfdb

from simulation.cohort import PROFILES, SiteTruth, device
from simulation.cohort.recording import recordings_of
from simulation.cohort.stay import PatientPlan
from simulation.cohort.waveforms import checksum, patient_folder, record_name

# Every line of a header, as the real files have them.
CLOCK = r"[ \d]\d:\d\d:\d\d(\.\d{3})?"
PATTERNS = {
    "master": rf"(p\d{{6}}-\d{{4}}(-\d\d){{4}})/\d+ \d+ 125 \d+ {CLOCK} \d\d/\d\d/\d{{4}}",
    "layout reference": r"\d{7}_layout 0",
    "segment reference": r"\d{7}_\d{4} \d+",
    "gap": r"~ \d+",
    "comment": r"# .+",
    "layout": rf"\d{{7}}_layout \d+ 125 0 {CLOCK}",
    "layout signal": r"~ 0 [\d.]+(\(-?\d+\))?/\w+ 8 0 -128 0 0 \w+",
    "segment": rf"\d{{7}}_\d{{4}} \d+ 125 \d+ {CLOCK}",
    "segment signal": r"\d{7}_\d{4}\.dat 80 [\d.]+(\(-?\d+\))?/\w+ 8 0 -?\d+ -?\d+ 0 \w+",
}


def header_lines(folder: Path) -> list[str]:
    paths = [p for p in folder.rglob("*.hea") if not p.stem.endswith("n")]
    return [line for path in paths for line in path.read_text().splitlines()]


def test_headers_have_only_lines_a_real_header_has(north: SiteTruth) -> None:
    lines = header_lines(north.folder / "waveforms")
    seen = set()
    for line in lines:
        kinds = [name for name, pattern in PATTERNS.items() if re.fullmatch(pattern, line)]
        assert kinds, line
        seen |= set(kinds)
    assert seen == set(PATTERNS)


@pytest.mark.data
def test_the_patterns_are_those_of_the_real_headers(real_data: Path) -> None:
    for line in header_lines(real_data / "mimic_wfdb" / "p000878"):
        assert any(re.fullmatch(pattern, line) for pattern in PATTERNS.values()), line


@pytest.mark.data
def test_numerics_headers_look_like_the_real_ones(real_data: Path, north: SiteTruth) -> None:
    first = r"\w[\d-]+n \d+ 0\.0166666666667/125 \d+ +[\d:]+\.\d{3} \d\d/\d\d/\d{4}"
    signal = r"\d{7}n\.dat 16 \d+/[\w%]+ 16 0 -?\d+ -?\d+ 0 \w+"
    for folder in (real_data / "mimic_wfdb" / "s00001", north.folder / "waveforms"):
        paths = list(folder.rglob("*n.hea"))
        assert paths
        for path in paths:
            head, *rest = path.read_text().splitlines()
            assert re.fullmatch(first, head)
            assert all(re.fullmatch(signal, line) or line.startswith("# ") for line in rest)


def records(site: SiteTruth) -> list[str]:
    return (site.folder / "waveforms" / "RECORDS-waveforms").read_text().split()


def plan_of(site: SiteTruth, record: str) -> PatientPlan:
    return next(p for p in site.plans if record.startswith(patient_folder(p.patient.subject_id)))


def test_index_files_name_what_is_there(north: SiteTruth) -> None:
    root = north.folder / "waveforms"
    for record in records(north):
        assert (root / f"{record}.hea").is_file()
    for line in (root / "RECORDS").read_text().split():
        assert line.endswith("/")
        assert (root / line).is_dir()
    numerics = (root / "RECORDS-numerics").read_text().split()
    assert numerics == [f"{record}n" for record in records(north)]


def test_record_dates_lie_inside_the_stay(north: SiteTruth) -> None:
    for record in records(north):
        header = wfdb.rdheader(str(north.folder / "waveforms" / record), rd_segments=True)
        stay = plan_of(north, record).stay
        end = header.base_datetime + timedelta(seconds=header.sig_len / header.fs)
        assert stay.base <= header.base_datetime
        assert end <= stay.icu_out + timedelta(minutes=5)
        assert record.endswith(record_name(plan_of(north, record).patient.subject_id, header.base_datetime))
        assert header.layout == "variable"
        assert sum(header.seg_len) == header.sig_len


def test_lead_ii_reads_back_within_half_a_unit(north: SiteTruth) -> None:
    compared = gaps = 0
    for plan in north.plans:
        for recording in recordings_of(plan, PROFILES["north"]):
            name = record_name(plan.patient.subject_id, recording.start)
            path = north.folder / "waveforms" / patient_folder(plan.patient.subject_id) / name
            for segment in recording.segments:
                lead = next((c for c in segment.channels if c.name == "II"), None)
                if lead is None:
                    continue
                start, stop = max(segment.start - 500, 0), segment.start + segment.length
                # Some samples before the segment belong to a gap or to an earlier segment.
                read = wfdb.rdrecord(str(path), sampfrom=start, sampto=stop, channel_names=["II"])
                signal = read.p_signal[segment.start - start :, 0]
                expected = (lead.samples.astype(float) - lead.baseline) / lead.gain
                expected[lead.samples == device.INVALID] = np.nan
                np.testing.assert_allclose(signal, expected, atol=1e-9)
                before = [s for s in recording.segments if s.start + s.length > start and s is not segment]
                if not [s for s in before if s.start < segment.start]:
                    assert np.isnan(read.p_signal[: segment.start - start, 0]).all()
                    gaps += 1
                compared += 1
    assert compared > 8
    assert gaps > 4


def test_recording_is_the_ideal_ecg_within_the_units_of_the_monitor(north: SiteTruth) -> None:
    """R peaks of the truth file stand where the stored signal has its steepest deflections."""
    truth = np.load(north.folder.parent / "truth" / "r_times.npz")
    checked = 0
    for plan in north.plans:
        if plan.patient.fibrillation or plan.patient.beat.r < 0.5 or plan.patient.muscle_mv > 0.03:
            continue
        for stretch in plan.stretches:
            if stretch.noisy or not stretch.lead_ii:
                continue
            key = next(
                k
                for k in truth.files
                if k.startswith(patient_folder(plan.patient.subject_id)) and k.endswith(f"/{stretch.index}")
            )
            times = truth[key][2:-2]
            start, stop = int(times[0] * 125) - 100, int(times[-1] * 125) + 100
            path = str(north.folder / "waveforms" / key.rsplit("/", 1)[0])
            signal = wfdb.rdrecord(path, sampfrom=start, sampto=stop, channel_names=["II"]).p_signal[:, 0]
            middle = np.round(times * 125).astype(int) - start
            around = signal[middle[:, None] + np.arange(-25, 26)]
            around = around[~np.isnan(around).any(axis=1)]
            top = np.abs(np.median(around, axis=0)).argmax()
            assert abs(top - 25) <= 1
            checked += 1
    assert checked > 3


def test_checksum_is_a_signed_sixteen_bit_sum() -> None:
    assert checksum(np.array([1, 2, -4])) == -1
    assert checksum(np.full(40_000, 1)) == 40_000 - 65_536


def test_numerics_read_back(north: SiteTruth) -> None:
    for record in records(north):
        read = wfdb.rdrecord(str(north.folder / "waveforms" / f"{record}n"))
        rate = read.p_signal[:, read.sig_name.index("HR")]
        assert 40 < np.nanmean(rate) < 160
        assert np.isnan(read.p_signal[:, read.sig_name.index("NBPSys")]).mean() > 0.5 or len(rate) < 15
