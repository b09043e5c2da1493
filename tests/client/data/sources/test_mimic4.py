"""A small hospital in the MIMIC-IV layout, written by hand, and what its reader finds in it."""

from __future__ import annotations

import csv
import gzip
import io
import pickle
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from client.data.labels import label_draws
from client.data.sources.base import Stay
from client.data.sources.mimic4 import Mimic4Source
from client.data.sources.mimic4_tables import Mimic4Tables
from client.data.sources.mimic4_waveforms import WaveIndex
from common.config import LabelSettings
from common.errors import SourceError

T0 = datetime(2150, 3, 1, 8, 0)
HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)
FRAME_HZ, PER_FRAME = 62.4725, 4
RATE_HZ = FRAME_HZ * PER_FRAME
ALWAYS = [Stay(datetime(1900, 1, 1), datetime(9000, 1, 1))]
ANNE, BERT = 10014354, 10039708
ITEMS = (
    (50971, "Potassium", "Blood", "Chemistry"),
    (50822, "Potassium, Whole Blood", "Blood", "Blood Gas"),
    (52610, "Potassium", "Blood", "Chemistry"),
    (52452, "Potassium", "Blood", "Blood Gas"),
    (51097, "Potassium, Urine", "Urine", "Chemistry"),
    (50847, "Potassium, Ascites", "Ascites", "Chemistry"),
    (50833, "Potassium", "Other Body Fluid", "Blood Gas"),
    (50983, "Sodium", "Blood", "Chemistry"),
)
LAB_COLUMNS = (
    "labevent_id,subject_id,hadm_id,specimen_id,itemid,order_provider_id,charttime,storetime,value,valuenum,"
    "valueuom,ref_range_lower,ref_range_upper,flag,priority,comments"
)


@dataclass
class Hospital:
    """Collects rows and records, then writes them below ``root``."""

    root: Path
    labs: list[tuple[Any, ...]] = field(default_factory=list)
    people: list[tuple[Any, ...]] = field(default_factory=list)

    def patient(self, subject: int, age: int = 60, year: int = 2150, race: str = "WHITE") -> None:
        self.people.append((subject, "F" if subject % 2 else "M", age, year, race))

    def draw(self, subject: int, time: datetime, value: Any, item: int = 50971, **more: Any) -> None:
        number = more.get("number", "" if isinstance(value, str) else value)
        row = (len(self.labs) + 1, subject, more.get("admission", 22222222), 1, item, "", time, time)
        rest = ("mEq/L", 3.3, 5.1, more.get("flag", ""), "STAT", more.get("comments", ""))
        self.labs.append((*row, value, number, *rest))

    def write(self, *, compressed: bool = True, flat: bool = False) -> Mimic4Tables:
        """Write the tables; in hosp and icu, or all in one folder."""
        hosp, icu = ("", "") if flat else ("hosp/", "icu/")
        stay = (22222222, T0 - timedelta(days=1), T0 + timedelta(days=5))
        tables = {
            f"{hosp}d_labitems": ("itemid,label,fluid,category", ITEMS),
            f"{hosp}patients": (
                "subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod",
                [(*person[:4], "2014 - 2016", "") for person in self.people],
            ),
            f"{hosp}admissions": (
                "subject_id,hadm_id,admittime,dischtime,race",
                [(person[0], *stay, person[4]) for person in self.people],
            ),
            f"{hosp}labevents": (LAB_COLUMNS, self.labs),
            f"{icu}icustays": (
                "subject_id,hadm_id,stay_id,first_careunit,last_careunit,intime,outtime,los",
                [(person[0], stay[0], 3, "", "", *stay[1:], 6) for person in self.people],
            ),
        }
        for name, (columns, rows) in tables.items():
            self.table(name, columns, rows, compressed=compressed)
        return Mimic4Tables(self.root / "clinical")

    def table(
        self, name: str, columns: str, rows: Sequence[Sequence[Any]], *, compressed: bool = True
    ) -> None:
        path = self.root / "clinical" / f"{name}.csv{'.gz' if compressed else ''}"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = io.StringIO()
        csv.writer(text).writerows([columns.split(","), *rows])
        content = text.getvalue().encode()
        path.write_bytes(gzip.compress(content) if compressed else content)

    def record(
        self,
        subject: int,
        number: int,
        start: datetime,
        segments: Sequence[Mapping[str, np.ndarray] | int],
        *,
        per_frame: int = PER_FRAME,
    ) -> Path:
        """Write a record: millivolts by lead for each segment, or the frames of a gap; return its folder."""
        folder = self.root / "waveforms" / "waves" / f"p{subject}"[:4] / f"p{subject}" / str(number)
        folder.mkdir(parents=True)
        rate = f"{FRAME_HZ}/999.56"
        lines, leads = (
            [f"{number}_0000 0"],
            dict.fromkeys(lead for part in segments if not isinstance(part, int) for lead in part),
        )
        for index, part in enumerate(segments, start=1):
            if isinstance(part, int):
                lines.append(f"~ {part}")
                continue
            frames = len(next(iter(part.values()))) // per_frame
            name = f"{number}_{index:04d}"
            lines.append(f"{name} {frames}")
            head = [f"{name} {len(part)} {rate} {frames}"]
            head += [f"{name}e.dat 516x{per_frame} 200/mV 14 8192 0 0 0 {lead}" for lead in part]
            (folder / f"{name}.hea").write_text("\n".join(head) + "\n")
            stored = [np.where(np.isnan(s), -32768, np.rint(200 * s) + 8192) for s in part.values()]
            with soundfile.SoundFile(folder / f"{name}e.dat", "w", 96_000, len(part), format="FLAC") as file:
                file.write(np.stack(stored, axis=1).astype(np.int16))
        length = sum(int(line.split()[1]) for line in lines)
        moment = f"{start:%H:%M:%S}.000 {start:%d/%m/%Y}"
        master = [f"{number}/{len(lines)} {len(leads)} {rate} {length} {moment}", *lines]
        (folder / f"{number}.hea").write_text("\n".join(master) + "\n")
        layout = [f"~ 0x{PER_FRAME} 200/mV 14 8192 0 0 0 {lead}" for lead in leads]
        (folder / f"{number}_0000.hea").write_text(f"{number}_0000 {len(leads)} {rate} 0\n")
        with (folder / f"{number}_0000.hea").open("a") as file:
            file.write("".join(f"{line}\n" for line in layout))
        return folder


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    made = Hospital(tmp_path / "data")
    made.patient(ANNE)
    made.patient(BERT, race="BLACK/AFRICAN AMERICAN")
    return made


