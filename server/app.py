"""The Flower ServerApp: reads the run configuration and runs the federation.

The run configuration is flat and comes from outside; every value is checked before it is used. ``home`` is
set by the coordinator's runner and by nobody else: then the files go into the coordinator's folder of the
run, and only registered sites take part, each under its registered name.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.exit import add_exit_handler

from common.config import Settings, make_settings, merge, parse_overrides, validated
from common.errors import ConfigurationError, FederationError
from common.files import read_json
from server.coordinator import Coordinator, load_coordinator
from server.federation import Federation
from server.run_config import SETTINGS, read_run_config
from server.state import heads_of_runs

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run one federation and leave its files in the folder ``out`` of the run configuration."""
    config = read_run_config(context.run_config)
    names = activations = heads = None
    if config["home"]:
        coordinator = load_coordinator(Path(str(config["home"])))
        folder = coordinator.run_folder(str(config["name"]))
        config |= {"out": str(folder), "settings": _inside(folder, str(config["settings"]))}
        names = _registered(coordinator)
        activations = partial(_activations, coordinator)
        heads = heads_of_runs(folder.parent)
    federation = Federation(
        grid,
        settings_of(config),
        Path(str(config["out"])),
        str(config["name"]),
        personalize=bool(config["personalize"]),
        fresh=bool(config["fresh"]),
        names=names,
        activations=activations,
        heads=heads,
    )
    if config["home"]:
        # A stopped run has five seconds, and the engine may need them all before any exception arrives here.
        add_exit_handler(federation.interrupted, run_before_force_exit=True)
    federation.run()


def _registered(coordinator: Coordinator) -> dict[int, str]:
    """Return the registered name of each node, as the SuperLink knows them."""
    # Here, so that a simulation starts without the client of a SuperLink it does not have.
    from server.control import Control
    from server.registry import bound

    with Control(coordinator) as control:
        return dict(bound(control, coordinator.registry))


def _activations(coordinator: Coordinator) -> dict[int, str]:
    """Return when each node last came online; nothing while the SuperLink does not answer."""
    from server.control import Control

    try:
        with Control(coordinator) as control:
            return {node.node_id: node.activated_at for node in control.nodes() if node.activated_at}
    except FederationError:
        return {}


def _inside(folder: Path, name: str) -> str:
    """Return the path of a file of settings in a run's folder; nothing else may be named from outside."""
    if name not in {"", SETTINGS}:
        raise ConfigurationError(
            f"run configuration: settings = {name!r}; a coordinator's run takes them from {SETTINGS} in its "
            "own folder, which 'fedkalemia-server run --settings FILE' writes"
        )
    return str(folder / name) if name else ""


def settings_of(config: Mapping[str, str | int | bool]) -> Settings:
    """Build the settings: a full dump in the file ``settings``, or task, preset and seed; then ``set``."""
    over = parse_overrides([item.strip() for item in str(config["set"]).split(";") if item.strip()])
    if config["settings"]:
        path = Path(str(config["settings"]))
        values = read_json(path)
        if not isinstance(values, dict):
            raise ConfigurationError(f"{path} holds no settings; expected is a JSON object")
        return validated(Settings, merge(values, over), str(path))
    over = merge({"seed": config["seed"]}, over)
    return make_settings(str(config["task"]), str(config["preset"]), over)
