"""Lead II of .vital files that the vitaldb package wrote, whole and damaged."""

from __future__ import annotations

import gzip
import struct
import sys
import tracemalloc
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.data.problems import Problem
from client.data.sources.vital_files import (
    VitalLead,
    need_package,
    quiet,
    read_vital,
    seconds_of,
    state_of,
    vital_package,
)
from common.errors import SourceError
from simulation.cohort.vitaldb_files import FILE_BEGIN_S, Wave, wave_parts, write_vital

RATE, GAIN = 500.0, 500.0
LEAD = "SNUADC/ECG_II"


def ramp(seconds: float, first_s: float = 0.0) -> np.ndarray:
    """Return a signal that tells when it was recorded: second 7 of the file reads 0.07 mV."""
    return np.repeat(np.arange(first_s, first_s + seconds), round(RATE)).astype(np.float32) / 100


def waves(signal: np.ndarray, first_s: float = 0.0) -> list[Wave]:
    return list(wave_parts(signal, round(first_s * RATE), GAIN))


def written(path: Path, *, seconds: float = 60, packed: bool = False, **tracks: np.ndarray) -> Path:
    """Write a file; lead II is the ramp unless tracks are given."""
    leads = tracks or {"ECG_II": ramp(seconds)}
    write_vital(
        path, seconds, RATE, GAIN, {f"SNUADC/{name}": waves(s) for name, s in leads.items()}, packed=packed
    )
    return path


def lead_of(path: Path) -> VitalLead:
    lead = read_vital(path)
    assert lead is not None
    return lead


def other_file(path: Path, **track: object) -> Path:
    """Write a file whose one track is changed just before it is written."""
    with quiet():
        file = vital_package().VitalFile()
        file.dgmt, file.dtstart, file.dtend = 0, FILE_BEGIN_S, FILE_BEGIN_S + 10
        blocks = [
            {"dt": FILE_BEGIN_S + s, "val": np.full(500, s / 100, track.get("dtype", np.float32))}
            for s in range(10)
        ]
        file.add_track(str(track.get("name", LEAD)), blocks, srate=500, unit=str(track.get("unit", "mV")))
        for key, value in track.items():
            if key in ("fmt", "gain", "offset", "srate"):
                setattr(next(iter(file.trks.values())), key, value)
        assert file.to_vital(str(path), packed=bool(track.get("packed")))
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_what_is_written_is_read_back_within_half_a_unit(tmp_path: Path, packed: bool) -> None:
    signal = np.random.default_rng(0).normal(0, 0.7, 30_000).astype(np.float32)
    first, samples = lead_of(written(tmp_path / "1.vital", packed=packed, ECG_II=signal)).between(0, 30_000)
    assert first == 0
    np.testing.assert_allclose(samples, signal, atol=0.5 / GAIN + 1e-6)


@pytest.mark.parametrize("packed", [False, True])
def test_a_gap_is_no_signal_in_either_form_of_file(tmp_path: Path, packed: bool) -> None:
    signal = ramp(60)
    signal[round(20 * RATE) : round(25 * RATE)] = np.nan
    _, samples = lead_of(written(tmp_path / "1.vital", packed=packed, ECG_II=signal)).between(0, 30_000)
    np.testing.assert_array_equal(np.isnan(samples), np.isnan(signal))


def test_both_forms_of_a_file_hold_the_same(tmp_path: Path) -> None:
    one, other = (lead_of(written(tmp_path / f"{p}.vital", packed=bool(p))) for p in (0, 1))
    np.testing.assert_array_equal(one.between(1234, 23_456)[1], other.between(1234, 23_456)[1])
    assert (len(one.records), len(other.records)) == (60, 1)


@given(cuts=st.lists(st.integers(0, 30_000), min_size=2, max_size=2, unique=True).map(sorted))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_part_is_that_part_of_the_whole(tmp_path: Path, cuts: list[int]) -> None:
    path = tmp_path / "1.vital"
    lead = lead_of(path if path.exists() else written(path))
    first, samples = lead.between(*cuts)
    assert first == cuts[0]
    np.testing.assert_array_equal(samples, lead.between(0, 30_000)[1][cuts[0] : cuts[1]])


