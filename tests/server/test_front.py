"""The front end's configuration: what server.toml says, usable at any path, without privileges."""

from __future__ import annotations

import importlib.util
import re
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

from common.errors import ConfigurationError, IdentityError
from common.health import ask
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
    assert all(path.startswith("/tmp/fedkalemia-front") or path in front.FILES for path in paths)
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
    before = set(Path("/tmp").glob("fedkalemia-front*"))
    words = front.command(home.folder)
    done = subprocess.run([*words, "-t"], capture_output=True, text=True, timeout=30, check=False)
    assert "test is successful" in done.stderr, done.stderr
    assert set(Path("/tmp").glob("fedkalemia-front*")) == before


@pytest.mark.deployment
@pytest.mark.skipif(not front.has_ipv6(), reason="this machine has no IPv6")
def test_a_site_that_comes_by_ipv6_finds_the_front_end(tmp_path: Path) -> None:
    link, port = support.free_ports(2)
    home = make_coordinator(tmp_path / "home", ("127.0.0.1", "::1"), port, f"127.0.0.1:{link}")
    pki.init(home)
    with support.process([support.COMMAND, "front", home.folder], tmp_path / "log"):
        support.wait_for(lambda: support.status(port, home) == 502, tmp_path / "log")
        assert ask("::1", port, home.authority).status == 502
        with pytest.raises(ConfigurationError, match="address already in use"):
            front.check_ports(port, ipv6=True)


def test_without_ipv6_only_a_coordinator_that_names_such_an_address_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front, "has_ipv6", lambda: False)
    home = support.make_home(tmp_path / "home")
    assert "[::]" not in front.render(home)
    front.command(home.folder)
    other = make_coordinator(tmp_path / "other", ("fd00::1",), home.front_port)
    pki.init(other)
    with pytest.raises(ConfigurationError, match="IPv6 switched off"):
        front.command(other.folder)


def test_a_folder_that_somebody_else_could_have_laid_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    for name in ("link", "open"):
        with pytest.raises(ConfigurationError, match="not a folder of this user alone"):
            front.private_folder(tmp_path / name)
    assert front.private_folder(front.private_folder(tmp_path / "own")).stat().st_mode & 0o777 == 0o700


@pytest.mark.deployment
def test_the_folder_can_be_given_alone_or_inside_its_coordinator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = support.make_home(tmp_path / "home")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert f"{home.folder}/front-run/" in front.command(home.folder)
    assert front.command(home.front) == front.command(home.front)
    assert str(home.folder) not in " ".join(front.command(home.front))
    shutil.copytree(home.front, tmp_path / "mounted" / "front")
    words = front.command(tmp_path / "mounted")
    assert words == front.command(tmp_path / "mounted" / "front")
    place = Path(words[words.index("-p") + 1])
    assert place.parent == tmp_path
    assert (place / "server.key").resolve() == tmp_path / "mounted" / "front" / "server.key"
    assert len(list(tmp_path.glob("fedkalemia-front-*"))) == 1  # however often it is started


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
        with pytest.raises(ConfigurationError, match=f"cannot listen on .*:{port}: address already in use"):
            front.check_ports(port, ipv6=False)
    front.check_ports(port, ipv6=False)
