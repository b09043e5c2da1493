"""A hospital in the VitalDB layout: its tables, its surrogate calendar and its recordings."""

from __future__ import annotations

import gzip
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from client.data.exclusion import Exclusion
from client.data.labels import label_draws
from client.data.problems import Problem
from client.data.sources import vitaldb_source
from client.data.sources.base import Measurement, Window
from client.data.sources.vitaldb_source import CaseRecordings, VitaldbSource
from client.data.sources.vitaldb_tables import age_of
from common.config import LabelSettings
from common.errors import SourceError
from common.task import Label
from simulation.cohort.vitaldb_files import wave_parts, write_vital

T0 = datetime(2100, 1, 1)
SECOND = timedelta(seconds=1)
RATE, GAIN = 500.0, 500.0
CASES = "caseid,subjectid,casestart,caseend,adm,dis,age,sex,height,weight,preop_k"
LABS = "caseid,dt,name,result"


@dataclass
class Hospital:
    """A folder in the VitalDB layout, written line by line."""

    folder: Path
    cases: list[str] = field(default_factory=list)
    labs: list[str] = field(default_factory=list)

    @property
    def waveforms(self) -> Path:
        path = self.folder / "vital_files"
        path.mkdir(exist_ok=True)
        return path

    def record(self, case: int, seconds: int = 1200, lead: str = "ECG_II", packed: bool = False) -> Path:
        """Write a recording that tells the second in tens of microvolts."""
        signal = np.repeat(np.arange(seconds), round(RATE)).astype(np.float32) / 100
        path = self.waveforms / f"{case:04d}.vital"
        waves = {f"SNUADC/{lead}": list(wave_parts(signal, 0, GAIN))}
        write_vital(path, seconds, RATE, GAIN, waves, packed=packed)
        return path

    def open(
        self,
        *,
        cases: str = CASES,
        names: Sequence[str] = ("clinical_data.csv", "lab_data.csv"),
        **options: int,
    ) -> VitaldbSource:
        for name, head, lines in zip(names, (cases, LABS), (self.cases, self.labs), strict=True):
            text = "".join(f"{line}\n" for line in [head, *lines])
            content = gzip.compress(text.encode()) if name.endswith(".gz") else text.encode()
            (self.folder / name).write_bytes(content)
        return VitaldbSource(self.folder, self.waveforms, **options)


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    """Give one case of one patient with two draws, and its recording of 20 minutes."""
    made = Hospital(tmp_path)
    made.cases = ["12,5955,0,1200,-236220,627780,77,M,160.2,67.5,3.9"]
    made.labs = ["12,900,k,4.4", "12,900,na,139", "12,5400,k,5.9"]
    made.record(12)
    return made


def window(source: VitaldbSource, key: str, end: datetime, seconds: int = 600) -> Window:
    return source.opener(key)().lead_ii(end - seconds * SECOND, end)


def draws(source: VitaldbSource, key: str = "5955") -> list[Measurement]:
    return source.measurements(key)


def test_only_the_name_k_is_potassium(hospital: Hospital) -> None:
    hospital.labs += [f"12,900,{name},9.9" for name in ("uk", "k_urine", "ck", "lac", "na", "K+", "")]
    found = draws(hospital.open())
    assert [(m.text, m.number, m.unit, m.item) for m in found] == [
        ("4.4", 4.4, "mmol/L", "k"),
        ("5.9", 5.9, "mmol/L", "k"),
    ]


def test_the_potassium_before_the_operation_has_no_time_and_is_no_draw(hospital: Hospital) -> None:
    hospital.cases = ["12,5955,0,1200,-236220,627780,77,M,160.2,67.5,6.5"]
    assert [m.number for m in draws(hospital.open())] == [4.4, 5.9]


def test_times_count_from_the_start_of_the_case(hospital: Hospital) -> None:
    hospital.labs = ["12,-3600,k,4.0", "12,0,k,4.1", "12,900.5,k,4.2"]
    times = [m.specimen_time for m in draws(hospital.open())]
    assert times == [T0 - 3600 * SECOND, T0, T0 + 900.5 * SECOND]


def test_the_laboratorys_clock_is_set_back(hospital: Hospital) -> None:
    assert draws(hospital.open(lab_clock_ahead_min=5))[0].specimen_time == T0 + 600 * SECOND


def test_the_window_before_a_draw_holds_the_seconds_before_it(hospital: Hospital) -> None:
    found = window(hospital.open(), "5955", T0 + 900 * SECOND)
    assert (found.exclusion, found.rate_hz, found.record) == (None, 500.0, "0012")
    np.testing.assert_allclose(found.signal_mv[::500], np.arange(300, 900) / 100, atol=0.5 / GAIN + 1e-6)


