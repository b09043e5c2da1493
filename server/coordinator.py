"""The coordinator: its folder, its names and its places.

A coordinator folder holds ``server.toml`` and everything the coordinator writes: the certificate authority,
the registry of sites, the engine's state, and one folder per run. It never holds anything about a patient.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


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
    front_port: int = 8443
    superlink: str = "127.0.0.1:8000"

    @property
    def authority(self) -> Path:
        """Certificate of the federation's authority; sites get a copy."""
        return self.folder / "pki" / "ca.crt"

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
        """Return the output folder of a run."""
        return self.folder / "runs" / name
