"""``fedkalemia-site ingest``: from the hospital's files to rows and beats."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from client.site import load_site
from common.logs import reporter_for, say, use_reporter
from common.workers import available_cores

SiteFolder = Annotated[Path, typer.Argument(metavar="SITE", help="Site folder, made by 'init'")]


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands to ``fedkalemia-site``."""
    app.command()(ingest)


def ingest(
    folder: SiteFolder,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes; never changes a row or a byte. Default: one per core"),
    ] = None,
    take_changes: Annotated[
        bool,
        typer.Option(
            "--take-changes", help="Read again what changed since it was read, and lay it over what is stored"
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Summary as JSON, for programs; progress goes to standard error")
    ] = False,
) -> None:
    """Read the hospital's files: every draw becomes a strip or is excluded with a reason.

    Stopped at any moment, the same command goes on. Started again later, it reads only what is new and says
    what changed. SITE/ingest.json holds the summary of the last run.
    """
    from client.data.ingest import ingest as run_ingest
    from client.database.session import create_database, sessions

    if as_json:
        use_reporter(reporter_for(sys.stderr))
    site = load_site(folder)
    factory = sessions(create_database(site.database_url))
    result = run_ingest(site, factory, workers=workers or available_cores(), take_changes=take_changes)
    if as_json:
        typer.echo(json.dumps(result.as_json(), indent=2, sort_keys=True))
        return
    say("\n".join([f"{site.name}: {result.sentence()}", *(f"note: {line}" for line in result.notices())]))
    say(f"next: fedkalemia-site cohort {folder}")
