"""Runs of a coordinator, without a SuperLink: how an end is told, what is stored, how all of them stand."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from common.config import make_settings
from common.errors import ConfigurationError, FederationError, StorageError
from common.files import write_json
from server import pki
from server.cli import app
from server.control import Control, RunInfo
from server.coordinator import Coordinator, make_coordinator
from server.following import _Lines, check_end
from server.jobs import Job, _kept, is_done, stored_settings, submit
from server.lock import alone
from server.schedule import Selection
from server.standing import standing
from server.state import LAST, Story


@pytest.fixture
def home(tmp_path: Path) -> Coordinator:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    coordinator = make_coordinator(tmp_path / "home", ("localhost",), superlink=address)
    pki.init(coordinator)
    return coordinator


def ended(sub_status: str, details: str = "", name: str = "main", pending_at: str = "") -> RunInfo:
    began = pending_at or datetime.now(UTC).isoformat()
    return RunInfo(7, "finished", sub_status, details, {"name": name}, began)


def told(home: Coordinator, status: str, failure: str | None = None, name: str = "main") -> None:
    Story(make_settings(), name, status=status, failure=failure, sites=("a",)).write(
        home.run_folder(name), None
    )


# --- how a run ended --------------------------------------------------------------------------------------


def test_the_federation_s_own_sentence_is_what_a_failed_run_ends_with(home: Coordinator) -> None:
    details = "ServerApp failed with exception: 0 of at least 2 sites can take part; not connected: river"
    with pytest.raises(FederationError, match=r"^run main failed: 0 of at least 2 sites .* river$"):
        check_end(home, ended("failed", details))


def test_a_sentence_that_did_not_reach_the_superlink_is_taken_from_the_folder(home: Coordinator) -> None:
    told(home, "failed", "federated round 3: no site trained")
    with pytest.raises(FederationError, match="run main failed: federated round 3: no site trained"):
        check_end(
            home, ended("failed", "No heartbeat received from the task", pending_at="2020-01-01T00:00Z")
        )


def test_the_sentence_of_an_earlier_run_is_not_taken_for_this_one_s(home: Coordinator) -> None:
    told(home, "failed", "something of last week")
    last_week = time.time() - 7 * 86400
    os.utime(home.run_folder("main") / "server.json", (last_week, last_week))
    with pytest.raises(FederationError, match=r"was lost .*no heartbeat.*resume .*--name main") as raised:
        check_end(home, ended("failed", "No heartbeat received from the task"))
    assert "last week" not in str(raised.value)


def test_a_stopped_run_says_how_to_go_on(home: Coordinator) -> None:
    with pytest.raises(FederationError, match=r"run two was stopped.*resume .* --name two"):
        check_end(home, ended("stopped", name="two"))


def test_a_completed_run_names_its_model_and_folder(home: Coordinator) -> None:
    story = Story(make_settings(), "main", status="finished")
    story.selection, story.sha256 = Selection(5, "last", None, 0), "ab" * 32
    story.write(home.run_folder("main"), None)
    sentence = check_end(home, ended("completed"))
    assert "federated round 5" in sentence
    assert str(home.run_folder("main")) in sentence


def test_pieces_of_a_log_are_shown_as_whole_lines(capsys: pytest.CaptureFixture[str]) -> None:
    from common.logs import PlainReporter, use_reporter

    use_reporter(PlainReporter())
    try:
        lines = _Lines()
        for piece in ("federated ro", "und 1\nfederated", " round 2", "\nlast"):
            lines.add(piece)
        assert capsys.readouterr().out == "federated round 1\nfederated round 2\n"
        lines.end()
        assert capsys.readouterr().out == "last\n"
    finally:
        use_reporter(None)


# --- what is stored ---------------------------------------------------------------------------------------


def test_a_run_that_could_not_be_submitted_leaves_nothing(home: Coordinator) -> None:
    with Control(home) as control, pytest.raises(FederationError, match="cannot be reached"):
        submit(home, control, Job("main", make_settings()))
    assert not (home.folder / "runs").exists()


def stopped_after_writing(path: Path) -> None:
    with _kept(path):
        write_json(path, {"new": True})
        raise KeyboardInterrupt


def test_settings_are_put_back_if_submitting_fails(home: Coordinator) -> None:
    path = home.run_folder("main") / "settings.json"
    with pytest.raises(KeyboardInterrupt):
        stopped_after_writing(path)
    assert not (home.folder / "runs").exists()
    write_json(path, {"old": True})
    with pytest.raises(KeyboardInterrupt):
        stopped_after_writing(path)
    assert json.loads(path.read_text()) == {"old": True}


def test_a_folder_with_a_run_of_other_settings_is_not_taken(home: Coordinator) -> None:
    folder = home.run_folder("main")
    write_json(folder / "settings.json", make_settings().model_dump(mode="json"))
    (folder / LAST).write_bytes(b"a federation after some rounds")
    other = make_settings(overrides={"seed": 5})
    assert stored_settings(folder) == make_settings()
    with Control(home) as control:
        with pytest.raises(ConfigurationError, match=r"other settings.*--fresh"):
            submit(home, control, Job("main", other))
        with pytest.raises(FederationError, match="cannot be reached"):  # got past that check
            submit(home, control, Job("main", other, fresh=True))
    assert stored_settings(folder) == make_settings()


def test_a_run_is_done_when_every_site_personalized_with_these_settings(home: Coordinator) -> None:
    job = Job("main", make_settings())
    assert not is_done(home, job)
    told(home, "finished")
    assert not is_done(home, job)
    assert is_done(home, Job("main", make_settings(), personalize=False))
    story = Story(make_settings(), "main", status="finished", sites=("a",), personalize={"a": {}})
    story.write(home.run_folder("main"), None)
    assert is_done(home, job)
    assert not is_done(home, Job("main", make_settings(overrides={"seed": 5})))


# --- bad input, and how they stand ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "HOME", "--name", "../up"], "'../up' is no name of a run"),
        (["run", "HOME", "--set", "federation.round=3"], "did you mean 'rounds'"),
        (["run", "HOME", "--task", "potassium"], "unknown task 'potassium'"),
        (["run", "HOME", "--settings", "none.json"], "none.json does not exist"),
        (["run", "HOME", "--settings", "none.json", "--seed", "3"], "leave --task, --preset and --seed away"),
        (["run", "none"], "is not a coordinator folder"),
        (["resume", "HOME"], "holds no run"),
        (["resume", "HOME", "--name", "A"], "'A' is no name of a run"),
        (["stop", "HOME"], "cannot be reached"),
        (["bundle", "."], "is not a coordinator folder"),
        (["superlink", "HOME", "--listen", "8000"], "8000"),
        (["runner", "none"], "is not a coordinator folder"),
        (["status", "none"], "is not a coordinator folder"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(
    home: Coordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    given = [str(home.folder) if argument == "HOME" else argument for argument in arguments]
    result = CliRunner().invoke(app, given)
    assert sentence in str(result.exception)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_file_of_settings_that_are_none_is_named(home: Coordinator, tmp_path: Path) -> None:
    for content in ("[1, 2]", '{"federation": {"round": 3}}', "not json"):
        (tmp_path / "settings.json").write_text(content)
        given = ["run", str(home.folder), "--settings", str(tmp_path / "settings.json")]
        assert "settings.json" in str(CliRunner().invoke(app, given).exception)
    assert not (home.folder / "runs").exists()


def test_without_a_superlink_the_folders_still_tell(home: Coordinator) -> None:
    told(home, "interrupted", "stopped by its operator")
    shown: dict[str, Any] = standing(home)
    assert "cannot be reached" in shown["superlink"]
    assert [(run["name"], run["status"], run["round"]) for run in shown["runs"]] == [
        ("main", "interrupted", 0)
    ]
    assert CliRunner().invoke(app, ["status", str(home.folder), "--json"]).exit_code == 2


def test_a_command_that_only_reads_does_not_wait_for_torch() -> None:
    script = "import sys, server.standing, server.jobs, server.jobs_cli; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], timeout=120, check=True)


def test_only_one_command_at_a_time_changes_a_coordinator(tmp_path: Path) -> None:
    def another() -> None:
        with alone(tmp_path, 0.1):
            pass

    with alone(tmp_path), pytest.raises(StorageError, match="another fedkalemia-server command"):
        another()
    with alone(tmp_path, 0.1):
        pass
