"""What a check-up found, and how it is shown: one line per check, and for each red one what to do."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.text import Text

from common.command import EXIT_ERROR
from common.errors import FedkalemiaError
from common.files import free_bytes
from common.identity import WARN_DAYS, Certificate, open_to_others
from common.logs import say
from common.wording import plural

State = Literal["ok", "warning", "failed", "not checked"]
GIB = 2**30
_RIGHTS = "give this user the right to it"
COLOURS: Mapping[State, str] = {
    "ok": "green",
    "warning": "yellow",
    "failed": "bold red",
    "not checked": "dim",
}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes
    ----------
    name : what was looked at, a word or two.
    state : ``not checked`` is for what cannot be seen from here; it fails nothing.
    text : what was found.
    advice : what to do about it; a warning or failure always has one.
    """

    name: str
    state: State
    text: str
    advice: str = ""

    def __post_init__(self) -> None:
        if self.state in ("warning", "failed") and not self.advice:
            raise ValueError(f"check {self.name!r}: a {self.state} check must say what to do")


def attempt(name: str, check: Callable[[], Check | Iterable[Check]], advice: str) -> list[Check]:
    """Run one check; an error a person can act on becomes a failed check.

    Parameters
    ----------
    advice : what to do; empty if the errors of the check say it themselves, after their last semicolon.
    """
    try:
        found = check()
        return [found] if isinstance(found, Check) else list(found)
    except FedkalemiaError as error:
        return [failed(name, error, advice)]
    except OSError as error:
        return [
            Check(
                name, "failed", f"{error.filename or ''} {error.strerror or error}".strip(), advice or _RIGHTS
            )
        ]


def failed(name: str, error: FedkalemiaError, advice: str = "") -> Check:
    """Return the failed check of an error; without ``advice`` what to do is the end of its own sentence."""
    what, _, to_do = str(error).rpartition("; ")
    if advice or not what:
        return Check(name, "failed", str(error), advice or "correct that, and run doctor again")
    return Check(name, "failed", what, to_do)


def show(checks: Sequence[Check], *, as_json: bool = False) -> int:
    """Show what was found, aligned; return the exit code: 2 if anything failed, otherwise 0."""
    if as_json:
        say(json.dumps([asdict(check) for check in checks], indent=2, ensure_ascii=False))
    else:
        show_line = _in_colour if sys.stdout.isatty() else say
        for line in lines(checks):
            show_line(line)
    return EXIT_ERROR if any(check.state == "failed" for check in checks) else 0


def lines(checks: Sequence[Check]) -> Iterator[str]:
    """Yield the aligned lines of a check-up and a last one with the counts."""
    width = max((len(check.name) for check in checks), default=0)
    for check in checks:
        yield f"{check.state:<11}  {check.name:<{width}}  {check.text}"
        if check.advice:
            yield f"{'':<11}  {'':<{width}}  -> {check.advice}"
    count = {state: sum(check.state == state for check in checks) for state in COLOURS}
    yield (
        f"{count['ok']} ok, {plural(count['warning'], 'warning')}, {count['failed']} failed, "
        f"{count['not checked']} not checked"
    )


def _in_colour(line: str) -> None:
    text = Text(line)
    for state, colour in COLOURS.items():
        if line.startswith(f"{state:<11}  "):
            text.stylize(colour, 0, len(state))
    # Left to the terminal to wrap: a path must stay one path when it is copied.
    Console().print(text, soft_wrap=True)


def disk(folder: Path, *, warn_gib: float = 5.0, fail_gib: float = 0.5) -> Check:
    """Check the space left where ``folder`` is, in GiB."""
    free = free_bytes(folder) / GIB
    text = f"{free:.1f} GiB free at {folder}"
    advice = "free some space: a full disk stops a run"
    if free < fail_gib:
        return Check("disk", "failed", text, advice)
    return Check("disk", "warning", text, advice) if free < warn_gib else Check("disk", "ok", text)


def secret_file(name: str, path: Path, advice: str) -> Check:
    """Check that a secret file is there, holds something and is readable for its owner only."""
    if not path.is_file():
        return Check(name, "failed", f"{path} is missing", advice)
    if path.stat().st_size == 0:
        return Check(name, "failed", f"{path} is empty", advice)
    if open_to_others(path):
        mode = path.stat().st_mode & 0o777
        return Check(
            name, "failed", f"{path} may be read by others (mode {mode:04o})", f"run: chmod 600 {path}"
        )
    return Check(name, "ok", f"{path}, its owner only")


def expiry(name: str, certificate: Certificate, now: datetime, advice: str) -> Check:
    """Check how long a certificate is still valid: warned 30 days ahead, failed once it has ended."""
    left = certificate.days_left(now)
    until = f"{certificate.not_after:%Y-%m-%d}"
    if certificate.not_before > now:
        return Check(
            name, "failed", f"not valid before {certificate.not_before:%Y-%m-%d %H:%M} UTC", "set the clock"
        )
    if left <= 0:
        return Check(name, "failed", f"expired on {until}", advice)
    if left <= WARN_DAYS:
        return Check(name, "warning", f"{left:.0f} days left, until {until}", advice)
    return Check(name, "ok", f"{left:.0f} days left, until {until}")
