"""The front end: an nginx that shows sites the engine's fleet routes and health, and nothing else.

The folder ``front`` holds all it needs, so that it can be mounted alone. It runs without privileges and with
a read-only root file system; what it must write goes to ``/tmp``.
"""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
import socket
import tempfile
from pathlib import Path

import jinja2

from common.errors import ConfigurationError, FederationError, IdentityError
from common.files import storage_errors, write_atomic
from common.identity import read_certificate, read_private, read_secret
from server.coordinator import Coordinator, load_coordinator, split_address

TEMPLATE = Path(__file__).parent / "front.conf.j2"
CONFIGURATION = "nginx.conf"
FILES = (CONFIGURATION, "server.crt", "server.key", "ca.crt")
#: Where containers ask for names; ``front`` takes the machine's own resolver if that is another.
CONTAINER_RESOLVER = "127.0.0.11"
MAX_BODY_MB = 600
RESOLVER_LINE = re.compile(r"^(\s*resolver )(\S+)( valid=)", re.MULTILINE)
LISTEN_LINE = re.compile(r"^\s*listen (\d+) ssl;", re.MULTILINE)


def render(coordinator: Coordinator) -> str:
    """Return the text of nginx.conf; every path in it starts at the folder that holds it, or at /tmp."""
    host, port = split_address(coordinator.superlink)
    host = "127.0.0.1" if host == "localhost" else host
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True, autoescape=False
    )
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        port=coordinator.front_port,
        superlink=f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
        resolver="" if _is_address(host) else CONTAINER_RESOLVER,
        scratch=f"/tmp/fedkalemia-front-{coordinator.front_port}",
        max_body_mb=MAX_BODY_MB,
    )


def command(folder: Path) -> list[str]:
    """Return the command that runs the front end in the foreground.

    Parameters
    ----------
    folder : a coordinator folder, or the folder ``front`` of one, alone.

    Raises
    ------
    ConfigurationError, IdentityError, FederationError
        If it is neither, a file of it is missing or wrong, the port is in use, or nginx is not installed.
    """
    front = prepare(folder)
    check_files(front)
    program = nginx()
    check_port(listening_port(front))
    return [program, "-e", "stderr", "-p", f"{front}/", "-c", str(_with_resolver(front))]


def prepare(folder: Path) -> Path:
    """Return the folder ``front``, whose configuration then says what ``server.toml`` says.

    Raises
    ------
    ConfigurationError
        If ``folder`` is neither a coordinator folder nor the folder ``front`` of one.
    """
    folder = folder.resolve()
    if (folder / "server.toml").is_file():
        coordinator = load_coordinator(folder)
        path, text = coordinator.front / CONFIGURATION, render(coordinator)
        if coordinator.front.is_dir() and (not path.is_file() or path.read_text(encoding="utf-8") != text):
            write_atomic(path, text)
        return coordinator.front
    for front in (folder, folder / "front"):
        if (front / CONFIGURATION).is_file():
            return front
    raise ConfigurationError(
        f"{folder} is neither a coordinator folder nor the folder 'front' of one; run "
        "'fedkalemia-server pki init' first"
    )


def check_files(front: Path) -> None:
    """Check that the front end's certificate, key and authority are there and belong together.

    Raises
    ------
    IdentityError
        Naming the file.
    """
    for name in FILES:
        if not (front / name).is_file():
            raise IdentityError(
                f"{front / name} is missing; run 'fedkalemia-server pki renew' to write it again"
            )
    certificate = read_certificate(front / "server.crt")
    key = read_private(read_secret(front / "server.key"), str(front / "server.key"))
    if not certificate.belongs_to(key):
        raise IdentityError(
            f"{front / 'server.key'} is not the key of {front / 'server.crt'}; run "
            "'fedkalemia-server pki renew'"
        )
    if not certificate.signed_by(read_certificate(front / "ca.crt")):
        raise IdentityError(
            f"{front / 'server.crt'} was not signed by {front / 'ca.crt'}; run 'fedkalemia-server pki renew'"
        )


def nginx() -> str:
    """Return the path of the nginx program.

    Raises
    ------
    FederationError
        If it is not installed.
    """
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/sbin")
    if found is None:
        raise FederationError("nginx is not installed; install it (Debian: apt-get install nginx-light)")
    return found


def listening_port(front: Path) -> int:
    """Return the port that the configuration in ``front`` listens on.

    Raises
    ------
    ConfigurationError
        If it names none.
    """
    path = front / CONFIGURATION
    found = LISTEN_LINE.search(path.read_text(encoding="utf-8"))
    if found is None:
        raise ConfigurationError(f"{path} names no port; run 'fedkalemia-server pki renew' to write it again")
    return int(found[1])


def check_port(port: int, host: str = "0.0.0.0") -> None:
    """Check that a port is free.

    Raises
    ------
    ConfigurationError
        If another program listens on it, or this user may not.
    """
    with socket.socket() as probe:
        # As nginx does: a port that only waits for old connections to end is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            raise ConfigurationError(
                f"port {port} cannot be used: {(error.strerror or str(error)).lower()}; stop the program "
                "that has it, or choose another port in server.toml"
            ) from None


def _with_resolver(front: Path) -> Path:
    """Return a configuration that asks this machine's resolver, in a private folder if it must be another."""
    path = front / CONFIGURATION
    text = path.read_text(encoding="utf-8")
    found, own = RESOLVER_LINE.search(text), machine_resolver()
    if found is None or own is None or found[2] == own:
        return path
    with storage_errors(Path(tempfile.gettempdir())):
        scratch = Path(tempfile.mkdtemp(prefix="fedkalemia-front-"))
        for name in FILES[1:]:
            (scratch / name).symlink_to(front / name)
        write_atomic(scratch / CONFIGURATION, RESOLVER_LINE.sub(rf"\g<1>{own}\g<3>", text))
    return scratch / CONFIGURATION


def machine_resolver(path: Path = Path("/etc/resolv.conf")) -> str | None:
    """Return the first IPv4 name server of this machine, None if it has none."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver" and _is_address(words[1]) and ":" not in words[1]:
            return words[1]
    return None


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def run(folder: Path) -> None:
    """Become the front end; returns only by an error. See ``command``."""
    words = command(folder)
    os.execv(words[0], words)
