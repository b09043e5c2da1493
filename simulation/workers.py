"""Run one function per site in worker processes, with their progress shown in this process."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from common import logs

Item = TypeVar("Item")
Result = TypeVar("Result")

LISTEN_S = 5.0


def map_processes(function: Callable[[Item], Result], items: Sequence[Item], workers: int) -> list[Result]:
    """Apply a picklable function to every item in fresh processes; results in the order of the items.

    Fresh (spawned) processes start without torch, which ingest must not import, and without threads,
    which a forked process must not inherit. With one worker everything runs in this process.

    Raises
    ------
    Exception
        The first failure of an item, in the order of the items. KeyboardInterrupt stops all workers.
    """
    if workers <= 1 or len(items) <= 1:
        return [function(item) for item in items]
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    listener = threading.Thread(target=_relay, args=(queue,), daemon=True)
    listener.start()
    pool = ProcessPoolExecutor(
        min(workers, len(items)), mp_context=context, initializer=_start_worker, initargs=(queue,)
    )
    try:
        with _no_interrupt():  # workers start with the signal blocked: see _start_worker
            futures = [pool.submit(_run, function, item) for item in items]
        return [future.result() for future in futures]
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


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """Hold back Ctrl-C for a moment; processes started meanwhile never see it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
    logs.use_reporter(_QueueReporter(queue))


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
