"""A node's folder, its keys and the command that runs it."""

from __future__ import annotations

import os
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.cli import app
from client.gate.alive import check_alive
from client.gate.folders import make_folders, renew_key
from client.node import Node, check_node, check_server, load_node, node_command
from client.site import load_site, write_site_file
from common.errors import ConfigurationError, FedkalemiaError, IdentityError
from common.identity import public_line, read_public
from server import pki
from server.coordinator import Coordinator, make_coordinator

COMMAND = Path(sys.executable).parent / "fedkalemia-site"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    coordinator = make_coordinator(tmp_path_factory.mktemp("pki"), ("localhost",))
    pki.init(coordinator)
    return coordinator.authority


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def node(tmp_path: Path, authority: Path) -> Node:
    return make_folders(
        tmp_path / "site",
        name="north",
        server="coordinator.example:8443",
        listen=f"127.0.0.1:{free_port()}",
        authority=authority,
    )


def modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


def test_what_is_secret_is_for_its_owner_only_whatever_the_umask(tmp_path: Path, authority: Path) -> None:
    before = os.umask(0)
    try:
        node = make_folders(tmp_path / "site", name="north", authority=authority)
    finally:
        os.umask(before)
    gate = tmp_path / "site" / "gate"
    assert modes(node.folder)["node.key"] == modes(node.folder)["executor.secret"] == 0o600
    assert modes(gate)["executor.secret"] == modes(gate)["ledger.key"] == 0o600
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in (node.folder, gate)} == {0o700}
    assert node.secret.read_bytes() == (gate / "executor.secret").read_bytes()
    assert set(modes(node.folder)) == {
        "node.toml", "node.key", "node.pub", "executor.secret", "ca.crt", "flower"
    }  # fmt: skip
    assert read_public(node.public.read_text())


def test_made_again_nothing_changes(node: Node, authority: Path) -> None:
    kept = {path: path.read_bytes() for path in node.folder.parent.rglob("*") if path.is_file()}
    again = make_folders(
        node.folder.parent, name="north", server=node.server, listen=node.listen, authority=authority
    )
    assert again == node == load_node(node.folder)
    assert {path: path.read_bytes() for path in node.folder.parent.rglob("*") if path.is_file()} == kept
    with pytest.raises(ConfigurationError, match="exists and differs"):
        make_folders(node.folder.parent, name="south", server=node.server, listen=node.listen)


def test_a_renewed_key_touches_nothing_else(node: Node) -> None:
    old = {path: path.read_bytes() for path in node.folder.parent.rglob("*") if path.is_file()}
    _, line = renew_key(node.folder.parent)
    changed = {path for path, data in old.items() if path.read_bytes() != data}
    assert changed == {node.key, node.public}
    assert line.startswith("ecdsa-sha2-nistp384 ")
    assert line.rsplit(" ", 1) == [public_line(node.key.read_bytes()), "north"]
    assert stat.S_IMODE(node.key.stat().st_mode) == 0o600


def test_an_unknown_key_is_refused_with_the_nearest(node: Node) -> None:
    text = node.file.read_text()
    for changed, hint in (
        (text.replace("server =", "servre ="), "did you mean 'server'"),
        (text.replace("[node]", "[nodes]"), "did you mean 'node'"),
        (
            text.replace('"coordinator.example:8443"', '"coordinator.example"'),
            "node.server: 'coordinator.example' is not HOST:PORT",
        ),
        (text.replace('"north"', '"Mrs Smith"'), "site name"),
        ("node = 3\n", r"node is a section; write \[node\]"),
    ):
        node.file.write_text(changed)
        with pytest.raises(ConfigurationError, match=hint):
            load_node(node.folder)


def test_a_site_folder_given_for_its_node_says_where_the_node_is(node: Node) -> None:
    with pytest.raises(ConfigurationError, match=r"did you mean .*/site/node"):
        load_node(node.folder.parent)


def test_the_command_shows_no_secret_and_keeps_the_engine_to_itself(node: Node) -> None:
    command = node_command(node, health="127.0.0.1:9098")
    text = " ".join(command)
    assert "--isolation process" in text
    assert f"--auth-supernode-private-key {node.key}" in text
    assert f"--root-certificates {node.authority}" in text
    assert f"--superexec-auth-secret-file {node.secret}" in text
    assert "--health-server-address 127.0.0.1:9098" in text
    assert "--insecure" not in text
    assert "--node-config" not in text
    for secret in (node.key, node.secret):
        assert secret.read_bytes().hex() not in text


def remove_key(node: Node) -> None:
    node.key.unlink()


def foreign_key(node: Node) -> None:
    node.key.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nnothing\n-----END OPENSSH PRIVATE KEY-----\n")


def no_authority(node: Node) -> None:
    node.authority.unlink()


def not_an_authority(node: Node) -> None:
    node.authority.write_text("no certificate")


def server_certificate(node: Node) -> None:
    coordinator = make_coordinator(node.folder / "other", ("localhost",))
    pki.init(coordinator)
    node.authority.write_bytes(coordinator.certificate.read_bytes())


def no_secret(node: Node) -> None:
    node.secret.write_bytes(b"")


