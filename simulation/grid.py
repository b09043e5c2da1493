"""A whole federation in one process: the unmodified apps without Ray, SuperLink or network.

Payloads pass through Flower's own serialization in both directions, as they would between machines, so a
site never shares memory with the server. A message is run when its answer is asked for, and at most
``workers`` messages ahead of that, so the number of answers in memory does not grow with the number of sites.

A few private names of Flower are used; ``check_flower`` looks for them at the start, since an upgrade that
moved one could otherwise fail in the middle of a run.
"""

from __future__ import annotations

import ctypes
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

import flwr.supercore.inflatable.inflatable_object as inflatable
import flwr.supercore.inflatable.inflatable_utils as inflating
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from common.errors import ConfigurationError

RUN_ID = 1
TASK_ID = 1
SUPERLINK_NODE = 1  # Flower's number for the server's side
FIRST_NODE = 1000
#: How long one ``pull_messages`` waits for an answer.
PULL_WAIT_S = 0.2
#: How long ``send_and_receive`` waits where the caller names no limit.
EXCHANGE_S = 3600.0
#: How long handlers get to end after they were stopped.
STOP_S = 5.0
#: Flower's code for an exception in a ClientApp.
APP_RAISED = 2

Values = Mapping[str, str | int | float | bool]


class NoAnswer(Exception):  # noqa: N818
    """Raised by a test's ``before`` to let a node be silent, as after a power cut."""


@dataclass
class _Job:
    """A message on its way through a site."""

    message: Message
    done: threading.Event = field(default_factory=threading.Event)
    started: bool = False
    reply: Message | None = None
    stop: BaseException | None = None


