"""WFDB headers and signals."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.data.sources.wfdb_files import Header, _parse, read_header, read_lead
from common.errors import SourceError


def header(folder: Path, text: str) -> Header:
    path = folder / "record.hea"
    path.write_text(text)
    return read_header(path)


def test_a_master_header_lists_segments_and_gaps(tmp_path: Path) -> None:
    found = header(tmp_path, "r/3 2 125 900 16:57:09.500 26/10/2137\nr_layout 0\n~ 400\nr_0001 500\n# micu\n")
    assert found.segments == (("r_layout", 0), ("~", 400), ("r_0001", 500))
    assert found.start == datetime(2137, 10, 26, 16, 57, 9, 500_000)
    assert found.comments == ("micu",)


@pytest.mark.parametrize(
    ("clock", "time"), [("31:25", (0, 31, 25)), ("7", (0, 0, 7)), ("1:56:25", (1, 56, 25))]
)
def test_hours_and_minutes_may_be_left_out(tmp_path: Path, clock: str, time: tuple[int, int, int]) -> None:
    found = header(tmp_path, f"r 0 125 0 {clock} 09/10/2896\n")
    assert found.start == datetime(2896, 10, 9, *time)


def test_a_unit_that_is_left_out_is_millivolts(tmp_path: Path) -> None:
    found = header(tmp_path, "r 2 360/1000(5) 10\nr.dat 212 200 11 1024 995 0 0 MLII\nr.dat 16x1 5(3)/mmHg\n")
    assert [signal.units for signal in found.signals] == ["mV", "mmHg"]
    assert (found.rate_hz, found.channel("MLII"), found.channel("II")) == (360.0, 0, None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "r\n",
        "r x 125 10\n",
        "r 1 0 10\nr.dat 80 1 8 0 0 0 0 II\n",
        "r 2 125 10\nr.dat 80\n",
        "r/2 1 125\na 5\n",
    ],
)
def test_a_damaged_header_is_refused_without_naming_the_patient(tmp_path: Path, text: str) -> None:
    path = tmp_path / "p000020-2183-04-28-17-47.hea"
    path.write_text(text)
    with pytest.raises(SourceError) as caught:
        read_header(path)
    assert "p000020" not in str(caught.value)


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="r/~ .:()x-0123456789\nIe#", max_size=80))
def test_any_text_is_a_header_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    try:
        found = _parse(lines, ())
    except (ValueError, IndexError, OverflowError):
        return
    assert found.rate_hz > 0


def write(folder: Path, signal_mv: np.ndarray, units: str = "mV", gain: float = 1000.0) -> Header:
    """Write one lead in format 16; ``gain`` is in steps per unit."""
    np.rint(signal_mv * 1000).astype("<i2").tofile(folder / "r.dat")
    text = f"r 1 125 {len(signal_mv)}\nr.dat 16 {gain:g}(0)/{units} 16 0 0 0 0 II\n"
    (folder / "r.hea").write_text(text)
    return read_header(folder / "r.hea")


def test_samples_come_back_in_millivolts_whatever_the_unit(tmp_path: Path) -> None:
    signal = np.sin(np.arange(1000) / 20)
    (tmp_path / "uv").mkdir()
    in_mv = read_lead(tmp_path / "r", write(tmp_path, signal), 0, 100, 300)
    in_uv = read_lead(tmp_path / "uv" / "r", write(tmp_path / "uv", signal, "uV", 1.0), 0, 100, 300)
    np.testing.assert_allclose(in_mv, signal[100:300], atol=1e-3)
    np.testing.assert_allclose(in_uv, in_mv, atol=1e-12)


def test_pressure_is_not_an_ecg(tmp_path: Path) -> None:
    found = write(tmp_path, np.sin(np.arange(1000) / 20), "mmHg")
    with pytest.raises(SourceError, match="not in volts"):
        read_lead(tmp_path / "r", found, 0, 0, 10)


@pytest.mark.parametrize("damage", ["missing", "cut", "beyond"])
def test_a_signal_file_that_does_not_hold_what_the_header_says_is_refused(
    tmp_path: Path, damage: str
) -> None:
    found = write(tmp_path, np.sin(np.arange(1000) / 20))
    dat = tmp_path / "r.dat"
    if damage == "missing":
        dat.unlink()
    elif damage == "cut":
        dat.write_bytes(dat.read_bytes()[:300])
    with pytest.raises(SourceError):
        read_lead(tmp_path / "r", found, 0, 0, 1001 if damage == "beyond" else 1000)
