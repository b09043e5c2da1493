"""What a deployment survives: killed sites, cut lines, a killed server, wrong keys, a full disk.

Real processes, real signals. After each: no row is lost or double, every ledger verifies, every run has come
to an end, and what was said names what happened where. The scenarios mostly wait (a site that is gone is
noticed by the engine after a minute), so they run side by side; each has a deployment of its own.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from client.app import app as client_app
from common.checkpoint import load_checkpoint
from common.files import write_json
from server.app import app as server_app
from simulation.grid import run_in_process

pytestmark = [pytest.mark.deployment, pytest.mark.survives]

#: How many scenarios run at the same time.
WORKERS = 4
#: A site's claim on a message runs out after a minute; then the others go on.
NOTICED_S = 90.0
SCENARIO_S = 420.0
CUT_S = 90.0
#: Rounds long enough for something to happen in the middle of one.
LONG = {"generic": 5, "personal": 0, "beats": 60}


def settings(rounds: int, **federation: Any) -> dict[str, Any]:
    """Return settings of a federation whose rounds take some seconds at a site."""
    return {
        "training": {"local_epochs": 4, "beats_per_strip": 0},
        "federation": {"rounds": rounds, "min_sites": 1, "join_timeout_s": 60.0, **federation},
    }


# --- what must hold after everything -----------------------------------------------------------------------


def check_all_in_order(deployment: Any, name: str = "main", finished: bool = True) -> dict[str, Any]:
    """Check rows, ledgers and runs; return the story of the run."""
    path = deployment.out(name) / "server.json"

    def ended() -> bool:
        return bool(json.loads(path.read_text())["status"] != "running")

    deployment.wait(ended, NOTICED_S, "the run's own story says that it has ended")
    story = json.loads(path.read_text())
    assert story["status"] == "finished" if finished else story["status"] in {"interrupted", "failed"}, story
    for site_name, site in deployment.sites.items():
        if site_name not in story["sites"]:
            continue
        anchors = str(deployment.out(name) / "server.json")
        verified = deployment.site("audit", "verify", str(site.folder), "--anchors", anchors, check=False)
        assert verified.code == 0, f"{site_name}: {verified.output}"
        counts = rounds_of(site, name)
        assert set(counts.values()) <= {1}, f"{site_name} has double rows: {counts}"
        answered = {entry["round"] for entry in story["rounds"] if site_name in entry["answered"]}
        assert answered <= set(counts), f"{site_name} lost rows: {answered - set(counts)}"
    shown = json.loads(deployment.server("status", str(deployment.home), "--json").output)
    ends = {f"{run['name']}: {run['status']}" for run in shown["runs"]}
    assert all("finished" in end for end in ends), ends
    return dict(story)


def rounds_of(site: Any, name: str = "main") -> dict[int, int]:
    """Return how many rows each federated round of a run has in a site's database."""
    connection = sqlite3.connect(f"file:{site.folder / 'site.sqlite'}?mode=ro", uri=True)
    statement = (
        "select round, count(*) from federated_rounds join runs on runs.id = run_id where name = ? "
        "group by round"
    )
    try:
        return dict(connection.execute(statement, (name,)).fetchall())
    finally:
        connection.close()


def rounds_in(story: Mapping[str, Any]) -> int:
    return len(story.get("rounds", ()))


def answered_after(story: Mapping[str, Any], site: str, number: int) -> list[int]:
    """Return the rounds after the given one that a site answered."""
    rounds = story.get("rounds", ())
    return [entry["round"] for entry in rounds if entry["round"] > number and site in entry["answered"]]


def one_process(harness: ModuleType, folder: Path, names: tuple[str, ...], rounds: int) -> Path:
    """Run the same federation undisturbed in one process; return its output folder."""
    make = harness.load("sites").make_tiny_site
    sites = [make(folder / name, name, settings=settings(rounds), **LONG) for name in names]
    write_json(folder / "settings.json", sites[0].settings.model_dump(mode="json"))
    config: dict[str, str | int | float | bool] = {
        "out": str(folder / "out"),
        "settings": str(folder / "settings.json"),
        "personalize": False,
    }
    run_in_process(server_app, client_app, [{"site-folder": str(site.folder)} for site in sites], config)
    return folder / "out"


def assert_same_weights(one: Path, two: Path) -> None:
    for kind in ("best", "last"):
        first, _ = load_checkpoint(one / f"{kind}.safetensors")
        second, _ = load_checkpoint(two / f"{kind}.safetensors")
        assert first.keys() == second.keys()
        assert all(first[key].tobytes() == second[key].tobytes() for key in first)