def ramp(frames: int, first: int = 0) -> np.ndarray:
    """Return a signal that tells its sample: number 7 of the record reads 0.035 mV."""
    return (PER_FRAME * first + np.arange(PER_FRAME * frames)) % 1000 / 200


def index_of(hospital: Hospital) -> WaveIndex:
    return WaveIndex(hospital.root / "waveforms")


# --- tables ----------------------------------------------------------------------------------------------


def test_only_potassium_in_blood_counts_however_alike_the_labels(hospital: Hospital) -> None:
    for item in (50971, 50822, 52610, 52452, 51097, 50847, 50833, 50983):
        hospital.draw(ANNE, T0, 4.0, item)
    found = hospital.write().measurements(str(ANNE))
    assert [(row.item, row.specimen) for row in found] == [
        ("50971", "serum"),
        ("50822", "whole_blood"),
        ("52610", "serum"),
        ("52452", "whole_blood"),
    ]


def test_the_laboratory_says_in_its_comments_what_was_hemolyzed(hospital: Hospital) -> None:
    comments = ("GROSSLY HEMOLYZED.", "SPECIMEN NOT HEMOLYZED.", "", "___", "moderately hemolyzed")
    for hours, comment in enumerate(comments):
        hospital.draw(ANNE, T0 + hours * HOUR, 6.0, comments=comment)
    tables = hospital.write()
    found = tables.measurements(str(ANNE))
    assert [row.hemolysis for row in found] == ["reported", None, None, None, "reported"]
    draws = label_draws(found, tables.stays(str(ANNE)), LabelSettings())
    assert [str(draw.label or draw.exclusion) for draw in draws] == [
        "hemolyzed",
        "positive",
        "positive",
        "positive",
        "hemolyzed",
    ]


def test_a_laboratory_that_comments_is_not_second_guessed_by_a_repeat(hospital: Hospital) -> None:
    hospital.draw(ANNE, T0, 6.5)
    hospital.draw(ANNE, T0 + HOUR, 4.0)
    hospital.draw(BERT, T0, 4.0, comments="LIPEMIC.")
    assert [row.hemolysis for row in hospital.write().measurements(str(ANNE))] == [None, None]


