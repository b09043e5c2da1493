"""Addresses are read strictly, a port in use is said in a sentence, the engine's programs are found."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from common.addresses import check_free, engine_program, is_host, split_address
from common.errors import ConfigurationError


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("superlink:8000", "superlink", 8000),
        ("coordinator.example.org:1", "coordinator.example.org", 1),
        ("my_node-1.:65535", "my_node-1.", 65535),
        ("10.0.0.7:8443", "10.0.0.7", 8443),
        ("0.0.0.0:9094", "0.0.0.0", 9094),
        ("[::1]:80", "::1", 80),
        ("[2001:db8::7]:8443", "2001:db8::7", 8443),
    ],
)
def test_host_and_port_are_told_apart(text: str, host: str, port: int) -> None:
    assert split_address(text, "here") == (host, port)


@pytest.mark.parametrize(
    "text",
    [
        "", ":", "host", "host:", ":80", "host:0", "host:65536", "host:-1", "host:+80", "host: 80",
        "host:8_0", "host:٨٠", "host:８０", "host:000000080", "https://x:8443", "a b:80", "a\n:80",
        "host:80\n", "a;b:80", "[::1:80", "::1]:80", "::1:80", "[host]:80", "[10.0.0.7]:80", "[]:80",
        "[[::1]]:80", "[::1]80", "[::1]", '[::1%"; }]:80', "[fe80::1%eth0]:80", "1.2.3:80", "1.2.3.4.5:80",
        "host:80:90", "user@host:80", "host/x:80", "ｈost:80", "a..b:80", f"{'a' * 64}:80",
        f"{'a.' * 127}:80", "x\x00:80",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^site\.toml: gate\.node_address: .* is not HOST:PORT"):
        split_address(text, "site.toml: gate.node_address")


def test_a_host_is_a_name_or_an_address_alone() -> None:
    assert all(map(is_host, ("localhost", "a.example", "10.0.0.7", "::1", "2001:db8::7")))
    assert not any(map(is_host, ("", "[::1]", "a:80", "https://a", "a b", "10.0.0", "::1%; }", "ä.example")))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_port_is_free_or_in_use(host: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"{host}:{taken.getsockname()[1]}"
        with pytest.raises(
            ConfigurationError, match=rf"listen on {address}: address .* in use; use another$"
        ):
            check_free(address, "use another")
    check_free(address, "use another")
    check_free(address, "use another")  # looking takes nothing


def test_an_address_of_another_machine_or_none_cannot_be_listened_on() -> None:
    for address in ("192.0.2.1:8443", "no-such-host.invalid:8443"):
        with pytest.raises(ConfigurationError, match=rf"cannot listen on {address}: .*; advice"):
            check_free(address, "advice")
    with pytest.raises(ConfigurationError, match="HOST:PORT"):
        check_free("nowhere", "advice")


def test_a_program_is_found_beside_this_python_or_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert engine_program("flower-supernode") == Path(sys.executable).parent / "flower-supernode"
    monkeypatch.setattr(sys, "executable", str(tmp_path / "elsewhere" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match="flower-supernode is not installed"):
        engine_program("flower-supernode")
    program = tmp_path / "flower-supernode"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o700)
    assert engine_program("flower-supernode") == program
