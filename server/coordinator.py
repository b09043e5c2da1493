"""The coordinator: its folder, its names and its places.

A coordinator folder holds ``server.toml`` and everything the coordinator writes: the certificate authority,
the registry of sites, the engine's state, and one folder per run. It never holds anything about a patient.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.config import nearest, read_toml
from common.errors import ConfigurationError
from common.files import write_atomic

FRONT_PORT = 8443
SUPERLINK = "127.0.0.1:8000"
EVERYWHERE = ("0.0.0.0", "::")
KEYS = ("hosts", "front_port", "superlink")
HOST_NAME = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,62}))*\.?"
)
RUN_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Coordinator:
    """A coordinator's addresses and places. Paths are absolute.

    Attributes
    ----------
    folder : the coordinator folder.
    hosts : names and addresses by which sites reach the front end; they are in its certificate.
    front_port : port of the front end, the only one that sites see.
    superlink : ``host:port`` of the SuperLink, on the coordinator's own network.
    """

    folder: Path
    hosts: tuple[str, ...]
    front_port: int = FRONT_PORT
    superlink: str = SUPERLINK

    @property
    def file(self) -> Path:
        """The coordinator's settings."""
        return self.folder / "server.toml"

    @property
    def authority(self) -> Path:
        """Certificate of the federation's authority; sites get a copy."""
        return self.folder / "pki" / "ca.crt"

    @property
    def authority_key(self) -> Path:
        """Private key of the authority, unless it is kept elsewhere."""
        return self.folder / "pki" / "ca.key"

    @property
    def certificate(self) -> Path:
        """Certificate of the coordinator, signed by the authority."""
        return self.folder / "pki" / "server.crt"

    @property
    def key(self) -> Path:
        """Private key of the coordinator's certificate."""
        return self.folder / "pki" / "server.key"

    @property
    def front(self) -> Path:
        """All that the front end needs: its configuration, certificate, key, the authority."""
        return self.folder / "front"

    @property
    def registry(self) -> Path:
        """Which name belongs to which key and node."""
        return self.folder / "sites.json"

    @property
    def secret(self) -> Path:
        """Secret shared by the SuperLink and the runner."""
        return self.folder / "secrets" / "runner.secret"

    @property
    def database(self) -> Path:
        """The SuperLink's own state."""
        return self.folder / "superlink.sqlite"

    @property
    def flower_home(self) -> Path:
        """Private folder of the engine."""
        return self.folder / "flower"

    def run_folder(self, name: str) -> Path:
        """Return the output folder of a run.

        Raises
        ------
        ConfigurationError
            If the name could be a path.
        """
        if not RUN_NAME.fullmatch(name):
            raise ConfigurationError(
                f"run name {name!r}: 1 to 64 lower-case letters, digits, hyphens, dots and underscores, "
                "beginning with a letter or digit"
            )
        return self.folder / "runs" / name


def load_coordinator(folder: Path) -> Coordinator:
    """Read a coordinator folder.

    Raises
    ------
    ConfigurationError
        If the folder or its ``server.toml`` is missing or wrong.
    """
    folder = folder.resolve()
    path = folder / "server.toml"
    if not path.is_file():
        raise ConfigurationError(
            f"{folder} is not a coordinator folder: it has no server.toml; run "
            f"'fedkalemia-server pki init {folder} --host NAME' first"
        )
    values = read_toml(path)
    if unknown := sorted(set(values) - {"server"}):
        raise ConfigurationError(f"{path}: unknown section {unknown[0]!r}{nearest(unknown[0], ['server'])}")
    section = values.get("server", {})
    if not isinstance(section, Mapping):
        raise ConfigurationError(f"{path}: 'server' must be a section: [server]")
    if unknown := sorted(set(section) - set(KEYS)):
        raise ConfigurationError(
            f"{path}: unknown key 'server.{unknown[0]}'{nearest(unknown[0], list(KEYS))}"
        )
    return _checked(folder, section, f"{path}: server.")


def make_coordinator(
    folder: Path, hosts: tuple[str, ...], front_port: int = FRONT_PORT, superlink: str = SUPERLINK
) -> Coordinator:
    """Return a coordinator whose addresses were checked; nothing is written.

    Raises
    ------
    ConfigurationError
        Naming the address that is none.
    """
    values = {"hosts": list(hosts), "front_port": front_port, "superlink": superlink}
    return _checked(folder.resolve(), values, "")


def write_coordinator(coordinator: Coordinator) -> Path:
    """Write ``server.toml``."""
    write_atomic(coordinator.file, settings_text(coordinator))
    return coordinator.file


def settings_text(coordinator: Coordinator) -> str:
    """Return what ``server.toml`` holds: addresses, nothing secret."""
    hosts = ", ".join(json.dumps(host) for host in coordinator.hosts)
    return (
        f"[server]\nhosts = [{hosts}]\nfront_port = {coordinator.front_port}\n"
        f"superlink = {json.dumps(coordinator.superlink)}\n"
    )


def split_address(address: str, where: str = "address ") -> tuple[str, int]:
    """Return host and port of ``host:port``; an IPv6 address stands in brackets.

    Raises
    ------
    ConfigurationError
        If it is none.
    """
    host, colon, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not colon or not _is_host(host) or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise ConfigurationError(
            f"{where}{address!r} is not HOST:PORT with a port between 1 and 65535, such as {SUPERLINK}"
        )
    return host, int(port)


def _checked(folder: Path, values: Mapping[str, Any], where: str) -> Coordinator:
    hosts = values.get("hosts", [])
    if not isinstance(hosts, list) or not hosts:
        raise ConfigurationError(
            f"{where}hosts is empty; name at least one host by which sites reach the front end"
        )
    for host in hosts:
        if not isinstance(host, str) or not _is_host(host):
            raise ConfigurationError(
                f"{where}hosts: {host!r} is neither a host name nor an IP address; without a port and without https://"
            )
    port = values.get("front_port", FRONT_PORT)
    if not isinstance(port, int) or isinstance(port, bool) or not 1 <= port <= 65535:
        raise ConfigurationError(f"{where}front_port = {port!r}; a port is a number between 1 and 65535")
    superlink = values.get("superlink", SUPERLINK)
    address, _ = split_address(str(superlink), f"{where}superlink: ")
    for host in (address, *hosts):
        if host in EVERYWHERE:
            raise ConfigurationError(
                f"{where}{host} is no address that anybody can connect to; name the host"
            )
    return Coordinator(folder, tuple(hosts), port, str(superlink))


def _is_host(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return HOST_NAME.fullmatch(text) is not None and not text.replace(".", "").isdecimal()
    return True
