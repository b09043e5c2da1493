"""Run a function on many items in worker processes, with their progress shown in this process.

A process that has several things to do, one after the other or in threads, shares its workers among them: as
many processes as cores, and no more.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    CancelledError,
    Future,
    InvalidStateError,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from common import logs
from common.errors import FedkalemiaError

Item = TypeVar("Item")
Result = TypeVar("Result")

LISTEN_S = 5.0
STOP_AGAIN_S = 0.05
LOOK_S = 0.2  # a thread that waits for a worker looks this often whether it was stopped meanwhile
AHEAD = 2  # items that wait per worker while it works on one


class Workers:
    """Processes that take items from a stream of any length; see ``worker_processes``."""

    def __init__(self, pool: ProcessPoolExecutor | None, count: int) -> None:
        self._pool, self.count = pool, count

    def in_order(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Apply a picklable function to every item; results in the order of the items.

        As with ``each``, only a few items per worker are taken from the stream ahead of time.

        Raises
        ------
        FedkalemiaError
            If a worker was killed from outside.
        Exception
            The first failure, in the order of the items.
        """
        if self._pool is None:
            yield from map(function, items)
            return
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(self._pool.submit(_run, function, item))
                if len(waiting) > AHEAD * self.count:
                    yield _result(waiting.popleft())
            while waiting:
                yield _result(waiting.popleft())
        except BrokenProcessPool:
            raise _broken() from None
        finally:
            _cancel(waiting)

    def each(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Apply a picklable function to every item; results as they are done, in any order.

        Only a few items per worker are taken from the stream ahead of time, and no result is kept: memory
        does not grow with the number of items.

        Raises
        ------
        FedkalemiaError
            If a worker was killed from outside.
        Exception
            The first failure that is seen.
        """
        if self._pool is None:
            yield from map(function, items)
            return
        waiting: set[Future[Result]] = set()
        try:
            for item in items:
                waiting.add(self._pool.submit(_run, function, item))
                if len(waiting) >= AHEAD * self.count + self.count:
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        except BrokenProcessPool:
            raise _broken() from None
        finally:
            _cancel(waiting)


def _result(future: Future[Result]) -> Result:
    """Wait for a result; in short steps, so that a thread can be stopped while it waits."""
    while not future.done():
        wait([future], timeout=LOOK_S)
    try:
        return future.result()
    except CancelledError:
        raise KeyboardInterrupt from None  # the processes were told to stop


def _cancel(waiting: Iterable[Future[Any]]) -> None:
    """Give up items that nobody waits for any more: others may go on using the processes."""
    for future in waiting:
        future.cancel()


_shared: Workers | None = None


def _broken() -> FedkalemiaError:
    return FedkalemiaError(
        "a worker process was ended from outside, perhaps for lack of memory; run the same command again "
        "with fewer --workers, it goes on where it stopped"
    )


def available_cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def worker_processes(workers: int) -> Iterator[Workers]:
    """Keep worker processes for several streams of items; with one worker, work in this process.

    Processes are started when the first items come. Whatever ends the block early ends the workers too.
    Inside ``shared_workers`` those that are there already are used, and stay.
    """
    if workers <= 1:
        yield Workers(None, 1)
    elif _shared is not None and _shared.count > 1:
        yield _shared
    else:
        with _executor(workers) as pool:
            yield Workers(pool, workers)


@contextmanager
def shared_workers(workers: int) -> Iterator[None]:
    """Keep worker processes that all of this process uses, its threads too, as long as the block lasts.

    What several threads ask for at the same time shares these processes and does not multiply them.
    """
    global _shared
    before = _shared
    with worker_processes(workers) as pool:
        _shared = pool
        try:
            yield
        finally:
            _shared = before


def current_workers() -> Workers:
    """Return the worker processes this process shares; where it shares none, it works by itself."""
    return Workers(None, 1) if _shared is None else _shared


@contextmanager
def _executor(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Open a pool of fresh processes whose progress is shown here.

    Fresh (spawned) processes start without torch, which ingest must not import, and without threads,
    which a forked process must not inherit.
    """
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    listener = threading.Thread(target=_relay, args=(queue,), daemon=True)
    listener.start()
    pool = _Pool(workers, mp_context=context, initializer=_start_worker, initargs=(queue,))
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        queue.put(None)
        listener.join(LISTEN_S)  # a worker that was killed may have taken the queue's lock with it
        queue.close()


class _Pool(ProcessPoolExecutor):
    """Processes that are started by a thread which nobody interrupts.

    A process that starts reads its orders from a pipe: whoever is interrupted while writing them leaves one
    that ends in a stack trace. Ctrl-C is blocked in each process from its first instruction on: see
    ``_start_worker``. An end of the pool waits for a start that is under way.
    """

    def __init__(self, workers: int, **options: Any) -> None:
        super().__init__(workers, **options)
        self._starter = ThreadPoolExecutor(1, initializer=_block_interrupt)

    def submit(self, function: Callable[..., Any], /, *args: Any, **named: Any) -> Future[Any]:
        future = self._starter.submit(super().submit, function, *args, **named).result()
        fail = future.set_exception

        def fail_unless_given_up(error: BaseException | None) -> None:
            # Python 3.11's pool ends in a stack trace if a process dies after its item was cancelled.
            with suppress(InvalidStateError):
                fail(error)

        future.set_exception = fail_unless_given_up  # type: ignore[method-assign, assignment]
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait=wait, cancel_futures=cancel_futures)
        self._starter.shutdown(wait=wait)


