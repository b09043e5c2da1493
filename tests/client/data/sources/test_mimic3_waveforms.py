"""Lead II by window, from small records and from the real ones."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wfdb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.data.sources.base import Stay
from client.data.sources.mimic3_waveforms import MatchedRecordings, WaveformIndex, read_recording
from common.errors import SourceError

T0 = datetime(2150, 3, 1, 8, 0)
STAY = Stay(T0 - timedelta(days=1), T0 + timedelta(days=5))
SECOND = timedelta(seconds=1)
ALWAYS = [Stay(datetime(1900, 1, 1), datetime(9000, 1, 1))]


def seconds(n: int, first: int = 0) -> np.ndarray:
    """Return a signal that tells when it was recorded: second 7 of the record reads 0.07 mV."""
    return np.repeat(np.arange(first, first + n), 125) / 100


def opened(hospital: Any, *records: str, stays: list[Stay] | None = None) -> MatchedRecordings:
    return MatchedRecordings(hospital.waveforms, records, [STAY] if stays is None else stays)


def test_a_window_holds_its_first_sample_and_not_its_last(hospital: Any) -> None:
    name = hospital.record(20, T0, [hospital.segment(60, {"II": seconds(60)}, 100.0)])
    window = opened(hospital, name).lead_ii(T0 + 10 * SECOND, T0 + 20 * SECOND)
    assert (window.exclusion, window.record, window.rate_hz) == (None, name, 125.0)
    np.testing.assert_allclose(window.signal_mv, seconds(10, 10), atol=1e-9)


def test_reading_in_pieces_is_reading_at_once(hospital: Any) -> None:
    name = hospital.record(20, T0, [hospital.segment(40, {"II": seconds(40)}), hospital.segment(20)])
    patient = opened(hospital, name)
    whole = patient.lead_ii(T0, T0 + 60 * SECOND).signal_mv
    pieces = [patient.lead_ii(T0 + s * SECOND, T0 + (s + 15) * SECOND).signal_mv for s in (0, 15, 30)]
    np.testing.assert_array_equal(whole[: 45 * 125], np.concatenate(pieces))


def test_each_segment_has_its_own_gain_and_a_gap_is_no_signal(hospital: Any) -> None:
    parts = [
        hospital.segment(10, {"II": seconds(10)}, 100.0),
        hospital.segment(5),
        hospital.segment(10, {"V": seconds(10), "II": seconds(10, 15)}, 25.0, 3),
        hospital.segment(10, {"MCL1": seconds(10, 25)}),
    ]
    window = opened(hospital, hospital.record(20, T0, parts)).lead_ii(T0 - 5 * SECOND, T0 + 40 * SECOND)
    signal = window.signal_mv.reshape(45, 125)
    np.testing.assert_allclose(signal[5:15, 0], np.arange(10) / 100, atol=1e-9)
    np.testing.assert_allclose(signal[20:30, 0], np.arange(15, 25) / 100, atol=0.5 / 25)
    assert np.isnan(signal[[*range(5), *range(15, 20), *range(30, 45)]]).all()


def test_samples_marked_invalid_are_no_signal(hospital: Any) -> None:
    signal = seconds(10)
    signal[300:400] = np.nan
    window = opened(hospital, hospital.record(20, T0, [hospital.segment(10, {"II": signal})])).lead_ii(
        T0, T0 + 10 * SECOND
    )
    assert np.flatnonzero(np.isnan(window.signal_mv)).tolist() == list(range(300, 400))


def test_two_records_fill_one_window(hospital: Any) -> None:
    first = hospital.record(20, T0, [hospital.segment(10, {"II": seconds(10)}, 100.0)])
    second = hospital.record(
        20, T0 + timedelta(minutes=1), [hospital.segment(30, {"II": seconds(30)}, 100.0)]
    )
    window = opened(hospital, second, first).lead_ii(T0, T0 + 90 * SECOND)
    assert window.record == second
    assert np.isfinite(window.signal_mv).reshape(90, 125).all(axis=1).tolist() == [
        *[True] * 10,
        *[False] * 50,
        *[True] * 30,
    ]


def test_why_there_is_no_lead_ii(hospital: Any) -> None:
    parts = [
        hospital.segment(60, {"MCL1": seconds(60)}),
        hospital.segment(60),
        hospital.segment(60, {"II": seconds(60)}),
    ]
    name = hospital.record(20, T0, parts)
    next((hospital.waveforms / name).parent.glob("*_0003.dat")).unlink()
    patient = opened(hospital, name)

    def why(first: int, last: int, of: MatchedRecordings = patient) -> str:
        return str(of.lead_ii(T0 + first * SECOND, T0 + last * SECOND).exclusion)

    assert why(0, 50) == why(30, 90) == "lead_ii_absent"
    assert why(70, 110) == why(300, 400) == why(-400, -300) == "no_waveform"
    assert why(130, 170) == why(30, 170) == "unreadable_segment"
    elsewhere = Stay(T0 + timedelta(hours=13), T0 + timedelta(days=2))
    assert why(0, 50, opened(hospital, name, stays=[elsewhere])) == "no_clinical_overlap"
    nearby = Stay(T0 + timedelta(hours=11), T0 + timedelta(days=2))
    assert why(0, 50, opened(hospital, name, stays=[nearby])) == "lead_ii_absent"


@pytest.mark.parametrize("damage", ["dat missing", "dat cut", "header missing", "header empty"])
def test_a_damaged_segment_costs_that_segment_only(hospital: Any, damage: str) -> None:
    name = hospital.record(
        20, T0, [hospital.segment(20, {"II": seconds(20, 20 * i)}, 100.0) for i in range(3)]
    )
    what, how = damage.split()
    file = next((hospital.waveforms / name).parent.glob(f"*_0002.{what[:3]}"))
    if how == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:40] if how == "cut" else b"")
    window = opened(hospital, name).lead_ii(T0, T0 + 60 * SECOND)
    assert len(window.damaged) == 1
    assert np.isfinite(window.signal_mv).reshape(60, 125).all(axis=1).tolist() == [
        *[True] * 20,
        *[False] * 20,
        *[True] * 20,
    ]


def test_an_unreadable_master_header_costs_that_record_only(hospital: Any) -> None:
    bad = hospital.record(20, T0, [hospital.segment(20, {"II": seconds(20)})])
    good = hospital.record(20, T0 + timedelta(hours=1), [hospital.segment(20, {"II": seconds(20)})])
    (hospital.waveforms / f"{bad}.hea").write_text("nonsense\n")
    patient = opened(hospital, bad, good)
    (sentence,) = patient.unreadable_records
    assert "p000020" not in sentence
    assert patient.lead_ii(T0, T0 + 10 * SECOND).exclusion == "no_waveform"
    later = T0 + timedelta(hours=1)
    assert patient.lead_ii(later, later + 10 * SECOND).exclusion is None


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    place=st.integers(0, 400), character=st.sampled_from("0123456789-/.~ :xe\n#("), which=st.integers(0, 2)
)
def test_one_wrong_character_in_a_header_never_ends_the_ingest(
    hospital: Any, place: int, character: str, which: int
) -> None:
    if not hospital.records:
        hospital.record(20, T0, [hospital.segment(20, {"II": seconds(20)}), hospital.segment(5)])
    (name,) = hospital.records
    path = sorted((hospital.waveforms / name).parent.glob("*.hea"))[which]
    text = path.read_text()
    place %= len(text)
    try:
        path.write_text(text[:place] + character + text[place + 1 :])
        patient = opened(hospital, name)
        window = patient.lead_ii(T0, T0 + 20 * SECOND)
    finally:
        path.write_text(text)
    assert (window.exclusion is None) == bool(len(window.signal_mv))


def test_a_record_of_thousands_of_segments(hospital: Any) -> None:
    (hospital.waveforms / "p00" / "p000020").mkdir(parents=True)
    lines = [f"r/5001 1 125 625000 08:00:00 {T0:%d/%m/%Y}", *("~ 125" for _ in range(5000)), "x_0001 0"]
    (hospital.waveforms / "p00/p000020/r.hea").write_text("\n".join(lines))
    found = read_recording(hospital.waveforms, "p00/p000020/r")
    assert (found.end - found.start, found.segments) == (timedelta(seconds=5000), ())


def test_the_index_knows_patients_by_number_and_skips_numerics(hospital: Any) -> None:
    for subject in (20, 101):
        hospital.record(subject, T0, [hospital.segment(10, {"II": seconds(10)})])
    hospital.records.append("p00/p000020/p000020-2150-03-01-08-00n")
    hospital.write()
    listed = WaveformIndex(hospital.waveforms)
    assert (listed.patients, listed.n_records) == ({"20", "101"}, 2)
    (hospital.waveforms / "RECORDS-waveforms").unlink()
    found = WaveformIndex(hospital.waveforms)
    assert (found.patients, found.n_records, found.fingerprint()) == ({"20", "101"}, 2, listed.fingerprint())


def test_a_folder_without_records_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not exist"):
        WaveformIndex(tmp_path / "waveforms")
    with pytest.raises(SourceError, match="no waveform record"):
        WaveformIndex(tmp_path)


@pytest.mark.data
def test_the_matched_sample_reads_as_wfdb_reads_it_where_its_segments_exist(real_data: Path) -> None:
    root, name = real_data / "mimic_wfdb", "p000878/p000878-2137-10-26-16-57"
    recording = read_recording(root, name)
    assert len(recording.segments) == 32
    assert recording.end - recording.start == timedelta(seconds=52_725_000 / 125)
    patient = MatchedRecordings(root, [name], ALWAYS)
    # Segments 1 (PLETH only) and 2 (II) exist; number 3, which follows them, does not.
    start = recording.start + timedelta(seconds=5750 / 125)
    window = patient.lead_ii(start, start + timedelta(minutes=10))
    alone = wfdb.rdrecord(str(root / "p000878" / "3269321_0002"), channel_names=["II"]).p_signal[:, 0]
    assert (window.exclusion, len(window.damaged)) == (None, 1)
    np.testing.assert_array_equal(window.signal_mv[: len(alone)], alone)
    assert np.isnan(window.signal_mv[len(alone) :]).all()
    much_later = recording.start + timedelta(days=2)
    assert patient.lead_ii(much_later, much_later + timedelta(minutes=10)).exclusion == "unreadable_segment"


@pytest.mark.data
def test_a_real_record_of_the_year_2896_without_lead_ii_for_hours(real_data: Path) -> None:
    root, name = real_data / "mimic_wfdb", "s00001/s00001-2896-10-10-00-31"
    recording = read_recording(root, name)
    assert recording.start == datetime(2896, 10, 10, 0, 31, 25, 894_000)
    patient = MatchedRecordings(root, ["s00001/s00001-2896-10-09-01-56", name], ALWAYS)

    def at(sample: int, minutes: float = 10) -> Any:
        start = recording.start + timedelta(seconds=sample / 125)
        return patient.lead_ii(start, start + timedelta(minutes=minutes))

    # Segments 3 to 9 carry MCL1 and V, from sample 10,136 on: never taken for lead II.
    assert at(20_000).exclusion == at(1_000_000).exclusion == at(3_000_000).exclusion == "lead_ii_absent"
    # The record begins with a gap, then lead II at 1/mV, then at 29/mV with baseline 0, then MCL1.
    window = at(0, 2)
    assert np.isnan(window.signal_mv[:3261]).all()
    pieces = [wfdb.rdrecord(str(root / "s00001" / f"3975656_000{i}"), channels=[0]).p_signal for i in (1, 2)]
    np.testing.assert_array_equal(window.signal_mv[3261:10_136], np.concatenate(pieces)[:, 0])
    assert np.isnan(window.signal_mv[10_136:]).all()
    # Two long segments with lead II are not in the folder; the readable ones after them are.
    assert at(5_000_000).exclusion == "unreadable_segment"
    last = patient.lead_ii(recording.end - timedelta(minutes=13), recording.end)
    assert (last.exclusion, len(last.damaged)) == (None, 1)
    assert 89_900 < np.isfinite(last.signal_mv).sum() <= 90_000


@pytest.mark.data
def test_a_record_that_is_one_gap(real_data: Path) -> None:
    root = real_data / "mimic_wfdb"
    patient = MatchedRecordings(root, ["s00001/s00001-2896-10-09-01-56"], ALWAYS)
    start = datetime(2896, 10, 9, 1, 56, 25)
    assert patient.lead_ii(start, start + timedelta(minutes=1)).exclusion == "no_waveform"
