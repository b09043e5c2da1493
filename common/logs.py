"""Progress for people and logs without identifiers.

A part that takes long opens a ``stage`` and advances it. On a terminal that is a live bar, elsewhere
plain lines at a readable pace, and in a library call nothing at all. What is shown may hold counts,
names of sites and losses: never a patient, a date or a file name of a patient.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

LINE_EVERY_S = 5.0
#: Several steps reported done so soon were done by an earlier run, and say nothing about the pace.
ALREADY_DONE_S = 0.2
LOGGER = logging.getLogger("fedkalemia")


class Stage(Protocol):
    """A running piece of work."""

    def advance(self, steps: int = 1, text: str | None = None) -> None:
        """Report that ``steps`` more are done, with a short text on how it stands."""


class Reporter(Protocol):
    """Where progress goes."""

    def open(self, title: str, total: int | None, unit: str) -> Stage:
        """Begin a stage."""

    def close(self, stage: Stage, failed: bool) -> None:
        """End a stage."""

    def say(self, text: str) -> None:
        """Show one line."""


class _Silent:
    def advance(self, steps: int = 1, text: str | None = None) -> None:
        """Do nothing."""

    def open(self, title: str, total: int | None, unit: str) -> Stage:
        """Do nothing."""
        return self

    def close(self, stage: Stage, failed: bool) -> None:
        """Do nothing."""

    def say(self, text: str) -> None:
        """Do nothing."""


class PlainReporter:
    """Plain lines for a file, a pipe or a container log: at the start, every few seconds, at the end."""

    def __init__(self, out: TextIO | None = None, every_s: float = LINE_EVERY_S) -> None:
        self._out, self._every_s = out, every_s
        self._lock = threading.Lock()

    def say(self, text: str) -> None:
        """Write one line."""
        with self._lock:
            print(text, file=self._out or sys.stdout, flush=True)

    def open(self, title: str, total: int | None, unit: str) -> Stage:
        """Begin a stage with a line."""
        return _PlainStage(self, title, total, unit, self._every_s)

    def close(self, stage: Stage, failed: bool) -> None:
        """End a stage with a line."""
        if isinstance(stage, _PlainStage):
            stage.finish(failed)


class _PlainStage:
    def __init__(
        self, reporter: PlainReporter, title: str, total: int | None, unit: str, every_s: float
    ) -> None:
        self._reporter, self._title, self._total, self._unit = reporter, title, total, unit
        self._every_s, self._done, self._text = every_s, 0, ""
        self._pace = _Pace(total)
        self._start = self._last = time.monotonic()
        size = f" ({total} {unit}{'s' * (total != 1)})" if total else ""
        reporter.say(f"{title}{size} ...")

    def advance(self, steps: int = 1, text: str | None = None) -> None:
        self._done += steps
        self._pace.advance(steps)
        self._text = text if text is not None else self._text
        now = time.monotonic()
        if now - self._last < self._every_s or self._done == self._total:
            return
        self._last = now
        seconds = self._pace.left()
        left = "" if seconds is None else f", about {duration(seconds)} left"
        plural = "s" * (self._done != 1)
        of = f"{self._unit} {self._done} of {self._total}"
        count = of if self._total else f"{self._done} {self._unit}{plural}"
        self._reporter.say(f"{self._title}: {count}{left}{'; ' + self._text if self._text else ''}")

    def finish(self, failed: bool) -> None:
        end = "stopped" if failed else "done"
        took = duration(time.monotonic() - self._start)
        self._reporter.say(f"{self._title}: {end} in {took}{'; ' + self._text if self._text else ''}")


class _Pace:
    """How long the rest of a stage takes if it goes on as it did on average."""

    def __init__(self, total: int | None) -> None:
        self._total, self._done, self._before = total, 0, 0
        self._start = time.monotonic()

    def advance(self, steps: int) -> None:
        if steps > 1 and self._done == 0 and time.monotonic() - self._start < ALREADY_DONE_S:
            self._before = steps
        self._done += steps

    def left(self) -> float | None:
        """Return seconds; None as long as nothing is known."""
        own = self._done - self._before
        if not self._total or own <= 0:
            return None
        return (time.monotonic() - self._start) / own * max(0, self._total - self._done)


class _TimeColumn(ProgressColumn):
    """Time a stage took so far and time it will still take, told apart by words."""

    def render(self, task: Task) -> Text:
        took = task.finished_time if task.finished else task.elapsed
        shown = duration(took or 0.0)
        left = None if task.finished else task.fields["pace"].left()
        return Text(shown if left is None else f"{shown}, about {duration(left)} left")


class TerminalReporter:
    """Live bars on a terminal."""

    def __init__(self, console: Console | None = None) -> None:
        self._progress = RichProgress(
            TextColumn("{task.description}", justify="left"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            _TimeColumn(),
            TextColumn("[dim]{task.fields[text]}"),
            console=console,
        )
        self._open = 0
        self._lock = threading.Lock()

    def say(self, text: str) -> None:
        """Write one line above the bars."""
        # Left to the terminal to wrap: a path must stay one path when it is copied.
        self._progress.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def open(self, title: str, total: int | None, unit: str) -> Stage:
        """Add a bar."""
        with self._lock:
            if self._open == 0:
                self._progress.start()
            self._open += 1
        pace = _Pace(total)
        return _Bar(self._progress, self._progress.add_task(title, total=total, text="", pace=pace), pace)

    def close(self, stage: Stage, failed: bool) -> None:
        """Leave the finished bar on the screen; stop drawing when none runs."""
        if isinstance(stage, _Bar):
            stage.finish(failed)
        with self._lock:
            self._open -= 1
            if self._open == 0:
                self._progress.stop()
                for task in self._progress.task_ids:  # the next start must not draw old bars again
                    self._progress.remove_task(task)


class _Bar:
    def __init__(self, progress: RichProgress, task: int, pace: _Pace) -> None:
        self._progress, self._task, self._pace = progress, task, pace

    def advance(self, steps: int = 1, text: str | None = None) -> None:
        self._pace.advance(steps)
        self._progress.advance(self._task, steps)  # type: ignore[arg-type]
        if text is not None:
            self._progress.update(self._task, text=text)  # type: ignore[arg-type]

    def finish(self, failed: bool) -> None:
        if not failed:
            task = self._progress.tasks[[t.id for t in self._progress.tasks].index(self._task)]  # type: ignore[arg-type]
            self._progress.update(self._task, total=task.completed or 1, completed=task.completed or 1)  # type: ignore[arg-type]


_reporter: Reporter = _Silent()


def use_reporter(reporter: Reporter | None) -> None:
    """Choose where progress of this process goes; None for nowhere."""
    global _reporter
    _reporter = reporter or _Silent()


def current_reporter() -> Reporter:
    """Return where progress of this process goes."""
    return _reporter


def reporter_for(out: TextIO) -> Reporter:
    """Return live bars for a terminal and plain lines for anything else."""
    if out.isatty():
        return TerminalReporter(Console(file=out))
    # Standard output is looked up anew for every line, as it may be put elsewhere meanwhile.
    return PlainReporter(None if out is sys.stdout else out)


@contextmanager
def stage(title: str, total: int | None = None, unit: str = "step") -> Iterator[Stage]:
    """Run a piece of work whose progress is shown.

    Parameters
    ----------
    title : what is being done, such as ``"Federated training"``.
    total : number of steps, None if unknown.
    unit : singular name of a step.
    """
    reporter = _reporter
    running = reporter.open(title, total, unit)
    failed = True
    try:
        yield running
        failed = False
    finally:
        reporter.close(running, failed)


def say(text: str) -> None:
    """Show one line to whoever is watching."""
    _reporter.say(text)


def duration(seconds: float) -> str:
    """Write a duration as people say it: ``8 s``, ``2 min 05 s``, ``1 h 12 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class _QuietFile(logging.FileHandler):
    """A log that cannot be written is a loss for the site; it must not become the answer to the server."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Say nothing: the standard answer is a traceback on the terminal."""


def site_log(path: Path) -> logging.Logger:
    """Return the logger of one site's own file; nothing written to it reaches another place."""
    logger = logging.getLogger(f"fedkalemia.site.{path.resolve()}")
    if not logger.handlers:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = _QuietFile(path, delay=True, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    return logger
