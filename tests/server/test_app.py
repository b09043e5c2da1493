"""The run configuration comes from outside: every key and value is checked."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from common.config import make_settings
from common.errors import ConfigurationError, StorageError
from common.files import write_json
from server.app import settings_of
from server.run_config import DEFAULTS, read_run_config


def test_the_keys_flower_lets_a_user_set_are_those_the_app_knows() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert project["tool"]["flwr"]["app"]["config"] == dict(DEFAULTS)


def test_task_preset_seed_and_single_settings_decide() -> None:
    given = {"task": "ventricular", "seed": 5, "set": "federation.rounds=3; training.local_epochs=2"}
    settings = settings_of(read_run_config(given))
    assert (settings.task, settings.seed, settings.federation.rounds) == ("ventricular", 5, 3)
    assert settings.training.local_epochs == 2


def test_a_file_of_settings_is_taken_as_it_is(tmp_path: Path) -> None:
    whole = make_settings("hyperkalemia", "quick", {"seed": 9})
    write_json(tmp_path / "settings.json", whole.model_dump(mode="json"))
    given = {"settings": str(tmp_path / "settings.json"), "seed": 1, "preset": "paper"}
    assert settings_of(read_run_config(given)) == whole
    changed = settings_of(read_run_config({**given, "set": "federation.rounds=3"}))
    assert (changed.seed, changed.federation.rounds) == (9, 3)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"sed": 1}, "unknown key 'sed'; did you mean 'seed'"),
        ({"seed": "1"}, "seed = '1' must be of type int"),
        ({"seed": True}, "seed = True must be of type int"),
        ({"name": "../up"}, "'../up' is no name of a run"),
        ({"task": "potassium"}, "unknown task 'potassium'"),
        ({"set": "federation.round=3"}, "unknown key 'federation.round'; did you mean 'rounds'"),
        ({"set": "federation.rounds=0"}, "federation.rounds = 0"),
    ],
)
def test_what_is_wrong_is_named(given: dict[str, str | int | bool], sentence: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        settings_of(read_run_config(given))
    assert sentence in str(raised.value)


def test_settings_that_are_not_there_or_not_settings_are_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="does not exist"):
        settings_of(read_run_config({"settings": str(tmp_path / "none.json")}))
    write_json(tmp_path / "list.json", [1, 2])
    with pytest.raises(ConfigurationError, match="holds no settings"):
        settings_of(read_run_config({"settings": str(tmp_path / "list.json")}))
