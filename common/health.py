"""Asking the coordinator how it is, over TLS, and comparing two clocks: the same from either side."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Literal

from common.doctor import Check
from common.errors import FederationError
from common.identity import read_certificate

ANSWER_S = 5.0
#: The engine signs the time with every request and refuses a signature of its own future by more than 5 s,
#: or one older than 305 s; a test compares with its constants. The other side's time is known to the second.
AHEAD_FAIL_S, BEHIND_FAIL_S, WARN_S = 5.0, 305.0, 2.0

#: Why there is no answer: nothing listens, no connection at all, no TLS, a certificate that is not to be
#: trusted, no HTTP.
Kind = Literal["refused", "unreachable", "no tls", "certificate", "silent"]


class NoAnswerError(FederationError):
    """The other side gave no answer that can be trusted.

    Attributes
    ----------
    kind : why.
    reason : in words, without the address.
    verify_code : OpenSSL's number of what is wrong with the certificate; 0 if it is not that.
    """

    def __init__(self, where: str, kind: Kind, reason: str, verify_code: int = 0) -> None:
        texts: Mapping[Kind, str] = {
            "refused": f"nothing listens on {where}",
            "unreachable": f"{where} cannot be reached: {reason}",
            "no tls": f"{where} answers, but speaks no TLS ({reason})",
            "certificate": f"{where} shows a certificate that the authority did not sign for it ({reason})",
            "silent": f"{where} does not answer a request for its health: {reason}",
        }
        super().__init__(texts[kind])
        self.kind, self.reason, self.verify_code = kind, reason, verify_code


@dataclass(frozen=True)
class Health:
    """What one request showed.

    Attributes
    ----------
    status : HTTP status.
    ahead_s : this machine's clock minus the other side's, seconds; None if it did not say the time.
    certificate : the other side's, as ``ssl`` decodes it.
    """

    status: int
    ahead_s: float | None
    certificate: Mapping[str, Any] = field(default_factory=dict)


def ask(host: str, port: int, authority: Path, *, name: str = "", path: str = "/health") -> Health:
    """Ask a SuperLink or front end how it is, over TLS, trusting the federation's authority only.

    Parameters
    ----------
    authority : the authority's certificate.
    name : the name its certificate must have; by default ``host``.

    Raises
    ------
    NoAnswerError
        If there is no answer that can be trusted.
    IdentityError
        If the authority's file is missing or no certificate.
    """
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    context = trusting(authority)
    with _connected(host, port, where) as plain:
        try:
            with context.wrap_socket(plain, server_hostname=name or host) as secure:
                return _answer(secure, name or host, path, where)
        except ssl.SSLCertVerificationError as error:
            raise NoAnswerError(where, "certificate", error.verify_message, error.verify_code) from None
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise NoAnswerError(where, "no tls", _reason(error)) from None


def trusting(authority: Path) -> ssl.SSLContext:
    """Return a context that trusts an authority and nobody else.

    Raises
    ------
    IdentityError
        If its file is missing or no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=read_certificate(authority).path.read_text(encoding="ascii"))
    return context


def clock(ahead_s: float | None) -> Check:
    """Judge the difference of two clocks.

    Parameters
    ----------
    ahead_s : this machine's clock minus the coordinator's, seconds; None if that is unknown.
    """
    if ahead_s is None:
        return Check("clock", "not checked", "the coordinator's answer had no time")
    off = abs(ahead_s)
    if off < WARN_S:
        return Check("clock", "ok", "agrees with the coordinator's")
    text = f"{off:.0f} s {'ahead of' if ahead_s > 0 else 'behind'} the coordinator's"
    advice = (
        f"set this machine's clock (NTP): a site {AHEAD_FAIL_S:.0f} s ahead or {BEHIND_FAIL_S:.0f} s behind "
        "is refused"
    )
    failed = off > (AHEAD_FAIL_S if ahead_s > 0 else BEHIND_FAIL_S)
    return Check("clock", "failed" if failed else "warning", text, advice)


def _connected(host: str, port: int, where: str) -> socket.socket:
    try:
        return socket.create_connection((host, port), timeout=ANSWER_S)
    except ConnectionRefusedError as error:
        raise NoAnswerError(where, "refused", _reason(error)) from None
    except (OSError, UnicodeError) as error:
        raise NoAnswerError(where, "unreachable", _reason(error)) from None


def _answer(secure: ssl.SSLSocket, name: str, path: str, where: str) -> Health:
    certificate = secure.getpeercert() or {}
    host, before = f"[{name}]" if ":" in name else name, time.time()
    try:
        secure.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        response = http.client.HTTPResponse(secure)
        response.begin()
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NoAnswerError(where, "silent", _reason(error)) from None
    ahead = None
    with suppress(TypeError, ValueError, OverflowError):
        then = parsedate_to_datetime(response.headers["Date"]).timestamp()
        # The header has no fraction of a second: on average it is half a second old.
        ahead = (before + time.time()) / 2 - then - 0.5
    return Health(response.status, ahead, certificate)


def _reason(error: Exception) -> str:
    if isinstance(error, socket.gaierror):
        return "the name is not known here"
    if isinstance(error, TimeoutError):
        return f"no answer within {ANSWER_S:g} s"
    if isinstance(error, ssl.SSLError):
        return error.reason or "broken off"
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()
