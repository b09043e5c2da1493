"""Runs of a real coordinator without sites: what is missing is named, and the exit status is the true one."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.errors import FederationError
from common.identity import new_node_key, public_line
from server import pki
from server.control import Control
from server.coordinator import Coordinator, make_coordinator
from server.registry import add

pytestmark = pytest.mark.deployment

COMMAND = str(Path(sys.executable).parent / "fedkalemia-server")
READY_S, RUN_S, STOP_S, POLL_S = 60.0, 60.0, 20.0, 0.1


def wait(condition: Callable[[], bool], limit_s: float, what: str) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, f"{what} took longer than {limit_s} s"
        time.sleep(POLL_S)


@contextlib.contextmanager
def started(log: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run one of the coordinator's long-lived commands."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            [COMMAND, *arguments], stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(STOP_S)


def answers(home: Coordinator) -> bool:
    try:
        with Control(home) as control:
            control.nodes()
    except FederationError:
        return False
    return True


def called(*arguments: str) -> tuple[int, str]:
    """Run one command to its end; return its exit code and all it wrote."""
    done = subprocess.run([COMMAND, *arguments], capture_output=True, text=True, timeout=RUN_S, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    """Yield a coordinator with its SuperLink, its runner and two registered sites that never come."""
    folder = tmp_path_factory.mktemp("jobs")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    coordinator = make_coordinator(folder / "home", ("localhost",), superlink=address)
    pki.init(coordinator)
    place = str(coordinator.folder)
    with started(folder / "superlink.log", "superlink", place):
        wait(lambda: answers(coordinator), READY_S, "the SuperLink")
        with Control(coordinator) as control:
            for name in ("river", "valley"):
                add(control, coordinator.registry, name, public_line(new_node_key()))
        with started(folder / "runner.log", "runner", place):
            yield coordinator


def test_too_few_sites_are_named_while_waiting_and_end_the_run_with_exit_2(home: Coordinator) -> None:
    place = str(home.folder)
    code, output = called("run", place, "--set", "federation.join_timeout_s=3")
    assert code == 2
    assert "waiting for river, valley (0 of 2 registered sites connected)" in output
    assert "error: run main failed: 0 of at least 2 sites can take part after 3 s" in output
    assert "not connected: river, valley" in output
    assert "bundle SHA-256" in output
    assert "Traceback" not in output
    assert not (home.flower_home / "apps").exists(), "the bundle was unpacked"
    code, output = called("status", place, "--json")
    shown = json.loads(output)
    assert code == 0
    assert shown["sites"] == {"river": False, "valley": False}
    assert [(run["name"], run["status"]) for run in shown["runs"]] == [("main", "finished:failed")]
    assert "not connected: river, valley" in shown["runs"][0]["failure"]


def test_what_is_wrong_is_refused_before_anything_is_submitted(home: Coordinator) -> None:
    with Control(home) as control:
        before = control.runs()
        code, output = called("run", str(home.folder), "--name", "wrong", "--set", "federation.round=3")
        assert (code, "did you mean 'rounds'" in output) == (2, True)
        assert control.runs() == before
    assert not home.run_folder("wrong").exists()


def test_a_run_goes_on_after_ctrl_c_and_ends_with_stop(home: Coordinator) -> None:
    place, log = str(home.folder), home.folder.parent / "run.log"
    story = home.run_folder("two") / "server.json"
    options = ("--name", "two", "--set", "federation.join_timeout_s=120")
    with started(log, "run", place, *options) as watcher:
        wait(lambda: "waiting for river, valley" in log.read_text(), RUN_S, "the run's first line")
        code, output = called("run", place, *options)
        assert (code, "is in flight" in output) == (2, True)
        watcher.send_signal(signal.SIGINT)
        assert watcher.wait(STOP_S) == 130
        assert "goes on by itself" in log.read_text()
    with started(log, "resume", place, "--name", "two") as follower:
        wait(lambda: log.read_text().count("waiting for river, valley") > 1, RUN_S, "following again")
        code, output = called("stop", place)
        assert (code, "(two) is stopped" in output) == (0, True)
        assert follower.wait(STOP_S) == 2
        assert "run two was stopped by its operator" in log.read_text()
    wait(story.exists, STOP_S, "the end of the run's process")
    told = json.loads(story.read_text())
    assert told["status"] == "interrupted"
    code, output = called("stop", place)
    assert (code, "no run is in flight" in output) == (2, True)


def test_a_second_superlink_on_the_same_port_is_refused_in_one_sentence(home: Coordinator) -> None:
    code, output = called("superlink", str(home.folder))
    assert code == 2
    assert f"cannot listen on {home.superlink}: address already in use" in output
    assert output.count("\n") == 1
