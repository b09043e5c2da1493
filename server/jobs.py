"""A coordinator's runs: submitting one, following it to its true end, and how all of them stand.

A run is submitted to the SuperLink and done by the runner. What is needed to go on after an interruption lies
in the run's folder: its settings, the state after the last federated round, and its story.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from common.config import Settings, validated
from common.errors import ConfigurationError, FederationError, StorageError
from common.files import read_json, write_atomic, write_json
from common.logs import LINE_EVERY_S, say
from common.protocol import RUN_NAME
from server.app import DEFAULTS, SETTINGS
from server.bundle import digest, make_bundle
from server.control import Control, RunInfo
from server.coordinator import Coordinator
from server.registry import bound
from server.runner import RAISED
from server.state import LAST, STORY

POLL_S = 0.5
#: A run that no runner takes for so long is withdrawn.
RUNNER_WAIT_S = 300.0
#: A SuperLink that is away for longer is not waited for; the run may go on without anybody watching.
AWAY_MAX_S = 120.0
AWAY_POLL_S = 2.0


@dataclass(frozen=True)
class Job:
    """What is asked of a run.

    Attributes
    ----------
    name : of the run and of its folder.
    settings : all settings.
    personalize : ask the sites to personalize after training.
    fresh : forget what an earlier run left in the folder.
    """

    name: str
    settings: Settings
    personalize: bool = True
    fresh: bool = False


# --- submitting ---------------------------------------------------------------------------------------------


def check_name(name: str) -> None:
    """Check the name of a run.

    Raises
    ------
    ConfigurationError
        If it is none.
    """
    if not RUN_NAME.fullmatch(name):
        raise ConfigurationError(
            f"{name!r} is no name of a run: 1 to 32 lower-case letters, digits and hyphens, beginning with a "
            "letter"
        )


def submit(coordinator: Coordinator, control: Control, job: Job) -> int:
    """Submit a run and return its number; nothing is left behind if that fails.

    Raises
    ------
    ConfigurationError
        If the folder holds a run with other settings, or a run of that name is in flight.
    IdentityError
        If no site is registered, or the SuperLink knows other ones.
    FederationError
        If the SuperLink cannot be reached or refuses.
    """
    check_name(job.name)
    folder = coordinator.run_folder(job.name)
    stored = stored_settings(folder)
    if (folder / LAST).exists() and not job.fresh and stored is not None and stored != job.settings:
        raise ConfigurationError(
            f"{folder} holds a run with other settings; choose another name with --name, or start anew there "
            "with --fresh"
        )
    if (other := in_flight(control, job.name)) is not None:
        raise ConfigurationError(
            f"run {other.run_id} of the name {job.name!r} is in flight; follow it with 'fedkalemia-server "
            f"resume {coordinator.folder} --name {job.name}', stop it with 'fedkalemia-server stop "
            f"{coordinator.folder} {job.name}', or choose another name"
        )
    sites = sorted(bound(control, coordinator.registry).values())
    bundle = make_bundle()
    config: dict[str, bool | int | float | str] = {
        "name": job.name,
        "settings": SETTINGS,
        "personalize": job.personalize,
        "fresh": job.fresh,
    }
    with _kept(folder / SETTINGS):
        write_json(folder / SETTINGS, job.settings.model_dump(mode="json"))
        run_id = control.start_run(bundle, config)
    say(f"run {run_id} ({job.name}) submitted for {', '.join(sites)}; bundle SHA-256 {digest(bundle)}")
    return run_id


@contextmanager
def _kept(path: Path) -> Iterator[None]:
    """Leave a file as it was, or absent with the folders made for it, if the block fails."""
    before = path.read_bytes() if path.exists() else None
    made = [folder for folder in (path.parent, path.parent.parent) if not folder.exists()]
    try:
        yield
    except BaseException:
        if before is None:
            path.unlink(missing_ok=True)
        else:
            write_atomic(path, before)
        for folder in made:
            with suppress(OSError):  # somebody else uses it by now
                folder.rmdir()
        raise


def stored_settings(folder: Path) -> Settings | None:
    """Return the settings of the run in a folder; None if there is none, or this version cannot read them."""
    if not (folder / SETTINGS).exists():
        return None
    try:
        return read_settings(folder / SETTINGS)
    except (ConfigurationError, StorageError):
        return None


def read_settings(path: Path) -> Settings:
    """Read a file that holds all settings.

    Raises
    ------
    StorageError
        If it is missing or not JSON.
    ConfigurationError
        If it holds no settings, or wrong ones.
    """
    values = read_json(path)
    if not isinstance(values, dict):
        raise ConfigurationError(f"{path} holds no settings; expected is a JSON object")
    return validated(Settings, values, str(path))


def stored_job(coordinator: Coordinator, control: Control, name: str) -> Job:
    """Return what was asked of the run in a folder, for going on with it.

    Raises
    ------
    ConfigurationError
        If there is no such run, or its settings are not of this version.
    """
    check_name(name)
    folder = coordinator.run_folder(name)
    if not (folder / SETTINGS).exists():
        raise ConfigurationError(
            f"{folder} holds no run; start one with 'fedkalemia-server run {coordinator.folder} "
            f"--name {name}'"
        )
    asked = [run.config.get("personalize", True) for run in control.runs() if name_of(run) == name]
    return Job(name, read_settings(folder / SETTINGS), personalize=bool(asked[-1]) if asked else True)


def is_done(coordinator: Coordinator, job: Job) -> bool:
    """Return whether nothing is left to do for a run."""
    story = story_of(coordinator, job.name)
    if story is None or story["status"] != "finished" or story["settings_sha256"] != job.settings.digest():
        return False
    return not job.personalize or set(story["personalize"]) >= set(story["sites"])


def in_flight(control: Control, name: str) -> RunInfo | None:
    """Return the run of a name that has not ended, if there is one."""
    return next((run for run in control.runs() if not run.finished and name_of(run) == name), None)


def name_of(run: RunInfo) -> str:
    """Return the name that was given to a run."""
    return str(run.config.get("name", DEFAULTS["name"]))


# --- following ----------------------------------------------------------------------------------------------


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
                say(f"waiting for run {before[0].run_id} ({name_of(before[0])}) to end")
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
    name, home = name_of(run), coordinator.folder
    story = story_of(coordinator, name)
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


def story_of(coordinator: Coordinator, name: str) -> dict[str, Any] | None:
    """Return the story of a run as far as it is told; None if there is none."""
    path = coordinator.run_folder(name) / STORY
    try:
        story = read_json(path) if path.exists() else None
    except StorageError:
        return None
    needed = {"status", "failure", "rounds", "sites", "settings", "settings_sha256", "personalize"}
    return story if isinstance(story, dict) and needed <= set(story) else None


def stop(control: Control, which: str | None) -> RunInfo:
    """Stop a run that is in flight, by name or number; return what it was.

    Raises
    ------
    FederationError
        If no run is in flight, the one asked for is not, or it must be said which.
    """
    running = [run for run in control.runs() if not run.finished]
    listed = ", ".join(f"{name_of(run)} ({run.run_id})" for run in running) or "none"
    found = [run for run in running if which in (None, name_of(run), str(run.run_id))]
    if not found:
        asked = "no run is in flight" if which is None else f"no run {which!r} is in flight"
        raise FederationError(f"{asked}; in flight: {listed}")
    if len(found) > 1:
        raise FederationError(f"several runs are in flight; name one of them: {listed}")
    if not control.stop_run(found[0].run_id):
        raise FederationError(f"the SuperLink did not stop run {found[0].run_id}; it may have ended just now")
    return found[0]