# --- the scenarios -----------------------------------------------------------------------------------------


def killed_in_a_round(harness: ModuleType, folder: Path) -> None:
    """In the middle of one round, kill a message's process, another site's executor, a third one's node."""
    names = ("child", "executor", "node", "steady")
    with harness.Deployment(folder, names, settings=settings(30), make=LONG) as deployment:
        run = deployment.begin("--no-personalize")
        for name in names:
            deployment.wait_in_round(run, name, 1)
        number = rounds_in(run.story) + 1
        os.kill(deployment.wait_in_round(run, "child", 1), signal.SIGKILL)
        deployment.kill("executor-executor")
        deployment.kill("node-node")
        deployment.restart("executor-executor")
        deployment.restart("node-node")

        def round_over() -> bool:
            return rounds_in(run.story) >= number

        deployment.wait(round_over, NOTICED_S + 30, "the round goes on with the others")
        entry = run.story["rounds"][number - 1]
        assert "steady" in entry["answered"]
        # The child may have answered just before; the other two cannot have.
        assert {"executor", "node"} <= set(entry["failures"]) <= {"child", "executor", "node"}, entry

        def all_back() -> bool:
            return all(answered_after(run.story, name, number) for name in names) or not run.running

        deployment.wait(all_back, NOTICED_S + 60, "all sites answer again")
        story = run.story
        assert all(answered_after(story, name, number) for name in names), story["rounds"]
        assert "SIGKILL" in deployment.parts["executor-child"].text()
        deployment.server("stop", str(deployment.home))
        ended = run.wait()
        assert ended.code == 2
        assert "was stopped by its operator" in ended.output
        check_all_in_order(deployment, finished=False)


def cut_off(harness: ModuleType, folder: Path) -> None:
    """Cut a site's line in the middle of a round, for 90 s."""
    names = ("far", "near")
    with harness.Deployment(folder, names, settings=settings(60), make=LONG) as deployment:
        deployment.keep("node-far")
        run = deployment.begin("--no-personalize")
        deployment.wait_in_round(run, "far", 1)
        number = rounds_in(run.story) + 1
        deployment.cut("far")
        began = time.monotonic()

        def without() -> bool:
            return rounds_in(run.story) >= number

        deployment.wait(without, NOTICED_S + 30, "the round goes on without the site")
        assert run.story["rounds"][number - 1]["answered"] == ["near"]
        time.sleep(max(0.0, CUT_S - (time.monotonic() - began)))
        assert not answered_after(run.story, "far", number - 1)
        deployment.join("far")
        back = rounds_in(run.story)

        def answers() -> bool:
            return bool(answered_after(run.story, "far", back)) or not run.running

        deployment.wait(answers, 90.0, "the site answers again")
        assert answered_after(run.story, "far", back), run.output
        deployment.server("stop", str(deployment.home))
        assert run.wait().code == 2
        check_all_in_order(deployment, finished=False)


def server_killed(harness: ModuleType, folder: Path) -> None:
    """Kill the SuperLink in one round, the runner in another; start both again; resume what was lost."""
    names, rounds = ("north", "south"), 6
    expected = one_process(harness, folder / "one", names, rounds)
    with harness.Deployment(folder / "tls", names, settings=settings(rounds, min_sites=2), make=LONG) as up:
        for name in names:
            up.keep(f"node-{name}")
        run = up.begin("--no-personalize")
        up.wait_in_round(run, "north", 1)
        up.kill("superlink")
        up.restart("superlink")

        def goes_on() -> bool:
            return rounds_in(run.story) >= 3 or not run.running

        # The round loop lives in the runner and outlasts a short absence of the SuperLink.
        up.wait(goes_on, NOTICED_S, "the run goes on")
        assert run.running, run.output
        assert "cannot be reached" in run.output, run.output

        up.wait_in_round(run, "south", 3)
        up.kill("runner")
        up.restart("runner")
        lost = run.wait(SCENARIO_S)
        assert lost.code == 2, lost.output
        assert "resume" in lost.output, lost.output
        assert "goes on after federated round" in lost.output, lost.output
        wait_for_sites(up)

        ended = up.begin(command="resume").wait(SCENARIO_S)
        assert ended.code == 0, ended.output
        story = check_all_in_order(up)
        assert [entry["answered"] for entry in story["rounds"]] == [list(names)] * rounds
        assert_same_weights(expected, up.out())


