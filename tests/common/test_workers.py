import io
import os
from collections.abc import Iterator

import pytest

from common.logs import PlainReporter, current_reporter, stage, use_reporter
from common.workers import map_processes, worker_processes


def describe(item: int) -> tuple[int, int]:
    with stage(f"item {item}", total=1) as progress:
        progress.advance(text="half way")
    return item * item, os.getpid()


def fail(item: int) -> int:
    if item == 2:
        raise ValueError("item 2 is broken")
    return item


def test_results_come_in_the_order_of_the_items_from_other_processes():
    results = map_processes(describe, [3, 1, 2], workers=2)
    assert [square for square, _ in results] == [9, 1, 4]
    assert os.getpid() not in {pid for _, pid in results}


def test_progress_of_workers_is_shown_here():
    out, before = io.StringIO(), current_reporter()
    use_reporter(PlainReporter(out))
    try:
        map_processes(describe, [1, 2], workers=2)
    finally:
        use_reporter(before)
    assert {"item 1 (1 step) ...", "item 2 (1 step) ..."} <= set(out.getvalue().splitlines())


def test_a_failure_in_a_worker_reaches_the_caller():
    with pytest.raises(ValueError, match="item 2 is broken"):
        map_processes(fail, [1, 2, 3], workers=2)


def test_one_worker_runs_here():
    assert map_processes(describe, [2], workers=1)[0] == (4, os.getpid())


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