def _block_interrupt() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


@dataclass
class _QueueReporter:
    """Sends what happens in a worker to the parent."""

    queue: Any
    count: int = 0

    def open(self, title: str, total: int | None, unit: str) -> logs.Stage:
        self.count += 1
        key = (multiprocessing.current_process().pid, self.count)
        self.queue.put(("open", key, title, total, unit))
        return _QueueStage(self.queue, key)

    def close(self, stage: logs.Stage, failed: bool) -> None:
        if isinstance(stage, _QueueStage):
            self.queue.put(("close", stage.key, failed))

    def say(self, text: str) -> None:
        self.queue.put(("say", text))


@dataclass
class _QueueStage:
    queue: Any
    key: tuple[int | None, int]

    def advance(self, steps: int = 1, text: str | None = None) -> None:
        self.queue.put(("advance", self.key, steps, text))


@dataclass
class _Relay:
    """Replays the events of all workers on this process's reporter."""

    reporter: logs.Reporter
    stages: dict[Any, logs.Stage] = field(default_factory=dict)

    def play(self, event: tuple[Any, ...]) -> None:
        match event:
            case ("open", key, title, total, unit):
                self.stages[key] = self.reporter.open(title, total, unit)
            case ("advance", key, steps, text):
                self.stages[key].advance(steps, text)
            case ("close", key, failed):
                self.reporter.close(self.stages.pop(key), failed)
            case ("say", text):
                self.reporter.say(text)

    def end(self) -> None:
        """Close what a stopped worker left open."""
        for stage in self.stages.values():
            self.reporter.close(stage, True)


@dataclass
class _Worker:
    """What a worker process is doing, for its signal handler."""

    busy: bool = False
    stopped: bool = False

    def stop(self, number: int, frame: object) -> None:
        """End the running step once; an idle worker ends by itself when the pool does."""
        first, self.stopped = not self.stopped, True
        if self.busy and first:
            raise KeyboardInterrupt


_worker = _Worker()


def _start_worker(queue: Any) -> None:
    # Ctrl-C reaches every process of a terminal; the parent alone decides what it means (the signal is
    # blocked here from the first instruction on) and ends us by SIGTERM, which is turned into the same
    # exception so that each step cleans up behind itself.
    signal.signal(signal.SIGTERM, _worker.stop)
    sys.unraisablehook = _not_raised
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logs.use_reporter(_QueueReporter(queue))


def _not_raised(what: sys.UnraisableHookArgs) -> None:
    """Stop again where Python drops the exception, as it does inside a finalizer."""
    if what.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(what)
        return
    _worker.stopped = False
    again = threading.Timer(STOP_AGAIN_S, os.kill, (os.getpid(), signal.SIGTERM))  # once it has returned
    again.daemon = True
    again.start()


def _end_with_parent() -> None:
    """End this worker when its parent was killed: nobody would ever give it an item or end it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _run(function: Callable[[Item], Result], item: Item) -> Result:
    """Run one item in a worker, unless the worker was told to stop: items may wait in its queue."""
    _worker.busy = True
    try:
        if _worker.stopped:
            raise KeyboardInterrupt
        return function(item)
    finally:
        _worker.busy = False


def _relay(queue: Any) -> None:
    relay = _Relay(logs.current_reporter())
    while (event := queue.get()) is not None:
        relay.play(event)
    relay.end()