def test_a_piece_says_which_samples_of_which_file_were_read(hospital: Hospital) -> None:
    path = hospital.waveforms / "0012.vital"
    (piece,) = window(hospital.open(), "5955", T0 + 900 * SECOND).pieces
    assert (piece.file, piece.first, piece.last) == ("0012.vital", 150_000, 450_000)
    assert piece.gain == pytest.approx(GAIN)
    assert (piece.size, piece.mtime_ns) == (path.stat().st_size, path.stat().st_mtime_ns)


@pytest.mark.parametrize("end", [-3600, 1, 100_000])
def test_a_draw_before_or_after_the_operation_has_no_waveform_but_the_part_it_reaches(
    hospital: Hospital, end: int
) -> None:
    found = window(hospital.open(), "5955", T0 + end * SECOND)
    if end == 1:  # one second of the window lies in the recording
        assert np.isfinite(found.signal_mv).sum() == 500
    else:
        assert found.exclusion is Exclusion.NO_WAVEFORM


def test_a_window_that_ends_after_the_recording_has_what_was_recorded(hospital: Hospital) -> None:
    found = window(hospital.open(), "5955", T0 + 1500 * SECOND)
    np.testing.assert_array_equal(np.isfinite(found.signal_mv[::500]), np.arange(600) < 300)


def test_several_cases_of_a_patient_lie_ten_years_apart_in_the_order_of_their_numbers(
    hospital: Hospital,
) -> None:
    hospital.cases += ["30,5955,0,1200,,,,,,,", "7,5955,0,1200,,,,,,,"]
    hospital.labs = ["30,1000,k,3.9", "7,1000,k,4.0", "12,1000,k,5.9"]
    hospital.record(7)
    source = hospital.open()
    assert [m.specimen_time - 1000 * SECOND for m in draws(source)] == [
        datetime(2120, 1, 1),
        datetime(2100, 1, 1),
        datetime(2110, 1, 1),
    ]
    files = [window(source, "5955", m.specimen_time).record for m in draws(source)]
    assert files == [None, "0007", "0012"]
    assert source.waveform_files("5955") == ["0007.vital", "0012.vital"]


def test_draws_of_two_cases_never_meet_though_their_seconds_are_the_same(hospital: Hospital) -> None:
    hospital.cases.append("30,5955,0,1200,,,,,,,")
    hospital.labs = ["12,900,k,4.0", "30,900,k,6.0"]
    source = hospital.open()
    labels = label_draws(draws(source), source.stays("5955"), LabelSettings())
    assert [draw.label for draw in labels] == [Label.NEGATIVE, Label.POSITIVE]


def test_patients_are_subjects_and_not_cases(hospital: Hospital) -> None:
    hospital.cases += ["30,5955,0,1200,,,,,,,", "31,9,0,1200,,,,,,,", "32,10,0,1200,,,,,,,"]
    hospital.labs += ["30,1,k,4.0", "31,1,k,4.0"]
    source = hospital.open()
    assert source.keys() == ["9", "5955"]
    assert source.counts() == {
        "patients": 3,
        "patients_with_draws": 2,
        "patients_with_waveforms": 1,
        "patients_with_both": 1,
        "waveform_records": 1,
        "draws_without_time": 0,
        "draws_without_case": 0,
    }


def test_draws_without_a_time_or_a_case_are_counted(hospital: Hospital) -> None:
    hospital.labs += ["12,,k,4.0", "99,900,k,4.0", "12,,na,100"]
    counts = hospital.open().counts()
    assert (counts["draws_without_time"], counts["draws_without_case"]) == (1, 1)


def test_with_times_of_admission_a_draw_outside_it_is_not_in_a_stay(hospital: Hospital) -> None:
    hospital.labs = ["12,-236000,k,4.0", "12,-2000000,k,4.0", "12,900,k,4.0"]
    source = hospital.open()
    found = label_draws(draws(source), source.stays("5955"), LabelSettings())
    assert [draw.exclusion for draw in found] == [Exclusion.NOT_IN_STAY, None, None]


def test_without_times_of_admission_every_draw_belongs_to_its_case(hospital: Hospital) -> None:
    hospital.labs = ["12,-2000000,k,4.0"]
    source = hospital.open(cases="caseid,subjectid,casestart,caseend")
    assert label_draws(draws(source), source.stays("5955"), LabelSettings())[0].exclusion is None


def test_a_case_counts_as_a_stay_of_its_own_length(hospital: Hospital) -> None:
    stays = hospital.open(cases="caseid,subjectid,casestart,caseend").stays("5955")
    assert [(stay.start, stay.end) for stay in stays] == [(T0, T0 + 1200 * SECOND)]


