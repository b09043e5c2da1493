"""The runner: takes the coordinator's runs from the SuperLink and does them with the installed server.

A run arrives with a bundle, which may come from anybody who reaches the SuperLink. Here it is neither
unpacked nor imported: the installed ``server.app`` runs, and only the run configuration is taken from
outside, where every key and value is checked. What the round loop says goes to this process's output and to
the SuperLink, from where ``fedkalemia-server run`` shows it.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from queue import Queue
from typing import TYPE_CHECKING, Any, TextIO, cast

from common.command import FLOWER_ENVIRONMENT
from common.errors import FedkalemiaError
from common.identity import read_certificate, read_secret
from common.logs import PlainReporter, say, use_reporter
from common.taskloop import SERVER_TASK, Runtime, Uses, check_engine, serve
from server import patience
from server.coordinator import Coordinator

if TYPE_CHECKING:
    from flwr.app import Context
    from flwr.proto.task_pb2 import Task
    from flwr.serverapp import Grid

#: Touched as long as the runner is alive, in the coordinator folder.
HEARTBEAT = "runner.heartbeat"
#: What Flower puts before the sentence with which a run failed.
RAISED = "ServerApp failed with exception: "
_ENGINE = "flwr.superlink.runtime.run_serverapp"
#: Names of Flower's module that are replaced: what would unpack and import a bundle, and what runs the app.
_REPLACED = {
    "install_from_fab": (),
    "get_fab_metadata": (),
    "get_project_dir": (),
    "get_project_config": (),
    "get_fused_config_from_dir": ("project_dir", "override_config"),
    "run_": ("grid", "context", "server_app_dir", "server_app_attr"),
    "log": (),
}
USES: Uses = {
    f"{_ENGINE}:run_serverapp": (
        *("runtime_api_address", "log_queue", "token", "insecure", "certificates", "parent_pid"),
        "runtime_dependency_install",
    ),
    f"{_ENGINE}:HttpGrid": ("runtime_api_address", "insecure", "root_certificates", "token"),
    f"{_ENGINE}:HttpGrid._runtime_client": (),
    "flwr.supercore.exit:add_exit_handler": ("exit_handler", "run_before_force_exit"),
    **patience.USES,
    **{f"{_ENGINE}:{name}": parameters for name, parameters in _REPLACED.items()},
}


def run_runner(coordinator: Coordinator) -> None:
    """Do the coordinator's runs, one after the other, until stopped.

    Raises
    ------
    IdentityError
        If the secret or the authority's certificate is missing, or the SuperLink refuses the secret.
    ConfigurationError
        If the installed Flower is not one this runner works with.
    """
    runtime = Runtime(coordinator.superlink, read_secret(coordinator.secret), coordinator.authority)
    read_certificate(coordinator.authority)
    os.environ.update(FLOWER_ENVIRONMENT, FLWR_HOME=str(coordinator.flower_home))
    check_engine(USES)
    import server.app  # noqa: F401  warm: a run must not wait for torch

    say(f"runner ready, taking runs from {coordinator.superlink}")
    heartbeat = coordinator.folder / HEARTBEAT
    serve(runtime, {SERVER_TASK}, partial(_run, home=coordinator.folder), heartbeat=heartbeat)


def _run(runtime: Runtime, task: Task, token: str, *, home: Path) -> int:
    """Do one run, in the forked child; Flower ends this process itself when the run is over."""
    # By name: the package also has a function that is called like its module.
    engine = importlib.import_module(_ENGINE)
    said: Queue[str | None] = Queue()
    use_reporter(PlainReporter(cast(TextIO, _Tee(sys.stdout, said))))
    say(f"run {task.run_id} begins")
    try:
        _replace(engine, home)
        pulling: Any = importlib.import_module(patience.PULLING)
        pulling.pull_objects = patience.bounded(pulling.pull_objects)
        engine.run_serverapp(
            runtime_api_address=runtime.address,
            log_queue=said,
            token=token,
            insecure=runtime.insecure,
            certificates=runtime.certificates(),
            parent_pid=os.getppid(),
            runtime_dependency_install=False,
        )
    except Exception as error:  # a run that never began would be handed out again, without end
        say(f"the run cannot be started: {type(error).__name__}: {error}")
        _give_up(engine, runtime, token, f"the runner cannot start it ({type(error).__name__})")
        return 1
    return 0


def _give_up(engine: Any, runtime: Runtime, token: str, why: str) -> None:
    """Tell the SuperLink that a run has failed before it began."""
    from flwr.proto.runtime_pb2 import PushTaskOutputRequest

    grid = engine.HttpGrid(
        runtime_api_address=runtime.address,
        insecure=runtime.insecure,
        root_certificates=runtime.certificates(),
        token=token,
    )
    grid._runtime_client.PushTaskOutput(PushTaskOutputRequest(sub_status="failed", details=RAISED + why))
    grid.close()


def _replace(engine: Any, home: Path) -> None:
    """Let Flower's runtime leave the bundle alone and run the installed app with this folder."""
    from flwr.supercore import log

    def configuration(project_dir: Path, override_config: Mapping[str, Any]) -> dict[str, Any]:
        return {**override_config, "home": str(home)}

    def log_sentence(level: int, text: str, *args: object, exc_info: BaseException | None = None) -> None:
        if isinstance(exc_info, FedkalemiaError):  # its sentence says all; a trace would hide it
            log(level, "%s", exc_info)
        else:
            log(level, text, *args, exc_info=exc_info)

    engine.install_from_fab = lambda *_, **__: None
    engine.get_fab_metadata = lambda *_, **__: ("", "")
    engine.get_project_dir = lambda *_, **__: ""
    engine.get_project_config = lambda *_, **__: {
        "tool": {"flwr": {"app": {"components": {"serverapp": "server.app:app"}}}}
    }
    engine.get_fused_config_from_dir = configuration
    engine.run_ = _run_installed
    engine.log = log_sentence


def _run_installed(grid: Grid, context: Context, **_: object) -> Context:
    from server.app import app

    app(grid=grid, context=context)
    return context


class _Tee:
    """Where a run's lines go: to this process's output, and to the queue that Flower uploads."""

    def __init__(self, out: TextIO, queue: Queue[str | None]) -> None:
        self._out, self._queue = out, queue

    def write(self, text: str) -> int:
        """Write a text to both."""
        self._queue.put(text)
        return self._out.write(text)

    def flush(self) -> None:
        """Flush the output."""
        self._out.flush()
