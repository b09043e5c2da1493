"""``fedkalemia-site init`` takes the layout a data root looks like, and says so."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from client.cli import app
from client.site import load_site
from common.errors import ConfigurationError
from common.logs import PlainReporter, use_reporter


def init(folder: Path, data: Path, *more: str) -> Result:
    use_reporter(PlainReporter())
    words = ["init", str(folder), "--name", "north", "--data", str(data), *more]
    return CliRunner().invoke(app, words)


def mimic4(root: Path) -> Path:
    (root / "hosp").mkdir(parents=True)
    (root / "hosp" / "labevents.csv").write_text("labevent_id,subject_id,specimen_id,itemid,charttime\n")
    (root / "waves" / "p100" / "p10014354").mkdir(parents=True)
    return root


def mitbih(root: Path) -> Path:
    root.mkdir(parents=True)
    for name in ("100.hea", "100.atr"):
        (root / name).touch()
    return root


def test_the_layout_and_its_parts_are_taken_from_the_folder(tmp_path: Path) -> None:
    root = mimic4(tmp_path / "data")
    done = init(tmp_path / "site", root)
    assert done.exit_code == 0
    assert "looks like mimic4 (hosp/labevents.csv, waves/p100); choose another" in done.output
    source = load_site(tmp_path / "site").source
    assert (source.kind, source.folder, source.clinical, source.waveforms) == ("mimic4", str(root), ".", ".")


def test_a_folder_of_annotated_records_brings_its_task(tmp_path: Path) -> None:
    root = mitbih(tmp_path / "data" / "mitdb")
    assert init(tmp_path / "site", tmp_path / "data").exit_code == 0
    site = load_site(tmp_path / "site")
    assert (site.source.kind, site.source.folder, site.settings.task) == ("mitbih", str(root), "ventricular")


def test_what_is_named_is_not_guessed(tmp_path: Path) -> None:
    done = init(tmp_path / "site", mimic4(tmp_path / "data"), "--source", "vitaldb")
    assert (done.exit_code, "looks like" in done.output) == (0, False)
    source = load_site(tmp_path / "site").source
    assert (source.kind, source.clinical) == ("vitaldb", "clinical")


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_that_looks_like_nothing_or_is_not_mounted_is_the_usual_layout(
    tmp_path: Path, there: bool
) -> None:
    if there:
        (tmp_path / "data").mkdir()
    done = init(tmp_path / "site", tmp_path / "data")
    assert done.exit_code == 0
    assert ("looks like none of the layouts: taken for mimic3" in done.output) == there
    assert load_site(tmp_path / "site").source.kind == "mimic3"


def test_two_hospitals_in_one_folder_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    mitbih(tmp_path / "data" / "one")
    mitbih(tmp_path / "data" / "two")
    done = init(tmp_path / "site", tmp_path / "data")
    assert isinstance(done.exception, ConfigurationError)
    assert "in 2 places" in str(done.exception)
    assert not (tmp_path / "site").exists()
