"""One small run on synthetic hospitals, made once, and commands run as a person would."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from unittest import mock

import pytest

from common.logs import current_reporter, use_reporter
from simulation.run import run_journey
from simulation.summary import RunSummary

BIN = Path(sys.executable).parent
SMALL_SIM = Path(__file__).parents[1] / "support" / "small_sim.py"


@dataclass(frozen=True)
class Ending:
    """How a command ended."""

    code: int
    out: str
    err: str

    def sentence(self) -> str:
        """Return what it said went wrong: one line, no traceback, exit code 2."""
        assert self.code == 2, (self.code, self.err)
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: "), self.err
        return lines[0].removeprefix("error: ")


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


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Ending]]:
    """Run a command in this process, as its entry point would, and tell how it ended."""
    import client.cli
    import simulation.cli

    mains = {"fedkalemia-site": client.cli.main, "fedkalemia-sim": simulation.cli.main}
    reporter = current_reporter()

    def run(*words: object) -> Ending:
        texts = [str(word) for word in words]
        capsys.readouterr()
        with (
            mock.patch.object(sys, "argv", texts),
            mock.patch.dict(os.environ),
            pytest.raises(SystemExit) as ended,
        ):
            mains[texts[0]]()
        said = capsys.readouterr()
        return Ending(int(ended.value.code or 0), said.out, said.err)

    yield run
    use_reporter(reporter)


@pytest.fixture
def process() -> Callable[..., Ending]:
    """Run a command in a process of its own and tell how it ended."""

    def run(*words: object, **options: object) -> Ending:
        texts = [str(word) for word in words]
        done = subprocess.run(  # type: ignore[call-overload]
            [str(BIN / texts[0]), *texts[1:]],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            **options,
        )
        return Ending(done.returncode, done.stdout, done.stderr)

    return run
