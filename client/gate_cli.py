"""``fedkalemia-site node``, ``executor`` and ``key``: the processes of a site in a deployment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.logs import say

Listen = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="Where the executor reaches the node; default: node.toml"),
]

key_app = typer.Typer(help="The key by which the coordinator knows this site.", no_args_is_help=True)


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands to ``fedkalemia-site``."""
    app.command()(node)
    app.command()(executor)
    app.add_typer(key_app, name="key")


def node(
    folder: Annotated[
        Path, typer.Argument(metavar="NODE", help="Node folder: the folder 'node' in a site folder")
    ],
    listen: Listen = None,
    health: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Address of a gRPC health service; default: none")
    ] = None,
) -> None:
    """Connect this site to the coordinator; needs neither data nor database. Runs until stopped."""
    from client.node import check_node, check_server, load_node, start_node
    from common.identity import fingerprint

    made = load_node(folder)
    check_node(made, listen, health)
    check_server(made)
    key = fingerprint(made.public_line)
    say(f"site {made.name}: node for {made.server}, executor at {listen or made.listen}, key {key}")
    # The engine says the same for both, and names neither.
    say(
        "if this ends with exit code 305 (code 2004): either this key is not registered at the coordinator "
        f"under {made.name}, see 'fedkalemia-server site list' there; or this node was cut off less than a "
        "minute ago, then start it again"
    )
    start_node(made, listen, health)


def executor(
    folder: Annotated[Path, typer.Argument(metavar="SITE", help="Site folder, made by 'init'")],
    node_address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="Runtime address of the node; default: gate.node_address of site.toml"
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only say whether the executor of this site is alive")
    ] = False,
    max_age: Annotated[
        float, typer.Option(metavar="SECONDS", min=1.0, help="--check: oldest heartbeat that counts as alive")
    ] = 30.0,
) -> None:
    """Answer the coordinator's messages with this site's own code. Runs until stopped."""
    if check:
        from client.gate.alive import check_alive

        say(check_alive(folder, max_age))
        return
    from client.gate.executor import run_executor

    run_executor(folder, node_address)


@key_app.command()
def renew(
    folder: Annotated[Path, typer.Argument(metavar="SITE", help="Site folder, or its node folder")],
) -> None:
    """Make a new private key; the old one is gone. The coordinator must register the new public key."""
    from client.gate.folders import renew_key

    made, line = renew_key(folder)
    say(
        f"{line}\nnext, at the coordinator: fedkalemia-server site add HOME {made.name} '{line}' --replace\n"
        "then start the node again"
    )
