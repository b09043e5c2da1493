"""``fedkalemia-server pki``, ``site``, ``front`` and ``doctor``: who is who in the federation."""

from __future__ import annotations

import typer


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands to ``fedkalemia-server``."""