def wait_for_sites(deployment: Any) -> None:
    """Wait until the coordinator sees all its sites."""

    def online() -> bool:
        shown = deployment.server("status", str(deployment.home), "--json", check=False)
        return shown.code == 0 and all(json.loads(shown.output)["sites"].values())

    deployment.wait(online, NOTICED_S, "all sites are online")


def wrong_keys(harness: ModuleType, folder: Path) -> None:
    """Start a node with a key that nobody registered, and one with a key that was replaced at the site."""
    names = ("north", "south")
    with harness.Deployment(folder, names, settings=settings(2), make=LONG) as deployment:
        deployment.add_site("stranger")
        deployment.start("node-stranger")
        assert deployment.parts["node-stranger"].process.wait(60) != 0
        said = deployment.parts["node-stranger"].text()
        assert "not registered" in said, said

        assert deployment.kill("node-south", signal.SIGTERM) is not None
        deployment.site("key", "renew", str(deployment.sites["south"].folder))
        deployment.start("node-south")
        assert deployment.parts["node-south"].process.wait(60) != 0

        ended = deployment.run("--no-personalize", limit_s=SCENARIO_S)
        assert ended.code == 0, ended.output
        assert ended.story["sites"] == ["north"]
        assert "south" in ended.output  # says who is missing
        check_all_in_order(deployment)

        key = deployment.sites["south"].node / "node.pub"
        deployment.server("site", "add", str(deployment.home), "south", str(key), "--replace")
        deployment.start("node-south")
        deployment.wait_connected("south", 2)
        for name in names:
            deployment.freeze(name, "again")
        ended = deployment.run("--no-personalize", name="again", limit_s=SCENARIO_S)
        assert ended.story["sites"] == ["north", "south"]
        check_all_in_order(deployment, "again")


def full_disk(harness: ModuleType, folder: Path) -> None:
    """Fill a site's disk in the middle of a run, and free it again."""
    names = ("full", "roomy")
    place = folder / "sites" / "full"
    place.mkdir(parents=True)
    with small_disk(place), harness.Deployment(folder, names, settings=settings(30), make=LONG) as deployment:
        run = deployment.begin("--no-personalize")
        deployment.wait(lambda: rounds_in(run.story) >= 1, NOTICED_S, "a round with both")
        fill(place / "filler")

        def failed() -> bool:
            return any("full" in entry["failures"] for entry in run.story["rounds"]) or not run.running

        deployment.wait(failed, NOTICED_S, "the site says that it cannot go on")
        codes = {entry["failures"]["full"] for entry in run.story["rounds"] if "full" in entry["failures"]}
        assert codes <= {"storage_failed", "ledger_failed", "unreachable"}, codes
        (place / "filler").unlink()
        number = rounds_in(run.story)

        def again() -> bool:
            return bool(answered_after(run.story, "full", number)) or not run.running

        deployment.wait(again, NOTICED_S + 30, "the site answers again")
        assert answered_after(run.story, "full", number), run.output
        deployment.server("stop", str(deployment.home))
        assert run.wait().code == 2
        check_all_in_order(deployment, finished=False)


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Mount a file system of a few MB."""
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m,mode=700", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        raise Unable(f"no file system can be mounted here: {made.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


class Unable(Exception):  # noqa: N818
    """A scenario needs what this machine does not allow."""


def fill(path: Path) -> None:
    """Write until nothing more fits."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue


# --- run side by side --------------------------------------------------------------------------------------

SCENARIOS: Mapping[str, Callable[[ModuleType, Path], None]] = {
    # The longest first.
    "server": server_killed,
    "cut": cut_off,
    "killed": killed_in_a_round,
    "disk": full_disk,
    "keys": wrong_keys,
}


@pytest.fixture(scope="module")
def outcomes(
    harness: ModuleType, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Mapping[str, Future[None]]]:
    """Start the scenarios of the chosen tests."""
    wanted = {
        scenario
        for item in request.session.items
        for scenario in SCENARIOS
        if item.get_closest_marker("survives") and f"[{scenario}]" in item.name
    }
    with ThreadPoolExecutor(WORKERS) as pool:
        yield {
            name: pool.submit(SCENARIOS[name], harness, tmp_path_factory.mktemp(name))
            for name in SCENARIOS
            if name in wanted
        }


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_survives(scenario: str, outcomes: Mapping[str, Future[None]]) -> None:
    try:
        outcomes[scenario].result(SCENARIO_S * 2)
    except Unable as why:
        pytest.skip(str(why))
