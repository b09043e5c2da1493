"""Patients' data on disk are for the owner of the files only, whatever the user's mask says."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from client.database.session import create_database, upgrade


@pytest.fixture(params=[0o022, 0o000], ids=["umask-022", "umask-000"], autouse=True)
def mask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


def test_the_database_and_the_files_beside_it_are_for_their_owner_only(tmp_path: Path) -> None:
    engine = create_database(f"sqlite:///{tmp_path / 'site.sqlite'}")
    with engine.connect() as connection:
        connection.execute(text("select count(*) from patients"))
        assert modes(tmp_path) == {"site.sqlite": 0o600, "site.sqlite-wal": 0o600, "site.sqlite-shm": 0o600}
    engine.dispose()


def test_a_mode_that_the_owner_chose_is_kept(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'site.sqlite'}"
    create_database(url).dispose()
    (tmp_path / "site.sqlite").chmod(0o640)
    upgrade(url)
    create_database(url).dispose()
    assert modes(tmp_path)["site.sqlite"] == 0o640
