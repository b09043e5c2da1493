"""The bundle of a run: equal sources, equal bytes, and nothing but the two apps' code."""

from __future__ import annotations

import io
import shutil
import tomllib
import zipfile
from pathlib import Path

import pytest
from flwr.cli.config_utils import get_fab_metadata

from common import protocol
from common.errors import ConfigurationError
from server.bundle import ROOMS, digest, make_bundle
from server.run_config import DEFAULTS

ROOT = Path(__file__).parents[2]


def copied(folder: Path) -> Path:
    """Copy the packages elsewhere, with other times."""
    for room in ROOMS:
        shutil.copytree(ROOT / room, folder / room, copy_function=shutil.copyfile)
    return folder


def test_equal_sources_give_equal_bytes_wherever_they_are(tmp_path: Path) -> None:
    elsewhere = copied(tmp_path / "a" / "deeper")
    assert digest(make_bundle(elsewhere)) == digest(make_bundle(elsewhere)) == digest(make_bundle(ROOT))
    (elsewhere / "server" / "__pycache__").mkdir(exist_ok=True)
    (elsewhere / "client" / "notes.txt").write_text("not code")
    assert digest(make_bundle(elsewhere)) == digest(make_bundle(ROOT))


def test_one_changed_letter_gives_another_digest(tmp_path: Path) -> None:
    elsewhere = copied(tmp_path)
    with (elsewhere / "client" / "app.py").open("a") as file:
        file.write("#")
    assert digest(make_bundle(elsewhere)) != digest(make_bundle(ROOT))


def test_it_holds_the_python_files_of_three_rooms_and_the_keys_a_run_may_set() -> None:
    bundle = make_bundle()
    assert get_fab_metadata(bundle) == ("fedkalemia/fedkalemia", protocol.software())
    with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
        names = set(archive.namelist())
        project = tomllib.loads(archive.read("pyproject.toml").decode())
    code = {path.relative_to(ROOT).as_posix() for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    assert names == code | {"pyproject.toml", ".info/CONTENT"}
    app = project["tool"]["flwr"]["app"]
    assert app["config"] == dict(DEFAULTS)
    assert app["components"] == {"serverapp": "server.app:app", "clientapp": "client.app:app"}


def test_a_folder_without_the_packages_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="common holds no Python files"):
        make_bundle(tmp_path)
