"""Starting Flower's SuperLink with the coordinator's identity.

The SuperLink's own port is not for sites: it also serves whoever may start runs and register sites. It
belongs on loopback or on a network of the coordinator alone; sites reach it through the front end only.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

from common.addresses import check_free, engine_program, split_address
from common.command import FLOWER_ENVIRONMENT
from common.errors import StorageError
from common.identity import read_secret
from server.certificates import check_certificate
from server.coordinator import Coordinator

#: What the SuperLink writes is for the coordinator's own user only.
PRIVATE_UMASK = 0o077
DATABASE_WAIT_S = 5.0
DATABASE_ADVICE = (
    "run as the user that owns it; if it is damaged, restore it from a copy, or move it away and register "
    "the sites again"
)
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
        If a certificate, the key or the secret is missing or cannot be read, or they do not belong together.
    StorageError
        If the database is there and cannot be used.
    ConfigurationError
        If an address is none, or something else listens there.
    """
    check_certificate(coordinator.certificate, coordinator.key, coordinator.authority)
    read_secret(coordinator.secret)
    if trouble := database_trouble(coordinator.database):
        raise StorageError(f"{trouble}; {DATABASE_ADVICE}")
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


def database_trouble(path: Path) -> str | None:
    """Return what keeps the SuperLink's own state from being used, None for nothing."""
    try:
        if not path.exists():
            return None  # the SuperLink makes it
        with closing(sqlite3.connect(f"file:{path}?mode=rw", uri=True, timeout=DATABASE_WAIT_S)) as link:
            link.execute("SELECT count(*) FROM sqlite_master").fetchone()
            link.execute("BEGIN IMMEDIATE")
            link.rollback()
    except OSError as error:
        return f"{path}: {error.strerror or error}"
    except sqlite3.Error as error:
        return f"{path}: {error}"
    return None


def run_superlink(coordinator: Coordinator, listen: str | None = None, health: str | None = None) -> None:
    """Become the SuperLink: this process is replaced and does not come back.

    Raises
    ------
    IdentityError, StorageError, ConfigurationError
        See ``superlink_command``.
    """
    command = superlink_command(coordinator, listen, health)
    coordinator.flower_home.mkdir(mode=0o700, exist_ok=True)
    os.environ.update(FLOWER_ENVIRONMENT, FLWR_HOME=str(coordinator.flower_home))
    os.umask(PRIVATE_UMASK)
    sys.stdout.flush()
    os.execv(command[0], command)
