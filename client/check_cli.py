"""``fedkalemia-site check-data``: what fits in a hospital's files and what does not, before anything runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from common.command import EXIT_ERROR
from common.logs import reporter_for, say, use_reporter


def add_commands(app: typer.Typer) -> None:
    """Add this module's command to ``fedkalemia-site``."""
    app.command("check-data")(check_data)


def check_data(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The hospital's files; only ever read")],
    as_json: Annotated[
        bool, typer.Option("--json", help="As JSON, for programs; progress goes to standard error")
    ] = False,
    template: Annotated[
        bool, typer.Option("--template", help="Write an example of a plain folder to DIR instead")
    ] = False,
) -> None:
    """Say what fits and what does not, in which file and line; exit code 2 if something must be fixed."""
    if template:
        from client.data.template import write_template

        write_template(folder)
        say(f"wrote {folder}; README.txt in it explains every column")
        say(f"next: fedkalemia-site check-data {folder}")
        return
    from client.data.check_layout import check_data as check

    if as_json:
        use_reporter(reporter_for(sys.stderr))
    report = check(folder)
    if as_json:
        typer.echo(json.dumps(report.as_json(), indent=2))
    else:
        for line in report.lines():
            say(line)
    if not report.fits:
        raise typer.Exit(EXIT_ERROR)
