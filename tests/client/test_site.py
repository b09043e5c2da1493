import tomllib
from pathlib import Path
from typing import Any

import pytest

from client.site import DATABASE_VARIABLE, load_site, write_site_file
from common.errors import ConfigurationError


@pytest.fixture
def folder(tmp_path) -> Path:
    write_site_file(
        tmp_path / "site",
        name="north",
        source={"kind": "mimic3", "folder": "/data/north"},
        settings={"preset": "quick", "seed": 3, "training": {"local_epochs": 2}},
    )
    return tmp_path / "site"


def test_what_is_written_can_be_read_back(folder):
    site = load_site(folder, {})
    assert (site.name, site.data_root) == ("north", Path("/data/north"))
    assert (site.settings.seed, site.settings.training.local_epochs) == (3, 2)


def test_the_database_is_a_file_in_the_site_folder_unless_told_otherwise(folder):
    assert load_site(folder, {}).database_url == f"sqlite:///{folder / 'site.sqlite'}"
    url = "postgresql://user@host/base"
    assert load_site(folder, {DATABASE_VARIABLE: url}).database_url == url


def test_a_secret_file_holds_the_database_url(folder):
    (folder / "secret").write_text("postgresql://user:pass@host/base\n")
    path = folder / "site.toml"
    path.write_text(
        path.read_text().replace('name = "north"', 'name = "north"\ndatabase_url_file = "secret"')
    )
    assert load_site(folder, {}).database_url == "postgresql://user:pass@host/base"


def test_a_url_in_site_toml_is_refused(folder):
    path = folder / "site.toml"
    path.write_text(path.read_text().replace("[site]", '[site]\ndatabase_url = "postgresql://u:p@h/b"'))
    with pytest.raises(ConfigurationError, match="did you mean 'database_url_file'"):
        load_site(folder, {})


@pytest.mark.parametrize("name", ["North", "a b", "", "../x", "9", "a" * 33])
def test_site_names_are_plain(tmp_path, name):
    with pytest.raises(ConfigurationError, match=r"site\.name"):
        write_site_file(tmp_path, name=name, source={"folder": "x"}, settings={})
    assert not (tmp_path / "site.toml").exists()


def test_another_site_file_is_never_overwritten(folder):
    before = (folder / "site.toml").read_text()
    with pytest.raises(ConfigurationError, match="exists and differs"):
        write_site_file(folder, name="south", source={"folder": "x"}, settings={})
    assert (folder / "site.toml").read_text() == before


def test_unknown_sections_and_keys_are_named(folder):
    path = folder / "site.toml"
    path.write_text(path.read_text() + "\n[sources]\n")
    with pytest.raises(ConfigurationError, match="did you mean 'source'"):
        load_site(folder, {})


def test_a_folder_without_a_site_says_what_to_run(tmp_path):
    with pytest.raises(ConfigurationError, match="fedkalemia-site init"):
        load_site(tmp_path, {})


def test_lists_and_nested_tables_are_valid_toml(tmp_path):
    path = write_site_file(
        tmp_path,
        name="a",
        source={"kind": "mitbih", "folder": 'with "quotes"', "records": ["101", "106"], "detect": True},
        settings={"task": "ventricular", "cohort": {"split": [8.0, 2.0, 0.0]}},
    )
    values = tomllib.loads(path.read_text())
    assert values["source"]["records"] == ["101", "106"]
    assert values["settings"]["cohort"]["split"] == [8.0, 2.0, 0.0]


def test_init_names_the_secret_file_of_the_database_url(tmp_path: Path) -> None:
    secret = tmp_path / "database.url"
    make: Any = {"name": "north", "source": {"kind": "mimic3", "folder": "."}, "settings": {}}
    first = write_site_file(tmp_path / "north", **make, database_url_file=secret).read_text()
    assert write_site_file(tmp_path / "north", **make, database_url_file=secret).read_text() == first
    secret.write_text("postgresql+psycopg://fedkalemia@db/site\n")
    assert load_site(tmp_path / "north", {}).database_url == "postgresql+psycopg://fedkalemia@db/site"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("settings = 3\n", r"site\.toml: settings is a section; write \[settings\]"),
        ("[site]\nname = 'north'\ndatabase_url_file = 5\n", r"database_url_file must be the path of a file"),
        (
            "[site]\nname = 'north'\n[source]\nfolder = '.'\n[settings]\nthread = 3\n",
            r"site\.toml, section settings: unknown key 'thread'; did you mean 'threads'",
        ),
        (
            "[site]\nname = 'north'\n[source]\nfolder = '.'\n[settings]\npreset = 'huge'\n",
            r"site\.toml, section settings: task hyperkalemia has no preset 'huge'",
        ),
    ],
)
def test_what_is_wrong_in_the_file_is_said_with_the_file(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "site.toml").write_text(text)
    with pytest.raises(ConfigurationError, match=says):
        load_site(tmp_path, {})


def test_a_secret_file_that_is_no_text_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "url").write_bytes(b"\xff\xfe\x00")
    own = "[site]\nname = 'north'\ndatabase_url_file = 'url'\n[source]\nfolder = '.'\n"
    (tmp_path / "site.toml").write_text(own)
    with pytest.raises(ConfigurationError, match=r"url is not text; it holds one line"):
        load_site(tmp_path, {})


def test_a_bundle_is_run_in_one_process(tmp_path: Path) -> None:
    write_site_file(tmp_path, name="north", source={"folder": "data"}, settings={})
    with (tmp_path / "site.toml").open("a") as file:
        file.write('\n[gate]\ncode = "pin"\nworkers = 2\n')
    with pytest.raises(ConfigurationError, match=r"section gate.*workers above 1 needs code = 'local'"):
        load_site(tmp_path)


def test_a_site_is_named_by_its_folder_or_its_file(tmp_path: Path) -> None:
    path = write_site_file(tmp_path, name="north", source={"folder": "data"}, settings={})
    assert load_site(path) == load_site(tmp_path)
