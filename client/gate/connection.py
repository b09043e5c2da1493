"""Checks of a site's node: its key, the authority it trusts, the coordinator on the wire, the clock."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any

from client.node import Node, load_node, split_address
from common.doctor import Check, attempt, expiry, secret_file
from common.errors import ConfigurationError
from common.identity import WARN_DAYS, public_line, read_certificate, read_secret

CONNECT_S = 5.0
#: The engine signs the time with every request. The other end refuses a signature of its own future by more
#: than 5 s, and one older than 305 s. The server's time is known to the second.
AHEAD_FAIL_S, AHEAD_WARN_S, BEHIND_WARN_S, BEHIND_FAIL_S = 5.0, 3.0, 5.0, 30.0
_RENEW = "ask the coordinator to run 'fedkalemia-server pki renew'"
_ISSUER = "put the authority's certificate of this federation (ca.crt) into the node folder"
#: OpenSSL's numbers of what is wrong with a certificate.
_REASONS = {
    9: ("is not valid yet", "set this machine's clock, or ask the coordinator"),
    10: ("has expired", _RENEW),
    18: ("is signed by itself, not by the federation's authority", _ISSUER),
    19: ("is signed by another authority than the federation's", _ISSUER),
    20: ("is signed by another authority than the federation's", _ISSUER),
    21: ("is signed by another authority than the federation's", _ISSUER),
    62: ("has another name", "use one of its names in node.toml, or have it made with this one"),
    64: ("has another address", "use one of its names in node.toml, or have it made with this one"),
}


@dataclass(frozen=True)
class Seen:
    """What one request to the coordinator showed.

    Attributes
    ----------
    certificate : as ``ssl`` decodes it.
    status : of the answer to ``GET /health``.
    ahead_s : this machine's clock minus the server's, None if it did not say.
    """

    certificate: Mapping[str, Any]
    status: int
    ahead_s: float | None


def check_node(folder: Path, now: datetime) -> list[Check]:
    """Check a node folder, and what can be seen from it; ``now`` is in UTC."""
    try:
        node = load_node(folder)
    except ConfigurationError as error:
        return [Check("node", "failed", str(error), "correct node.toml, or make it again with 'init'")]
    found = attempt("node key", lambda: _key(node), "restore node.key, or make a new one: key renew")
    found.append(secret_file("node secret", node.secret, "copy executor.secret from the site's gate folder"))
    found += attempt("authority", lambda: _authority(node, now), _ISSUER)
    found.append(listening("node", node.listen, "start it with 'fedkalemia-site node'"))
    return [*found, *coordinator(node.server, node.authority, now)]


def _key(node: Node) -> Check:
    private = secret_file("node key", node.key, "make one: fedkalemia-site key renew SITE")
    if private.state == "failed":
        return private
    line = public_line(read_secret(node.key))
    known = node.public.read_text(encoding="utf-8").split() if node.public.is_file() else []
    if known[:2] == line.split()[:2]:
        return private
    advice = f"write 'node.pub' again and give the coordinator this line: {line} {node.name}"
    return Check("node key", "warning", f"{node.public} is not the public half of {node.key.name}", advice)


def _authority(node: Node, now: datetime) -> Check:
    certificate = read_certificate(node.authority)
    if not certificate.authority:
        text = f"{node.authority} is the certificate of {certificate.subject}, not of an authority"
        return Check("authority", "failed", text, _ISSUER)
    return expiry("authority", certificate, now, "ask the coordinator for the new pki/ca.crt")


def listening(name: str, address: str, advice: str) -> Check:
    """Check that something answers at ``host:port``, without saying anything to it."""
    try:
        host, port = split_address(address, "the address")
    except ConfigurationError as error:
        return Check(name, "failed", str(error), "give host:port")
    try:
        with socket.create_connection((host, port), timeout=CONNECT_S):
            return Check(name, "ok", f"listening at {address}")
    except OSError as error:
        return Check(name, "failed", f"nothing answers at {address}: {_reason(error)}", advice)


def coordinator(server: str, authority: Path, now: datetime) -> list[Check]:
    """Check the coordinator: reachable, its certificate and this machine's clock."""
    rest = [
        Check(name, "not checked", "the coordinator did not answer")
        for name in ("server certificate", "clock")
    ]
    if not server:
        text = "node.toml names no server"
        advice = "set node.server to the coordinator's host:port"
        return [Check("coordinator", "failed", text, advice), *rest]
    try:
        seen = ask(server, authority)
    except ConfigurationError as error:
        return [Check("coordinator", "failed", str(error), "correct node.server in node.toml"), *rest]
    except ssl.SSLCertVerificationError as error:
        what, advice = _REASONS.get(error.verify_code, (f"is refused: {error.verify_message}", _ISSUER))
        names = f" ({', '.join(found)})" if (found := _names_of(server, authority)) else ""
        text = f"the certificate of {server}{names} {what}"
        return [
            Check("coordinator", "ok", f"{server} is reachable"),
            Check("server certificate", "failed", text, advice),
            Check("clock", "not checked", "nothing is asked of a server with a wrong certificate"),
        ]
    except ssl.SSLError as error:
        text = f"{server} answers, but speaks no TLS ({error.reason or 'broken off'})"
        advice = "node.server must be the port of the coordinator's front end"
        return [Check("coordinator", "failed", text, advice), *rest]
    except (OSError, HTTPException) as error:
        text = f"{server} cannot be reached: {_reason(error)}"
        advice = "check the name, the network and the firewall, and that the coordinator runs"
        return [Check("coordinator", "failed", text, advice), *rest]
    return [_health(server, seen), _certificate(seen.certificate, now), clock(seen.ahead_s)]


