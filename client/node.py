"""A site's node: the engine's SuperNode, with a key and an address, and neither data nor database.

Everything it needs lies in one folder, which can be mounted alone. Its runtime API hands the messages to the
executor; it should listen where only the executor can reach it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from pydantic import Field

from client.site import SITE_NAME
from common.addresses import check_free, engine_program, split_address
from common.command import FLOWER_ENVIRONMENT
from common.config import Section, nearest, read_toml, validated
from common.errors import ConfigurationError, IdentityError
from common.files import write_atomic
from common.health import NoAnswerError, ask
from common.identity import public_line, read_certificate, read_private, read_secret

LISTEN = "127.0.0.1:9094"
PROGRAM = "flower-supernode"
#: OpenSSL's numbers of a certificate that is not valid yet, or no longer.
_DATES = (9, 10)
_OTHERWISE = "stop what listens there, or choose another address"


class NodeSettings(Section):
    """Section ``node`` of ``node.toml``."""

    name: str = Field(..., description="Name of the site, as it is registered at the coordinator")
    server: str = Field("", description="Front end of the coordinator, host:port")
    listen: str = Field(LISTEN, description="Where the executor reaches this node, host:port")


@dataclass(frozen=True)
class Node:
    """A node's addresses and places. Paths are absolute.

    Attributes
    ----------
    folder : the node folder.
    name : name of the site.
    server : ``host:port`` of the coordinator's front end; empty until somebody writes it into ``node.toml``.
    listen : ``host:port`` of the runtime API for the executor.
    """

    folder: Path
    name: str
    server: str = ""
    listen: str = LISTEN

    @property
    def file(self) -> Path:
        """The settings."""
        return self.folder / "node.toml"

    @property
    def key(self) -> Path:
        """The private key; it never leaves the site."""
        return self.folder / "node.key"

    @property
    def public(self) -> Path:
        """The public half of the key, one OpenSSH line."""
        return self.folder / "node.pub"

    @property
    def authority(self) -> Path:
        """Certificate of the federation's authority."""
        return self.folder / "ca.crt"

    @property
    def secret(self) -> Path:
        """Secret shared with the executor."""
        return self.folder / "executor.secret"

    @property
    def public_line(self) -> str:
        """The public half of the key, computed from it."""
        return public_line(read_secret(self.key))

    @property
    def flower_home(self) -> Path:
        """Private folder of the engine."""
        return self.folder / "flower"


def load_node(folder: Path) -> Node:
    """Read a node folder.

    Raises
    ------
    ConfigurationError
        If the folder or its ``node.toml`` is missing or wrong; an unknown key comes with the nearest one.
    """
    folder = folder.resolve()
    path = folder / "node.toml"
    if not path.is_file():
        inside = folder / "node" / "node.toml"
        hint = f"did you mean {inside.parent}?" if inside.is_file() else "'fedkalemia-site init' makes one"
        raise ConfigurationError(f"{folder} is not a node folder: it has no node.toml; {hint}")
    values = read_toml(path)
    if unknown := sorted(set(values) - {"node"}):
        raise ConfigurationError(f"{path}: unknown section {unknown[0]!r}{nearest(unknown[0], ['node'])}")
    section: Any = values.get("node", {})
    if not isinstance(section, dict):
        raise ConfigurationError(f"{path}: node is a section; write [node] and its keys below")
    settings = validated(NodeSettings, section, f"{path}, section node")
    if not SITE_NAME.fullmatch(settings.name):
        raise ConfigurationError(
            f"{path}: node.name = {settings.name!r}; a site name is 1 to 32 lower-case letters, digits and "
            "hyphens and starts with a letter"
        )
    for name in ("server", "listen"):
        if address := getattr(settings, name):
            split_address(address, f"{path}: node.{name}")
    return Node(folder, settings.name, settings.server, settings.listen)


def check_node(node: Node, listen: str | None = None, health: str | None = None) -> None:
    """Check everything that would stop the node, before the engine is started.

    Parameters
    ----------
    node : the node.
    listen, health : addresses in place of the node's own, as for ``start_node``.

    Raises
    ------
    ConfigurationError, IdentityError
        One sentence on the first thing that is wrong.
    """
    if not node.server:
        raise ConfigurationError(
            f'{node.file} names no coordinator; write server = "host:port" into its section node'
        )
    read_private(read_secret(node.key), str(node.key))
    read_secret(node.secret)
    authority = read_certificate(node.authority)
    if not authority.authority:
        raise IdentityError(
            f"{node.authority} is the certificate of {authority.subject}, not that of an authority; ask the "
            "coordinator for pki/ca.crt"
        )
    if authority.days_left(datetime.now(UTC)) < 0:
        raise IdentityError(
            f"{node.authority} ended on {authority.not_after:%Y-%m-%d}; ask the coordinator for a new one"
        )
    check_free(listen or node.listen, f"{_OTHERWISE} with --listen and in gate.node_address of site.toml")
    if health:
        check_free(health, f"{_OTHERWISE} with --health")


def check_server(node: Node) -> None:
    """Check that the coordinator is the one whose authority this node trusts, if it answers.

    The engine says the same in many lines. A coordinator that does not answer is no error: the node keeps
    trying. Neither is one whose certificate is over or not valid yet.

    Raises
    ------
    IdentityError
        If its certificate is of another authority, or for another name.
    """
    host, port = split_address(node.server, f"{node.file}: node.server")
    try:
        ask(host, port, node.authority)
    except NoAnswerError as error:
        if error.kind == "certificate" and error.verify_code not in _DATES:
            raise IdentityError(
                f"{error}; put the federation's pki/ca.crt into {node.authority}, or correct node.server in "
                f"{node.file}"
            ) from None


def node_command(node: Node, listen: str | None = None, health: str | None = None) -> list[str]:
    """Return the command of the engine that runs a node."""
    host, port = split_address(listen or node.listen, "the node's address")
    command = [
        *(str(engine_program(PROGRAM)), "--superlink", node.server),
        *("--root-certificates", str(node.authority)),
        *("--auth-supernode-private-key", str(node.key)),
        *("--isolation", "process", "--superexec-auth-secret-file", str(node.secret)),
        *("--host", host, "--port", str(port)),
    ]
    return [*command, "--health-server-address", health] if health else command


def start_node(node: Node, listen: str | None = None, health: str | None = None) -> NoReturn:
    """Check a node and become it: this process is replaced by the engine's.

    Parameters
    ----------
    node : the node.
    listen : ``host:port`` in place of the node's own.
    health : ``host:port`` of a gRPC health service; None for none.

    Raises
    ------
    ConfigurationError, IdentityError
        See ``check_node``.
    """
    check_node(node, listen, health)
    node.flower_home.mkdir(mode=0o700, exist_ok=True)
    command = node_command(node, listen, health)
    os.environ.update(FLOWER_ENVIRONMENT)
    os.environ["FLWR_HOME"] = str(node.flower_home)
    os.execv(command[0], command)


def write_public(node: Node) -> str:
    """Write the public half of the key next to it; return it, one OpenSSH line with the site's name."""
    line = f"{node.public_line} {node.name}"
    write_atomic(node.public, line + "\n")
    return line
