"""``fedkalemia-server superlink``, ``runner``, ``run``, ``status``, ``stop``, ``resume``, ``bundle``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from common.command import EXIT_ERROR, EXIT_INTERRUPTED
from common.errors import ConfigurationError
from common.logs import say
from common.task import TASKS
from server.run_config import DEFAULTS

if TYPE_CHECKING:  # a command that only reads must not wait for the engine
    from server.control import Control
    from server.coordinator import Coordinator

Home = Annotated[Path, typer.Argument(metavar="HOME", help="Coordinator folder, made by 'pki init'")]
Name = Annotated[str, typer.Option("--name", help="Name of the run and of its folder under HOME/runs")]
Detach = Annotated[bool, typer.Option("--detach", help="Submit only; do not follow the run")]
BUNDLE = "bundle.fab"
_TASKS = f"{' or '.join(TASKS)} (default {DEFAULTS['task']})"
_PRESETS = "; ".join(f"{task.name}: {', '.join(task.presets)}" for task in TASKS.values())
_PRESETS += f" (default {DEFAULTS['preset']})"


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands to ``fedkalemia-server``."""
    for command in (superlink, runner, run, status, stop, resume, bundle):
        app.command()(command)


def superlink(
    home: Home,
    listen: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Address to listen on, if not that of server.toml")
    ] = None,
    health: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Address of the gRPC health service")
    ] = None,
) -> None:
    """Start the SuperLink, which passes messages between the runner and the sites.

    Its port is for the coordinator alone; sites reach it through 'front'.
    """
    from server.coordinator import load_coordinator
    from server.superlink import run_superlink

    run_superlink(load_coordinator(home), listen, health)


def runner(home: Home) -> None:
    """Do the runs that are submitted, with this installation's own code, until stopped."""
    from server.coordinator import load_coordinator
    from server.runner import run_runner

    run_runner(load_coordinator(home))


def run(
    home: Home,
    name: Name = "main",
    task: Annotated[str | None, typer.Option(help=f"What the model tells apart: {_TASKS}")] = None,
    preset: Annotated[str | None, typer.Option(help=f"Where the settings start from: {_PRESETS}")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of every random stream (default 0)")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one setting")
    ] = None,
    settings: Annotated[Path | None, typer.Option(metavar="FILE", help="JSON file with all settings")] = None,
    personalize: Annotated[
        bool,
        typer.Option(
            "--personalize/--no-personalize",
            help="Ask the sites to fit the model to their patients afterwards",
        ),
    ] = True,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget an earlier run of this name")] = False,
    detach: Detach = False,
) -> None:
    """Submit a run, show its progress, and end with its true exit status."""
    from common.config import Settings, make_settings, merge, parse_overrides, validated
    from server.coordinator import load_coordinator

    coordinator = load_coordinator(home)
    over = parse_overrides(set_ or [])
    if settings is None:
        chosen = make_settings(
            task or str(DEFAULTS["task"]),
            preset or str(DEFAULTS["preset"]),
            merge({} if seed is None else {"seed": seed}, over),
        )
    elif (task, preset, seed) != (None, None, None):
        raise ConfigurationError(
            "--settings brings task, preset and seed along; leave --task, --preset and --seed away, or "
            "change single settings with --set"
        )
    else:
        from server.jobs import read_settings

        values = read_settings(settings).model_dump(mode="json")
        chosen = validated(Settings, merge(values, over), str(settings))
    from server.control import Control
    from server.jobs import Job, submit

    with Control(coordinator) as control:
        run_id = submit(coordinator, control, Job(name, chosen, personalize, fresh))
        _follow(coordinator, control, run_id, name, detach=detach)


def resume(home: Home, name: Name = "main", detach: Detach = False) -> None:
    """Go on with a run that was interrupted, or follow it if it is in flight."""
    from server.control import Control
    from server.coordinator import load_coordinator
    from server.jobs import in_flight, is_done, stored_job, submit

    coordinator = load_coordinator(home)
    with Control(coordinator) as control:
        job = stored_job(coordinator, control, name)
        flying = in_flight(control, name)
        if flying is not None:
            say(f"run {flying.run_id} ({name}) is in flight")
        elif is_done(coordinator, job):
            say(f"run {name} is finished; its files are in {coordinator.run_folder(name)}")
            return
        run_id = submit(coordinator, control, job) if flying is None else flying.run_id
        _follow(coordinator, control, run_id, name, detach=detach)


def _follow(coordinator: Coordinator, control: Control, run_id: int, name: str, *, detach: bool) -> None:
    from server.following import check_end, follow

    home = coordinator.folder
    how = (
        f"follow it with 'fedkalemia-server resume {home} --name {name}', stop it with "
        f"'fedkalemia-server stop {home} {name}'"
    )
    if detach:
        say(f"run {name} goes on by itself; {how}")
        return
    try:
        ended = follow(coordinator, control, run_id)
    except KeyboardInterrupt:
        say(f"no longer watching; run {name} goes on by itself: {how}")
        # Not as typer.Exit: the sentence for commands that stop what they do would follow, and be wrong here.
        raise SystemExit(EXIT_INTERRUPTED) from None
    say(check_end(coordinator, ended))


def status(
    home: Home,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs")] = False,
) -> None:
    """Show the runs and which sites are connected."""
    from server.coordinator import load_coordinator
    from server.standing import standing

    shown = standing(load_coordinator(home))
    if as_json:
        typer.echo(json.dumps(shown, indent=2))
    else:
        for name, online in shown["sites"].items():
            say(f"site {name}: {'unknown' if online is None else 'online' if online else 'missing'}")
        if not shown["sites"]:
            say("no site is registered; add one with 'fedkalemia-server site add'")
        for entry in shown["runs"]:
            number = f" ({entry['run_id']})" if entry["run_id"] else ""
            rounds = f", federated round {entry['round']} of {entry['rounds']}" if entry["rounds"] else ""
            chosen = "" if entry["selected"] is None else f", generic model of round {entry['selected']}"
            failure = f"; {entry['failure']}" if entry["failure"] else ""
            say(f"run {entry['name']}{number}: {entry['status'] or 'unknown'}{rounds}{chosen}{failure}")
        if not shown["runs"]:
            say("no run yet; start one with 'fedkalemia-server run'")
        if shown["superlink"]:
            say(shown["superlink"])
    if shown["superlink"]:
        raise typer.Exit(EXIT_ERROR)


def stop(
    home: Home,
    which: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="Name or number, if several are in flight")
    ] = None,
) -> None:
    """Stop the run in flight; what it has done so far is kept."""
    from server.control import Control
    from server.coordinator import load_coordinator
    from server.jobs import stop as stop_run

    coordinator = load_coordinator(home)
    with Control(coordinator) as control:
        stopped = stop_run(control, which)
    name = stopped.name
    go_on = f"fedkalemia-server resume {coordinator.folder} --name {name}"
    say(f"run {stopped.run_id} ({name}) is stopped; go on with '{go_on}'")


def bundle(
    place: Annotated[Path, typer.Argument(metavar="HOME_OR_FILE", help="Coordinator folder or a file")],
) -> None:
    """Write the bundle that goes out with every run, and show the SHA-256 by which a site approves it."""
    from common.files import write_atomic
    from server.bundle import digest, make_bundle
    from server.coordinator import load_coordinator

    path = load_coordinator(place).folder / BUNDLE if place.is_dir() else place
    content = make_bundle()
    write_atomic(path, content)
    say(f"wrote {path}")
    say(f"SHA-256 {digest(content)}")
