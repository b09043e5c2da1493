"""Run one function per site in worker processes, with their progress shown in this process."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from common import logs

Item = TypeVar("Item")
Result = TypeVar("Result")


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
        futures = [pool.submit(function, item) for item in items]
        return [future.result() for future in futures]
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        queue.put(None)
        listener.join()
        queue.close()


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


def _start_worker(queue: Any) -> None:
    # Ctrl-C reaches every process of a terminal; the parent alone decides what it means and ends us by
    # SIGTERM, which is turned into the same exception so that each step cleans up behind itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _interrupt)
    logs.use_reporter(_QueueReporter(queue))


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _relay(queue: Any) -> None:
    relay = _Relay(logs.current_reporter())
    while (event := queue.get()) is not None:
        relay.play(event)
    relay.end()
