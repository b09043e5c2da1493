"""``fedkalemia-site audit`` and ``doctor``: what left this hospital, and whether all is in order."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from common.command import EXIT_ERROR
from common.errors import ConfigurationError
from common.logs import say
from common.wording import plural

SiteFolder = Annotated[Path, typer.Argument(metavar="SITE", help="Site folder, made by 'init'")]
Json = Annotated[bool, typer.Option("--json", help="As JSON, for programs")]

audit_app = typer.Typer(help="The ledger of everything that left this hospital.", no_args_is_help=True)


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands to ``fedkalemia-site``."""
    app.add_typer(audit_app, name="audit")
    app.command()(doctor)


@audit_app.command()
def show(
    folder: SiteFolder,
    since: Annotated[str, typer.Option(metavar="DATE", help="From this day or time on")] = "",
    until: Annotated[str, typer.Option(metavar="DATE", help="To the end of this day, or to this time")] = "",
    last: Annotated[str, typer.Option(metavar="SPAN", help="The last hours, days or weeks: 48h, 30d")] = "",
    values: Annotated[bool, typer.Option("--values", help="Also every value of every reply")] = False,
    as_json: Json = False,
) -> None:
    """Show what left between two dates, by run and message type; times are local."""
    from client.gate import outgoing
    from client.site import load_site

    if since and last:
        raise ConfigurationError("--since and --last both say where to begin; give one of them")
    site = load_site(folder)
    begin = outgoing.moment(since) if since else outgoing.span(last, datetime.now(UTC)) if last else None
    end = outgoing.moment(until, end=True) if until else None
    rows = outgoing.outgoing(outgoing.entries(site.gate_folder, begin, end))
    if as_json:
        answer: dict[str, object] = {
            "site": site.name,
            "since": begin and begin.isoformat(),
            "until": end and end.isoformat(),
            "rows": [asdict(row) for row in rows],
        }
        if values:
            answer["entries"] = list(outgoing.entries(site.gate_folder, begin, end))
        say(json.dumps(answer, indent=2))
        return
    if not rows:
        say("nothing left this site in that time" if begin or end else "nothing has left this site yet")
        return
    for line in outgoing.table(rows):
        say(line)
    if values:
        say("")
        for line in outgoing.values(outgoing.entries(site.gate_folder, begin, end)):
            say(line)
    say(f"\nwhether the ledger is as it was written: fedkalemia-site audit verify {folder}")


@audit_app.command()
def verify(
    folder: SiteFolder,
    anchor: Annotated[
        list[str] | None,
        typer.Option(metavar="ENTRIES:HEAD", help="A head that the coordinator holds; may be repeated"),
    ] = None,
    anchors: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The coordinator's server.json of a run: all heads it holds"),
    ] = None,
) -> None:
    """Find changed, removed, inserted or moved entries and a cut end; exit code 2 if there are any."""
    from client.gate.audit import anchor_of, anchors_of, examine
    from client.gate.ledger import ledger_of
    from client.site import load_site

    site = load_site(folder)
    held = [anchor_of(text) for text in anchor or []]
    held += anchors_of(anchors, site.name) if anchors else []
    found = examine(ledger_of(site.gate_folder), held)
    for note in found.notes:
        say(f"note: {note}")
    for finding in found.findings:
        say(f"finding: {finding}")
    if found.findings:
        raise typer.Exit(EXIT_ERROR)
    with_anchors = f" and agrees with {plural(len(held), 'head')} held elsewhere" if held else ""
    end = f", head {found.entries}:{found.digest}" if found.entries else ""
    say(f"the ledger verifies{with_anchors}: {plural(found.entries, 'entry', 'entries')}{end}")


def doctor(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Site folder, or a node folder alone")],
    as_json: Json = False,
) -> None:
    """Check data, database, disk, clock, certificates, keys, node, ledger, policy and versions."""
    from client.gate.doctor import examine
    from common.doctor import show as show_checks

    code = show_checks(examine(folder), as_json=as_json)
    if code:
        raise typer.Exit(code)
