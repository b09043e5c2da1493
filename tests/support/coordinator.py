"""A coordinator made with our own commands, and its processes, on loopback with ports nobody else has."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from io import StringIO
from pathlib import Path
from unittest import mock

from common.addresses import split_address
from common.health import NoAnswerError, ask
from common.logs import current_reporter, use_reporter
from server.coordinator import Coordinator, make_coordinator
from server.pki import init

COMMAND = Path(sys.executable).with_name("fedkalemia-server")
READY_S = 90.0
STOP_S = 15.0


def server(*words: object) -> subprocess.CompletedProcess[str]:
    """Run ``fedkalemia-server`` to its end."""
    return subprocess.run(
        [str(COMMAND), *map(str, words)], capture_output=True, text=True, timeout=READY_S, check=False
    )


def here(*words: object) -> subprocess.CompletedProcess[str]:
    """Run ``fedkalemia-server`` in this process, as its entry point would; a new one begins slowly."""
    from server.cli import main

    out, errors, reporter = StringIO(), StringIO(), current_reporter()
    arguments = [COMMAND.name, *map(str, words)]
    try:
        with (
            mock.patch.object(sys, "argv", arguments),
            mock.patch.dict(os.environ),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(errors),
        ):
            main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    finally:
        use_reporter(reporter)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), errors.getvalue())


def refused(*words: object, run: Callable[..., subprocess.CompletedProcess[str]] = server) -> str:
    """Run ``fedkalemia-server``, which must fail with exit code 2 and one sentence; return that."""
    done = run(*words)
    assert done.returncode == 2, f"{done.returncode}: {done.stdout}{done.stderr}"
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    return lines[0].removeprefix("error: ")


def make_home(folder: Path) -> Coordinator:
    """Make a coordinator folder for loopback."""
    link, front = free_ports(2)
    home = make_coordinator(folder, ("127.0.0.1",), front, f"127.0.0.1:{link}")
    assert init(home)
    return home


@contextlib.contextmanager
def superlink(home: Coordinator, log: Path) -> Iterator[None]:
    """Run the coordinator's SuperLink; it answers when the block begins."""
    port = split_address(home.superlink, "superlink")[1]
    with process([COMMAND, "superlink", home.folder], log):
        wait_for(lambda: status(port, home) == 200, log)
        yield


def status(port: int, home: Coordinator) -> int:
    """Return the HTTP status of the health route on a port of this machine; 0 if nothing listens."""
    try:
        return ask("127.0.0.1", port, home.authority).status
    except NoAnswerError as error:
        if error.kind != "refused":
            raise
        return 0


@contextlib.contextmanager
def process(words: Sequence[object], log: Path, *, user: int | None = None) -> Iterator[None]:
    """Run a command in a process group of its own, and end the whole group."""
    with log.open("ab") as out:
        started = subprocess.Popen(
            [str(word) for word in words],
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
        )
    try:
        yield
    finally:
        for how in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(started.pid, how)
            with contextlib.suppress(subprocess.TimeoutExpired):
                started.wait(STOP_S)


def wait_for(condition: Callable[[], bool], *logs: Path) -> None:
    """Wait until something is so, not for ever; show the logs if it does not come."""
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.2)
    raise AssertionError("\n".join(f"{log.name}: {log.read_text()[-3000:]}" for log in logs))


def free_ports(count: int) -> list[int]:
    """Return ports nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
