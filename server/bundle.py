"""The bundle that goes out with a run: the code of this installation, in bytes that depend on nothing else.

A site may run nothing but bundles whose SHA-256 it has approved. So the same sources must give the same
bytes, wherever they are installed. The coordinator itself never runs what is in a bundle.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path

from common import protocol
from common.errors import ConfigurationError
from common.taskloop import Uses, check_engine
from server.run_config import DEFAULTS

ROOMS = ("common", "client", "server")
NAME = "fedkalemia"
#: Places of the two apps; a site that runs its own code runs the same ones of its own installation.
COMPONENTS = {"serverapp": "server.app:app", "clientapp": "client.app:app"}
USES: Uses = {"flwr.cli.build:build_fab_from_files": ("files",)}


def make_bundle(root: Path | None = None) -> bytes:
    """Build the bundle (a Flower App Bundle).

    Parameters
    ----------
    root : folder that holds the packages ``common``, ``client`` and ``server``; None for this installation.

    Returns
    -------
    A zip archive without times: equal sources give equal bytes.

    Raises
    ------
    ConfigurationError
        If a package is not there, the engine refuses the bundle, or is not one that can make it.
    """
    check_engine(USES)
    from flwr.cli.build import build_fab_from_files

    root = Path(__file__).resolve().parent.parent if root is None else root
    files: dict[str, bytes | Path] = {"pyproject.toml": _project().encode()}
    for room in ROOMS:
        found = sorted((root / room).rglob("*.py"))
        if not found:
            raise ConfigurationError(f"{root / room} holds no Python files; install this software again")
        files |= {path.relative_to(root).as_posix(): path.read_bytes() for path in found}
    try:
        with warnings.catch_warnings():  # about the engine's own use of one of its dependencies
            warnings.simplefilter("ignore", DeprecationWarning)
            bundle, _ = build_fab_from_files(files)
    except ValueError as error:
        raise ConfigurationError(f"the engine refuses a bundle of {root}: {error}") from error
    return bundle


def digest(bundle: bytes) -> str:
    """Return the SHA-256 by which a site approves a bundle."""
    return hashlib.sha256(bundle).hexdigest()


def _project() -> str:
    """Return the project file that names the two apps and the keys a run may set."""
    sections: dict[str, dict[str, str | int | bool]] = {
        "project": {"name": NAME, "version": protocol.software(), "license": "Apache-2.0"},
        "tool.flwr.app": {"publisher": NAME},
        "tool.flwr.app.components": dict(COMPONENTS),
        "tool.flwr.app.config": dict(DEFAULTS),
    }
    # Words, whole numbers and yes or no are written alike in TOML and in JSON.
    return "\n".join(
        "\n".join([f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in section.items()), ""])
        for name, section in sections.items()
    )
