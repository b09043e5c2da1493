"""Checks of a site's node: its key, the authority it trusts, the coordinator on the wire, the clock."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from client.node import Node, load_node
from common.addresses import split_address
from common.doctor import Check, attempt, expiry, failed, secret_file
from common.errors import ConfigurationError, IdentityError
from common.health import ANSWER_S, Health, NoAnswerError, ask, clock, trusting
from common.identity import WARN_DAYS, public_line, read_certificate, read_secret

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


def check_node(folder: Path, now: datetime) -> list[Check]:
    """Check a node folder, and what can be seen from it; ``now`` is in UTC."""
    try:
        node = load_node(folder)
    except ConfigurationError as error:
        return [failed("node", error, f"correct {folder / 'node.toml'}, or make it again with 'init'")]
    found = attempt(
        "node key",
        lambda: _key(node),
        f"restore {node.key}, or make a new one with 'fedkalemia-site key renew SITE'",
    )
    found.append(secret_file("node secret", node.secret, "copy executor.secret from the site's gate folder"))
    found += attempt("authority", lambda: _authority(node, now), _ISSUER)
    found.append(listening("node", node.listen, f"start it with 'fedkalemia-site node {folder}'"))
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
        return failed(name, error, "give host:port")
    try:
        with socket.create_connection((host, port), timeout=ANSWER_S):
            return Check(name, "ok", f"listening at {address}")
    except ConnectionRefusedError:
        return Check(name, "failed", f"nothing listens on {address}", advice)
    except OSError as error:
        reason = (error.strerror or str(error) or type(error).__name__).lower()
        return Check(name, "failed", f"{address} cannot be reached: {reason}", advice)


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
        host, port = split_address(server, "node.server")
        seen = ask(host, port, authority)
    except (ConfigurationError, IdentityError) as error:
        return [failed("coordinator", error, f"correct node.server and ca.crt in {authority.parent}"), *rest]
    except NoAnswerError as error:
        if error.kind != "certificate":
            advice = (
                "node.server must be the port of the coordinator's front end"
                if error.kind in ("no tls", "silent")
                else "check the name, the network and the firewall, and that the coordinator runs"
            )
            return [Check("coordinator", "failed", str(error), advice), *rest]
        what, advice = _REASONS.get(error.verify_code, (f"is refused: {error.reason}", _ISSUER))
        names = f" ({', '.join(known)})" if (known := _names_of(host, port, authority)) else ""
        return [
            Check("coordinator", "ok", f"{server} is reachable"),
            Check("server certificate", "failed", f"the certificate of {server}{names} {what}", advice),
            Check("clock", "not checked", "nothing is asked of a server with a wrong certificate"),
        ]
    return [_health(server, seen), _certificate(seen.certificate, now), clock(seen.ahead_s)]


def _names_of(host: str, port: int, authority: Path) -> list[str]:
    """Return the names in a certificate that is good but for its name."""
    context = trusting(authority)
    context.check_hostname = False
    with (
        suppress(OSError),
        socket.create_connection((host, port), timeout=ANSWER_S) as plain,
        context.wrap_socket(plain) as tls,
    ):
        return _names(tls.getpeercert() or {})
    return []


def _names(certificate: Mapping[str, Any]) -> list[str]:
    return [str(name) for _, name in certificate.get("subjectAltName", ())]


def _health(server: str, seen: Health) -> Check:
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