def no_server(node: Node) -> None:
    node.file.write_text(node.file.read_text().replace(node.server, ""))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (remove_key, "node.key does not exist"),
        (foreign_key, "not an elliptic-curve private key"),
        (no_authority, "ca.crt does not exist"),
        (not_an_authority, "not a certificate"),
        (server_certificate, "not that of an authority"),
        (no_secret, "executor.secret is empty"),
        (no_server, "names no coordinator"),
    ],
)
def test_what_would_stop_the_node_is_said_in_one_sentence(
    node: Node, spoil: Callable[[Node], None], sentence: str
) -> None:
    check_node(node)
    spoil(node)
    with pytest.raises((IdentityError, ConfigurationError), match=sentence):
        check_node(load_node(node.folder))


def test_a_port_in_use_is_said_before_the_engine_starts(node: Node) -> None:
    host, _, port = node.listen.rpartition(":")
    with socket.socket() as other:
        other.bind((host, int(port)))
        other.listen()
        done = subprocess.run(
            [COMMAND, "node", str(node.folder)], check=False, capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 2
    assert f"cannot listen on {node.listen}" in done.stderr
    assert "--listen" in done.stderr
    assert "Traceback" not in done.stderr


@contextmanager
def greeting(coordinator: Coordinator, host: str = "127.0.0.1") -> Iterator[str]:
    """Listen with the certificate of a front end and shake hands with whoever comes."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(coordinator.certificate, coordinator.key)
    with socket.create_server((host, 0)) as listener:
        listener.settimeout(60)

        def serve() -> None:
            with suppress(OSError):
                while True:
                    plain, _ = listener.accept()
                    plain.settimeout(10)
                    with suppress(OSError), plain, context.wrap_socket(plain, server_side=True) as tls:
                        tls.recv(4096)
                        tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f":{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(60)


def test_a_coordinator_of_another_authority_or_name_is_refused_before_the_engine_starts(
    node: Node, tmp_path: Path
) -> None:
    ours = make_coordinator(tmp_path / "ours", ("localhost",))
    pki.init(ours)
    with greeting(ours) as port:
        other = replace(node, server=f"localhost{port}")
        with pytest.raises(IdentityError, match=r"pki/ca.crt"):
            check_server(other)
        node.file.write_text(node.file.read_text().replace(node.server, other.server))
        command = [COMMAND, "node", str(node.folder)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2
        assert done.stdout == ""
        assert "did not sign for it" in done.stderr
        assert "Traceback" not in done.stderr
        node.authority.write_bytes(ours.authority.read_bytes())
        check_server(other)
    with greeting(ours, "127.0.0.2") as port, pytest.raises(IdentityError, match=r"or correct node\.server"):
        check_server(replace(node, server=f"127.0.0.2{port}"))


def test_a_coordinator_that_does_not_answer_is_no_reason_not_to_start(node: Node) -> None:
    check_server(replace(node, server=f"127.0.0.1:{free_port()}"))
    check_server(replace(node, server="nowhere.invalid:8443"))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        check_server(replace(node, server=f"127.0.0.1:{silent.getsockname()[1]}"))


def test_init_prints_the_public_key_and_what_to_run(tmp_path: Path, authority: Path) -> None:
    folder = tmp_path / "north"
    arguments = [
        *("init", str(folder), "--name", "north", "--data", str(tmp_path), "--ca", str(authority)),
        *("--server", "coordinator.example:8443", "--listen", "0.0.0.0:9095"),
        *("--node-address", "node:9095"),
    ]
    from common.logs import PlainReporter, use_reporter

    use_reporter(PlainReporter())
    try:
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    finally:
        use_reporter(None)
    line = (folder / "node" / "node.pub").read_text().strip()
    assert f"fedkalemia-server site add HOME north '{line}'" in done.output
    assert load_site(folder, {}).gate.node_address == "node:9095"
    assert load_node(folder / "node").listen == "0.0.0.0:9095"


def test_init_warns_where_there_are_no_data_yet(tmp_path: Path) -> None:
    words = ("init", "--name", "north", "--data")
    for data, warned in ((tmp_path / "nowhere", True), (tmp_path, False)):
        command = [COMMAND, *words, str(data), str(tmp_path / f"site-{warned}")]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
        assert (f"warning: there is no folder {data} here" in done.stdout) is warned


@pytest.mark.parametrize(
    "wrong",
    [
        *(["--server", "coordinator"], ["--listen", "9094"], ["--node-address", "x:y"], ["--ca", "/nowhere"]),
        *([option, 'x"y:443'] for option in ("--server", "--listen", "--node-address")),
    ],
)
def test_a_wrong_option_leaves_nothing_behind(tmp_path: Path, wrong: list[str]) -> None:
    folder = tmp_path / "north"
    arguments = ["init", str(folder), "--name", "north", "--data", str(tmp_path), *wrong]
    with pytest.raises(FedkalemiaError):
        CliRunner().invoke(app, arguments, catch_exceptions=False, standalone_mode=False)
    assert not folder.exists()


def test_a_heartbeat_that_is_missing_or_old_is_a_failed_health_check(tmp_path: Path) -> None:
    write_site_file(tmp_path, name="north", source={"folder": "."}, settings={})
    with pytest.raises(ConfigurationError, match="no executor has run"):
        check_alive(tmp_path, 30)
    beat = tmp_path / "gate" / "heartbeat"
    beat.parent.mkdir()
    beat.touch()
    assert "was seen" in check_alive(tmp_path, 30)
    os.utime(beat, (time.time() - 60, time.time() - 60))
    with pytest.raises(ConfigurationError, match="1 min 00 s ago"):
        check_alive(tmp_path, 30)
    assert "was seen" in check_alive(tmp_path, 90)
