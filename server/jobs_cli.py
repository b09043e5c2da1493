"""``fedkalemia-server superlink``, ``runner``, ``run``, ``status``, ``stop``, ``resume``: the work."""

from __future__ import annotations

import typer


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands to ``fedkalemia-server``."""
