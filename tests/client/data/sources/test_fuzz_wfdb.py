"""A thousand damaged headers: each is an error in a sentence or a window with a reason, none takes long."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from client.data.exclusion import Exclusion
from client.data.sources.base import Recordings, Stay
from client.data.sources.folder_signals import FolderRecordings
from client.data.sources.segments import SegmentedRecordings
from client.data.sources.wfdb_files import Header, read_header
from common.errors import SourceError

pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")

# The form is that of MIMIC-III matched waveforms; names, gains and lengths are made up.
START = datetime(2137, 10, 26, 16, 57, 9)
MASTER = """\
p000021-2137-10-26-16-57/5 4 125 5000 16:57:09.000 26/10/2137
4269321_layout 0
~ 1250
4269321_0001 1250
4269321_0002 1250
~ 1250
# Location: micu
"""
LAYOUT = """\
4269321_layout 3 125 0 16:57:09
~ 0 255(-128)/NU 8 0 -128 0 0 PLETH
~ 0 127(-64)/mV 8 0 -128 0 0 II
~ 0 1.28(-109)/mmHg 8 0 -128 0 0 ABP
"""
SEGMENT = """\
{name} 2 125 1250 16:57:19
{name}.dat 80 127(-64)/mV 8 0 -128 -17878 0 II
{name}.dat 80 255(-128)/NU 8 0 4 5246 0 PLETH
"""
OTHER = """\
{name} 1 125 1250
{name}.dat {form} 200(0)/mV 16 0 0 0 0 II
"""
NAME = "p000021-2137-10-26-16-57"
STAY = [Stay(datetime(1800, 1, 1), datetime(9999, 1, 1))]
SLOWEST_S = 5.0
MOST_MEMORY_MIB = 400

EXTREMES = (
    "0",
    "-1",
    "1",
    "2",
    "65536",
    "999999999",
    "4398046511104",
    "4398046511105",
    "9" * 30,
    "9" * 4400,
    "1e308",
    "1e-308",
    "1e999",
    "-1e999",
    "nan",
    "inf",
    "-inf",
    "0/0",
    "125/0",
    "125/1e-9",
    "62.5",
    "62.4725/999.56",
    "80x0",
    "80x2",
    "80x999999999",
    "80:999999999",
    "80+999999999",
    "16x4:5+6",
    "80x2:1+24",
    "516",
    "516x4",
    "524",
    "508",
    "212",
    "310",
    "311",
    "24",
    "32",
    "61",
    "160",
    "8",
    "0",
    "77",
    "16",
    "-16",
    "127(-64)/V",
    "1e-300(0)/mV",
    "1e300/mV",
    "0/mV",
    "0(0)/uV",
    "inf/mV",
    "nan(nan)/mV",
    "127(9e99)/mV",
    "/mV",
    "()/",
    "mV",
    "II",
    "MLII",
    "~",
    "..",
    "/",
    "../x",
    "/etc/passwd",
    "a/b",
    "\x00",
    "é",
    "\u2028",
    "\ud7ff",
    "٣",
    "²",
    "#",
    "16:57:09",
    "99:99:99",
    "16:57:-9",
    "1:2:3:4",
    "16:57:nan",
    "26/10/2137",
    "31/02/2137",
    "01/01/0000",
    "01/01/9999",
    "1" * 300,
    "p000021-2137-10-26-16-57/999999",
    "x/1000000",
    "x/9" + "9" * 20,
    "x/-3",
    "x/",
    "4269321_0001.dat",
)


@st.composite
def damaged(draw: st.DrawFn, text: str) -> str:
    """Change a header in a few places: fields, lines and characters."""
    lines = text.splitlines()
    for _ in range(draw(st.integers(1, 4))):
        where = draw(st.integers(0, len(lines) - 1)) if lines else 0
        kind = draw(
            st.sampled_from(("field", "field", "field", "field", "drop", "repeat", "swap", "cut", "text"))
        )
        if not lines:
            break
        fields = lines[where].split(" ")
        at = draw(st.integers(0, len(fields) - 1))
        if kind == "field":
            fields[at] = draw(st.sampled_from(EXTREMES))
            lines[where] = " ".join(fields)
        elif kind == "drop":
            del lines[where]
        elif kind == "repeat":
            lines[where:where] = [lines[where]] * draw(st.sampled_from((1, 7, 300)))
        elif kind == "swap":
            other = draw(st.integers(0, len(lines) - 1))
            lines[where], lines[other] = lines[other], lines[where]
        elif kind == "cut":
            lines[where] = lines[where][: draw(st.integers(0, len(lines[where])))]
        else:
            lines[where] += draw(st.text(max_size=12))
    return "\n".join(lines) + draw(st.sampled_from(("\n", "", "\r\n", "\r", "\x00")))


@st.composite
def folders(draw: st.DrawFn) -> dict[str, str]:
    """Draw the headers of a record, one to three of them damaged."""
    form = draw(st.sampled_from(("16", "212", "8", "24", "32", "61", "160", "310", "311", "80", "0", "516")))
    headers = {
        NAME: MASTER,
        "4269321_layout": LAYOUT,
        "4269321_0001": SEGMENT.format(name="4269321_0001"),
        "4269321_0002": OTHER.format(name="4269321_0002", form=form),
    }
    for name in draw(st.lists(st.sampled_from(sorted(headers)), min_size=1, max_size=3, unique=True)):
        headers[name] = draw(damaged(headers[name]))
    return headers


def examples(n: int) -> settings:
    """Return the same examples on every machine, and no time limit but the test's own."""
    return settings(
        max_examples=n,
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=[
            HealthCheck.function_scoped_fixture,
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
        ],
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the signal files of the record."""
    folder: Path = tmp_path_factory.mktemp("fuzz") / "patient"
    folder.mkdir()
    beat = (128 + 40 * np.sin(np.arange(5000) / 9)).astype(np.uint8)
    for number in (1, 2):
        (folder / f"4269321_000{number}.dat").write_bytes(beat.tobytes())
    return folder.parent


@pytest.fixture(autouse=True)
def _little_memory() -> Iterator[None]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / (
        1 << 20 if sys.platform == "darwin" else 1024
    )
    assert grown < MOST_MEMORY_MIB


def write(root: Path, headers: dict[str, str]) -> None:
    for name, text in headers.items():
        (root / "patient" / f"{name}.hea").write_bytes(text.encode("utf-8", errors="surrogatepass"))


def look(recordings: Recordings) -> None:
    """Read a window across all segments: a signal of the right length, or a reason."""
    window = recordings.lead_ii(START - timedelta(seconds=5), START + timedelta(seconds=55))
    assert len(window.damaged) >= 0
    assert all(sentence and "p000021" not in sentence for sentence in recordings.unreadable_records)
    if window.exclusion is not None:
        assert window.exclusion in set(Exclusion)
        assert window.signal_mv.size == 0
        return
    assert len(window.signal_mv) == round(60 * window.rate_hz)
    assert not np.isinf(window.signal_mv).any()
    assert np.abs(np.nan_to_num(window.signal_mv)).max() < 1e6
    assert window.pieces


@examples(1000)
@given(headers=folders(), reader=st.sampled_from(("mimic3", "mimic4", "folder")))
def test_damaged_headers_of_a_record_with_segments(root: Path, headers: dict[str, str], reader: str) -> None:
    write(root, headers)
    began = time.process_time()
    if reader == "folder":
        look(FolderRecordings(root, "patient", None))
    else:
        look(SegmentedRecordings(root, [f"patient/{NAME}"], STAY, framed=reader == "mimic4"))
    assert time.process_time() - began < SLOWEST_S


def header_or_error(path: Path) -> Header | SourceError:
    try:
        return read_header(path)
    except SourceError as error:
        found = error
    assert str(found)
    assert found.problem
    return found


@examples(1000)
@given(
    text=damaged(MASTER)
    | damaged(LAYOUT)
    | damaged(SEGMENT.format(name="4269321_0001"))
    | st.text(max_size=200)
)
def test_a_damaged_header_is_a_header_or_an_error_in_a_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "p000021.hea"
    path.write_bytes(text.encode("utf-8", errors="surrogatepass"))
    header = header_or_error(path)
    if isinstance(header, SourceError):
        assert "p000021" not in str(header)
        return
    assert 0 < header.rate_hz < np.inf
    assert all(length >= 0 for _, length in header.segments)


@examples(1000)
@given(data=st.binary(max_size=600))
def test_any_bytes_are_a_header_or_an_error_in_a_sentence(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "r.hea"
    path.write_bytes(data)
    header_or_error(path)
