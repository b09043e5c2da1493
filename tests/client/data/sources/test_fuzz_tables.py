"""A thousand damaged tables and signals: each gives rows, counted exclusions, or an error in a sentence."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import edfio
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from client.data.check_folder import check_folder
from client.data.labels import label_draws
from client.data.sources.csv_tables import MAX_LINE_BYTES, rows
from client.data.sources.folder import FolderSource
from client.data.sources.folder_csv import open_csv
from client.data.sources.folder_edf import open_edf
from client.data.sources.folder_signals import FolderRecordings
from client.data.sources.mimic3_tables import ClinicalTables
from client.data.template import DRAWS, PATIENTS, STAYS, example_lead_ii, write_csv_signal, write_wfdb_signal
from common.config import make_settings
from common.errors import SourceError

pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")

MIMIC = {
    "D_LABITEMS.csv": b"ROW_ID,ITEMID,LABEL,FLUID,CATEGORY\n1,50971,Potassium,Blood,Chemistry\n"
    b'2,50822,"Potassium, Whole Blood",Blood,Blood Gas\n3,50983,Sodium,Blood,Chemistry\n',
    "PATIENTS.csv": b"SUBJECT_ID,GENDER,DOB\n20,F,2090-01-01 00:00:00\n21,M,1850-05-05 00:00:00\n",
    "ICUSTAYS.csv": b"SUBJECT_ID,INTIME,OUTTIME\n20,2150-01-30 00:00:00,2150-02-02\n21,2150-01-30,\n",
    "LABEVENTS.csv": b"ROW_ID,SUBJECT_ID,HADM_ID,ITEMID,CHARTTIME,VALUE,VALUENUM,VALUEUOM,FLAG\n"
    b"1,20,7,50971,2150-01-31 08:00:00,4.1,4.1,mEq/L,\n"
    b'2,20,7,50971,2150-01-31 12:00:00,"GREATER THAN 10",,mEq/L,abnormal\n'
    b"3,21,,50822,2150-01-31 08:00:00,6.2,6.2,mmol/L,abnormal\n"
    b"4,21,,50983,2150-01-31 08:00:00,140,140,mEq/L,\n",
}
PLAIN = {"draws.csv": DRAWS.encode(), "patients.csv": PATIENTS.encode(), "stays.csv": STAYS.encode()}
PIECES = (
    b'"',
    b'""',
    b'"""',
    b",",
    b",,,,,,,,",
    b"\n",
    b"\r",
    b"\r\n",
    b"\x00",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b";",
    b"\t",
    b"4,1",
    b"-",
    b"1e999",
    b"nan",
    b"1_0",
    b"9" * 400,
    b"31.01.2150 08:00",
    b"44462.85",
    b"1/31/50",
    b"0000-00-00",
    b"9999-12-31 23:59:59",
    b"1800-01-01",
    b"0001-01-01",
    b"2150-13-45 99:99:99",
    b"2150-01-31T08:00:00.5",
    b"..",
    b"a/b",
    b"x" * 70_000,
    b'"' + b"y" * 140_000,
    b"y\n" * 300,
    b"\xc3\xa9",
    b"\xe2\x80\xa8",
    b"yes",
    b"50971",
    b">10",
    b"<",
    b"\x1b[31m",
)


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Change a file in a few places."""
    data = content
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        kind = draw(
            st.sampled_from(("insert", "insert", "field", "field", "field", "cut", "drop", "line", "bytes"))
        )
        if kind == "insert":
            data = data[:at] + draw(st.sampled_from(PIECES)) + data[at:]
        elif kind == "field":
            lines = data.split(b"\n")
            line = draw(st.integers(0, len(lines) - 1))
            fields = lines[line].split(b",")
            fields[draw(st.integers(0, len(fields) - 1))] = draw(st.sampled_from(PIECES))
            lines[line] = b",".join(fields)
            data = b"\n".join(lines)
        elif kind == "cut":
            data = data[:at]
        elif kind == "drop":
            data = data[:at] + data[at + draw(st.integers(1, 40)) :]
        elif kind == "line":
            lines = data.split(b"\n")
            data = b"\n".join([*lines, draw(st.sampled_from(lines))])
        else:
            data = data[:at] + draw(st.binary(max_size=20)) + data[at:]
    return data


def files(of: dict[str, bytes]) -> st.SearchStrategy[tuple[str, bytes]]:
    """Draw one of some files with damage."""
    return st.sampled_from(sorted(of)).flatmap(lambda name: st.tuples(st.just(name), damaged(of[name])))


def examples(n: int) -> settings:
    """Return the same examples on every machine."""
    return settings(
        max_examples=n,
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )


RULES = make_settings().label


@pytest.fixture(scope="module")
def mimic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("mimic")
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a plain folder with half a minute of signal for each patient."""
    folder: Path = tmp_path_factory.mktemp("plain")
    first, second = (folder / "signals" / key for key in ("example-1", "example-2"))
    first.mkdir(parents=True)
    second.mkdir()
    write_csv_signal(first / "a.csv", datetime(2150, 1, 31, 8, 10), example_lead_ii(30), 125)
    write_wfdb_signal(second, "a", datetime(2150, 2, 3, 14, 40), example_lead_ii(30), 125)
    return folder


def write(folder: Path, of: dict[str, bytes], change: tuple[str, bytes]) -> None:
    for name, content in {**of, change[0]: change[1]}.items():
        (folder / name).write_bytes(content)


def sentence_of(action: Callable[[], object]) -> str | None:
    """Return the sentence of the error an action ends with; None if it ends well."""
    try:
        action()
    except SourceError as error:
        found = error
    else:
        return None
    assert found.problem
    assert str(found)
    assert "\x1b" not in found.told()
    return str(found)


