"""``fedkalemia-site node``, ``executor`` and ``key``: the processes of a site in a deployment."""

from __future__ import annotations

import typer


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands to ``fedkalemia-site``."""
