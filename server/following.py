"""Following a run to its true end: what it says while it goes on, and the one sentence of how it ended."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from common.errors import FederationError
from common.logs import LINE_EVERY_S, say
from server.control import Control, RunInfo
from server.coordinator import Coordinator
from server.runner import RAISED
from server.state import STORY, story_of

POLL_S = 0.5
#: A run that no runner takes for so long is withdrawn.
RUNNER_WAIT_S = 300.0
#: A SuperLink that is away for longer is not waited for; the run may go on without anybody watching.
AWAY_MAX_S = 120.0
AWAY_POLL_S = 2.0


def follow(coordinator: Coordinator, control: Control, run_id: int) -> RunInfo:
    """Show what a run says until it ends, across a short absence of the SuperLink; return how it ended.

    Raises
    ------
    FederationError
        If no runner takes the run, or the SuperLink stays away.
    """
    lines, after, gone_since = _Lines(), 0.0, None
    while True:
        try:
            _wait_until_taken(coordinator, control, run_id)
            for text, moment in control.logs(run_id, after):
                after = moment
                lines.add(text)
            run = control.runs(run_id)[0]
            gone_since = None
            if run.finished:
                lines.end()
                return run
        except FederationError as error:
            if isinstance(error, _NoRunnerError):
                raise
            now = time.monotonic()
            if gone_since is None:
                gone_since = now
                say(f"{error}; waiting up to {AWAY_MAX_S:.0f} s for it")
            elif now - gone_since > AWAY_MAX_S:
                raise FederationError(
                    f"{error}; not watched any longer after {AWAY_MAX_S:.0f} s. Once it is back, "
                    f"'fedkalemia-server status {coordinator.folder}' says how the run stands and "
                    f"'fedkalemia-server resume {coordinator.folder}' goes on with it"
                ) from None
            time.sleep(AWAY_POLL_S)


class _NoRunnerError(FederationError):
    """No runner took the run."""


def _wait_until_taken(coordinator: Coordinator, control: Control, run_id: int) -> None:
    """Wait until the runner has taken the run; say what that waits for."""
    began = said = time.monotonic()
    while control.runs(run_id)[0].status == "pending":
        now = time.monotonic()
        before = [run for run in control.runs() if not run.finished and run.status != "pending"]
        if before:
            began = now
        elif now - began > RUNNER_WAIT_S:
            control.stop_run(run_id)
            raise _NoRunnerError(
                f"no runner took the run within {RUNNER_WAIT_S:.0f} s, and it was withdrawn; start one with "
                f"'fedkalemia-server runner {coordinator.folder}' and look at its output"
            )
        if now - said > LINE_EVERY_S:
            said = now
            if before:
                say(f"waiting for run {before[0].run_id} ({before[0].name}) to end")
            else:
                say(
                    f"waiting for a runner, {RUNNER_WAIT_S - (now - began):.0f} s left; start one with "
                    f"'fedkalemia-server runner {coordinator.folder}'"
                )
        time.sleep(POLL_S)


class _Lines:
    """Pieces of a log, shown as whole lines."""

    def __init__(self) -> None:
        self._rest = ""

    def add(self, text: str) -> None:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            say(line)

    def end(self) -> None:
        if self._rest:
            say(self._rest)


def check_end(coordinator: Coordinator, run: RunInfo) -> str:
    """Return what a run that was completed leaves, in one sentence.

    Raises
    ------
    FederationError
        If it was not completed: with the sentence of the round loop itself, where there is one.
    """
    name, home = run.name, coordinator.folder
    story = story_of(coordinator.run_folder(name))
    if run.sub_status == "completed":
        selected = (story or {}).get("selected") or {}
        return (
            f"run {name} finished: the generic model is that of federated round {selected.get('round')}, in "
            f"{coordinator.run_folder(name)}"
        )
    go_on = f"'fedkalemia-server resume {home} --name {name}' goes on{_where(story)}"
    if run.sub_status == "stopped":
        raise FederationError(f"run {name} was stopped by its operator; {go_on}")
    if run.details.startswith(RAISED):
        raise FederationError(f"run {name} failed: {run.details.removeprefix(RAISED)}")
    if story is not None and story["status"] == "failed" and _told_since(coordinator, name, run.pending_at):
        raise FederationError(f"run {name} failed: {story['failure']}")
    why = run.details.strip().rstrip(".").lower() or "no reason given"
    raise FederationError(
        f"run {name} was lost because the SuperLink or the runner was stopped or cut off ({why}); {go_on}"
    )


def _where(story: Mapping[str, Any] | None) -> str:
    done = len(story["rounds"]) if story is not None else 0
    return f" after federated round {done}" if done else ""


def _told_since(coordinator: Coordinator, name: str, moment: str) -> bool:
    try:
        written = (coordinator.run_folder(name) / STORY).stat().st_mtime
        return written >= datetime.fromisoformat(moment).timestamp()
    except (OSError, ValueError):
        return False