@examples(1000)
@given(change=files(MIMIC))
def test_damaged_clinical_tables(mimic: Path, change: tuple[str, bytes]) -> None:
    write(mimic, MIMIC, change)

    def read() -> None:
        tables = ClinicalTables(mimic)
        for key in tables.keys:
            draws = label_draws(tables.measurements(key), tables.stays(key), RULES)
            assert len(draws) == len(tables.measurements(key))
            assert all((draw.label is None) != (draw.exclusion is None) for draw in draws)
            tables.person(key)

    said = sentence_of(read)
    assert said is None or str(mimic) in said


@examples(1000)
@given(change=files(PLAIN))
def test_damaged_tables_of_a_plain_folder(plain: Path, change: tuple[str, bytes]) -> None:
    write(plain, PLAIN, change)

    def read() -> None:
        source = FolderSource(plain)
        for key in list(source.keys()):
            draws = label_draws(source.measurements(key), source.stays(key), RULES)
            assert all((draw.label is None) != (draw.exclusion is None) for draw in draws)
            source.person(key)
            assert source.waveform_files(key) == sorted(source.waveform_files(key))

    said = sentence_of(read)
    assert said is None or str(plain) in said


@examples(300)
@given(change=files(PLAIN))
def test_what_an_ingest_refuses_check_data_reports(plain: Path, change: tuple[str, bytes]) -> None:
    write(plain, PLAIN, change)
    refused = sentence_of(lambda: FolderSource(plain))
    report = check_folder(plain)
    assert all("\x1b" not in line for line in report.lines())
    if refused is not None:
        assert not report.fits
    elif report.whole or report.part:
        assert report.fits


@pytest.fixture(scope="module")
def edf_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path: Path = tmp_path_factory.mktemp("edf") / "a.edf"
    stored = np.rint(example_lead_ii(20) * 1000).astype(np.int16)
    signal = edfio.EdfSignal.from_digital(stored, 125, label="ECG II", physical_dimension="uV")
    edfio.Edf([signal], data_record_duration=1, annotations=()).write(path)
    return path.read_bytes()


SIGNAL = b"# start: 2150-01-31 08:00:00\n# rate_hz: 125\n# unit: mV\nI,II\n" + b"".join(
    b"0.%03d,0.%03d\n" % (n % 1000, n % 777) for n in range(2000)
)


@examples(1000)
@given(data=damaged(SIGNAL) | st.binary(max_size=300))
def test_damaged_csv_signals(tmp_path: Path, data: bytes) -> None:
    folder = tmp_path / "p"
    folder.mkdir(exist_ok=True)
    (folder / "a.csv").write_bytes(data)
    said = sentence_of(lambda: open_csv(tmp_path, "p/a.csv"))
    assert said is None or "/p/" not in said
    window = FolderRecordings(tmp_path, "p", None).lead_ii(
        datetime(2150, 1, 31, 8), datetime(2150, 1, 31, 8) + timedelta(seconds=20)
    )
    assert (window.exclusion is None) == (window.signal_mv.size > 0)
    assert not np.isinf(window.signal_mv).any()


EDF_FIELDS = (
    b"0",
    b"-1",
    b"-99",
    b"99999999",
    b"nan",
    b"inf",
    b"1e9",
    b"",
    b"\xff",
    b"abc",
    b"II",
    b"mV",
    b"EDF+D",
    b"31.02.50",
)


@examples(1000)
@given(
    at=st.integers(0, 767),
    field=st.sampled_from(EDF_FIELDS),
    width=st.sampled_from((4, 8, 16)),
    cut=st.none() | st.integers(0, 1200),
    noise=st.none() | st.binary(max_size=40),
)
def test_damaged_edf_signals(
    tmp_path: Path, edf_bytes: bytes, at: int, field: bytes, width: int, cut: int | None, noise: bytes | None
) -> None:
    place = at - at % 8
    data = edf_bytes[:place] + field.ljust(width)[:width] + edf_bytes[place + width :]
    if noise is not None:
        data = data[:at] + noise + data[at + len(noise) :]
    folder = tmp_path / "p"
    folder.mkdir(exist_ok=True)
    (folder / "a.edf").write_bytes(data[:cut])
    sentence_of(lambda: open_edf(tmp_path, "p/a.edf"))
    window = FolderRecordings(tmp_path, "p", None).lead_ii(
        datetime(1985, 1, 1), datetime(1985, 1, 1) + timedelta(seconds=20)
    )
    assert (window.exclusion is None) == (window.signal_mv.size > 0)
    assert not np.isinf(window.signal_mv).any()


# What no generator makes: files of many megabytes.


def endless(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    said = sentence_of(lambda: list(rows(path, ("a", "b"))))
    assert said is not None
    return said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a,b\n1," + b"x" * (3 * MAX_LINE_BYTES), "line 2: longer than"),
        (b"a,b\r1,2\r" * MAX_LINE_BYTES, "carriage return alone"),
        (b'a,b\n1,"' + b"x\n" * (2 * MAX_LINE_BYTES), "line 2: field larger than field limit"),
        (b"a,b\n1,2\n3," + b"\x00" * (2 * MAX_LINE_BYTES), "line 3: longer than"),
        (b"a,b\n" + b'1,"2\n' * 5, "line 2: "),
    ],
)
def test_a_table_without_end_is_refused_with_its_line(tmp_path: Path, content: bytes, said: str) -> None:
    assert said in endless(tmp_path / "t.csv", content)


def test_a_small_archive_of_a_huge_line_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b"a,b\n1,")
        for _ in range(100):
            file.write(b"x" * MAX_LINE_BYTES)
    assert "longer than" in (sentence_of(lambda: list(rows(path, ("a", "b")))) or "")