def test_an_export_without_any_comment_is_judged_by_repeats(hospital: Hospital) -> None:
    hospital.draw(ANNE, T0, 6.5)
    hospital.draw(ANNE, T0 + HOUR, 4.0)
    assert [row.hemolysis for row in hospital.write().measurements(str(ANNE))] == ["suspected", None]


def test_a_text_that_was_removed_is_no_value_even_beside_a_number(hospital: Hospital) -> None:
    hospital.draw(ANNE, T0, "___", number=4.1)
    hospital.draw(ANNE, T0 + HOUR, "___", comments="4.1 MEQ/L")
    hospital.draw(ANNE, T0 + 2 * HOUR, "GREATER THAN 10", flag="abnormal")
    tables = hospital.write()
    draws = label_draws(tables.measurements(str(ANNE)), tables.stays(str(ANNE)), LabelSettings())
    assert [str(draw.label or draw.exclusion) for draw in draws] == [
        "no_numeric_value",
        "no_numeric_value",
        "positive",
    ]
    assert (draws[2].value, draws[2].censored, draws[2].measurement.flag) == (10.0, "above", "abnormal")


@pytest.mark.parametrize(
    ("anchor_age", "drawn", "age"),
    [
        (60, 2150, 60.0),
        (60, 2153, 63.0),
        (60, 2149, 59.0),
        (88, 2151, 89.0),
        (88, 2152, 91.4),
        (91, 2150, 91.4),
    ],
)
def test_age_is_the_anchor_age_and_the_years_since(
    hospital: Hospital, anchor_age: int, drawn: int, age: float
) -> None:
    hospital.people = [(ANNE, "F", anchor_age, 2150, "WHITE")]
    hospital.draw(ANNE, T0.replace(year=drawn), 4.0)
    assert hospital.write().person(str(ANNE)).age == age


def test_race_stands_with_the_admissions(hospital: Hospital) -> None:
    hospital.draw(ANNE, T0, 4.0)
    tables = hospital.write()
    assert (tables.person(str(ANNE)).ethnicity, tables.person(str(BERT)).ethnicity) == (
        "White",
        "African American",
    )
    columns = "subject_id,hadm_id,admittime,dischtime,ethnicity"  # as version 1 named it
    hospital.table("hosp/admissions", columns, [(ANNE, 1, T0, T0 + HOUR, "ASIAN - CHINESE")])
    assert Mimic4Tables(hospital.root / "clinical").person(str(ANNE)).ethnicity == "Asian"


def test_height_and_weight_come_from_the_chart_where_it_is_there(hospital: Hospital) -> None:
    hospital.draw(ANNE, T0, 4.0)
    assert hospital.write().person(str(ANNE)).height_cm is None
    columns = (
        "subject_id,hadm_id,stay_id,caregiver_id,charttime,storetime,itemid,value,valuenum,valueuom,warning"
    )
    chart = [
        (ANNE, 1, 3, 9, T0, T0, 226730, "170", 170, "cm", 0),
        (ANNE, 1, 3, 9, T0, T0, 226531, "150", 150, "lbs", 0),
    ]
    hospital.table("icu/chartevents", columns, chart)
    person = Mimic4Tables(hospital.root / "clinical").person(str(ANNE))
    assert (person.height_cm, person.weight_kg) == (170.0, 68.0)


def test_tables_may_lie_in_one_folder_and_be_plain(hospital: Hospital) -> None:
    hospital.draw(ANNE, T0, 4.0, comments="x")
    folded = hospital.write()
    shutil.rmtree(hospital.root / "clinical")
    flat = hospital.write(compressed=False, flat=True)
    assert [flat.measurements(key) for key in flat.keys] == [folded.measurements(key) for key in folded.keys]
    assert flat.person(str(ANNE)) == folded.person(str(ANNE))


def test_a_missing_table_is_named_with_the_places_that_were_looked_at(hospital: Hospital) -> None:
    hospital.draw(ANNE, T0, 4.0)
    hospital.write()
    (hospital.root / "clinical" / "hosp" / "labevents.csv.gz").unlink()
    with pytest.raises(SourceError, match=r"no table labevents: .* in its folders hosp and icu") as caught:
        Mimic4Tables(hospital.root / "clinical")
    assert caught.value.problem == "missing-table"