def test_samples_lie_where_their_time_says_though_the_lead_was_connected_late(tmp_path: Path) -> None:
    path = tmp_path / "1.vital"
    write_vital(path, 60, RATE, GAIN, {LEAD: waves(ramp(20, 30), 30), "SNUADC/ART": waves(ramp(60))})
    first, samples = lead_of(path).between(0, 30_000)
    assert first == 15_000
    np.testing.assert_allclose(samples, ramp(20, 30), atol=0.5 / GAIN + 1e-6)


def test_gain_and_baseline_turn_stored_numbers_into_millivolts(tmp_path: Path) -> None:
    lead = lead_of(written(tmp_path / "1.vital"))
    assert lead.units_per_mv == pytest.approx(GAIN)
    stored = lead.records[7]
    assert (stored - lead.baseline) / GAIN == pytest.approx(np.full(500, 0.07))


def test_millivolts_stored_as_such_have_no_gain(tmp_path: Path) -> None:
    lead = lead_of(other_file(tmp_path / "1.vital"))
    assert (lead.units_per_mv, lead.baseline) == (None, 0.0)
    assert lead.between(3500, 3501)[1] == pytest.approx([0.07])


@pytest.mark.parametrize(("unit", "factor"), [("mV", 1.0), ("uV", 1e-3), ("V", 1e3), ("", 1.0)])
def test_the_unit_of_the_track_counts(tmp_path: Path, unit: str, factor: float) -> None:
    lead = lead_of(other_file(tmp_path / "1.vital", unit=unit))
    assert lead.between(3500, 3501)[1] == pytest.approx([0.07 * factor])


def test_only_lead_ii_is_read_and_v5_never_takes_its_place(tmp_path: Path) -> None:
    both = lead_of(written(tmp_path / "1.vital", ECG_V5=ramp(60) + 1, ECG_II=ramp(60)))
    assert both.between(0, 500)[1] == pytest.approx(np.zeros(500), abs=0.5 / GAIN + 1e-6)
    assert read_vital(written(tmp_path / "2.vital", ECG_V5=ramp(60), ART=ramp(60))) is None


@pytest.mark.parametrize("name", ["SNUADC/xECG_II", "SNUADC/ECG_III", "SNUADC/ECG_V5"])
def test_a_track_of_a_similar_name_is_not_lead_ii(tmp_path: Path, name: str) -> None:
    assert read_vital(other_file(tmp_path / "1.vital", name=name)) is None


def test_lead_ii_of_another_monitor_is_lead_ii(tmp_path: Path) -> None:
    assert lead_of(other_file(tmp_path / "1.vital", name="Intellivue/ECG_II")).n_samples == 5000


def test_a_numeric_track_called_ecg_ii_is_no_waveform(tmp_path: Path) -> None:
    path = tmp_path / "1.vital"
    write_vital(path, 10, RATE, GAIN, {}, {LEAD: np.array([[1.0, 0.5]])})
    assert read_vital(path) is None


@pytest.mark.parametrize(
    "track", [{"unit": "mmHg"}, {"srate": 1.0}, {"fmt": 5, "gain": 0.0, "dtype": np.int16}]
)
def test_a_track_that_cannot_be_an_ecg_is_damage(tmp_path: Path, track: dict[str, object]) -> None:
    with pytest.raises(SourceError, match=r"a \.vital file"):
        read_vital(other_file(tmp_path / "1.vital", **track))


def test_a_sample_that_is_no_number_is_a_gap(tmp_path: Path) -> None:
    path = tmp_path / "1.vital"
    with quiet():
        file = vital_package().VitalFile()
        file.dtstart, file.dtend = FILE_BEGIN_S, FILE_BEGIN_S + 1
        values = np.array([0.1, np.inf, -np.inf, np.nan, 5e9, 0.2], np.float32)
        file.add_track(LEAD, [{"dt": FILE_BEGIN_S, "val": values}], srate=500, unit="mV")
        file.to_vital(str(path))
    samples = lead_of(path).between(0, 6)[1]
    np.testing.assert_array_equal(np.isnan(samples), [False, True, True, True, True, False])


def test_a_file_cut_off_keeps_what_comes_before_the_cut(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).normal(0, 1, 300_000).astype(np.float32)
    path = written(tmp_path / "1.vital", seconds=600, ECG_II=noise)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    lead = lead_of(path)
    assert state_of(path) == "cut"
    assert not lead.whole
    assert 200_000 > lead.n_samples > 100_000
    np.testing.assert_allclose(lead.between(0, 100_000)[1], noise[:100_000], atol=0.5 / GAIN + 1e-6)


