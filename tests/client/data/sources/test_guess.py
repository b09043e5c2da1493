"""A short look at a folder says which layout it is, and where its parts are."""

from __future__ import annotations

import errno
import gzip
import os
import time
from pathlib import Path

import pytest

from client.data.sources import glance
from client.data.sources.guess import Guess, guess_layout, guesses, suggest
from client.site import SourceSettings
from common.errors import ConfigurationError

LABS_3 = "ROW_ID,SUBJECT_ID,HADM_ID,ITEMID,CHARTTIME,VALUE,VALUENUM,VALUEUOM,FLAG\n"
LABS_4 = "labevent_id,subject_id,hadm_id,specimen_id,itemid,charttime,value,valuenum,valueuom,comments\n"
LABS_VITALDB = "caseid,dt,name,result\n1,100,k,4.1\n"
DRAWS = "patient,time,potassium,unit\n"


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def mimic3(root: Path, clinical: str = "clinical", waveforms: str = "waveforms") -> Path:
    write(root / clinical / "LABEVENTS.csv.gz", LABS_3)
    write(root / clinical / "D_LABITEMS.csv", "ROW_ID,ITEMID,LABEL\n")
    write(root / waveforms / "p00" / "p000020" / "p000020-2183-04-28-17-47.hea")
    return root


def mimic4(root: Path, clinical: str = "clinical", waveforms: str = "waveforms") -> Path:
    write(root / clinical / "hosp" / "labevents.csv.gz", LABS_4)
    write(root / clinical / "icu" / "icustays.csv.gz", "subject_id,hadm_id,stay_id\n")
    write(root / waveforms / "waves" / "p100" / "p10014354" / "81739927" / "81739927.hea")
    return root


def vitaldb(root: Path, clinical: str = "clinical", waveforms: str = "waveforms") -> Path:
    write(root / clinical / "labs.csv", LABS_VITALDB)
    write(root / clinical / "cases.csv", "caseid,subjectid,age\n")
    write(root / waveforms / "0001.vital")
    return root


def mitbih(root: Path) -> Path:
    for suffix in ("hea", "dat", "atr"):
        write(root / f"100.{suffix}")
    return root


def own(root: Path) -> Path:
    write(root / "draws.csv", DRAWS)
    write(root / "signals" / "a.edf")
    return root


@pytest.mark.parametrize(
    ("make", "clinical", "evidence"),
    [
        (mimic3, "clinical", ("clinical/LABEVENTS.csv.gz", "waveforms/p00")),
        (mimic4, "clinical", ("clinical/hosp/labevents.csv.gz", "waveforms/waves/p100")),
        (vitaldb, "clinical", ("clinical/labs.csv", "waveforms/*.vital")),
    ],
)
def test_each_layout_is_recognized_with_its_parts(
    tmp_path: Path,
    make: object,
    clinical: str,
    evidence: tuple[str, ...],
) -> None:
    assert callable(make)
    found = guess_layout(make(tmp_path))
    assert (found.kind, found.clinical, found.waveforms) == (make.__name__, clinical, "waveforms")
    assert found.evidence == evidence
    assert found.folder == tmp_path
    assert found.certain
    assert found.sentence() == f"looks like {make.__name__} ({', '.join(evidence)})"


def test_annotated_records_are_mitbih(tmp_path: Path) -> None:
    found = guess_layout(mitbih(tmp_path))
    assert (found.kind, found.certain, found.settings()) == (
        "mitbih",
        True,
        {"kind": "mitbih", "folder": str(tmp_path)},
    )


def test_a_table_of_draws_makes_a_folder_of_its_own_whatever_the_signals_look_like(tmp_path: Path) -> None:
    found = guess_layout(mitbih(own(tmp_path) / "signals").parent)
    assert (found.kind, found.folder, found.others) == ("folder", tmp_path, ())


def test_mimic4_in_one_folder_is_told_from_mimic3_by_its_columns(tmp_path: Path) -> None:
    """Both have LABEVENTS and D_LABITEMS in one folder."""
    write(tmp_path / "mimic4" / "labevents.csv", LABS_4)
    write(tmp_path / "mimic3" / "labevents.csv", LABS_3.lower())
    assert guess_layout(tmp_path / "mimic4").kind == "mimic4"
    assert guess_layout(tmp_path / "mimic3").kind == "mimic3"


def test_a_folder_with_a_list_of_records_needs_no_look_at_the_records(tmp_path: Path) -> None:
    mimic3(tmp_path)
    write(tmp_path / "other" / "RECORDS-waveforms", "p00/p000020/p000020-2183-04-28-17-47\n")
    (tmp_path / "waveforms" / "p00" / "p000020" / "p000020-2183-04-28-17-47.hea").unlink()
    (tmp_path / "waveforms" / "p00" / "p000020").rmdir()
    assert guess_layout(tmp_path).waveforms == "other"


