"""Whose code answers a message: this installation's own, or a bundle that the site approved by its SHA-256.

``local``: the bundle that came with the run is not even unpacked; the app of this installation answers.
``pin``: a bundle on the site's list is unpacked into the gate's private folder and its modules are loaded
fresh. What it answers still passes the door and the policy, whose functions are those of this installation.
This guards against a coordinator that sends other code than was reviewed. It does not guard against what was
approved: such a bundle runs in the same process, with the rights of the executor, and could read what the
executor can read or replace the door itself. Approve only what was read.
"""

from __future__ import annotations

import hashlib
import importlib
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from flwr.app import Context, Message
from flwr.cli.install import install_from_fab
from flwr.clientapp import ClientApp
from flwr.common.config import get_project_config

from client.site import GateSettings, Site
from common.command import ROOMS
from common.errors import BundleError

LOCAL_APP = "client.app:app"

App = Callable[[Message, Context], Message]


def bundle_digest(bundle: bytes) -> str:
    """Return the SHA-256 of a bundle, as ``fedkalemia-server bundle`` prints it."""
    return hashlib.sha256(bundle).hexdigest()


def check_bundle(gate: GateSettings, digest: str) -> None:
    """Refuse a bundle that the site did not approve, if it runs bundles at all.

    Raises
    ------
    BundleError
        Naming the digest and the line that would approve it.
    """
    if gate.code == "pin" and digest not in gate.approved_bundles:
        listed = ", ".join(f'"{known}"' for known in (*gate.approved_bundles, digest))
        raise BundleError(
            f"the bundle with SHA-256 {digest} is not approved here; once it was read and found good, write "
            f"into section gate of site.toml: approved_bundles = [{listed}]"
        )


def local_app() -> App:
    """Return the app of this installation."""
    module, _, name = LOCAL_APP.partition(":")
    app: App = getattr(importlib.import_module(module), name)
    return app


def load(site: Site, bundle: bytes) -> App:
    """Return the app that answers at this site.

    In ``pin`` mode this forgets the modules of this installation: afterwards no import may be left to do.

    Raises
    ------
    BundleError
        If the bundle is not approved, or is approved but cannot be loaded.
    """
    if site.gate.code == "local":
        return local_app()
    digest = bundle_digest(bundle)
    check_bundle(site.gate, digest)
    return _pinned(bundle, site.gate_folder / "flower" / "bundles" / digest)


def _pinned(bundle: bytes, folder: Path) -> App:
    """Unpack an approved bundle and load its app; ``folder`` is made anew, whatever was there."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        project = install_from_fab(bundle, install_dir=folder, skip_prompt=True)
        reference = get_project_config(project)["tool"]["flwr"]["app"]["components"]["clientapp"]
        module, _, name = str(reference).partition(":")
        for loaded in list(sys.modules):
            if loaded.split(".")[0] in ROOMS:
                del sys.modules[loaded]
        sys.path.insert(0, str(project))
        importlib.invalidate_caches()
        app = getattr(importlib.import_module(module), name)
        origin = Path(str(sys.modules[module].__file__)).resolve()
    except Exception as error:
        raise BundleError(
            f"the approved bundle cannot be loaded ({type(error).__name__}); was it made by "
            "'fedkalemia-server bundle' of this version?"
        ) from error
    if project.resolve() not in origin.parents or not isinstance(app, ClientApp):
        raise BundleError("the approved bundle holds no ClientApp of its own")
    return app
