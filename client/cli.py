"""``fedkalemia-site``: what a hospital runs, step by step."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from client import (
    audit_cli,
    check_cli,
    data_cli,
    forget_cli,
    gate_cli,
    inclusion_cli,
    report_cli,
    review_cli,
)
from client.node import LISTEN
from client.report_cli import run_name
from client.site import Site, load_site, write_site_file
from common.addresses import split_address
from common.command import run_app
from common.config import parse_overrides
from common.errors import CohortError, ConfigurationError, ModelError
from common.logs import say
from common.workers import available_cores, shared_workers

app = typer.Typer(
    help="One hospital: files to beats, cohort, personal models, report; what comes in and what leaves.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
database_app = typer.Typer(help="The site database.", no_args_is_help=True)
app.add_typer(database_app, name="database")

#: Layout of a data root that looks like none, or is not mounted yet.
USUAL_LAYOUT = "mimic3"

SiteFolder = Annotated[Path, typer.Argument(metavar="SITE", help="Site folder, made by 'init'")]
RunName = Annotated[
    str,
    typer.Option("--name", callback=run_name, help="Name of the run (a fold, or 'main')"),
]


@app.command()
def init(
    folder: SiteFolder,
    name: Annotated[str, typer.Option(help="Site name: lower-case letters, digits, hyphens")],
    data: Annotated[Path, typer.Option(help="Data root; only ever read")],
    source: Annotated[
        str | None,
        typer.Option(
            help="Layout of the data root: mimic3, mimic4, vitaldb, folder or mitbih; by default the one it "
            "looks like"
        ),
    ] = None,
    preset: Annotated[str, typer.Option(help="Preset of the settings")] = "standard",
    lab_clock_ahead: Annotated[
        int, typer.Option(metavar="MINUTES", help="How far the lab's clock is ahead of the monitors'")
    ] = 0,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change a setting")
    ] = None,
    database_url_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Secret file with the database's URL; default: SQLite")
    ] = None,
    server: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Front end of the coordinator; may be written later")
    ] = "",
    ca: Annotated[
        Path | None, typer.Option(help="The federation's pki/ca.crt; may be put into node/ later")
    ] = None,
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where the node waits for the executor")
    ] = LISTEN,
    node_address: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Where the executor finds the node; default: as --listen"),
    ] = None,
) -> None:
    """Make a site folder: a site.toml you can read and edit, and the keys to take part in a federation."""
    from client.gate.folders import check_new, make_folders

    layout = {"kind": source, "folder": str(data.resolve())} if source else _guessed(data.resolve())
    if lab_clock_ahead and layout["kind"] == "mitbih":
        raise ConfigurationError("--lab-clock-ahead has no meaning with mitbih: it has no laboratory")
    task = "ventricular" if layout["kind"] == "mitbih" else "hyperkalemia"
    check_new(server=server, listen=listen, authority=ca)
    address = node_address or listen
    split_address(address, "--node-address")
    path = write_site_file(
        folder,
        name=name,
        source=layout | ({"lab_clock_ahead_min": lab_clock_ahead} if lab_clock_ahead else {}),
        settings={"task": task, "preset": preset, **parse_overrides(overrides or [])},
        gate=None if address == LISTEN else {"node_address": address},
        database_url_file=database_url_file.absolute() if database_url_file else None,
    )
    node = make_folders(folder, name=name, server=server, listen=listen, authority=ca)
    line = node.public.read_text(encoding="utf-8").strip()
    say(f"wrote {path}, {node.folder} and {folder / 'gate'}\npublic key of this site: {line}")
    if not data.is_dir():  # in containers the data are mounted where they are read, not here
        say(f"warning: there is no folder {data.resolve()} here; 'ingest' needs it")
    say(f"next: fedkalemia-site ingest {folder}")
    say(f"to join a federation, its coordinator runs: fedkalemia-server site add HOME {name} '{line}'")


def _guessed(data: Path) -> dict[str, str]:
    """Return the section ``source`` for a data root, by what it looks like, and say so."""
    from client.data.sources.guess import suggest

    guess = suggest(data)
    if guess.kind is None:
        if data.is_dir():
            say(f"{data} {guess.sentence()}: taken for {USUAL_LAYOUT}; choose with --source")
        return {"kind": USUAL_LAYOUT, "folder": str(data)}
    say(f"{guess.folder} {guess.sentence()}; choose another layout with --source")
    # The parts' usual names are the settings' defaults: they need no line in site.toml.
    usual = {"clinical": "clinical", "waveforms": "waveforms"}
    return {name: value for name, value in guess.settings().items() if value != usual.get(name)}


check_cli.add_commands(app)
data_cli.add_commands(app)
inclusion_cli.add_commands(app)
review_cli.add_commands(app)


@app.command()
def cohort(
    folder: SiteFolder,
    name: RunName = "main",
    train: Annotated[Path | None, typer.Option(help="File with patient keys to train on, one a line")] = None,
    test: Annotated[Path | None, typer.Option(help="File with patient keys to test on, one a line")] = None,
) -> None:
    """Freeze who is in the cohort, in which role and split."""
    from client.data.cohort import freeze_cohort
    from client.database.session import open_database, sessions

    site = load_site(folder)
    summary = freeze_cohort(
        site,
        sessions(open_database(site.database_url)),
        name=name,
        train_keys=_keys(train),
        test_keys=_keys(test),
    )
    say(f"{site.name}: {summary.sentence()}\nnext: take part in a federation, or fedkalemia-site personalize")


@app.command()
def personalize(
    folder: SiteFolder,
    model: Annotated[
        Path | None,
        typer.Option(
            help="Generic model (best.safetensors of a federation); default: last used under the name"
        ),
    ] = None,
    name: RunName = "main",
    seed: Annotated[int | None, typer.Option(min=0, help="Seed; default: the site's setting")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Patients at a time; default: all cores")
    ] = None,
) -> None:
    """Fit the generic model to each personal patient, test it and store everything."""
    import torch

    from client.learning.rounds import personalize_site
    from common.generic import load_generic

    site = load_site(folder)
    torch.set_num_threads(site.settings.threads)
    generic = load_generic(model or _last_generic(site, name))
    plan = generic.plan(name=name, seed=site.settings.seed if seed is None else seed, settings=site.settings)
    with shared_workers(workers or available_cores()):
        personalize_site(site, generic.weights, plan)
    say(f"{site.name}: patients: {_personalized(site, name)}\nnext: fedkalemia-site report {folder}")


report_cli.add_commands(app)


@app.command()
def status(folder: SiteFolder) -> None:
    """Say what this site holds and what was done with it."""
    from sqlalchemy import select

    from client.database.session import open_database, sessions
    from client.database.tables import Run

    site = load_site(folder)
    with sessions(open_database(site.database_url))() as session:
        runs = session.scalars(select(Run).order_by(Run.id)).all()
        for run in runs:
            say(f"run {run.id:>3}  {run.kind:<16} {run.name:<10} {run.status:<12} {run.code_version}")
        if not runs:
            raise CohortError(f"{site.name} holds nothing yet; run: fedkalemia-site ingest {folder}")


@database_app.command("upgrade")
def upgrade_database(folder: SiteFolder) -> None:
    """Bring the site database to this version's schema. Data stay; make a copy first all the same."""
    from client.database.session import upgrade

    site: Site = load_site(folder)
    upgrade(site.database_url)
    say(f"{site.name}: the database has this version's schema")