def test_an_excel_mangled_date_is_refused_with_file_line_and_form(hospital: Hospital) -> None:
    hospital.draw(ANNE, T0, 4.0)
    hospital.labs.append((2, ANNE, "", 1, 50971, "", "3/1/50 8:00", "", "4.0", 4.0, "mEq/L", *[""] * 5))
    with pytest.raises(SourceError, match=r"labevents\.csv\.gz, line 3: .*2150-01-31 08:05:00") as caught:
        hospital.write()
    assert (caught.value.problem, caught.value.value) == ("bad-time", "3/1/50 8:00")


# --- waveforms -------------------------------------------------------------------------------------------


def test_frames_hold_four_samples_of_lead_ii(hospital: Hospital) -> None:
    hospital.record(ANNE, 81739927, T0, [{"II": ramp(2000), "V": ramp(2000)}, 50, {"II": ramp(500, 2050)}])
    recordings = index_of(hospital).of(str(ANNE), ALWAYS)
    window = recordings.lead_ii(T0 + SECOND, T0 + 40 * SECOND)
    first = int(np.ceil(RATE_HZ))
    assert (window.exclusion, window.rate_hz) == (None, pytest.approx(249.89))
    assert window.record == f"waves/p100/p{ANNE}/81739927/81739927"
    expected = (first + np.arange(len(window.signal_mv))) % 1000 / 200
    gap = np.arange(len(expected)) + first
    expected[(gap >= 8000) & (gap < 8200)] = np.nan
    np.testing.assert_allclose(window.signal_mv, expected, atol=1e-12)
    assert [(piece.file, piece.first, piece.last, piece.gain, piece.baseline) for piece in window.pieces] == [
        (f"waves/p100/p{ANNE}/81739927/81739927_0001e.dat", first, 8000, 200.0, 8192.0),
        (f"waves/p100/p{ANNE}/81739927/81739927_0003e.dat", 0, first + len(expected) - 8200, 200.0, 8192.0),
    ]


def test_samples_marked_invalid_are_no_signal(hospital: Hospital) -> None:
    signal = ramp(1000)
    signal[300:400] = np.nan
    hospital.record(ANNE, 81739927, T0, [{"II": signal}])
    window = index_of(hospital).of(str(ANNE), ALWAYS).lead_ii(T0, T0 + 10 * SECOND)
    assert np.flatnonzero(np.isnan(window.signal_mv)).tolist() == list(range(300, 400))


def test_a_damaged_or_missing_segment_costs_that_segment(hospital: Hospital) -> None:
    parts = [{"II": ramp(625)} for _ in range(4)]
    folder = hospital.record(ANNE, 81739927, T0, parts)
    (folder / "81739927_0001e.dat").unlink()
    (folder / "81739927_0002e.dat").write_bytes(b"fLaC")
    (folder / "81739927_0003.hea").write_text("nonsense\n")
    window = index_of(hospital).of(str(ANNE), ALWAYS).lead_ii(T0, T0 + 40 * SECOND)
    assert (window.exclusion, len(window.damaged)) == (None, 3)
    there = np.flatnonzero(~np.isnan(window.signal_mv))
    assert (there[0], len(there)) == (3 * 625 * 4, len(window.signal_mv) - 3 * 625 * 4)


def test_lead_ii_is_never_replaced_by_another(hospital: Hospital) -> None:
    hospital.record(ANNE, 81739927, T0, [{"V": ramp(2500), "aVR": ramp(2500)}])
    window = index_of(hospital).of(str(ANNE), ALWAYS).lead_ii(T0, T0 + 30 * SECOND)
    assert window.exclusion == "lead_ii_absent"


def test_a_lost_layout_header_costs_nothing(hospital: Hospital) -> None:
    folder = hospital.record(ANNE, 81739927, T0, [{"V": ramp(500)}, {"II": ramp(2000, 500)}])
    (folder / "81739927_0000.hea").unlink()
    window = index_of(hospital).of(str(ANNE), ALWAYS).lead_ii(T0 + 10 * SECOND, T0 + 20 * SECOND)
    first = int(np.ceil(10 * RATE_HZ))
    np.testing.assert_allclose(
        window.signal_mv, (first + np.arange(len(window.signal_mv))) % 1000 / 200, atol=1e-12
    )


