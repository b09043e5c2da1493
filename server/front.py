"""The front end: an nginx that shows sites the engine's fleet routes and health, and nothing else.

The folder ``front`` holds all it needs, so that it can be mounted alone. In a container nginx runs straight
from there, without privileges and with a read-only root file system; what it must write goes to ``/tmp``,
which is nobody else's. On a host the command lays a folder out that is private to its user.
"""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
import socket
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path

import jinja2

from common.addresses import check_free, split_address
from common.errors import ConfigurationError, FederationError, IdentityError
from common.files import storage_errors, write_atomic
from server.certificates import check_certificate
from server.coordinator import Coordinator, load_coordinator

TEMPLATE = Path(__file__).parent / "front.conf.j2"
CONFIGURATION = "nginx.conf"
FILES = (CONFIGURATION, "server.crt", "server.key", "ca.crt")
#: Where containers ask for names; ``front`` takes the machine's own resolver if that is another.
CONTAINER_RESOLVER = "127.0.0.11"
#: The engine cuts arrays of any size into objects of 5 MiB, and a body is one object; the SuperLink reads a
#: body whole before it asks who sends it.
MAX_BODY_MB = 16
#: Requests under way from one address. A node has about four; several may come through one gateway.
MAX_REQUESTS = 32
#: Where nginx writes in a container, which shares its ``/tmp`` with nobody.
SCRATCH = "/tmp/fedkalemia-front"
#: The same, in a coordinator folder on a host.
RUN_FOLDER = "front-run"
RESOLVER_LINE = re.compile(r"^(\s*resolver )(\S+)( valid=)", re.MULTILINE)
LISTEN_LINE = re.compile(r"^\s*listen (\d+) ssl;", re.MULTILINE)
IPV6_LINE = re.compile(r"^\s*listen \[::\]:(\d+) ssl;", re.MULTILINE)


def render(coordinator: Coordinator) -> str:
    """Return the text of nginx.conf; every path in it starts at the folder that holds it, or at /tmp."""
    host, port = split_address(coordinator.superlink, "superlink")
    host = "127.0.0.1" if host == "localhost" else host
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True, autoescape=False
    )
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        port=coordinator.front_port,
        superlink=f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
        resolver="" if _is_address(host) else CONTAINER_RESOLVER,
        scratch=SCRATCH,
        ipv6=any(":" in name for name in coordinator.hosts),
        max_body_mb=MAX_BODY_MB,
        max_requests=MAX_REQUESTS,
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
    port = listening_port(front)
    check_ports(port, ipv6=listens_on_ipv6(front))
    at_home = front.parent == folder.resolve() and (front.parent / "server.toml").is_file()
    elsewhere = Path(tempfile.gettempdir()) / f"fedkalemia-front-{os.geteuid()}-{port}"
    place = private_folder(front.parent / RUN_FOLDER if at_home else elsewhere)
    lay_out(front, place)
    return [program, "-e", "stderr", "-p", f"{place}/", "-c", str(place / CONFIGURATION)]


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
    check_certificate(front / "server.crt", front / "server.key", front / "ca.crt")


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


def listens_on_ipv6(front: Path) -> bool:
    """Return whether the configuration in ``front`` also listens on IPv6."""
    return IPV6_LINE.search((front / CONFIGURATION).read_text(encoding="utf-8")) is not None


def check_ports(port: int, *, ipv6: bool) -> None:
    """Check that a port is free, and that this machine has IPv6 if that is asked for.

    Raises
    ------
    ConfigurationError
        If another program listens on it, this user may not, or there is no IPv6.
    """
    check_free(f"0.0.0.0:{port}", "stop the program that has it, or choose another port in server.toml")
    if not ipv6:
        return
    if not has_ipv6():
        raise ConfigurationError(
            "server.toml names an IPv6 address, but this machine has IPv6 switched off; switch it on, or "
            "take the address out of 'hosts' and run 'fedkalemia-server pki renew'"
        )
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # as nginx does beside IPv4
        try:
            probe.bind(("::", port))
            probe.listen(1)
        except OSError as error:
            raise ConfigurationError(
                f"cannot listen on [::]:{port}: {(error.strerror or str(error)).lower()}; stop the program "
                "that has it, or choose another port in server.toml"
            ) from None


def has_ipv6() -> bool:
    """Return whether this machine can listen on IPv6 at all."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::", 0))
    except OSError:
        return False
    return True


def private_folder(path: Path) -> Path:
    """Make a folder that is this user's alone, or take the one that an earlier start made.

    Raises
    ------
    ConfigurationError
        If something there is not this user's own: it could have been put there to be written through.
    """
    with storage_errors(path):
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise ConfigurationError(
            f"{path} is not a folder of this user alone; see who made it, remove it and start again"
        )
    return path


def lay_out(front: Path, place: Path) -> None:
    """Write into ``place`` the configuration for this machine, and links to the files of ``front``.

    The paths that nginx writes become relative to ``place``, and names are asked for at this machine's own
    resolver.
    """
    text = (front / CONFIGURATION).read_text(encoding="utf-8").replace(SCRATCH, "nginx")
    if (own := machine_resolver()) is not None:
        text = RESOLVER_LINE.sub(rf"\g<1>{own}\g<3>", text)
    with storage_errors(place):
        _link(front, place, FILES[1:])
    write_atomic(place / CONFIGURATION, text)


def _link(front: Path, place: Path, files: Sequence[str]) -> None:
    for name in files:
        (place / name).unlink(missing_ok=True)
        (place / name).symlink_to(front / name)


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
