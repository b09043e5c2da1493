"""``fedkalemia-site inclusion``: who came in, who did not and why, as soon as files are in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from client.site import load_site
from common.logs import say

SiteFolder = Annotated[Path, typer.Argument(metavar="SITE", help="Site folder, made by 'init'")]


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands to ``fedkalemia-site``."""
    app.command()(inclusion)


def inclusion(
    folder: SiteFolder,
    name: Annotated[str, typer.Option("--name", help="Cohort to show, if it is frozen")] = "main",
    as_json: Annotated[
        bool, typer.Option("--json", help="As JSON, for programs; a page only with --out")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The page; default: report/inclusion.html of the site")
    ] = None,
) -> None:
    """Count every step from the files to the cohort, with reasons, and describe the patients (Table 1)."""
    from client.database.session import open_database, sessions
    from client.report import inclusion as page
    from client.report.reading_cohort import read_cohort

    site = load_site(folder)
    with sessions(open_database(site.database_url))() as session:
        evidence = read_cohort(session, name)
    if not as_json or out is not None:
        path = out or site.report.with_name(page.PAGE)
        page.write_page(site, evidence, path)
    if as_json:
        say(json.dumps(page.as_json(site, evidence), indent=2))
        return
    say(page.as_text(site, evidence))
    say(f"\n{site.name}: wrote {path}")
    if not evidence.is_frozen:
        say(f"next: fedkalemia-site cohort {folder}")
