"""What may be said about a run from outside: its name and the keys of its run configuration.

Read by the app itself, by the bundle that names the keys, and by the commands; it imports neither torch nor
the engine, so that ``status`` answers at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.config import nearest
from common.errors import ConfigurationError

#: File in a run's folder that holds all its settings.
SETTINGS = "settings.json"

DEFAULTS: Mapping[str, str | int | bool] = {
    "task": "hyperkalemia",
    "preset": "standard",
    "seed": 0,
    "name": "main",
    "out": "out",
    "settings": "",
    "set": "",
    "personalize": True,
    "fresh": False,
    "home": "",
}


def check_name(name: str) -> None:
    """Check the name of a run, which also names its folder.

    Raises
    ------
    ConfigurationError
        If it is none.
    """
    from common.protocol import RUN_NAME  # its home; imported here because it brings the engine along

    if not RUN_NAME.fullmatch(name):
        raise ConfigurationError(
            f"{name!r} is no name of a run: 1 to 32 lower-case letters, digits and hyphens, beginning with a "
            "letter"
        )


def read_run_config(values: Mapping[str, Any]) -> dict[str, str | int | bool]:
    """Lay the run configuration over the defaults.

    Raises
    ------
    ConfigurationError
        For an unknown key, a value of another type than the default's, or a name that is not one.
    """
    for key, value in values.items():
        if key not in DEFAULTS:
            raise ConfigurationError(f"run configuration: unknown key {key!r}{nearest(key, list(DEFAULTS))}")
        if type(value) is not type(DEFAULTS[key]):
            wanted = type(DEFAULTS[key]).__name__
            raise ConfigurationError(f"run configuration: {key} = {value!r} must be of type {wanted}")
    config = {**DEFAULTS, **values}
    check_name(str(config["name"]))
    if config["home"] and "out" in values and values["out"] != DEFAULTS["out"]:
        raise ConfigurationError(
            f"run configuration: out = {values['out']!r}; a coordinator's run writes to its own folder under "
            "'runs' and takes no other"
        )
    return config