def test_a_segment_that_samples_at_another_rate_than_its_record_costs_that_segment(
    hospital: Hospital,
) -> None:
    folder = hospital.record(ANNE, 81739927, T0, [{"II": ramp(1000)}, {"II": ramp(1000)}])
    header = folder / "81739927_0002.hea"
    header.write_text(header.read_text().replace("516x4", "516x2"))
    window = index_of(hospital).of(str(ANNE), ALWAYS).lead_ii(T0, T0 + 30 * SECOND)
    assert (len(window.damaged), np.isfinite(window.signal_mv).sum()) == (1, 4000)


def test_a_record_that_fits_no_stay_is_not_believed(hospital: Hospital) -> None:
    hospital.draw(ANNE, T0, 4.0)
    hospital.record(ANNE, 81739927, T0 + timedelta(days=400), [{"II": ramp(2500)}])
    hospital.write()
    source = Mimic4Source(hospital.root / "clinical", hospital.root / "waveforms")
    start = T0 + timedelta(days=400)
    window = source.opener(str(ANNE))().lead_ii(start, start + 10 * SECOND)
    assert window.exclusion == "no_clinical_overlap"


def test_records_are_found_by_list_by_lists_of_patients_and_by_looking(hospital: Hospital) -> None:
    for subject, number in ((ANNE, 81739927), (BERT, 83411188), (BERT, 85583557)):
        hospital.record(subject, number, T0, [{"II": ramp(100)}])
    root = hospital.root / "waveforms"
    names = {
        str(ANNE): [f"waves/p100/p{ANNE}/81739927/81739927"],
        str(BERT): [f"waves/p100/p{BERT}/{number}/{number}" for number in (83411188, 85583557)],
    }

    def found(place: Path) -> dict[str, list[str]]:
        index = WaveIndex(place)
        return {key: index.names(key) for key in sorted(index.patients)}

    assert found(root) == names
    within = {key: [name.removeprefix("waves/") for name in of] for key, of in names.items()}
    assert found(root / "waves") == within
    (root / "RECORDS").write_text(f"waves/p100/p{ANNE}/\nwaves/p100/p{BERT}/\nwaves/p100/p10099999/\n")
    assert found(root) == names
    (root / f"waves/p100/p{BERT}/RECORDS").write_text("85583557/85583557\n")
    assert found(root) == {**names, str(BERT): names[str(BERT)][1:]}
    (root / "RECORDS").write_text("".join(f"{name}\n" for of in names.values() for name in of))
    assert found(root) == names


@pytest.mark.parametrize(
    "line",
    ["../p10014354/81739927/81739927", "/etc/passwd", "n.csv.gz", "p10014354/81739927/81739928", ""],
)
def test_a_line_that_is_no_record_of_a_patient_lists_nothing(hospital: Hospital, line: str) -> None:
    folder = hospital.root / "waveforms"
    folder.mkdir(parents=True)
    (folder / "RECORDS").write_text(f"{line}\n")
    with pytest.raises(SourceError, match="holds no waveform record like waves/p100") as caught:
        WaveIndex(folder)
    assert caught.value.problem == "no-waveforms"


def test_the_source_can_open_its_recordings_in_another_process(hospital: Hospital) -> None:
    hospital.draw(ANNE, T0, 4.0)
    hospital.record(ANNE, 81739927, T0 - timedelta(minutes=10), [{"II": ramp(40_000)}])
    hospital.write()
    source = Mimic4Source(hospital.root / "clinical", hospital.root / "waveforms")
    opened = pickle.loads(pickle.dumps(source.opener(str(ANNE))))()
    window = opened.lead_ii(T0 - timedelta(minutes=10), T0)
    assert (window.exclusion, len(window.signal_mv)) == (None, 149_934)
    files = source.waveform_files(str(ANNE))
    assert f"waves/p100/p{ANNE}/81739927/81739927_0001e.dat" in files
    assert {piece.file for piece in window.pieces} <= set(files)
    assert dict(source.counts()) == {
        "patients": 2,
        "patients_with_draws": 1,
        "patients_with_waveforms": 1,
        "patients_with_both": 1,
        "waveform_records": 1,
        "draws_without_time": 0,
    }


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    for call in (WaveIndex, Mimic4Tables):
        with pytest.raises(SourceError, match="does not exist") as caught:
            call(tmp_path / "none")
        assert caught.value.problem == "missing-folder"
