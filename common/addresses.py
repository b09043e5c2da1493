"""Addresses of processes, ``host:port``: read strictly, checked before use; and the engine's programs.

An address is passed on to the engine, into nginx's configuration and to the system: what is not plainly a
host and a port is refused here, with the name of the setting that holds it.
"""

from __future__ import annotations

import ipaddress
import re
import shutil
import socket
import sys
from pathlib import Path

from common.errors import ConfigurationError

HOST_NAME = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,62}))*\.?"
)
_PORT = re.compile("[0-9]{1,5}")
LAST_PORT = 65535


def split_address(text: str, where: str) -> tuple[str, int]:
    """Return host and port of ``host:port``; an IPv6 address stands in brackets, which are taken off.

    Parameters
    ----------
    text : the address.
    where : the setting or option that holds it, for the sentence.

    Raises
    ------
    ConfigurationError
        If it is anything else, such as a URL.
    """
    head, colon, port = text.rpartition(":")
    in_brackets = head.startswith("[") and head.endswith("]")
    host = head[1:-1] if in_brackets else head
    good = bool(colon) and is_host(host) and in_brackets == (":" in host)
    if not good or not _PORT.fullmatch(port) or not 1 <= int(port) <= LAST_PORT:
        raise ConfigurationError(
            f"{where}: {text!r} is not HOST:PORT with a port between 1 and {LAST_PORT}, such as "
            "127.0.0.1:8000; without https://, and an IPv6 address in brackets"
        )
    return host, int(port)


def is_host(text: str) -> bool:
    """Return whether a text is a host name or an IP address, without brackets and without a port."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return HOST_NAME.fullmatch(text) is not None and not text.replace(".", "").isdecimal()
    # The zone of an IPv6 address may be any text, which some configuration would then hold.
    return "%" not in str(address)


def check_free(address: str, advice: str) -> None:
    """Check that this process may listen on an address and that nobody does; the engine says it less clearly.

    Parameters
    ----------
    address : ``host:port``.
    advice : what to do otherwise, the end of the sentence.

    Raises
    ------
    ConfigurationError
    """
    host, port = split_address(address, "the address")
    try:
        family, kind, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            # A port that only waits for old connections to end is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
            probe.listen(1)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigurationError(
            f"cannot listen on {address}: {reason[:1].lower()}{reason[1:]}; {advice}"
        ) from None


def engine_program(name: str) -> Path:
    """Return the path of one of the engine's programs: beside this Python, otherwise as the shell finds it.

    Raises
    ------
    ConfigurationError
        If it is not installed.
    """
    beside = Path(sys.executable).parent / name
    found = beside if beside.is_file() else shutil.which(name)
    if found is None:
        raise ConfigurationError(
            f"the program {name} is not installed; install this software again with its dependencies"
        )
    return Path(found)