def test_a_recording_longer_than_the_table_says_is_read_to_its_end(hospital: Hospital) -> None:
    hospital.cases = ["12,5955,0,60,,,,,,,"]
    assert window(hospital.open(), "5955", T0 + 900 * SECOND).exclusion is None


def test_who_a_patient_is(hospital: Hospital) -> None:
    hospital.cases = ["12,5955,0,1200,,,>89,F,,999,", "13,5955,0,1200,,,90,F,158,61.2,"]
    person = hospital.open().person("5955")
    assert (person.sex, person.age, person.height_cm, person.weight_kg) == ("F", 91.4, 158.0, 61.2)
    assert person.ethnicity is None


@pytest.mark.parametrize(
    ("text", "years"),
    [
        ("77", 77.0),
        ("0.3", 0.3),
        ("89", 89.0),
        (">89", 91.4),
        ("≥89", 91.4),
        ("90", 91.4),
        ("", None),
        ("x", None),
    ],
)
def test_an_age_is_read_as_it_is_written(text: str, years: float | None) -> None:
    assert age_of(text) == years


def test_a_contaminated_panel_makes_a_high_potassium_suspect(hospital: Hospital) -> None:
    hospital.labs = ["12,900,k,6.4", "12,900,gluc,1450", "12,9000,k,6.4", "12,9000,gluc,110"]
    assert [m.hemolysis for m in draws(hospital.open())] == ["suspected", None]


def test_a_case_without_lead_ii_has_none(hospital: Hospital) -> None:
    hospital.record(12, lead="ECG_V5")
    assert window(hospital.open(), "5955", T0 + 900 * SECOND).exclusion is Exclusion.LEAD_II_ABSENT


@pytest.mark.parametrize("content", [b"", b"garbage" * 999])
def test_a_damaged_recording_is_counted_and_not_raised(hospital: Hospital, content: bytes) -> None:
    (hospital.waveforms / "0012.vital").write_bytes(content)
    patient = hospital.open().opener("5955")()
    found = patient.lead_ii(T0 + 300 * SECOND, T0 + 900 * SECOND)
    assert (found.exclusion, len(found.damaged)) == (Exclusion.UNREADABLE_SEGMENT, 1)
    assert list(patient.unreadable_records) == []


def test_a_recording_cut_off_loses_only_what_is_missing(hospital: Hospital) -> None:
    path = hospital.waveforms / "0012.vital"
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    patient = hospital.open().opener("5955")()
    early = patient.lead_ii(T0, T0 + 300 * SECOND)
    late = patient.lead_ii(T0 + 600 * SECOND, T0 + 1200 * SECOND)
    assert (early.exclusion, len(early.damaged)) == (None, 0)
    assert np.isfinite(early.signal_mv).all()
    assert len(late.damaged) == 1


def test_a_recording_that_is_gone_after_the_folder_was_listed_is_damage(hospital: Hospital) -> None:
    opener = hospital.open().opener("5955")
    (hospital.waveforms / "0012.vital").unlink()
    found = opener().lead_ii(T0 + 300 * SECOND, T0 + 900 * SECOND)
    assert found.exclusion is Exclusion.UNREADABLE_SEGMENT


