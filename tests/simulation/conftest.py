"""One small run on synthetic hospitals, made once."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from unittest import mock

import pytest

from simulation.run import run_journey
from simulation.summary import RunSummary

SMALL_SIM = Path(__file__).parents[1] / "support" / "small_sim.py"


@dataclass(frozen=True)
class SmallRun:
    """A finished run in ``out``."""

    out: Path
    summary: RunSummary


@pytest.fixture(scope="session")
def small_sim() -> ModuleType:
    """Return the module that runs small simulations; see ``support/small_sim.py``."""
    spec = importlib.util.spec_from_file_location("fedkalemia_small_sim", SMALL_SIM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def small_run(small_sim: ModuleType, made_once: Callable[..., Path]) -> SmallRun:
    """Run two small hospitals from files to reports, one site after the other. Read it, never write to it."""

    def run(folder: Path) -> None:
        with mock.patch("simulation.plans.SIZES", {"quick": small_sim.SIZES}):
            run_journey(small_sim.small_journey(folder / "run"))

    out = made_once("small", run) / "run"
    return SmallRun(out, RunSummary.model_validate_json((out / "summary.json").read_text()))
