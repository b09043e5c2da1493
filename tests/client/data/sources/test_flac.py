"""FLAC signal files, written by the wfdb package and read a window at a time."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import wfdb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.data.sources.flac import flac_package, read_flac
from client.data.sources.wfdb_files import piece_of, read_header, read_lead
from common.errors import SourceError

# The writer of the wfdb package uses what a recent pandas deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword")

N_FRAMES = 3000
LOWEST = {508: -128, 516: -32768, 524: -(2**23)}


def stored(form: int, n: int = 4 * N_FRAMES, seed: int = 0) -> np.ndarray:
    """Numbers of two signals, int64 (n, 2), some of them invalid."""
    top = -LOWEST[form] - 1
    numbers = np.random.default_rng(seed).integers(-top, top, (n, 2))
    numbers[100:120, 0] = LOWEST[form]
    return numbers


def write_record(folder: Path, name: str, signals: dict[str, tuple[Any, ...]]) -> Path:
    """Write a record with the wfdb package: (numbers, format, samples per frame, units, gain, zero, file)."""
    numbers, forms, per_frame, units, gains, zeros, files = zip(*signals.values(), strict=True)
    record = wfdb.Record(
        record_name=name,
        n_sig=len(signals),
        fs=62.4725,
        sig_len=len(numbers[0]) // per_frame[0],
        samps_per_frame=list(per_frame),
        e_d_signal=[np.asarray(part) for part in numbers],
        file_name=list(files),
        fmt=list(forms),
        units=list(units),
        adc_gain=list(gains),
        baseline=list(zeros),
        sig_name=list(signals),
    )
    record.set_d_features(expanded=True)
    record.set_defaults()
    record.wrsamp(write_dir=str(folder), expanded=True)
    return folder / name


def written(folder: Path, form: int) -> tuple[Path, np.ndarray]:
    """Write a record of two signals of one file and a third of another rate and file."""
    numbers = stored(form)
    signals = {
        "V": (numbers[:, 1], str(form), 4, "mV", 200.0, 0, "re.dat"),
        "II": (numbers[:, 0], str(form), 4, "uV", 0.5, 12, "re.dat"),
        "Resp": (np.arange(N_FRAMES) % 100, "16", 1, "NU", 1.0, 0, "rr.dat"),
    }
    return write_record(folder, "r", signals), numbers


@pytest.mark.parametrize("form", [508, 516, 524])
def test_any_window_is_what_the_wfdb_package_reads(tmp_path: Path, form: int) -> None:
    record, numbers = written(tmp_path, form)
    header = read_header(record.with_suffix(".hea"))
    channel = header.channel("II")
    assert channel == 1
    assert header.signals[channel].per_frame == 4
    theirs = wfdb.rdrecord(str(record), smooth_frames=False, channels=[channel]).e_p_signal[0] / 1000
    for start, stop in ((0, 4 * N_FRAMES), (1, 2), (99, 121), (5003, 7777), (4 * N_FRAMES - 5, 4 * N_FRAMES)):
        ours = read_lead(record, header, channel, start, stop)
        np.testing.assert_array_equal(np.isnan(ours), numbers[start:stop, 0] == LOWEST[form])
        np.testing.assert_allclose(ours, theirs[start:stop], rtol=1e-12)


def test_signals_of_several_samples_per_frame_are_read_in_other_formats_too(tmp_path: Path) -> None:
    signal = np.arange(4 * 250) % 97 - 40
    signals = {
        "II": (signal, "16", 4, "mV", 100.0, 0, "m.dat"),
        "Resp": (np.zeros(250, dtype=np.int64), "16", 1, "NU", 1.0, 0, "m.dat"),
    }
    write_record(tmp_path, "m", signals)
    header = read_header(tmp_path / "m.hea")
    for start, stop in ((0, 1000), (3, 4), (401, 806)):
        np.testing.assert_allclose(
            read_lead(tmp_path / "m", header, 0, start, stop), signal[start:stop] / 100
        )


def test_a_window_costs_its_own_length_and_damage_elsewhere_costs_nothing(tmp_path: Path) -> None:
    """The decoder seeks: what lies outside the window is not decoded."""
    path = tmp_path / "long.dat"
    numbers = np.random.default_rng(1).integers(-50, 50, (2_000_000, 1)).astype(np.int16)
    with soundfile.SoundFile(path, "w", 96_000, 1, "PCM_16", format="FLAC") as file:
        file.write(numbers)
    content = bytearray(path.read_bytes())
    damaged_from = len(content) * 3 // 4
    content[damaged_from:] = bytes(len(content) - damaged_from)
    path.write_bytes(content)
    early = read_flac(path, 516, 0, 1, 700_000, 850_000)
    np.testing.assert_array_equal(early, numbers[700_000:850_000, 0])
    with pytest.raises(SourceError, match="a signal file is"):
        read_flac(path, 516, 0, 1, 1_900_000, 1_950_000)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "missing or damaged"),
        (b"", "missing or damaged"),
        (b"RIFF" + bytes(100), "missing or damaged"),
        (b"fLaC", "missing or damaged"),
    ],
)
def test_a_file_that_is_no_flac_stream_is_refused_without_naming_it(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    path = tmp_path / "81739927_0001e.dat"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SourceError, match=reason) as caught:
        read_flac(path, 516, 0, 1, 0, 10)
    assert "81739927" not in str(caught.value)
    assert caught.value.problem == "bad-signal-file"


def test_a_file_of_other_channels_bits_or_length_is_refused(tmp_path: Path) -> None:
    written(tmp_path, 516)
    with pytest.raises(SourceError, match="other signals than its header says"):
        read_flac(tmp_path / "re.dat", 516, 0, 3, 0, 10)
    with pytest.raises(SourceError, match="other signals than its header says"):
        read_flac(tmp_path / "re.dat", 508, 0, 2, 0, 10)
    with pytest.raises(SourceError, match="shorter than its header says"):
        read_flac(tmp_path / "re.dat", 516, 0, 2, 0, 4 * N_FRAMES + 1)
    soundfile.write(tmp_path / "w.dat", np.zeros(20, np.int16), 96_000, format="WAV")
    with pytest.raises(SourceError, match="other signals than its header says"):
        read_flac(tmp_path / "w.dat", 516, 0, 1, 0, 10)


def test_a_piece_says_where_the_samples_lie_in_the_file(tmp_path: Path) -> None:
    record, _ = written(tmp_path, 516)
    header = read_header(record.with_suffix(".hea"))
    piece = piece_of(tmp_path, record, header, 1, 5003, 7777)
    assert (piece.file, piece.first, piece.last, piece.gain, piece.baseline) == (
        "re.dat",
        5003,
        7777,
        500.0,  # half a unit per microvolt
        12.0,
    )


@pytest.mark.parametrize("file", ["../re.dat", "/etc/passwd", ".", ".."])
def test_a_signal_file_elsewhere_is_refused(tmp_path: Path, file: str) -> None:
    (tmp_path / "r.hea").write_text(f"r 1 62.4725 100\n{file} 516x4 200/mV 14 0 0 0 0 II\n")
    with pytest.raises(SourceError, match="a header file"):
        read_lead(tmp_path / "r", read_header(tmp_path / "r.hea"), 0, 0, 10)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damage_to_a_file_is_numbers_or_a_clear_refusal(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "x.dat"
    write_record(tmp_path, "x", {"II": (np.arange(6000) % 300, "516", 4, "mV", 200.0, 0, "x.dat")})
    content = bytearray(path.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=20)):
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        samples = read_flac(path, 516, 0, 1, 2000, 4000)
    except SourceError:
        return
    assert len(samples) == 2000


def test_a_site_is_told_what_to_install_where_flac_cannot_be_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(SourceError, match="pip install soundfile") as caught:
        flac_package()
    assert caught.value.problem == "missing-package"
