"""``fedkalemia-site report``: the site's page, a page per patient, and the numbers for programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from client.site import SITE_NAME, load_site
from common.errors import ConfigurationError
from common.logs import say
from common.workers import available_cores, worker_processes


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands to ``fedkalemia-site``."""
    app.command()(report)


def run_name(value: str) -> str:
    """Return the name of a run; names of runs follow the rule of names of sites."""
    if not SITE_NAME.fullmatch(value):
        raise typer.BadParameter("1 to 32 lower-case letters, digits and hyphens, beginning with a letter")
    return value


def _run_names(values: list[str] | None) -> list[str] | None:
    return None if values is None else [run_name(value) for value in values]


def report(
    folder: Annotated[Path | None, typer.Argument(metavar="SITE", help="Site folder, made by 'init'")] = None,
    site_file: Annotated[
        Path | None, typer.Option("--site", metavar="SITE", help="The same: site folder or its site.toml")
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option("--name", callback=_run_names, help="Personalizations to report on; repeatable"),
    ] = None,
    run: Annotated[
        int | None,
        typer.Option(metavar="NUMBER", help="One personalization run, also an old one; 'status' lists them"),
    ] = None,
    pseudonymous: Annotated[
        bool,
        typer.Option("--pseudonymous", help="A copy that may be shown outside: no identifiers, no dates"),
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Processes that write pages; default: all cores")
    ] = None,
) -> None:
    """Write the site report from the database: HTML that needs no network, a page per patient, CSV, JSON."""
    from client.database.session import open_database, sessions
    from client.report.build import build_report

    place = folder or site_file
    if place is None or (folder and site_file):
        raise ConfigurationError("name one site: report SITE, or report --site SITE/site.toml")
    if run is not None and name:
        raise ConfigurationError("--run and --name both choose what is reported; give one of them")
    site = load_site(place)
    engine = open_database(site.database_url)
    with worker_processes(workers or available_cores()) as pool:
        path = build_report(
            site,
            sessions(engine),
            tuple(name or ["main"]),
            run=run,
            pseudonymous=pseudonymous,
            workers=pool,
        )
    say(f"{site.name}: wrote {path}")
    say("beside it: a page per patient, report.json, and the tables as CSV")
    if not pseudonymous:
        say("it names patients; for a copy that may be shown outside: report --pseudonymous")
