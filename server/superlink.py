"""Starting Flower's SuperLink with the coordinator's identity.

The SuperLink's own port is not for sites: it also serves whoever may start runs and register sites. It
belongs on loopback or on a network of the coordinator alone; sites reach it through the front end only.
"""

from __future__ import annotations

import os
import sys

from common.addresses import check_free, engine_program, split_address
from common.command import FLOWER_ENVIRONMENT
from common.identity import read_certificate, read_secret
from server.coordinator import Coordinator

#: What the SuperLink writes is for the coordinator's own user only.
PRIVATE_UMASK = 0o077
_OTHER = "stop what uses it, or give another address with {option} HOST:PORT"


def superlink_command(
    coordinator: Coordinator, listen: str | None = None, health: str | None = None
) -> list[str]:
    """Return the command that starts the SuperLink.

    Parameters
    ----------
    coordinator : whose certificate, secret and database are used.
    listen : ``host:port`` to listen on, where that is not the address by which others reach it.
    health : ``host:port`` of the gRPC health service; None for none.

    Raises
    ------
    IdentityError
        If a certificate, the key or the secret is missing or cannot be read.
    ConfigurationError
        If an address is none, or something else listens there.
    """
    for certificate in (coordinator.authority, coordinator.certificate):
        read_certificate(certificate)
    for secret in (coordinator.key, coordinator.secret):
        read_secret(secret)
    address = listen or coordinator.superlink
    host, port = split_address(address, "--listen" if listen else "superlink in server.toml")
    check_free(address, _OTHER.format(option="--listen"))
    command = [
        *(str(engine_program("flower-superlink")), "--host", host, "--port", str(port)),
        *("--ssl-ca-certfile", str(coordinator.authority)),
        *("--ssl-certfile", str(coordinator.certificate)),
        *("--ssl-keyfile", str(coordinator.key)),
        *("--isolation", "process", "--superexec-auth-secret-file", str(coordinator.secret)),
        *("--database", str(coordinator.database)),
        "--enable-supernode-auth",
        "--disable-runtime-dependency-installation",
    ]
    if health is not None:
        split_address(health, "--health")
        check_free(health, _OTHER.format(option="--health"))
        command += ["--health-server-address", health]
    return command


def run_superlink(coordinator: Coordinator, listen: str | None = None, health: str | None = None) -> None:
    """Become the SuperLink: this process is replaced and does not come back.

    Raises
    ------
    IdentityError, ConfigurationError
        See ``superlink_command``.
    """
    command = superlink_command(coordinator, listen, health)
    coordinator.flower_home.mkdir(mode=0o700, exist_ok=True)
    os.environ.update(FLOWER_ENVIRONMENT, FLWR_HOME=str(coordinator.flower_home))
    os.umask(PRIVATE_UMASK)
    sys.stdout.flush()
    os.execv(command[0], command)