def ask(server: str, authority: Path) -> Seen:
    """Ask the coordinator how it is, over TLS, trusting the federation's authority only.

    Raises
    ------
    ConfigurationError
        If the address or the authority's file is not one.
    OSError, HTTPException
        If there is no answer; ``ssl.SSLError`` if it is not to be trusted.
    """
    host, port = split_address(server, "node.server")
    connection = HTTPSConnection(host, port, timeout=CONNECT_S, context=_context(authority))
    try:
        connection.connect()
        assert isinstance(connection.sock, ssl.SSLSocket)
        certificate = connection.sock.getpeercert() or {}
        before = time.time()
        connection.request("GET", "/health")
        answer = connection.getresponse()
        middle = (before + time.time()) / 2
        answer.read(4096)
        ahead = None
        with suppress(TypeError, ValueError, OverflowError):
            # The header has no fraction of a second: on average it is half a second old.
            ahead = middle - parsedate_to_datetime(answer.headers["Date"]).timestamp() - 0.5
        return Seen(certificate, answer.status, ahead)
    finally:
        connection.close()


def _context(authority: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=authority)
    except (OSError, ssl.SSLError):
        raise ConfigurationError(f"{authority} is missing or holds no certificate") from None


def _names_of(server: str, authority: Path) -> list[str]:
    """Return the names in a certificate that is good but for its name."""
    context = _context(authority)
    context.check_hostname = False
    with (
        suppress(OSError, ConfigurationError),
        socket.create_connection(split_address(server, "node.server"), timeout=CONNECT_S) as plain,
        context.wrap_socket(plain) as tls,
    ):
        return _names(tls.getpeercert() or {})
    return []


def _names(certificate: Mapping[str, Any]) -> list[str]:
    return [str(name) for _, name in certificate.get("subjectAltName", ())]


def _health(server: str, seen: Seen) -> Check:
    if seen.status == 200:
        return Check("coordinator", "ok", f"{server} answers")
    text = f"{server} answers /health with {seen.status}"
    advice = "ask the coordinator to run 'fedkalemia-server doctor': its SuperLink does not answer"
    return Check("coordinator", "failed", text, advice)


def _certificate(certificate: Mapping[str, Any], now: datetime) -> Check:
    end = datetime.fromtimestamp(ssl.cert_time_to_seconds(certificate["notAfter"]), UTC)
    left = (end - now).total_seconds() / 86400
    text = f"signed by the federation's authority, for {', '.join(_names(certificate))}; {left:.0f} days left"
    if left <= WARN_DAYS:
        return Check("server certificate", "warning", text, _RENEW)
    return Check("server certificate", "ok", text)


def clock(ahead_s: float | None) -> Check:
    """Judge the difference of two clocks, in seconds; positive if this machine's is ahead."""
    if ahead_s is None:
        return Check("clock", "not checked", "the coordinator's answer had no time")
    off, way = abs(ahead_s), "ahead of" if ahead_s > 0 else "behind"
    text = f"{off:.0f} s {way} the coordinator's" if off >= 1.5 else "agrees with the coordinator's"
    advice = "set this machine's clock (NTP): the engine refuses a node 5 s ahead or 305 s behind"
    warn, fail = (AHEAD_WARN_S, AHEAD_FAIL_S) if ahead_s > 0 else (BEHIND_WARN_S, BEHIND_FAIL_S)
    if off > fail:
        return Check("clock", "failed", text, advice)
    return Check("clock", "warning", text, advice) if off > warn else Check("clock", "ok", text)


def _reason(error: Exception) -> str:
    if isinstance(error, socket.gaierror):
        return "the name is not known here"
    if isinstance(error, TimeoutError):
        return f"no answer within {CONNECT_S:g} s"
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()
