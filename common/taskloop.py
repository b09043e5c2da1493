"""A long-lived worker for Flower's tasks: warm, one fork per task, only the types it names.

Stock Flower starts a new Python for every message, which costs seconds before any work. Here the heavy
modules are imported once; a task is taken, a child is forked for it, and the child ends with it. A few names
of Flower that are not public are used; ``check_engine`` says so at the start if one of them is gone.
"""

from __future__ import annotations

import importlib
import inspect
import os
import signal
import ssl
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from common.errors import ConfigurationError, FederationError, IdentityError
from common.logs import duration, say

if TYPE_CHECKING:  # imported when a loop starts: a command that only reads must not wait for Flower
    from flwr.proto.runtime_pb2 import AcquireTaskResponse
    from flwr.proto.task_pb2 import Task
    from flwr.supercore.runtime import RuntimeHttpClient

CLIENT_TASK, AGENT_TASK, SERVER_TASK = "flwr-clientapp", "flwr-agentapp", "flwr-serverapp"
POLL_S, CHILD_POLL_S = 0.25, 0.02
#: What a child told to stop gets before it is killed: Flower ends a process after 5 s, but a reply on its way
#: goes out whole. Whoever stops this loop waits longer (stop_grace_period in deploy/services.yml).
STOP_S = 60.0
_STOPS = (signal.SIGTERM, signal.SIGINT)
AWAY_LINE_S = 60.0

Work = Callable[["Runtime", "Task", str], "int | None"]
#: Places in Flower by name (``module:name``), each with parameters it must take.
Uses = Mapping[str, Sequence[str]]

_USES: Uses = {
    "flwr.supercore.runtime:RuntimeHttpClient.AcquireTask": ("request",),
    "flwr.supercore.runtime:RuntimeHttpClient.from_server_address": (
        *("server_address", "insecure", "root_certificates", "interceptors", "retry_invoker"),
    ),
    "flwr.supercore.interceptors:RuntimeVersionHttpInterceptor": ("component_name",),
    "flwr.supercore.interceptors:SuperExecAuthHttpInterceptor": ("master_secret", "protected_methods"),
    "flwr.proto.runtime_pb2:AcquireTaskRequest": (),
}


@dataclass(frozen=True)
class Runtime:
    """Where tasks come from: the runtime API of a SuperNode or of the SuperLink.

    Parameters
    ----------
    address : ``host:port``.
    secret : shared with the SuperNode or SuperLink; without it no task is handed out.
    root_certificates : authority that signed the other side's certificate; None speaks plain HTTP.
    """

    address: str
    secret: bytes
    root_certificates: Path | None = None

    @property
    def insecure(self) -> bool:
        """Whether the other side is spoken to in plain HTTP, as within one machine or one network."""
        return self.root_certificates is None

    def certificates(self) -> bytes | None:
        """Return the authority's certificate, None for plain HTTP.

        Raises
        ------
        IdentityError
            If the file cannot be read.
        """
        if self.root_certificates is None:
            return None
        try:
            return self.root_certificates.read_bytes()
        except OSError as error:
            raise IdentityError(
                f"the authority's certificate {self.root_certificates} cannot be read: {error.strerror}"
            ) from None


def check_engine(uses: Uses | None = None) -> None:
    """Check that what this loop and its caller rely on in Flower is there, with the expected parameters.

    Parameters
    ----------
    uses : what the caller relies on besides the loop's own, such as
        ``{"flwr.some.module:function": ("parameter",)}``.

    Raises
    ------
    ConfigurationError
        Naming the first thing that is missing and the installed version.
    """
    for place, parameters in {**_USES, **(uses or {})}.items():
        missing = _missing(place, parameters)
        if missing:
            raise engine_lacks(missing)


def engine_lacks(what: str) -> ConfigurationError:
    """Return the error that names something in Flower that this software relies on and that is gone."""
    import flwr

    return ConfigurationError(
        f"Flower {flwr.__version__} has no {what} any more, which this software relies on; install the "
        "version that constraints.txt names"
    )


