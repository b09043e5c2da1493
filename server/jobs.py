"""A coordinator's runs: submitting one, going on with it, stopping it.

A run is submitted to the SuperLink and done by the runner. What is needed to go on after an interruption lies
in the run's folder: its settings, the state after the last federated round, and its story.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from common.config import Settings, validated
from common.errors import ConfigurationError, FederationError, StorageError
from common.files import read_json, write_atomic, write_json
from common.logs import say
from server.bundle import digest, make_bundle
from server.control import Control, RunInfo
from server.coordinator import Coordinator
from server.lock import alone
from server.registry import bound
from server.run_config import SETTINGS, check_name
from server.state import LAST, story_of


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
    StorageError
        If the folder cannot be written, or another command is changing it.
    """
    check_name(job.name)
    folder = coordinator.run_folder(job.name)
    stored = stored_settings(folder)
    if (folder / LAST).exists() and not job.fresh and stored is not None and stored != job.settings:
        raise ConfigurationError(
            f"{folder} holds a run with other settings; choose another name with --name, or start anew there "
            "with --fresh"
        )
    # Otherwise two commands could both find nothing in flight, and both submit.
    with alone(coordinator.folder):
        if (other := in_flight(control, job.name)) is not None:
            raise ConfigurationError(
                f"run {other.run_id} of the name {job.name!r} is in flight; follow it with "
                f"'fedkalemia-server resume {coordinator.folder} --name {job.name}', stop it with "
                f"'fedkalemia-server stop {coordinator.folder} {job.name}', or choose another name"
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
    asked = [run.config.get("personalize", True) for run in control.runs() if run.name == name]
    return Job(name, read_settings(folder / SETTINGS), personalize=bool(asked[-1]) if asked else True)


def is_done(coordinator: Coordinator, job: Job) -> bool:
    """Return whether nothing is left to do for a run."""
    story = story_of(coordinator.run_folder(job.name))
    if story is None or story["status"] != "finished" or story["settings_sha256"] != job.settings.digest():
        return False
    return not job.personalize or set(story["personalize"]) >= set(story["sites"])


def in_flight(control: Control, name: str) -> RunInfo | None:
    """Return the run of a name that has not ended, if there is one."""
    return next((run for run in control.runs() if not run.finished and run.name == name), None)


def stop(control: Control, which: str | None) -> RunInfo:
    """Stop a run that is in flight, by name or number; return what it was.

    Raises
    ------
    FederationError
        If no run is in flight, the one asked for is not, or it must be said which.
    """
    running = [run for run in control.runs() if not run.finished]
    listed = ", ".join(f"{run.name} ({run.run_id})" for run in running) or "none"
    found = [run for run in running if which in (None, run.name, str(run.run_id))]
    if not found:
        asked = "no run is in flight" if which is None else f"no run {which!r} is in flight"
        raise FederationError(f"{asked}; in flight: {listed}")
    if len(found) > 1:
        raise FederationError(f"several runs are in flight; name one of them: {listed}")
    if not control.stop_run(found[0].run_id):
        raise FederationError(f"the SuperLink did not stop run {found[0].run_id}; it may have ended just now")
    return found[0]