def _last_generic(site: Site, name: str) -> Path:
    """Return the generic model this site last used under a name."""
    from client.database.queries import latest_generic
    from client.database.session import open_database, sessions

    with sessions(open_database(site.database_url))() as session:
        path = latest_generic(session, name)
    if path is None:
        raise ModelError(
            f"site {site.name} has not used a generic model under the name {name!r} yet; name the file with "
            "--model (a federation writes it as best.safetensors)"
        )
    return site.folder / path


def _personalized(site: Site, name: str) -> str:
    """Count what became of the patients in the last personalization under a name."""
    from sqlalchemy import func, select

    from client.database.runs import latest_run
    from client.database.session import open_database, sessions
    from client.database.tables import PersonalizationRun
    from client.learning.planning import PROSPECTIVE

    columns = (PersonalizationRun.outcome, PersonalizationRun.selected_method)
    with sessions(open_database(site.database_url))() as session:
        run = latest_run(session, "personalization", name)
        counted = select(*columns, func.count()).where(
            PersonalizationRun.run_id == (run.id if run else None),
            PersonalizationRun.protocol == PROSPECTIVE,
        )
        rows = session.execute(counted.group_by(*columns).order_by(*columns)).all()
    told = [f"{n} {outcome}{f', selected {method}' if method else ''}" for outcome, method, n in rows]
    return "; ".join(told) or "no patient has enough strips of both labels"


def _keys(path: Path | None) -> list[str] | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"{path} cannot be read ({error}); it holds one patient key a line"
        ) from None


gate_cli.add_commands(app)  # after the commands above: help lists them in the order in which they are used
audit_cli.add_commands(app)
forget_cli.add_commands(app)


def main() -> None:
    """Entry point of ``fedkalemia-site``."""
    run_app(app)