def test_a_packed_file_cut_off_inside_its_one_record_is_lost(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).normal(0, 1, 300_000).astype(np.float32)
    path = written(tmp_path / "1.vital", seconds=600, packed=True, ECG_II=noise)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SourceError, match="cut off"):
        read_vital(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"VITA", b"garbage" * 1000, gzip.compress(b"no sign here" * 100, mtime=0)],
    ids=["empty", "cut off", "no sign", "packed without a sign"],
)
def test_what_is_no_vital_file_is_damage_and_nothing_is_printed(
    tmp_path: Path, content: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "1.vital"
    path.write_bytes(content)
    with pytest.raises(SourceError) as caught:
        read_vital(path)
    assert caught.value.problem == Problem.BAD_SIGNAL_FILE
    assert "1.vital" not in str(caught.value)
    assert seconds_of(path) == 0.0
    assert capfd.readouterr() == ("", "")


def test_a_missing_file_is_damage(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="missing"):
        read_vital(tmp_path / "1.vital")


def test_a_file_that_does_not_fit_its_checksum_is_not_believed(tmp_path: Path) -> None:
    path = written(tmp_path / "1.vital")
    content = bytearray(path.read_bytes())
    content[-8] ^= 0xFF  # the first byte of the checksum
    path.write_bytes(bytes(content))
    with pytest.raises(SourceError, match="damaged"):
        read_vital(path)


@given(data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_damage_inside_a_valid_archive_ends_in_a_lead_in_none_or_in_a_sentence(
    tmp_path: Path, data: st.DataObject
) -> None:
    path = tmp_path / "1.vital"
    content = bytearray(gzip.decompress(written(path, seconds=5).read_bytes()))
    for at in data.draw(st.lists(st.integers(4, min(len(content), 400) - 1), min_size=1, max_size=6)):
        content[at] = data.draw(st.integers(0, 255))
    path.write_bytes(gzip.compress(bytes(content), 1))
    lead = None
    with suppress(SourceError):
        lead = read_vital(path)
    assert lead is None or len(lead.between(0, 1000)[1]) <= 1000


def test_a_header_without_times_counts_from_the_earliest_record_of_any_track(tmp_path: Path) -> None:
    path = tmp_path / "1.vital"
    write_vital(path, 60, RATE, GAIN, {LEAD: waves(ramp(20, 30), 30), "SNUADC/ART": waves(ramp(60))})
    content = gzip.decompress(path.read_bytes())
    # The first version of the format had 10 bytes there: time zone, instance, program.
    path.write_bytes(gzip.compress(content[:8] + struct.pack("<H", 10) + content[10:20] + content[37:]))
    first, samples = lead_of(path).between(0, 30_000)
    assert (first, len(samples)) == (15_000, 10_000)


def test_the_header_says_how_long_was_recorded(tmp_path: Path) -> None:
    assert seconds_of(written(tmp_path / "1.vital", seconds=60)) == 60.0
    assert seconds_of(tmp_path / "2.vital") == 0.0


def test_five_hours_stay_within_the_memory_that_their_samples_need(tmp_path: Path) -> None:
    seconds = 5 * 3600
    signal = np.tile(ramp(60), seconds // 60)
    path = tmp_path / "1.vital"
    write_vital(path, seconds, RATE, GAIN, {LEAD: waves(signal), "SNUADC/ECG_V5": waves(signal)})
    del signal
    tracemalloc.start()
    lead = lead_of(path)
    lead.between(3600 * 500, 4200 * 500)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert lead.n_samples == seconds * 500
    assert peak < 45e6  # 18 MB of samples of 16 bits, a window of 2.4 MB, and what holds 18,000 blocks


def test_equal_recordings_give_equal_bytes_at_any_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = written(tmp_path / "a" / "1.vital").read_bytes()
    monkeypatch.setattr("time.time", lambda: 1e9)
    assert written(tmp_path / "b" / "1.vital").read_bytes() == first


def test_without_the_package_a_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vitaldb", None)
    with pytest.raises(SourceError, match=r"pip install 'fedkalemia\[vitaldb\]'") as caught:
        need_package()
    assert caught.value.problem == Problem.MISSING_PACKAGE
