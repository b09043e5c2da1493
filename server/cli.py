"""``fedkalemia-server``: what a coordinator runs. It never sees a patient."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.command import run_app
from common.logs import say
from server import identity_cli, jobs_cli

app = typer.Typer(
    help="The coordinator: keys and sites, front end, runs, cross-site summary. It never sees a patient.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
jobs_cli.add_commands(app)
identity_cli.add_commands(app)


@app.command()
def messages() -> None:
    """List every message and every key that may cross the wire."""
    from common.protocol import ALLOWED, FAILURES, LEDGER

    for message_type, directions in ALLOWED.items():
        for direction, records in directions.items():
            say(f"{message_type} {direction}")
            for record, keys in records.items():
                if record == "weights":
                    say("  weights: two float32 vectors, trainable and statistics")
                for key, kind in keys.items():
                    say(f"  {record}: {key}  ({kind.type.__name__}{' list' if kind.length else ''})")
    say("with every reply of a site that has a gate, where its ledger stands:")
    for key, kind in LEDGER.items():
        say(f"  ledger: {key}  ({kind.type.__name__})")
    say("instead of any reply, one of these codes:")
    for code, sentence in FAILURES.items():
        say(f"  {code}: {sentence}")


@app.command()
def summary(
    folders: Annotated[list[Path], typer.Argument(help="Output folders of the server, one per federation")],
    out: Annotated[Path, typer.Option(help="Page to write")] = Path("summary.html"),
) -> None:
    """Write the cross-site summary page again from the server's own records."""
    from server.summary import write_summary

    write_summary(folders, out)
    say(f"wrote {out}")


def main() -> None:
    """Entry point of ``fedkalemia-server``."""
    run_app(app)
