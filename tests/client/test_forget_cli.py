"""``fedkalemia-site forget``: asks, removes, and says what it cannot remove."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import func, select
from typer.testing import CliRunner, Result

from client.cli import app
from client.database.session import open_database, sessions
from client.database.tables import Forgotten, Patient
from client.site import Site
from common.errors import CohortError, ConfigurationError, StorageError
from common.logs import PlainReporter, use_reporter

KEY = "north-002"


@pytest.fixture
def site(tiny_site_factory: Callable[..., Site], tmp_path: Path) -> Site:
    site: Site = tiny_site_factory(tmp_path / "site", "north", generic=4, personal=0, beats=5)
    return site


def forget(site: Site, *words: str, typed: str = "") -> Result:
    use_reporter(PlainReporter())
    return CliRunner().invoke(app, ["forget", str(site.folder), *words], input=typed)


def stored(site: Site, key: str) -> bool:
    engine = open_database(site.database_url)
    with sessions(engine)() as session:
        found = session.scalar(select(func.count()).where(Patient.source_key == key))
    engine.dispose()
    return bool(found)


def test_it_says_what_was_removed_what_cannot_be_withdrawn_and_what_was_not_touched(site: Site) -> None:
    done = forget(site, KEY, "--yes")
    assert done.exit_code == 0
    assert not stored(site, KEY)
    text = done.output
    assert "the patient is forgotten" in text
    for n, name in ((4, "draws"), (4, "strips"), (20, "beats"), (1, "entry of the patient")):
        assert re.search(rf"^ +{n}  {name}", text, re.MULTILINE), name
    order = [text.index(part) for part in ("removed\n", "cannot be withdrawn\n", "not touched\n")]
    assert order == sorted(order)
    assert "no weights: this patient trained in no federated round" in text
    assert "backups" in text
    assert f"next: fedkalemia-site cohort {site.folder}" in text
    assert KEY not in text
    assert KEY not in "".join(path.read_text() for path in site.folder.glob("site.log*"))


def test_without_yes_the_identifier_is_typed_again(site: Site) -> None:
    (site.folder / "report").mkdir()
    page = site.folder / "report" / "index.html"
    page.touch()
    wrong = forget(site, KEY, typed="north-001\n")
    assert isinstance(wrong.exception, ConfigurationError)
    assert str(wrong.exception) == "that is not the identifier; nothing was removed"
    ended = forget(site, KEY)
    assert isinstance(ended.exception, ConfigurationError)
    assert stored(site, KEY)
    assert page.exists()
    right = forget(site, KEY, typed=f"{KEY}\n")
    assert right.exit_code == 0
    assert f"this file will be deleted: {page}" in right.output
    assert not stored(site, KEY)
    assert not page.exists()


def test_a_dash_reads_the_identifier_from_standard_input(site: Site) -> None:
    assert forget(site, "-", typed=f"{KEY}\n{KEY}\n").exit_code == 0
    assert not stored(site, KEY)
    assert forget(site, "-", "--yes", typed="north-001\n").exit_code == 0
    assert not stored(site, "north-001")
    empty = forget(site, "-", "--yes")
    assert isinstance(empty.exception, ConfigurationError)


def test_an_unknown_patient_is_refused_before_anything_is_asked(site: Site) -> None:
    done = forget(site, "somebody else")
    assert isinstance(done.exception, CohortError)
    assert "somebody" not in str(done.exception)


def test_again_it_says_that_nothing_was_left(site: Site) -> None:
    forget(site, KEY, "--yes")
    again = forget(site, KEY, "--yes")
    assert again.exit_code == 0
    assert re.search(r"was forgotten on \d{4}-\d\d-\d\d; nothing was left to do", again.output)


def test_what_an_interrupted_call_left_is_removed_and_told(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StorageError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("client.data.forgetting.compact", full)
        assert isinstance(forget(site, KEY, "--yes").exception, StorageError)
    assert "what that call had left is removed now" in forget(site, KEY, "--yes").output


def test_the_command_ends_with_2_and_one_sentence_for_an_unknown_patient(site: Site) -> None:
    words = [Path(sys.executable).with_name("fedkalemia-site"), "forget", site.folder, "nobody", "--yes"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: site north knows no patient with this identifier")
    assert len(done.stderr.splitlines()) == 1
    engine = open_database(site.database_url)
    with sessions(engine)() as session:
        assert session.scalar(select(func.count(Forgotten.id))) == 0
    engine.dispose()
