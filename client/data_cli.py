"""``fedkalemia-site ingest``: from the hospital's files to rows and beats."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from client.site import load_site
from common.logs import say

SiteFolder = Annotated[Path, typer.Argument(metavar="SITE", help="Site folder, made by 'init'")]


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands to ``fedkalemia-site``."""
    app.command()(ingest)


def ingest(folder: SiteFolder) -> None:
    """Read the hospital's files: every draw becomes a strip or is excluded with a reason."""
    from client.data.ingest import ingest as run_ingest
    from client.database.session import create_database, sessions

    site = load_site(folder)
    result = run_ingest(site, sessions(create_database(site.database_url)))
    say(f"{site.name}: {result.sentence()}\nnext: fedkalemia-site cohort {folder}")
