"""How the three commands start and end: the right installation, one sentence on failure, exit codes.

0 done; 2 something a person can act on (one sentence says what and what next); 130 stopped by Ctrl-C, 143 by
SIGTERM, as services and batch systems do. Nothing is left half-written in any case, and the same command
goes on where it stopped.
"""

from __future__ import annotations

import _thread
import errno
import importlib.util
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import typer

from common.errors import ConfigurationError, FedkalemiaError
from common.logs import reporter_for, use_reporter

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 128 + signal.SIGTERM
RAISE_AGAIN_S = 0.05
ROOMS = ("common", "client", "server", "simulation")

# Flower must neither install packages at run time nor call home (see docs/explanation/architecture.md).
FLOWER_ENVIRONMENT = {
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def check_rooms() -> None:
    """Check that the four top-level packages come from one installation.

    Their names are generic: a folder called ``client`` in the working directory must not shadow ours.

    Raises
    ------
    ConfigurationError
        Naming the package that was found elsewhere.
    """
    home = Path(__file__).resolve().parent.parent
    for room in ROOMS:
        spec = importlib.util.find_spec(room)
        origin = Path(spec.origin).resolve().parent.parent if spec and spec.origin else None
        if origin != home:
            raise ConfigurationError(
                f"the package {room!r} would be loaded from {origin}, not from {home}; "
                "remove that folder from PYTHONPATH or start the command from another directory"
            )


def run_app(app: typer.Typer) -> None:
    """Run a command line and turn every ending into a sentence and an exit code."""
    os.environ.update(FLOWER_ENVIRONMENT)
    use_reporter(reporter_for(sys.stdout))
    sys.unraisablehook = _not_raised
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminate)
    code = _ending(lambda: app(standalone_mode=False))
    sys.exit(EXIT_TERMINATED if _terminated.is_set() and code == EXIT_INTERRUPTED else code)


_terminated = threading.Event()


def _terminate(number: int, frame: object) -> None:
    """Take SIGTERM as Ctrl-C, so that each step cleans up behind itself; the exit code tells them apart."""
    _terminated.set()
    raise KeyboardInterrupt


def _not_raised(what: sys.UnraisableHookArgs) -> None:
    """Raise Ctrl-C again where Python drops it, as it does inside a finalizer: nobody presses it in vain."""
    if what.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(what)
        return
    again = threading.Timer(RAISE_AGAIN_S, _thread.interrupt_main)  # once the finalizer has returned
    again.daemon = True
    again.start()


def _ending(action: Callable[[], object]) -> int:
    try:
        check_rooms()
        code = action()
        # The command line parser may turn Ctrl-C into a code of its own, and says nothing then.
        return _stopped() if code == EXIT_INTERRUPTED else code if isinstance(code, int) else 0
    except FedkalemiaError as error:
        return _fail(error.told())
    except (KeyboardInterrupt, typer.Abort):
        return _stopped()
    except typer.Exit as end:
        return end.exit_code
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _fail("the disk is full; free some space and run the same command again")
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return _fail(
                f"no permission for {error.filename}; give this user the right, or choose another folder"
            )
        raise
    except Exception as error:  # usage errors of the command line parser carry their own exit code
        show = getattr(error, "show", None)
        if show is None:
            raise
        show()
        return int(getattr(error, "exit_code", EXIT_ERROR))


def _stopped() -> int:
    # A terminal shows ^C where the cursor is.
    line = "\n" * sys.stderr.isatty()
    typer.echo(f"{line}Stopped. Nothing is half-written; the same command goes on from here.", err=True)
    return EXIT_INTERRUPTED


def _fail(sentence: str) -> int:
    typer.secho("error: ", fg="red", bold=True, nl=False, err=True)
    typer.echo(sentence, err=True)
    return EXIT_ERROR
