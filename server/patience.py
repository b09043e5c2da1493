"""How long the engine may wait for the parts of a reply.

A node announces a reply before it uploads it. Left alone the engine waits for up to two hours for a node that
goes on uploading a little, while the answers of the others lie there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from common.taskloop import Uses

PULLING = "flwr.superlink.grid.http_grid"
USES: Uses = {f"{PULLING}:pull_objects": ("object_ids", "pull_object_fn", "max_time")}
#: Outside of a wait for answers.
OTHERWISE_S = 600.0
#: In one place, because the engine's calls have none for it.
_deadlines: list[float] = []


@contextmanager
def until(deadline: float) -> Iterator[None]:
    """Let the engine wait until ``deadline``, by ``time.monotonic``, while the block runs."""
    _deadlines.append(deadline)
    try:
        yield
    finally:
        _deadlines.pop()


def left_s() -> float:
    """Return how long the engine may wait now, seconds."""
    return max(0.0, _deadlines[-1] - time.monotonic()) if _deadlines else OTHERWISE_S


def bounded(pull: Callable[..., Any]) -> Callable[..., Any]:
    """Return the engine's function that fetches the parts of a reply, bounded by ``left_s``.

    What is there already is fetched even when no time is left.
    """

    def pull_bounded(*args: Any, **options: Any) -> Any:
        return pull(*args, **{**options, "max_time": left_s()})

    return pull_bounded
