"""A hospital that exports its own files: WFDB, EDF and CSV signals beside three small tables."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import edfio
import numpy as np
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from client.data.beatstore import BeatStore
from client.data.exclusion import Exclusion
from client.data.ingest import ingest
from client.data.problems import Problem
from client.data.sources.base import LabSource, Stay
from client.data.sources.folder import FolderSource
from client.data.sources.folder_csv import lead_ii
from client.data.sources.folder_signals import FolderRecordings
from client.database.session import create_database, sessions
from client.database.tables import Draw, Patient, Strip
from client.site import Site
from common.errors import SourceError

MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)
FORMATS = ("csv", "wfdb", "edf")
STEP_MV = 0.001

Factory = sessionmaker[Session]
MakeSite = Callable[..., Site]


def ramp(seconds: int, first: int = 0) -> np.ndarray:
    """Return a signal that tells when it was recorded: second 7 reads 0.07 mV."""
    return np.repeat(np.arange(first, first + seconds), 125) / 100


def opened(folder: Any, patient: str = "p1", stays: list[Stay] | None = None) -> FolderRecordings:
    return FolderRecordings(folder.signals, patient, stays)


@pytest.mark.parametrize("form", FORMATS)
def test_a_window_holds_its_first_sample_and_not_its_last(plain_folder: Any, form: str) -> None:
    t0 = plain_folder.t0
    getattr(plain_folder, form)("p1", t0, ramp(60))
    window = opened(plain_folder).lead_ii(t0 + 10 * SECOND, t0 + 20 * SECOND)
    assert (window.exclusion, window.rate_hz) == (None, 125.0)
    np.testing.assert_allclose(window.signal_mv, ramp(10, 10), atol=STEP_MV)
    (piece,) = window.pieces
    assert (piece.first, piece.last) == (1250, 2500)
    path = plain_folder.signals / piece.file
    assert piece.size == path.stat().st_size
    assert window.record is not None
    assert window.record.startswith("p1/a")


@pytest.mark.parametrize("form", FORMATS)
def test_what_lies_outside_the_recording_is_no_signal(plain_folder: Any, form: str) -> None:
    t0 = plain_folder.t0
    getattr(plain_folder, form)("p1", t0, ramp(10))
    patient = opened(plain_folder)
    window = patient.lead_ii(t0 - 5 * SECOND, t0 + 15 * SECOND)
    recorded = np.isfinite(window.signal_mv).reshape(20, 125)
    assert (
        recorded.all(axis=1).tolist()
        == recorded.any(axis=1).tolist()
        == [*[False] * 5, *[True] * 10, *[False] * 5]
    )
    assert patient.lead_ii(t0 + MINUTE, t0 + 2 * MINUTE).exclusion is Exclusion.NO_WAVEFORM


def test_the_three_formats_of_one_signal_are_equal_up_to_a_microvolt(plain_folder: Any) -> None:
    signal = plain_folder.lead_ii(60)
    windows = []
    for form in FORMATS:
        getattr(plain_folder, form)(form, plain_folder.t0, signal)
        windows.append(
            opened(plain_folder, form).lead_ii(plain_folder.t0, plain_folder.t0 + MINUTE).signal_mv
        )
    for window in windows:
        np.testing.assert_allclose(window, signal, atol=STEP_MV)


def test_recordings_of_three_formats_fill_one_window(plain_folder: Any) -> None:
    t0 = plain_folder.t0
    for number, form in enumerate(FORMATS):
        getattr(plain_folder, form)("p1", t0 + number * 20 * SECOND, ramp(20, 20 * number), f"part{number}")
    window = opened(plain_folder).lead_ii(t0, t0 + 60 * SECOND)
    np.testing.assert_allclose(window.signal_mv, ramp(60), atol=STEP_MV)
    assert [piece.file for piece in window.pieces] == ["p1/part0.csv", "p1/part1.dat", "p1/part2.edf"]


def test_a_segmented_record_is_one_recording(plain_folder: Any) -> None:
    t0 = plain_folder.t0
    for number in (1, 2):
        plain_folder.wfdb("p1", t0, ramp(10, 10 * number), f"m_000{number}")
    master = f"m/4 1 125 3125 {t0:%H:%M:%S} {t0:%d/%m/%Y}\nm_0001 1250\n~ 625\nm_0002 1250\nm_0003 0\n"
    (plain_folder.folder("p1") / "m.hea").write_text(master)
    patient = opened(plain_folder)
    assert patient.unreadable_records == []
    window = patient.lead_ii(t0, t0 + 25 * SECOND)
    assert window.record == "p1/m"
    np.testing.assert_allclose(window.signal_mv[:1250], ramp(10, 10), atol=STEP_MV)
    assert np.isnan(window.signal_mv[1250:1875]).all()


def test_a_header_without_a_number_of_samples_is_left_out_and_counted(plain_folder: Any) -> None:
    header = plain_folder.wfdb("p1", plain_folder.t0, ramp(10))
    header.write_text(header.read_text().replace("a 1 125 1250 08:00:00.000 01/03/2050", "a 1 125"))
    (sentence,) = opened(plain_folder).unreadable_records
    assert "no start" in sentence


# CSV


def write_csv(folder: Any, text: str, name: str = "a.csv") -> Path:
    path: Path = folder.folder("p1") / name
    path.write_bytes(text.encode())
    return path


HEAD = "# start: 2050-03-01 08:00:00\n# rate_hz: 50\n# unit: mV\n"


def window_of_csv(folder: Any, text: str, seconds: float = 1) -> np.ndarray:
    write_csv(folder, text)
    patient = opened(folder)
    assert patient.unreadable_records == []
    window = patient.lead_ii(folder.t0, folder.t0 + timedelta(seconds=seconds))
    assert window.exclusion is None
    return window.signal_mv


def test_other_columns_comments_and_quotes_are_ignored(plain_folder: Any) -> None:
    rows = "".join(f'{n},9,"{n / 100:.2f}",x\r\n' for n in range(50))
    head = "\ufeff# monitor 7\r\n# Rate_Hz: 50\r\n# START: 2050-03-01 08:00:00\r\n#unit:mv\r\n\r\n"
    head += "n,I,Lead II,note\r\n"
    np.testing.assert_allclose(window_of_csv(plain_folder, head + rows), np.arange(50) / 100)


def test_an_empty_field_is_a_missing_sample(plain_folder: Any) -> None:
    one = [f"{n / 100}" if n % 7 else "" for n in range(50)]
    signal = window_of_csv(plain_folder, HEAD + "II\n" + "\n".join(one) + "\n")
    assert np.flatnonzero(np.isnan(signal)).tolist() == list(range(0, 50, 7))
    two = "".join(f"{n},{text}\n" for n, text in enumerate(one))
    np.testing.assert_array_equal(window_of_csv(plain_folder, HEAD + "n,II\n" + two), signal)


@pytest.mark.parametrize(("unit", "factor"), [("uV", 1000.0), ("µV", 1000.0), ("V", 0.001), ("mV", 1.0)])
def test_a_signal_comes_back_in_millivolts_whatever_the_unit(
    plain_folder: Any, unit: str, factor: float
) -> None:
    rows = "\n".join(f"{n / 100 * factor:.9g}" for n in range(50))
    signal = window_of_csv(plain_folder, HEAD.replace("mV", unit) + "II\n" + rows)
    np.testing.assert_allclose(signal, np.arange(50) / 100, atol=1e-9)


def test_a_start_has_fractions_of_a_second(plain_folder: Any) -> None:
    head = HEAD.replace("08:00:00", "08:00:00.5")
    signal = window_of_csv(plain_folder, head + "II\n" + "1\n" * 50, seconds=2)
    assert np.flatnonzero(np.isfinite(signal)).tolist() == list(range(25, 75))


def test_a_number_no_electrode_can_measure_is_no_signal(plain_folder: Any) -> None:
    rows = ["0.1"] * 50
    rows[3], rows[4], rows[5] = "inf", "1e300", "nan"
    signal = window_of_csv(plain_folder, HEAD + "II\n" + "\n".join(rows))
    assert np.flatnonzero(np.isnan(signal)).tolist() == [3, 4, 5]


@pytest.mark.parametrize(
    ("text", "problem", "said"),
    [
        ("", Problem.BAD_HEADER, "no line of column names"),
        (HEAD, Problem.BAD_HEADER, "no line of column names"),
        ("1.0\n2.0\n", Problem.BAD_HEADER, "line 1: column names are missing"),
        ("II\n1\n", Problem.BAD_HEADER, "# start: "),
        (HEAD.replace("# rate_hz: 50\n", "") + "II\n1\n", Problem.BAD_HEADER, "# rate_hz: "),
        (HEAD.replace("# unit: mV\n", "") + "II\n1\n", Problem.BAD_HEADER, "# unit: "),
        (HEAD.replace("mV", "mmHg") + "II\n1\n", Problem.BAD_UNIT, "line 3: unit"),
        (HEAD.replace(" 50", " 12,5") + "II\n1\n", Problem.BAD_NUMBER, "line 2: rate_hz"),
        (HEAD.replace(" 50", " 1") + "II\n1\n", Problem.BAD_NUMBER, "line 2: rate_hz"),
        (HEAD.replace("2050-03-01", "01.03.2050") + "II\n1\n", Problem.BAD_TIME, "line 1: start"),
        (HEAD + "time;II\n0;1,5\n", Problem.BAD_CSV, "line 4: the columns are separated by semicolons"),
        (HEAD.replace("2050-03-01", "9999-12-31").replace("08", "23:59") + "II\n", Problem.BAD_TIME, "start"),
    ],
)
def test_a_head_that_lacks_something_is_refused_without_naming_the_patient(
    plain_folder: Any, text: str, problem: Problem, said: str
) -> None:
    from client.data.sources.folder_csv import open_csv

    write_csv(plain_folder, text)
    with pytest.raises(SourceError) as caught:
        open_csv(plain_folder.signals, "p1/a.csv")
    assert said in str(caught.value)
    assert "p1" not in str(caught.value)
    assert caught.value.problem == problem
    assert opened(plain_folder).unreadable_records == [str(caught.value)]


@pytest.mark.parametrize("row", ["1,5", "a", "1;5", "--", "0x1"])
def test_a_line_that_is_no_number_costs_its_window_and_is_counted(plain_folder: Any, row: str) -> None:
    lines = ["0.5"] * 500
    lines[120] = row
    write_csv(plain_folder, HEAD + "II\n" + "\n".join(lines))
    patient = opened(plain_folder)
    t0 = plain_folder.t0
    window = patient.lead_ii(t0, t0 + 5 * SECOND)
    assert (window.exclusion, len(window.damaged)) == (Exclusion.UNREADABLE_SEGMENT, 1)
    assert patient.lead_ii(t0 + 5 * SECOND, t0 + 10 * SECOND).exclusion is None


def test_a_window_is_found_in_a_long_file_whatever_the_length_of_its_lines(
    plain_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.data.sources.folder_csv.BLOCK_BYTES", 1000)
    values = np.round(np.random.default_rng(0).normal(size=5000), 4)
    lines = [f"{value:.{n % 5 + 4}f},{'x' * (n % 13)}" for n, value in enumerate(values)]
    for end in ("", "\n"):
        path = write_csv(plain_folder, HEAD + "II,note\n" + "\n".join(lines) + end)
        signal = opened(plain_folder)._with[0]
        for a, b in ((0, 1), (0, 5000), (4999, 5000), (17, 2533), (1000, 1001), (0, 0)):
            read = [part.samples_mv for part in signal.parts(a, b)]
            np.testing.assert_allclose(np.concatenate([[], *read]), values[a:b], atol=1e-4)
        path.unlink()


def test_reading_a_window_of_a_long_file_takes_the_memory_of_the_window(plain_folder: Any) -> None:
    import tracemalloc

    write_csv(plain_folder, HEAD + "II\n" + "0.1234567\n" * 4_000_000)
    tracemalloc.start()
    patient = opened(plain_folder)
    window = patient.lead_ii(plain_folder.t0 + 600 * MINUTE, plain_folder.t0 + 610 * MINUTE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.isfinite(window.signal_mv).all()
    assert peak < 12_000_000


# EDF


@pytest.mark.parametrize("unit", ["uV", "mV", "V"])
def test_an_edf_signal_comes_back_in_millivolts_whatever_the_unit(plain_folder: Any, unit: str) -> None:
    plain_folder.edf("p1", plain_folder.t0, ramp(20), unit=unit)
    window = opened(plain_folder).lead_ii(plain_folder.t0, plain_folder.t0 + 20 * SECOND)
    np.testing.assert_allclose(window.signal_mv, ramp(20), atol=STEP_MV)
    assert window.pieces[0].gain == pytest.approx(1000.0)


def test_a_pressure_in_edf_is_left_out_and_counted(plain_folder: Any) -> None:
    plain_folder.edf("p1", plain_folder.t0, ramp(20), unit="mmHg")
    assert opened(plain_folder).unreadable_records == ["lead II is not in volts, millivolts or microvolts"]


def test_edf_that_ends_early_costs_only_what_is_missing(plain_folder: Any) -> None:
    t0 = plain_folder.t0
    path = plain_folder.edf("p1", t0, ramp(60))
    path.write_bytes(path.read_bytes()[: 768 + 300 * 30 + 17])
    patient = opened(plain_folder)
    window = patient.lead_ii(t0, t0 + MINUTE)
    assert window.damaged == {path}
    np.testing.assert_allclose(window.signal_mv[: 30 * 125], ramp(30), atol=STEP_MV)
    assert np.isnan(window.signal_mv[30 * 125 :]).all()
    assert patient.lead_ii(t0 + 40 * SECOND, t0 + MINUTE).exclusion is Exclusion.UNREADABLE_SEGMENT


def test_edf_that_leaves_out_time_is_refused(plain_folder: Any) -> None:
    path = plain_folder.edf("p1", plain_folder.t0, ramp(60))
    data = bytearray(path.read_bytes())
    data[192:197] = b"EDF+D"
    path.write_bytes(data)
    (sentence,) = opened(plain_folder).unreadable_records
    assert "EDF+D" in sentence


def test_edf_without_its_date_is_refused(plain_folder: Any) -> None:
    path = plain_folder.edf("p1", plain_folder.t0, ramp(60))
    edf = edfio.read_edf(path, lazy_load_data=False)
    edf.anonymize()
    edf.write(path)
    (sentence,) = opened(plain_folder).unreadable_records
    assert "no start date" in sentence


def test_edf_says_fractions_of_a_second_in_its_first_record(plain_folder: Any) -> None:
    path = plain_folder.edf("p1", plain_folder.t0, ramp(60))
    edf = edfio.read_edf(path, lazy_load_data=False)
    later = edfio.Edf(
        edf.signals,
        recording=edf.recording,
        starttime=edf.starttime.replace(microsecond=400_000),
        annotations=(),
    )
    later.write(path)
    window = opened(plain_folder).lead_ii(plain_folder.t0, plain_folder.t0 + 2 * SECOND)
    assert np.flatnonzero(np.isfinite(window.signal_mv))[0] == 50
    np.testing.assert_allclose(window.signal_mv[50:175], 0.0, atol=STEP_MV)


def test_years_that_edf_cannot_write_stand_in_its_recording_field(plain_folder: Any) -> None:
    path = plain_folder.edf("p1", plain_folder.t0, ramp(60))
    data = path.read_bytes().replace(b"Startdate 01-MAR-2050", b"Startdate 01-MAR-2150")
    path.write_bytes(data)
    at = datetime(2150, 3, 1, 8)
    assert opened(plain_folder).lead_ii(at, at + MINUTE).exclusion is None


def test_numbers_outside_the_range_of_an_edf_header_are_no_signal(plain_folder: Any) -> None:
    path = plain_folder.edf("p1", plain_folder.t0, ramp(60))
    data = path.read_bytes()
    place = 768 + 2 * 25 + 2 * 10
    path.write_bytes(data[:place] + b"\x00\x80" + data[place + 2 :])
    window = opened(plain_folder).lead_ii(plain_folder.t0, plain_folder.t0 + MINUTE)
    assert np.flatnonzero(np.isnan(window.signal_mv)).tolist() == [10]


@pytest.mark.parametrize("damage", ["text", "empty", "cut header", "no record", "many signals"])
def test_what_is_no_edf_is_left_out_and_counted(plain_folder: Any, damage: str) -> None:
    path = plain_folder.edf("p1", plain_folder.t0, ramp(60))
    data = path.read_bytes()
    path.write_bytes(
        {
            "text": b"this is no recording\n" * 100,
            "empty": b"",
            "cut header": data[:400],
            "no record": data[:768],
            "many signals": data[:252] + b"9999" + data[256:],
        }[damage]
    )
    assert len(opened(plain_folder).unreadable_records) == 1


# Lead II and nothing else


@pytest.mark.parametrize("name", ["II", "MLII", "ECG II", "ekg-ii", "Lead II", "ECG_II", " II ", "ECG:II"])
def test_lead_ii_is_found_by_its_names(name: str) -> None:
    assert lead_ii(["I", "III", name]) == 2


@pytest.mark.parametrize(
    "name", ["I", "III", "V", "aVF", "ECG", "ECG I", "ECG III", "II-V", "ECG 2", "MCL1", "XII"]
)
def test_no_other_lead_takes_its_place(name: str) -> None:
    assert lead_ii(["RESP", name]) is None


@pytest.mark.parametrize("form", FORMATS)
def test_a_recording_without_lead_ii_says_so(plain_folder: Any, form: str) -> None:
    t0 = plain_folder.t0
    if form == "csv":
        path = plain_folder.csv("p1", t0, ramp(60))
        path.write_text(path.read_text().replace("\nII\n", "\nV\n"))
    elif form == "wfdb":
        path = plain_folder.wfdb("p1", t0, ramp(60))
        path.write_text(path.read_text().replace(" II", " V"))
    else:
        plain_folder.edf("p1", t0, ramp(60), label="ECG V")
    assert opened(plain_folder).lead_ii(t0, t0 + MINUTE).exclusion is Exclusion.LEAD_II_ABSENT


def test_a_recording_without_lead_ii_does_not_hide_one_with_it(plain_folder: Any) -> None:
    t0 = plain_folder.t0
    plain_folder.edf("p1", t0, ramp(60), "other", label="ECG V")
    path = write_csv(plain_folder, HEAD + "II\n" + "0.5\n" * 1000)
    window = opened(plain_folder).lead_ii(t0, t0 + MINUTE)
    assert (window.exclusion, window.rate_hz) == (None, 50.0)
    assert window.record == f"p1/{path.name}"


# The source


def test_a_folder_is_a_source_that_can_be_sent_to_another_process(small_folder: Any) -> None:
    small_folder.write()
    source: LabSource = FolderSource(small_folder.root)
    assert source.keys() == ["p1", "p2"]
    recordings = pickle.loads(pickle.dumps(source.opener("p1")))()
    assert recordings.lead_ii(small_folder.t0, small_folder.t0 + 10 * MINUTE).exclusion is None
    assert source.waveform_files("p1") == ["p1/a.csv"]
    assert source.waveform_files("nobody") == []
    assert source.counts() == {
        "patients": 2,
        "patients_with_draws": 2,
        "patients_with_waveforms": 2,
        "patients_with_both": 2,
        "waveform_records": 2,
        "draws_without_time": 0,
    }


def test_without_stays_every_draw_counts_and_every_recording_is_believed(small_folder: Any) -> None:
    small_folder.write()
    source = FolderSource(small_folder.root)
    assert [row.admitted for row in source.measurements("p1")] == [True]
    assert source.stays("p1") == []


def test_with_stays_a_recording_that_touches_none_is_not_believed(small_folder: Any) -> None:
    small_folder.write()
    t0 = small_folder.t0
    day = timedelta(days=1)
    small_folder.table(
        "stays", ("patient", "start", "end"), [("p1", t0 - day, t0 + day), ("p2", t0 - 9 * day, t0 - 8 * day)]
    )
    source = FolderSource(small_folder.root)
    assert [row.admitted for row in source.measurements("p1")] == [False]
    found = [source.opener(key)().lead_ii(t0, t0 + 10 * MINUTE).exclusion for key in ("p1", "p2")]
    assert found == [None, Exclusion.NO_CLINICAL_OVERLAP]


def test_whole_blood_can_be_left_out(small_folder: Any) -> None:
    small_folder.columns = (*small_folder.columns, "specimen")
    small_folder.draws = [(*row, "serum") for row in small_folder.draws]
    small_folder.draw("p3", small_folder.t0, 5.0, "whole_blood")
    small_folder.write()
    assert FolderSource(small_folder.root).keys() == ["p1", "p2", "p3"]
    assert FolderSource(small_folder.root, whole_blood=False).keys() == ["p1", "p2"]


def test_hemolysis_is_suspected_only_where_nobody_says(small_folder: Any) -> None:
    small_folder.draw("p2", small_folder.t0 + 60 * MINUTE, 4.1)
    small_folder.write()
    assert [row.hemolysis for row in FolderSource(small_folder.root).measurements("p2")] == [
        "suspected",
        None,
    ]
    small_folder.columns = (*small_folder.columns, "hemolyzed")
    small_folder.draws = [(*row, "no") for row in small_folder.draws]
    small_folder.write()
    assert [row.hemolysis for row in FolderSource(small_folder.root).measurements("p2")] == [None, None]


def test_draws_without_a_time_are_counted(small_folder: Any) -> None:
    small_folder.draws.append(("p1", "", 4.0, "mmol/L"))
    small_folder.write()
    source = FolderSource(small_folder.root)
    assert (source.counts()["draws_without_time"], len(source.measurements("p1"))) == (1, 1)


def test_the_fingerprint_changes_with_files_and_their_sizes(small_folder: Any) -> None:
    small_folder.write()
    seen = {FolderSource(small_folder.root).fingerprint()}
    path = small_folder.csv("p1", small_folder.t0 + 60 * MINUTE, ramp(5), "later")
    seen.add(FolderSource(small_folder.root).fingerprint())
    path.write_text(path.read_text() + "0.1\n")
    seen.add(FolderSource(small_folder.root).fingerprint())
    small_folder.table("patients", ("patient", "sex"), [("p1", "F")])
    seen.add(FolderSource(small_folder.root).fingerprint())
    assert len(seen) == 4
    assert FolderSource(small_folder.root).fingerprint() in seen


def test_what_is_missing_is_named(small_folder: Any, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for root, problem in ((empty, Problem.NO_WAVEFORMS), (small_folder.root, Problem.MISSING_TABLE)):
        with pytest.raises(SourceError) as caught:
            FolderSource(root)
        assert caught.value.problem == problem
    small_folder.draws = [("p1", "", 4.0, "mmol/L")]
    small_folder.write()
    with pytest.raises(SourceError) as caught:
        FolderSource(small_folder.root)
    assert caught.value.problem == Problem.NO_DRAWS


# Through ingest


def results(site: Site) -> tuple[list[tuple[str, Any]], np.ndarray]:
    factory = sessions(create_database(site.database_url))
    result = ingest(site, factory)
    assert (result.unreadable_records, result.unreadable_segments) == (0, 0)
    with factory() as session:
        strips = session.scalars(select(Strip).order_by(Strip.start)).all()
        found = [(strip.label, strip.exclusion) for strip in strips]
        assert all(strip.n_beats > 500 for strip in strips)
        people = session.execute(select(Patient.source_key, Patient.sex, Patient.age)).all()
        assert [tuple(row) for row in people] == [("p1", "F", 64.0)]
        values = session.scalars(select(Draw.value).order_by(Draw.specimen_time)).all()
        assert list(values) == [6.1, 4.2]
    store = BeatStore(site.beats)
    return found, np.array(store.read(0, len(store)))


def test_a_signal_in_steps_of_a_microvolt_gives_the_same_beats_in_each_format(
    plain_folder: Any, make_site: MakeSite, tmp_path: Path
) -> None:
    t0 = plain_folder.t0
    signal = plain_folder.lead_ii(2 * 3600, seed=5)
    answers = []
    for form in FORMATS:
        folder = type(plain_folder)(tmp_path / form)
        folder.draw("p1", t0 + 30 * MINUTE, 6.1)
        folder.draw("p1", t0 + 90 * MINUTE, 4.2)
        folder.write()
        folder.table("patients", ("patient", "sex", "age"), [("p1", "F", 64)])
        getattr(folder, form)("p1", t0, signal)
        answers.append(results(make_site(folder.root, "folder", form)))
    (labels, beats), *others = answers
    assert labels == [("positive", None), ("negative", None)]
    for other_labels, other_beats in others:
        assert other_labels == labels
        np.testing.assert_allclose(other_beats, beats, atol=1e-6)
