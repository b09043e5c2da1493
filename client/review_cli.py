"""``fedkalemia-site review``: strips looked at by eye, and what the reviewers said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from common.logs import say
from common.wording import plural

SiteFolder = Annotated[Path, typer.Argument(metavar="SITE", help="Site folder, made by 'init'")]

review_app = typer.Typer(help="Strips looked at by eye: sheet, verdicts, counts.", no_args_is_help=True)


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands to ``fedkalemia-site``."""
    app.add_typer(review_app, name="review")


@review_app.command()
def sheet(
    folder: SiteFolder,
    per_reason: Annotated[int, typer.Option(min=1, max=500, help="Strips of each reason, at most")] = 12,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of the sample; default: the site's setting")
    ] = None,
    reason: Annotated[
        list[str] | None,
        typer.Option(metavar="CODE", help="Only this reason, or 'accepted'; may be repeated"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The page; default: review/review.html of the site")
    ] = None,
    blind: Annotated[
        bool, typer.Option("--blind", help="Hide label, value and reasons; order at random")
    ] = False,
) -> None:
    """Draw accepted and rejected strips at random and show them on one HTML page."""
    from client.database.session import open_database, sessions
    from client.review.sheet import Order, make_sheet
    from client.site import load_site

    site = load_site(folder)
    chosen = tuple(dict.fromkeys(reason or ()))
    order = Order(per_reason, site.settings.seed if seed is None else seed, chosen, blind)
    made = make_sheet(site, sessions(open_database(site.database_url)), order, out)
    missing = f", {made.missing} of them without a signal" if made.missing else ""
    say(
        f"{site.name}: wrote {made.page} ({plural(made.strips, 'strip')}{missing}) and {made.verdicts}\n"
        "both show patients' data to their owner only (mode 0600): they must not leave the hospital\n"
        f"next: look at the page, then fedkalemia-site review read {folder} FILE --reviewer NAME"
    )


@review_app.command()
def read(
    folder: SiteFolder,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Verdicts, saved by the page or typed")],
    reviewer: Annotated[str, typer.Option(metavar="NAME", help="Name or initials of who looked")],
) -> None:
    """Read a reviewer's verdicts; they take the place of the reviewer's earlier ones on the same sheet."""
    from client.database.session import open_database, sessions
    from client.review.verdicts import read_verdicts
    from client.site import load_site

    site = load_site(folder)
    told = read_verdicts(site, sessions(open_database(site.database_url)), file, reviewer)
    text = f"{site.name}: {plural(told.verdicts, 'verdict')} of {told.reviewer} stored"
    if told.replaced:
        text += f" in place of {told.replaced}"
    if told.open:
        text += f"; {plural(told.open, 'strip')} of the sheet left open"
    if told.forgotten:
        text += f"; {told.forgotten} on strips the site holds no more, left out"
    say(f"{text}\nnext: fedkalemia-site review count {folder}")


@review_app.command("count")
def count_verdicts(
    folder: SiteFolder,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs")] = False,
) -> None:
    """Count the verdicts: by reason, against the software, between reviewers."""
    from client.database.reviews import counts
    from client.database.session import open_database, sessions
    from client.review.counting import as_values, lines
    from client.site import load_site

    site = load_site(folder)
    with sessions(open_database(site.database_url))() as session:
        counted = counts(session)
    if as_json:
        say(json.dumps({"site": site.name, **as_values(counted)}, indent=2))
        return
    if not counted.rows:
        say(f"{site.name}: no verdicts yet; make a sheet first: fedkalemia-site review sheet {folder}")
        return
    for line in lines(counted):
        say(line)
