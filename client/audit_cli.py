"""``fedkalemia-site audit`` and ``doctor``: what left this hospital, and whether all is in order."""

from __future__ import annotations

import typer


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands to ``fedkalemia-site``."""