class InProcessGrid(Grid):
    """Flower's ``Grid`` over ClientApps in threads of this process.

    Parameters
    ----------
    client_app : the app every node runs.
    node_configs : one node configuration per node; nodes are numbered from ``FIRST_NODE``.
    run_config : the run configuration all apps see.
    workers : sites computed at the same time. Changes the duration, never the result.
    before : called in the worker before a handler runs, with node number and message; for tests, which let
        a node fail by raising, answer late by sleeping, or be silent by raising ``NoAnswer``.

    Raises
    ------
    ConfigurationError
        If the installed Flower is not one this grid works with.
    """

    def __init__(
        self,
        client_app: ClientApp,
        node_configs: Sequence[Values],
        run_config: Values,
        *,
        workers: int = 1,
        before: Callable[[int, Message], None] | None = None,
    ) -> None:
        check_flower()
        self._app, self._before, self._workers = client_app, before, max(1, workers)
        self._contexts = {
            FIRST_NODE + index: _context(FIRST_NODE + index, config, run_config)
            for index, config in enumerate(node_configs)
        }
        self._jobs: dict[str, _Job] = {}  # in the order they were pushed
        self._count = 0
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._running: dict[int, _Job] = {}  # by thread
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._run = Run.create_empty(RUN_ID)

    # --- Flower's interface ---------------------------------------------------------------------------

    def set_run(self, run: Run) -> None:
        """Take the run Flower describes."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run, as Flower describes it."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the node numbers."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Take messages; none runs before an answer is pulled."""
        ids = []
        for message in messages:
            self._count += 1
            message_id = f"message-{self._count}"
            message.metadata.__dict__["_run_id"] = RUN_ID
            message.metadata.__dict__["_message_id"] = message_id
            self._jobs[message_id] = _Job(message)
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the answers that are there, after a short wait for the first of them."""
        wanted = [message_id for message_id in message_ids if message_id in self._jobs]
        replies = []
        for position, message_id in enumerate(wanted):
            self._start(message_id)
            job = self._jobs[message_id]
            if not job.done.wait(PULL_WAIT_S if position == 0 else 0):
                continue
            if job.stop is not None:
                raise job.stop
            del self._jobs[message_id]
            if job.reply is not None:
                replies.append(job.reply)
        return replies

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push messages and pull their answers until all are there or the time is up."""
        waiting = list(self.push_messages(messages))
        deadline = time.monotonic() + (EXCHANGE_S if timeout is None else timeout)
        replies: list[Message] = []
        while waiting and time.monotonic() < deadline:
            replies += self.pull_messages(waiting)
            waiting = [message_id for message_id in waiting if message_id in self._jobs]
        return replies

    # --- running sites --------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop handlers that still run, and the threads; nothing of this grid is left afterwards."""
        for _ in self._threads:
            self._queue.put(None)
        with self._lock:
            for thread, job in self._running.items():
                job.stop = KeyboardInterrupt()
                # The only way to end Python code in another thread; it takes effect at its next instruction.
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(thread), ctypes.py_object(KeyboardInterrupt)
                )
        deadline = time.monotonic() + STOP_S
        for thread_ in self._threads:
            thread_.join(max(0.0, deadline - time.monotonic()))
        self._threads.clear()
        self._jobs.clear()

    def _start(self, message_id: str) -> None:
        """Hand a message to the workers, and as many after it as there are other workers."""
        while len(self._threads) < min(self._workers, len(self._contexts)):
            # A daemon, so that a handler stuck in foreign code cannot keep the process alive.
            thread = threading.Thread(target=self._work, name=f"site-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()
        ahead = list(self._jobs)
        first = ahead.index(message_id)
        for following in ahead[first : first + self._workers]:
            job = self._jobs[following]
            if not job.started:
                job.started = True
                self._queue.put(job)

    def _work(self) -> None:
        thread = threading.get_ident()
        while (job := self._queue.get()) is not None:
            try:
                with self._lock:
                    self._running[thread] = job
                job.reply = self._handle(job.message)
            except BaseException as error:  # Ctrl-C inside a site ends the run, not the worker alone
                job.stop = error
            finally:
                with self._lock:
                    self._running.pop(thread, None)
                job.done.set()
            del job

    def _handle(self, message: Message) -> Message | None:
        """Run one message at its node, as Flower's own executor would."""
        node = message.metadata.dst_node_id
        try:
            if self._before is not None:
                self._before(node, message)
            arrived = message.content = _copied(message.content)
            reply = self._app(message, self._contexts[node])
            if reply.has_content():
                answered, reply.content = reply.content, _copied(reply.content)
                _empty(answered)
            _empty(arrived)
            return reply
        except NoAnswer:
            return None
        except Exception as error:
            return Message(Error(code=APP_RAISED, reason=f"{type(error)}:<'{error}'>"), reply_to=message)


def run_in_process(
    server_app: ServerApp,
    client_app: ClientApp,
    node_configs: Sequence[Values],
    run_config: Values,
    workers: int = 1,
    before: Callable[[int, Message], None] | None = None,
) -> None:
    """Run a ServerApp against ClientApps in this process until it returns or raises.

    Parameters
    ----------
    node_configs : one node configuration per site.
    run_config : the flat run configuration.
    workers, before : see ``InProcessGrid``.
    """
    grid = InProcessGrid(client_app, node_configs, run_config, workers=workers, before=before)
    try:
        with _task_identity():
            server_app(grid, _context(SUPERLINK_NODE, {}, run_config))
    finally:
        grid.close()


def check_flower() -> None:
    """Check that the installed Flower has the private names used here.

    Raises
    ------
    ConfigurationError
        Naming what is missing.
    """
    content = RecordDict()
    identity = all(hasattr(TaskIdentity, name) for name in ("_run_id", "_task_id", "_node_id"))
    places = (
        (identity, "TaskIdentity"),
        (callable(getattr(inflatable, "get_all_nested_objects", None)), "get_all_nested_objects"),
        (callable(getattr(inflatable, "no_object_id_recompute", None)), "no_object_id_recompute"),
        (callable(getattr(inflating, "inflate_object_from_contents", None)), "inflate_object_from_contents"),
        (hasattr(content, "object_id") and callable(getattr(content, "deflate", None)), "RecordDict.deflate"),
        (callable(getattr(Run, "create_empty", None)), "Run.create_empty"),
    )
    missing = [name for found, name in places if not found]
    if identity:
        with _task_identity():
            metadata = vars(Message(content, SUPERLINK_NODE, "query").metadata)
        missing += [name for name in ("_run_id", "_message_id") if name not in metadata]
    if missing:
        raise ConfigurationError(
            f"the installed flwr has no {', '.join(missing)}; federations in one process need "
            "flwr >= 1.41 and < 1.43"
        )


def _context(node: int, node_config: Values, run_config: Values) -> Context:
    return Context(
        run_id=RUN_ID,
        node_id=node,
        node_config=dict(node_config),
        state=RecordDict(),
        run_config=dict(run_config),
    )


def _copied(content: RecordDict) -> RecordDict:
    """Pass a payload through Flower's serialization, object by object."""
    with inflatable.no_object_id_recompute():
        objects = inflatable.get_all_nested_objects(content)
        contents = {object_id: value.deflate() for object_id, value in objects.items()}
        copy = inflating.inflate_object_from_contents(content.object_id, contents)
    return cast(RecordDict, copy)


def _empty(content: RecordDict) -> None:
    """Let go of what a site used; records sit in reference cycles and would stay until a collection."""
    for record in content.values():
        record.clear()
    content.clear()


@contextmanager
def _task_identity() -> Iterator[None]:
    """Let messages be made in this process, as inside a Flower task."""
    names = {"_run_id": RUN_ID, "_task_id": TASK_ID, "_node_id": SUPERLINK_NODE}
    before = {name: getattr(TaskIdentity, name) for name in names}
    for name, value in names.items():
        setattr(TaskIdentity, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(TaskIdentity, name, value)
