"""The front end's configuration: what server.toml says, usable at any path, without privileges."""

from __future__ import annotations

import importlib.util
import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from common.errors import ConfigurationError, IdentityError
from server import front, pki
from server.coordinator import Coordinator, make_coordinator

_spec = importlib.util.spec_from_file_location(
    "tests_support_coordinator", Path(__file__).parents[1] / "support" / "coordinator.py"
)
assert _spec is not None
assert _spec.loader is not None
support = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(support)


def at(superlink: str, port: int = 8443) -> Coordinator:
    return make_coordinator(Path("/nowhere"), ("coordinator.example.org",), port, superlink)


def test_nothing_but_the_fleet_and_health_is_forwarded() -> None:
    text = front.render(at("10.0.0.1:8000"))
    places = re.findall(r"^\s*location (.+) \{$", text, re.MULTILINE)
    assert places == ["/", '~ "^/v1/fleet/[a-z0-9-]{1,64}$"', "= /health"]
    assert text.count("proxy_pass") == 2
    for line in (
        "proxy_ssl_verify on;",
        "server_tokens off;",
        "ssl_protocols TLSv1.2 TLSv1.3;",
        "listen 8443 ssl;",
    ):
        assert line in text


def test_every_path_starts_at_the_folder_or_at_tmp() -> None:
    text = front.render(at("superlink:8000"))
    paths = re.findall(
        r"^\s*(?:\w+_temp_path|pid|ssl_certificate\w*|proxy_ssl_trusted_certificate) (\S+);", text, re.M
    )
    assert len(paths) == 9
    assert all(path.startswith("/tmp/fedkalemia-front-8443") or path in front.FILES for path in paths)
    assert "/nowhere" not in text


def test_a_name_is_looked_up_again_and_an_address_needs_nobody() -> None:
    assert f"resolver {front.CONTAINER_RESOLVER} valid=10s" in front.render(at("superlink:8000"))
    for address, shown in (
        ("10.0.0.1:8000", "10.0.0.1:8000"),
        ("localhost:80", "127.0.0.1:80"),
        ("[::1]:8", "[::1]:8"),
    ):
        text = front.render(at(address))
        assert "resolver" not in text
        assert f'set $superlink "{shown}";' in text


def test_the_machines_resolver_is_the_first_ipv4_one(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    assert front.machine_resolver(path) is None
    path.write_text(
        "# nameserver 1.1.1.1\nsearch example.org\nnameserver fe80::1%eth0\nnameserver 10.89.0.1\n"
    )
    assert front.machine_resolver(path) == "10.89.0.1"
    path.write_text("nameserver 10.0.0.1; }\nnameserver evil;\n")
    assert front.machine_resolver(path) is None


@pytest.mark.deployment
@pytest.mark.parametrize("superlink", ["superlink:8000", "127.0.0.1:8000"])
def test_nginx_takes_the_configuration(tmp_path: Path, superlink: str) -> None:
    home = make_coordinator(tmp_path / "home", ("a",), support.free_ports(1)[0], superlink)
    pki.init(home)
    words = front.command(home.folder)
    done = subprocess.run([*words, "-t"], capture_output=True, text=True, timeout=30, check=False)
    assert "test is successful" in done.stderr, done.stderr


@pytest.mark.deployment
def test_the_folder_can_be_given_alone_or_inside_its_coordinator(tmp_path: Path) -> None:
    home = support.make_home(tmp_path / "home")
    words = front.command(home.folder)
    assert words == front.command(home.front)
    shutil.copytree(home.front, tmp_path / "mounted" / "front")
    assert f"{tmp_path}/mounted/front/" in front.command(tmp_path / "mounted")
    assert str(home.folder) not in " ".join(front.command(tmp_path / "mounted" / "front"))


def test_an_edited_server_toml_is_followed(tmp_path: Path) -> None:
    home = support.make_home(tmp_path / "home")
    home.file.write_text(home.file.read_text().replace(str(home.front_port), "9999"))
    front.prepare(home.folder)
    assert front.listening_port(home.front) == 9999


def test_a_folder_that_is_none_or_lacks_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="neither a coordinator folder nor"):
        front.command(tmp_path)
    home, other = support.make_home(tmp_path / "home"), support.make_home(tmp_path / "other")
    for name, sentence in (("server.key", "is not the key of"), ("ca.crt", "was not signed by")):
        ours = (home.front / name).read_bytes()
        shutil.copy(other.front / name, home.front / name)
        with pytest.raises(IdentityError, match=sentence):
            front.command(home.folder)
        (home.front / name).unlink()
        with pytest.raises(IdentityError, match="is missing"):
            front.command(home.folder)
        (home.front / name).write_bytes(ours)


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"port {port} cannot be used: address already in use"):
            front.check_port(port)
    front.check_port(port)
