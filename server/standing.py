"""How the runs and the sites of a coordinator stand, from the SuperLink and from the runs' own folders."""

from __future__ import annotations

from typing import Any

from common.errors import FederationError
from common.files import storage_errors
from common.protocol import RUN_NAME
from server.control import ONLINE, Control, RunInfo
from server.coordinator import Coordinator
from server.registry import read_registry
from server.state import STORY, story_of


def standing(coordinator: Coordinator) -> dict[str, Any]:
    """Return how the runs and the sites stand, for ``status``.

    Returns
    -------
    ``superlink`` : None, or the sentence that says why it cannot be asked.
    ``sites`` : ``online`` (None if unknown) by name.
    ``runs`` : newest first: ``name``, ``run_id``, ``status``, ``round`` of ``rounds``, ``failure``,
        ``selected`` (the federated round the generic model comes from).
    """
    registered = read_registry(coordinator.registry)
    online: dict[str, bool | None] = dict.fromkeys(sorted(registered))
    runs: list[RunInfo] = []
    trouble = None
    try:
        with Control(coordinator) as control:
            present = {node.node_id for node in control.nodes() if node.status == ONLINE}
            online = {name: registered[name].node_id in present for name in online}
            runs = control.runs()
    except FederationError as error:
        trouble = str(error)
    told: list[dict[str, Any]] = []
    for run in reversed(runs):
        name = run.name
        newest = name not in {entry["name"] for entry in told}
        status = f"{run.status}:{run.sub_status}" if run.finished else run.status
        told.append(_entry(coordinator, name, run.run_id, status, told_in_folder=newest))
    for name in _folders(coordinator) - {entry["name"] for entry in told}:
        told.append(_entry(coordinator, name, None, None, told_in_folder=True))
    return {"superlink": trouble, "sites": online, "runs": told}


def _entry(
    coordinator: Coordinator, name: str, run_id: int | None, status: str | None, *, told_in_folder: bool
) -> dict[str, Any]:
    """Describe one run; its folder tells of the newest run of its name only."""
    story = story_of(coordinator.run_folder(name)) if told_in_folder else None
    story = story or {"status": None, "rounds": [], "settings": {}, "failure": None, "selected": None}
    return {
        "name": name,
        "run_id": None if run_id is None else str(run_id),
        "status": status or story["status"],
        "round": len(story["rounds"]),
        "rounds": story["settings"].get("federation", {}).get("rounds"),
        "failure": story["failure"],
        "selected": (story.get("selected") or {}).get("round"),
    }


def _folders(coordinator: Coordinator) -> set[str]:
    place = coordinator.folder / "runs"
    if not place.is_dir():
        return set()
    with storage_errors(place):
        return {path.parent.name for path in place.glob(f"*/{STORY}") if RUN_NAME.fullmatch(path.parent.name)}