def _missing(place: str, parameters: Sequence[str]) -> str | None:
    module, _, path = place.partition(":")
    try:
        found = importlib.import_module(module)
        for name in path.split("."):
            found = getattr(found, name)
        taken = inspect.signature(cast("Callable[..., object]", found)).parameters if parameters else {}
    except (ImportError, AttributeError):
        return place
    return next((f"parameter {name!r} of {place}" for name in parameters if name not in taken), None)


def serve(runtime: Runtime, types: Collection[str], work: Work, *, heartbeat: Path | None = None) -> None:
    """Take tasks and do each in a child of its own, one at a time, until stopped.

    A child that is killed ends its own task only: its claim runs out on the other side, which then answers
    with an error by itself. While the other side is away this goes on asking, with a line now and then.

    Parameters
    ----------
    runtime : where tasks come from.
    types : task types that are taken; all others stay where they are.
    work : called in the child with the runtime, the task and the task's token; what it returns is the
        child's exit code.
    heartbeat : file whose modification time says that this loop is alive; touched at every step, also
        while a child works.

    Raises
    ------
    IdentityError
        If the other side does not accept the secret, or shows a certificate that is not to be trusted.
    FederationError
        If it speaks another protocol.
    KeyboardInterrupt
        When the process is told to stop; the child was told first, and has ended.
    """
    if threading.active_count() > 1:
        raise RuntimeError("a process with threads must not fork")
    source = _Source(runtime, sorted(types))
    while True:
        _beat(heartbeat)
        answer = source.acquire()
        if answer is not None and answer.HasField("task") and answer.token:
            _run(runtime, answer.task, answer.token, work, heartbeat)
        else:
            time.sleep(POLL_S)


class _Source:
    """The other side's runtime API, asked for tasks without ever giving up."""

    def __init__(self, runtime: Runtime, types: Sequence[str]) -> None:
        from flwr.proto.runtime_pb2 import AcquireTaskRequest

        self._runtime = runtime
        self._client = _client(runtime)
        self._request = AcquireTaskRequest(supported_task_types=list(types))
        self._away_since: float | None = None
        self._said = 0.0

    def acquire(self) -> AcquireTaskResponse | None:
        """Return the answer to one question, None while the other side is away."""
        import httpx

        try:
            answer = self._client.AcquireTask(self._request)
        except httpx.TransportError as error:
            if (reason := _distrust(error)) is not None:
                raise self._not_trusted(reason) from None
            self._away("does not answer", "has not answered")
            return None
        except httpx.HTTPStatusError as error:
            status = error.response.status_code
            if status >= 500:
                self._away(f"answers with status {status}", f"has answered with status {status}")
                return None
            raise self._refused(status) from None
        if self._away_since is not None:
            say(f"{self._runtime.address} is back after {duration(time.monotonic() - self._away_since)}")
            self._away_since = None
        return answer

    def _away(self, how: str, how_long: str) -> None:
        now = time.monotonic()
        if self._away_since is None:
            self._away_since, self._said = now, now
            say(f"{self._runtime.address} {how}; asking again until it does")
        elif now - self._said > AWAY_LINE_S:
            self._said = now
            say(f"{self._runtime.address} {how_long} for {duration(now - self._away_since)}; still asking")

    def _not_trusted(self, reason: str) -> IdentityError:
        return IdentityError(
            f"{self._runtime.address} shows a certificate that {self._runtime.root_certificates} did not "
            f"sign for it ({reason}); put the certificate of this federation's authority there, or have the "
            "other side's certificate made again by it, with this name"
        )

    def _refused(self, status: int) -> IdentityError | FederationError:
        if status in {401, 403}:
            return IdentityError(
                f"{self._runtime.address} does not accept the secret of this process; both sides must hold "
                "the same executor.secret or runner.secret, and their clocks must agree"
            )
        return FederationError(
            f"{self._runtime.address} answers with status {status} when asked for a task; is it a Flower "
            "runtime of the version that constraints.txt names?"
        )


