"""The coordinator: its folder, its names and its places.

A coordinator folder holds ``server.toml`` and everything the coordinator writes: the certificate authority,
the registry of sites, the engine's state, and one folder per run. It never holds anything about a patient.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator

from common.addresses import is_host, split_address
from common.config import Section, read_toml, validated
from common.errors import ConfigurationError
from server.run_config import check_name

FRONT_PORT = 8443
SUPERLINK = "127.0.0.1:8000"
EVERYWHERE = ("0.0.0.0", "::")


class ServerSettings(Section):
    """Section ``server`` of ``server.toml``."""

    hosts: tuple[str, ...] = Field((), description="Names and addresses by which sites reach the front end")
    front_port: int = Field(
        FRONT_PORT, ge=1, le=65535, strict=True, description="Port of the front end, the only one sites see"
    )
    superlink: str = Field(
        SUPERLINK, description="The SuperLink, on the coordinator's own network, host:port"
    )

    @field_validator("hosts")
    @classmethod
    def _are_hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if not is_host(host):
                raise ValueError(
                    f"{host!r} is neither a host name nor an IP address; without a port and without https://"
                )
            _check_somewhere(host)
        return hosts

    @field_validator("superlink")
    @classmethod
    def _is_address(cls, superlink: str) -> str:
        try:
            host, _ = split_address(superlink, "superlink")
        except ConfigurationError as error:
            raise ValueError(str(error)) from None
        _check_somewhere(host)
        return superlink


class ServerFile(Section):
    """All of ``server.toml``."""

    server: ServerSettings = ServerSettings()

    @model_validator(mode="after")
    def _names_a_host(self) -> Self:
        if not self.server.hosts:
            raise ValueError(
                "server.hosts names no host; give at least one by which sites reach the front end"
            )
        return self


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
            If it is no name of a run.
        """
        check_name(name)
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
    settings = validated(ServerFile, read_toml(path), str(path)).server
    return _coordinator(folder, settings)


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
    return _coordinator(
        folder.resolve(), validated(ServerFile, {"server": values}, "the coordinator's addresses").server
    )


def settings_text(coordinator: Coordinator) -> str:
    """Return what ``server.toml`` holds: addresses, nothing secret."""
    hosts = ", ".join(json.dumps(host) for host in coordinator.hosts)
    return (
        f"[server]\nhosts = [{hosts}]\nfront_port = {coordinator.front_port}\n"
        f"superlink = {json.dumps(coordinator.superlink)}\n"
    )


def _coordinator(folder: Path, settings: ServerSettings) -> Coordinator:
    return Coordinator(folder, settings.hosts, settings.front_port, settings.superlink)


def _check_somewhere(host: str) -> None:
    if host in EVERYWHERE:
        raise ValueError(f"{host} is no address that anybody can connect to; name the host")