def test_unusual_names_of_the_parts_are_found(tmp_path: Path) -> None:
    found = guess_layout(mimic3(tmp_path, "mimiciii/1.4", "mimic3wdb-matched/1.0"))
    assert (found.folder, found.clinical, found.waveforms) == (
        tmp_path,
        "mimiciii/1.4",
        "mimic3wdb-matched/1.0",
    )
    assert found.certain


def test_tables_and_recordings_in_one_folder_are_found(tmp_path: Path) -> None:
    found = guess_layout(mimic3(tmp_path, ".", "."))
    assert (found.clinical, found.waveforms, found.certain) == (".", ".", True)


@pytest.mark.parametrize("below", ["clinical", "waveforms", "waveforms/p00", "waveforms/p00/p000020"])
def test_a_folder_below_the_data_root_leads_to_the_data_root(tmp_path: Path, below: str) -> None:
    mimic3(tmp_path / "hospital")
    vitaldb(tmp_path / "elsewhere")
    found = guess_layout(tmp_path / "hospital" / below)
    assert (found.kind, found.folder) == ("mimic3", tmp_path / "hospital")
    assert (found.clinical, found.waveforms) == ("clinical", "waveforms")


def test_a_folder_above_the_data_root_keeps_its_place(tmp_path: Path) -> None:
    mimic4(tmp_path / "a" / "b")
    found = guess_layout(tmp_path)
    assert (found.folder, found.clinical, found.waveforms) == (tmp_path, "a/b/clinical", "a/b/waveforms")
    mitbih(tmp_path / "c" / "mitdb")
    assert guess_layout(tmp_path / "c").folder == tmp_path / "c" / "mitdb"


def test_a_neighbour_is_no_part_of_an_empty_folder(tmp_path: Path) -> None:
    mimic3(tmp_path / "hospital")
    (tmp_path / "empty").mkdir()
    assert guess_layout(tmp_path / "empty") == Guess(None, tmp_path / "empty")


def test_two_hospitals_in_one_folder_leave_the_choice_to_a_person(tmp_path: Path) -> None:
    for name in ("north", "south"):
        mimic3(tmp_path / name)
    found = guess_layout(tmp_path)
    assert (found.kind, found.places, found.certain) == ("mimic3", 2, False)
    assert {guess.clinical for guess in guesses(tmp_path)} == {"north/clinical", "south/clinical"}
    assert {guess.waveforms for guess in guesses(tmp_path)} == {"north/waveforms", "south/waveforms"}


def test_two_layouts_in_one_folder_leave_the_choice_to_a_person(tmp_path: Path) -> None:
    mimic3(tmp_path / "three")
    mimic4(tmp_path / "four")
    found = guess_layout(tmp_path)
    assert (found.kind, found.others, found.certain) == ("mimic4", ("mimic3",), False)
    assert found.sentence().endswith("it also looks like mimic3")


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    write(tmp_path / "clinical" / "LABEVENTS.csv", LABS_3)
    found = guess_layout(tmp_path)
    assert (found.kind, found.missing, found.certain) == ("mimic3", ("waveforms",), False)
    assert found.sentence() == "looks like mimic3 (clinical/LABEVENTS.csv) without its waveforms"
    assert "waveforms" not in found.settings()


def test_a_whole_layout_comes_before_a_part_of_another(tmp_path: Path) -> None:
    write(tmp_path / "draft" / "hosp" / "labevents.csv", LABS_4)
    found = guess_layout(mimic3(tmp_path))
    assert (found.kind, found.certain) == ("mimic3", True)


def test_the_settings_of_a_site_fit_or_do_not(tmp_path: Path) -> None:
    found = guess_layout(mimic3(tmp_path))
    source = SourceSettings(kind="mimic3", folder=str(tmp_path))
    assert found.fits(source, tmp_path)
    assert not found.fits(source.model_copy(update={"kind": "mimic4"}), tmp_path)
    assert not found.fits(source.model_copy(update={"clinical": "tables"}), tmp_path)
    assert not found.fits(source, tmp_path / "clinical")
    records = mitbih(tmp_path / "mitdb")
    annotated = SourceSettings(kind="mitbih", folder=str(records))
    assert guess_layout(records).fits(annotated, records)
    assert not guess_layout(records).fits(annotated, tmp_path)