def test_several_draws_of_a_case_read_its_file_once(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    hospital.cases.append("13,5955,0,1200,,,,,,,")
    hospital.record(13)
    patient = hospital.open().opener("5955")()
    asked: list[str] = []
    real = vitaldb_source.read_vital
    monkeypatch.setattr(vitaldb_source, "read_vital", lambda path: asked.append(path.name) or real(path))
    for start in (T0, T0 + 100 * SECOND, datetime(2110, 1, 1), T0 + 200 * SECOND):
        assert patient.lead_ii(start, start + 600 * SECOND).exclusion is None
    assert asked == ["0012.vital", "0013.vital", "0012.vital"]


def test_what_opens_recordings_can_be_sent_to_another_process(hospital: Hospital) -> None:
    opened = pickle.loads(pickle.dumps(hospital.open().opener("5955")))()
    assert isinstance(opened, CaseRecordings)
    assert opened.lead_ii(T0, T0 + 600 * SECOND).exclusion is None


@pytest.mark.parametrize(
    "names",
    [
        ("clinical_data.csv", "lab_data.csv"),
        ("cases.csv", "labs.csv"),
        ("CLINICAL_DATA.csv.gz", "labs.csv.gz"),
    ],
)
def test_tables_go_by_the_names_of_the_archive_and_of_the_interface(
    hospital: Hospital, names: tuple[str, str]
) -> None:
    assert hospital.open(names=names).keys() == ["5955"]


def test_recordings_may_lie_a_folder_deeper_and_without_leading_zeros(hospital: Hospital) -> None:
    hospital.open()
    (hospital.waveforms / "0012.vital").rename(hospital.waveforms / "12.vital")
    source = VitaldbSource(hospital.folder, hospital.folder)
    assert source.waveform_files("5955") == ["vital_files/12.vital"]
    (piece,) = window(source, "5955", T0 + 900 * SECOND).pieces
    assert (source.waveform_root / piece.file).is_file()


def test_the_fingerprint_changes_when_a_file_comes_or_changes(hospital: Hospital) -> None:
    first = hospital.open().fingerprint()
    assert hospital.open().fingerprint() == first
    hospital.record(13, seconds=30)
    second = hospital.open().fingerprint()
    hospital.record(13, seconds=40)
    assert len({first, second, hospital.open().fingerprint()}) == 3


@pytest.mark.parametrize(
    ("cases", "labs", "problem", "value"),
    [
        ("twelve,5955,0,1200,,,,,,,", "12,1,k,4", Problem.BAD_KEY, "twelve"),
        ("12,-47119,0,1200,,,,,,,", "12,1,k,4", Problem.BAD_KEY, "-47119"),
        ("12,5955,0,soon,,,,,,,", "12,1,k,4", Problem.BAD_NUMBER, "soon"),
        ("12,5955,1546300800,1200,,,,,,,", "12,1,k,4", Problem.BAD_TIME, "1546300800"),
        ("12,5955,60606,1200,,,,,,,", "12,1,k,4", Problem.BAD_NUMBER, "60606"),
        ("12,5955,0,1200,,,,,,,", "12,2019-01-01,k,4", Problem.BAD_NUMBER, "2019-01-01"),
        ("12,5955,0,1200,,,,,,,", "12,1546300800,k,4", Problem.BAD_TIME, "1546300800"),
        ("12,5955,0,1200,,,,,,,", "12,inf,k,4", Problem.BAD_TIME, "inf"),
        ("12,5955,0,1200,,,,,,,", "12,1,na,139", Problem.NO_DRAWS, None),
        ("47119,5955,0,1200,,,,,,,\n47119,77,0,1200,,,,,,,", "12,1,k,4", Problem.BAD_KEY, "47119"),
    ],
)
def test_a_wrong_cell_is_named_by_file_and_line_and_its_value_stays_on_the_terminal(
    hospital: Hospital, cases: str, labs: str, problem: Problem, value: str | None
) -> None:
    hospital.cases, hospital.labs = [cases], [labs]
    with pytest.raises(SourceError) as caught:
        hospital.open()
    assert (caught.value.problem, caught.value.value) == (problem, value)
    assert value is None or value not in str(caught.value)
    assert value is None or ", line " in str(caught.value)


def test_a_folder_without_tables_or_recordings_is_named(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path)
    with pytest.raises(SourceError, match=r"0001\.vital") as caught:
        hospital.open()
    assert caught.value.problem == Problem.NO_WAVEFORMS
    hospital.record(1, seconds=1)
    for name in ("clinical_data.csv", "lab_data.csv"):
        (tmp_path / name).unlink()
    with pytest.raises(SourceError, match=r"clinical_data\.csv and cases\.csv") as caught:
        VitaldbSource(tmp_path, hospital.waveforms)
    assert caught.value.problem == Problem.MISSING_TABLE
    with pytest.raises(SourceError) as caught:
        VitaldbSource(tmp_path / "nowhere", hospital.waveforms)
    assert caught.value.problem == Problem.MISSING_FOLDER


def test_the_order_and_the_case_of_columns_and_names_do_not_matter(hospital: Hospital) -> None:
    hospital.open()
    lines = ["NAME,RESULT,DT,CASEID", '"K",4.4,900,12', "k,5.9,5400,12", "NA,139,900,12"]
    (hospital.folder / "lab_data.csv").write_text("".join(f"{line}\n" for line in lines))
    source = VitaldbSource(hospital.folder, hospital.waveforms)
    assert [m.number for m in draws(source)] == [4.4, 5.9]


def test_a_row_is_known_by_its_case_and_time_wherever_it_stands(hospital: Hospital) -> None:
    hospital.labs = ["12,900,k,4.4", "12,900,k,4.4", "12,5400,k,5.9"]
    first = {m.source_row for m in draws(hospital.open())}
    hospital.labs = ["12,5400,k,5.9", "12,1,alb,4", "12,900,k,4.4", "12,900,k,4.4"]
    assert {m.source_row for m in draws(hospital.open())} == first
    assert len(first) == 3
