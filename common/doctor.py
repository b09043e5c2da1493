"""What a check-up found, and how it is shown: one line per check, and for each red one what to do."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Literal

from common.command import EXIT_ERROR
from common.errors import FederationError, FedkalemiaError
from common.files import free_bytes
from common.identity import WARN_DAYS, Certificate, open_to_others, read_certificate
from common.logs import say

State = Literal["ok", "warning", "failed", "not checked"]
GIB = 2**30
ANSWER_S = 5.0
#: Limits of the engine: a signature older than 305 s or more than 5 s in the future is refused.
CLOCK_WARN_S, CLOCK_AHEAD_S, CLOCK_BEHIND_S = 2.0, 5.0, 300.0


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
    """Run one check; an error a person can act on becomes a failed check with its sentence."""
    try:
        found = check()
        return [found] if isinstance(found, Check) else list(found)
    except FedkalemiaError as error:
        return [Check(name, "failed", str(error), advice)]
    except OSError as error:
        return [Check(name, "failed", f"{error.filename or ''} {error.strerror or error}".strip(), advice)]


def show(checks: Sequence[Check], *, as_json: bool = False) -> int:
    """Show what was found, aligned; return the exit code: 2 if anything failed, otherwise 0."""
    if as_json:
        say(json.dumps([asdict(check) for check in checks], indent=2, ensure_ascii=False))
    else:
        for line in lines(checks):
            say(line)
    return EXIT_ERROR if any(check.state == "failed" for check in checks) else 0


def lines(checks: Sequence[Check]) -> Iterator[str]:
    """Yield the aligned lines of a check-up and a last one with the counts."""
    width = max((len(check.name) for check in checks), default=0)
    for check in checks:
        yield f"{check.state:<11}  {check.name:<{width}}  {check.text}"
        if check.advice:
            yield f"{'':<11}  {'':<{width}}  -> {check.advice}"
    counts = {state: sum(c.state == state for c in checks) for state in ("ok", "warning", "failed")}
    yield f"{counts['ok']} ok, {counts['warning']} warnings, {counts['failed']} failed"


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


def clock(seconds_ahead: float) -> Check:
    """Check this machine's clock against the other side's.

    Parameters
    ----------
    seconds_ahead : as ``health`` returns it. The engine refuses a node whose clock is more than 5 s ahead of
        the SuperLink's, or more than 305 s behind.
    """
    off = abs(seconds_ahead)
    text = "the same as the other side's, to two seconds"
    if off >= CLOCK_WARN_S:
        text = f"{off:.0f} s {'ahead of' if seconds_ahead > 0 else 'behind'} the other side's"
    advice = "set the clock on both sides, for instance with an NTP service: a site too far off is refused"
    if seconds_ahead >= CLOCK_AHEAD_S or -seconds_ahead >= CLOCK_BEHIND_S:
        return Check("clock", "failed", text, advice)
    return Check("clock", "warning" if off >= CLOCK_WARN_S else "ok", text, advice * (off >= CLOCK_WARN_S))


@dataclass(frozen=True)
class Health:
    """What the other side's health route answered: HTTP status, and how far this clock is ahead, seconds."""

    status: int
    seconds_ahead: float


def health(host: str, port: int, authority: Path, *, name: str = "", path: str = "/health") -> Health:
    """Ask a SuperLink or front end how it is, over TLS.

    Parameters
    ----------
    authority : certificate of the federation's authority; no other is trusted.
    name : the name its certificate must have; by default ``host``.

    Raises
    ------
    ConnectionRefusedError
        If nothing listens there.
    FederationError
        If it cannot be reached otherwise, shows another certificate, or does not answer.
    """
    where = f"{host}:{port}"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=read_certificate(authority).path.read_text(encoding="ascii"))
    try:
        with (
            socket.create_connection((host, port), timeout=ANSWER_S) as plain,
            context.wrap_socket(plain, server_hostname=name or host) as secure,
        ):
            secure.sendall(
                f"GET {path} HTTP/1.1\r\nHost: {name or host}\r\nConnection: close\r\n\r\n".encode()
            )
            response = http.client.HTTPResponse(secure)
            response.begin()
            date, here = response.getheader("Date"), datetime.now(UTC)
            ahead = (here - parsedate_to_datetime(date)).total_seconds() if date else 0.0
            # The other side names whole seconds, cut off: half a second is the best guess.
            return Health(response.status, ahead - 0.5)
    except ConnectionRefusedError:
        raise
    except ssl.SSLCertVerificationError as error:
        raise FederationError(
            f"{where} shows a certificate that {authority} did not sign for it ({error.verify_message})"
        ) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise FederationError(f"{where} does not answer ({error or type(error).__name__})") from None
