"""The harness that starts real processes, and the deployment that ``test_whole.py`` looks at."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from client.app import app as client_app
from common.files import write_json
from server.app import app as server_app
from simulation.grid import run_in_process

SUPPORT = Path(__file__).parents[1] / "support"
SITES = ("harbor", "north", "valley")
ROUNDS = 2
SETTINGS = {"federation": {"rounds": ROUNDS, "fraction": 1.0, "join_timeout_s": 60.0}}
MAKE = {"generic": 5, "personal": 1}


@pytest.fixture(scope="session")
def harness() -> ModuleType:
    """Load the module ``support/deployment.py``."""
    name = "fedkalemia_test_deployment"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, SUPPORT / "deployment.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@dataclass
class Whole:
    """A deployment that is still up, how its first run ended, and the same federation in one process."""

    deployment: Any
    ended: Any
    one: Path


@pytest.fixture(scope="module")
def whole(harness: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    """Run a federation of three marked sites with personalization over TLS, and the same in one process."""
    folder = tmp_path_factory.mktemp("whole")
    make = partial(harness.load("markers").make_marked_site, harness.load("sites").make_tiny_site)
    with harness.Deployment(
        folder / "tls", SITES, settings=SETTINGS, make=MAKE, maker=make, tap=True, debug=True
    ) as deployment:
        # One of the sites fits its patients in two processes: the numbers must be those of one all the same.
        with (next(iter(deployment.sites.values())).folder / "site.toml").open("a") as file:
            file.write("\n[gate]\nworkers = 2\n")
        ended = deployment.run()
        sites = [make(folder / "one" / name, name, settings=SETTINGS, **MAKE) for name in SITES]
        out = folder / "one" / "out"
        write_json(folder / "settings.json", sites[0].settings.model_dump(mode="json"))
        config = {"out": str(out), "settings": str(folder / "settings.json")}
        run_in_process(server_app, client_app, [{"site-folder": str(site.folder)} for site in sites], config)
        yield Whole(deployment, ended, out)
