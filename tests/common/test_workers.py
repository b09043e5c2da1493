import ctypes
import io
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from common.errors import FedkalemiaError
from common.logs import PlainReporter, current_reporter, stage, use_reporter
from common.workers import Workers, current_workers, shared_workers, worker_processes

SLOW_S = 0.5


def describe(item: int) -> tuple[int, int]:
    with stage(f"item {item}", total=1) as progress:
        progress.advance(text="half way")
    return item * item, os.getpid()


def slow(item: int) -> int:
    time.sleep(SLOW_S)
    return item


def fail(item: int) -> int:
    if item == 2:
        raise ValueError("item 2 is broken")
    return item


def test_results_come_in_the_order_of_the_items_from_other_processes():
    with worker_processes(2) as pool:
        results = list(pool.in_order(describe, [3, 1, 2]))
    assert [square for square, _ in results] == [9, 1, 4]
    assert os.getpid() not in {pid for _, pid in results}


def test_progress_of_workers_is_shown_here():
    out, before = io.StringIO(), current_reporter()
    use_reporter(PlainReporter(out))
    try:
        with worker_processes(2) as pool:
            list(pool.in_order(describe, [1, 2]))
    finally:
        use_reporter(before)
    assert {"item 1 (1 step) ...", "item 2 (1 step) ..."} <= set(out.getvalue().splitlines())


def test_one_worker_runs_here():
    with worker_processes(1) as pool:
        assert list(pool.in_order(describe, [2])) == [(4, os.getpid())]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stream_of_any_length_comes_back_in_order_and_is_taken_as_it_is_needed(workers: int) -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for item in range(40):
            taken += 1
            yield item

    with worker_processes(workers) as pool:
        found = pool.in_order(describe, items())
        first = next(found)
        assert first[0] == 0
        assert taken <= 8
        assert [square for square, _ in found] == [item * item for item in range(1, 40)]


def test_the_first_failure_of_a_stream_ends_it() -> None:
    with worker_processes(2) as pool, pytest.raises(ValueError, match="item 2 is broken"):
        list(pool.in_order(fail, iter(range(100))))


def test_shared_processes_are_used_by_all_threads_and_not_multiplied() -> None:
    assert current_workers().count == 1, "nobody shares any"
    with shared_workers(2), ThreadPoolExecutor(2) as threads:
        with worker_processes(2) as pool:
            assert pool is current_workers()
        found = threads.map(lambda items: list(current_workers().in_order(describe, items)), [[1, 2], [3, 4]])
        assert len({pid for results in found for _, pid in results} - {os.getpid()}) <= 2
        assert [square for square, _ in current_workers().in_order(describe, [5])] == [25], "they stay"
    assert current_workers().count == 1


def test_a_stream_that_is_left_early_does_not_hold_up_the_next() -> None:
    with worker_processes(2) as pool:
        for _ in pool.in_order(slow, range(20)):
            break
        began = time.monotonic()
        assert [square for square, _ in pool.in_order(describe, [6])] == [36]
        assert time.monotonic() - began < 5 * SLOW_S


def test_a_thread_that_waits_can_be_stopped() -> None:
    ended: list[BaseException] = []

    def work(pool: Workers) -> None:
        try:
            list(pool.in_order(slow, range(3)))
        except KeyboardInterrupt as error:
            ended.append(error)

    with worker_processes(2) as pool:
        thread = threading.Thread(target=work, args=(pool,))
        thread.start()
        time.sleep(0.1)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident or 0), ctypes.py_object(KeyboardInterrupt)
        )
        thread.join(10 * SLOW_S)
        assert not thread.is_alive()
    assert len(ended) == 1


def test_a_process_that_dies_after_its_items_were_given_up_is_no_stack_trace(monkeypatch) -> None:
    seen: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", seen.append)
    with worker_processes(2) as pool:
        assert pool._pool is not None
        given_up = [pool._pool.submit(slow, item) for item in range(12)][6:]
        assert all(future.cancel() for future in given_up)
        for process in multiprocessing.active_children():
            process.kill()
        with pytest.raises(FedkalemiaError, match="a worker process was ended"):
            list(pool.in_order(slow, range(3)))
    assert seen == []


INTERRUPTED_WHILE_STARTING = """
import multiprocessing.util, os, signal, time
from common.workers import worker_processes

plain = multiprocessing.util.spawnv_passfds

def interrupted(path, args, passfds):
    pid = plain(path, args, passfds)
    if b"--multiprocessing-fork" in map(os.fsencode, args):
        os.kill(os.getpid(), signal.SIGINT)  # the process waits for its orders
        time.sleep(0.3)
    return pid

if __name__ == "__main__":
    multiprocessing.util.spawnv_passfds = interrupted
    try:
        with worker_processes(2) as pool:
            list(pool.in_order(abs, [-1, 2, 3]))
    except KeyboardInterrupt:
        print("stopped")
"""


def test_ctrl_c_while_processes_start_leaves_no_stack_trace_of_theirs(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(INTERRUPTED_WHILE_STARTING)
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.stdout, done.stderr, done.returncode) == ("stopped\n", "", 0)