def test_inner_folders_of_an_archive_may_be_named_or_not(tmp_path: Path) -> None:
    """The archives hold hosp, icu and waves, or clinical_data, lab_data and vital_files."""
    fourth = mimic4(tmp_path / "four")
    named = SourceSettings(
        kind="mimic4", folder=str(fourth), clinical="clinical", waveforms="waveforms/waves"
    )
    assert guess_layout(fourth).fits(named, fourth)
    vital = tmp_path / "vitaldb"
    write(vital / "lab_data.csv", LABS_VITALDB)
    write(vital / "vital_files" / "0001.vital")
    found = guess_layout(vital)
    assert (found.clinical, found.waveforms) == (".", ".")
    for waveforms in (".", "vital_files"):
        source = SourceSettings(kind="vitaldb", folder=str(vital), clinical=".", waveforms=waveforms)
        assert found.fits(source, vital)


def test_half_a_layout_fits_no_settings(tmp_path: Path) -> None:
    write(tmp_path / "clinical" / "LABEVENTS.csv", LABS_3)
    assert not guess_layout(tmp_path).fits(SourceSettings(kind="mimic3", folder=str(tmp_path)), tmp_path)


def test_the_layout_in_its_usual_place_is_suggested_whatever_else_lies_below(tmp_path: Path) -> None:
    mimic3(tmp_path)
    mimic3(tmp_path / "copy of last year")
    mitbih(tmp_path / "mitdb")
    assert guess_layout(tmp_path).places == 2
    found = suggest(tmp_path)
    assert (found.kind, found.clinical, found.waveforms) == ("mimic3", "clinical", "waveforms")


def test_nothing_is_suggested_where_a_person_must_choose(tmp_path: Path) -> None:
    mimic3(tmp_path / "north")
    mimic3(tmp_path / "south")
    with pytest.raises(ConfigurationError, match=r"in 2 places: name one data root with --data"):
        suggest(tmp_path)
    mimic4(tmp_path / "south")
    with pytest.raises(ConfigurationError, match=r"looks like mimic3: name .* one layout with --source"):
        suggest(tmp_path)
    assert suggest(tmp_path / "north").certain
    (tmp_path / "empty").mkdir()
    assert suggest(tmp_path / "empty").kind is None


def test_a_folder_that_is_missing_or_a_file_looks_like_nothing(tmp_path: Path) -> None:
    mimic3(tmp_path)
    for path in (tmp_path / "absent", write(tmp_path / "file"), tmp_path / "clinical" / "absent"):
        assert guess_layout(path).kind is None
        assert guess_layout(path).sentence() == "looks like none of the layouts"


def test_damaged_tables_and_pipes_are_no_error(tmp_path: Path) -> None:
    root = tmp_path / "data"
    (root / "clinical").mkdir(parents=True)
    (root / "clinical" / "LABEVENTS.csv.gz").write_bytes(b"\x1f\x8b\x08 not a compressed file")
    (root / "clinical" / "draws.csv").write_bytes(b'"\x00\xff,\n\r"')
    os.mkfifo(root / "clinical" / "labs.csv")
    (root / "loop").symlink_to(root, target_is_directory=True)
    (root / "nowhere").symlink_to(root / "absent")
    assert guess_layout(root).kind == "mimic3"  # by the name of its table alone


def test_a_folder_that_may_not_be_read_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mimic3(tmp_path)
    real = os.scandir

    def refused(path: Path) -> object:
        if path.name == "clinical":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(glance.os, "scandir", refused)
    assert guess_layout(tmp_path).missing == ("clinical",)


def test_a_very_large_folder_takes_no_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glance, "MOST_ENTRIES", 50)
    monkeypatch.setattr(glance, "MOST_FOLDERS", 20)
    mimic3(tmp_path)
    for number in range(200):
        (tmp_path / "waveforms" / f"note-{number:03d}").mkdir()
    listed: list[Path] = []
    real = os.scandir

    def counted(path: Path) -> object:
        listed.append(path)
        return real(path)

    monkeypatch.setattr(glance.os, "scandir", counted)
    assert guess_layout(tmp_path).clinical == "clinical"
    assert len(listed) <= 20 * (1 + 3) + 10
    assert len(glance.list_folder(tmp_path / "waveforms").folders) == 50


def test_a_slow_disk_ends_the_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glance, "MOST_S", 0.05)
    for number in range(100):
        (tmp_path / f"ward-{number}").mkdir()
    real = glance.list_folder

    def slow(folder: Path) -> glance.Listing:
        time.sleep(0.02)
        return real(folder)

    monkeypatch.setattr(glance, "list_folder", slow)
    assert len(list(glance.look_through(tmp_path))) < 10


@pytest.mark.data
def test_real_folders_are_recognized(real_data: Path) -> None:
    assert guess_layout(real_data / "mitdb").kind == "mitbih"
    demo = guess_layout(real_data / "mimic3_demo")
    assert (demo.kind, demo.clinical, demo.missing) == ("mimic3", ".", ("waveforms",))
    assert guess_layout(real_data / "cinc2021").kind is None