def _distrust(error: BaseException | None) -> str | None:
    """Return why a certificate was refused, if that is at the bottom of a failed connection."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return str(error.verify_message)
        error = error.__cause__ or error.__context__
    return None


def _client(runtime: Runtime) -> RuntimeHttpClient:
    from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor, SuperExecAuthHttpInterceptor
    from flwr.supercore.runtime import RuntimeHttpClient

    protected = frozenset({"/flwr.proto.Runtime/AcquireTask"})
    return RuntimeHttpClient.from_server_address(
        server_address=runtime.address,
        insecure=runtime.insecure,
        root_certificates=runtime.certificates(),
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="SuperExec"),
            SuperExecAuthHttpInterceptor(master_secret=runtime.secret, protected_methods=protected),
        ],
    )


def _run(runtime: Runtime, task: Task, token: str, work: Work, heartbeat: Path | None) -> None:
    """Do one task in a child and wait for it; it may take as long as the task takes."""
    began = time.monotonic()
    sys.stdout.flush()
    sys.stderr.flush()
    child = 0
    try:
        with stops_later() as told:
            child = os.fork()
            if child == 0:
                _child(lambda: work(runtime, task, token), told)
        code = _wait(child, None, heartbeat)
    except BaseException:  # this process is told to stop: the child first
        if child:
            try:
                with stops_later():
                    _stop(child, heartbeat)
            except KeyboardInterrupt:  # told a second time
                _stop(child, heartbeat)
        raise
    took = duration(time.monotonic() - began)
    if code is not None and code < 0:
        how = signal.Signals(-code).name
        say(f"task {task.task_id}: its process was ended by {how} after {took} (out of memory?)")
    else:
        say(f"task {task.task_id}: {'done' if code == 0 else 'ended with an error'} in {took}")


@contextmanager
def stops_later() -> Iterator[list[int]]:
    """Hold back that this process is told to stop; act on it at the end.

    Between the fork and the lines that know the child, a stop would leave the child behind with its claim; in
    the child it would unwind the parent's stack. Signals are masked, and what comes through is noted in the
    list that this gives. The mask alone fails where threads that Python does not know (those of numerical
    libraries) take a signal; noting alone, because Python drops what reaches a child before fork returned.
    """
    told: list[int] = []
    before = {number: signal.getsignal(number) for number in _STOPS}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        for number in _STOPS:
            signal.signal(number, lambda which, _: told.append(which))
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for noted in dict.fromkeys(told):
            signal.raise_signal(noted)


def _child(action: Callable[[], int | None], told: Sequence[int]) -> None:
    """Run in the forked child and never come back; if it was told to stop already, nothing is begun."""
    code = 1
    try:
        threading.excepthook = _thread_ended
        for number in _STOPS:
            signal.signal(number, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
        if told:
            raise KeyboardInterrupt
        code = action() or 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException as error:
        # Only the type: the text of an error may say anything, and this goes to the container's log.
        say(f"the task's process failed: {type(error).__name__}")
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:  # also where it is told to stop once more: the parent's stack below is never unwound here
            os._exit(code)


def _thread_ended(what: threading.ExceptHookArgs) -> None:
    """Say which error ended a thread, such as the engine's heartbeat: one line, and none of its text."""
    if what.exc_type is not SystemExit:
        say(f"a thread of the task's process failed: {what.exc_type.__name__}")


def _wait(child: int, limit_s: float | None, heartbeat: Path | None) -> int | None:
    """Wait for a child; return its exit code (negative: the signal that ended it), None after the limit."""
    began = touched = time.monotonic()
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        now = time.monotonic()
        if limit_s is not None and now - began > limit_s:
            return None
        if now - touched > POLL_S:
            touched = now
            _beat(heartbeat)
        time.sleep(CHILD_POLL_S)


def _stop(child: int, heartbeat: Path | None) -> None:
    """Tell a child to end and wait for it; one that has ended already is no error."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(child, how)
            if _wait(child, STOP_S, heartbeat) is not None:
                return


def _beat(heartbeat: Path | None) -> None:
    """Touch the file. One that cannot be touched is a missed beat, which is what its reader looks for."""
    if heartbeat is not None:
        with suppress(OSError):
            heartbeat.touch()
