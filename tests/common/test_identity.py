"""Keys are read as the engine reads them, secrets are their owner's only, certificates say what they are."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from flwr.cli.supernode.register import try_load_public_key
from flwr.supernode.cli.flower_supernode import load_ssh_private_key

from common.errors import IdentityError, StorageError
from common.identity import (
    fingerprint,
    line_of,
    new_node_key,
    new_secret,
    open_to_others,
    public_line,
    read_certificate,
    read_private,
    read_public,
    read_secret,
    write_secret,
)
from server.coordinator import make_coordinator
from server.pki import init


def test_a_node_key_is_one_that_the_engine_reads(tmp_path: Path) -> None:
    pem = new_node_key()
    key = load_ssh_private_key(pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(key.curve, ec.SECP384R1)
    line = public_line(pem)
    assert line.startswith("ecdsa-sha2-nistp384 AAAA")
    assert "\n" not in line
    # The engine's own command registers the same bytes.
    (tmp_path / "node.pub").write_text(line + "\n")
    assert read_public(line) == try_load_public_key(tmp_path / "node.pub")
    assert line_of(read_public(line)) == line


def test_two_keys_are_never_the_same() -> None:
    assert public_line(new_node_key()) != public_line(new_node_key())
    assert new_secret() != new_secret()
    assert len(new_secret()) == 32


def test_a_public_key_is_the_same_with_a_comment_line_ends_or_as_pem() -> None:
    line = public_line(new_node_key())
    pem = read_public(line)
    for text in (f"{line} root@north", f"\n  {line}\r\n", pem.decode()):
        assert read_public(text) == pem
    assert fingerprint(line) == fingerprint(pem) == fingerprint(f"{line} comment")


def test_the_fingerprint_is_that_of_ssh_keygen() -> None:
    # Made once with 'ssh-keygen -t ecdsa -b 384', shown with 'ssh-keygen -l'.
    line = (
        "ecdsa-sha2-nistp384 AAAAE2VjZHNhLXNoYTItbmlzdHAzODQAAAAIbmlzdHAzODQAAABhBA/+Af8ntLcnDyBh2xuCZqd9oHMN"
        "olLfG/lEqKpLI7bFgXsKQUB93TBUGDY+BZGjeKPYdX4JGoG6AVHqF3Bax7LHNh1vtJZbUzYhzNNyu4ZCc6tyYmcgGKORXoytAOFf"
        "0Q=="
    )
    assert fingerprint(line) == "SHA256:AxQxWG5mdOYCVG5A9sfr7NytXdVSeOmnlGt9CUK58d8"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "garbage",
        "ecdsa-sha2-nistp384 AAAA",
        "ecdsa-sha2-nistp384 ÄÖÜ",
        "-----BEGIN PUBLIC KEY-----\nxx",
        "\x00",
    ],
)
def test_garbage_is_no_public_key(text: str) -> None:
    with pytest.raises(IdentityError, match="no public key"):
        read_public(text)


def test_keys_of_other_kinds_are_refused_by_name() -> None:
    rsa_key = rsa.generate_private_key(65537, 2048).public_key()
    ed_key = ed25519.Ed25519PrivateKey.generate().public_key()
    weak = ec.generate_private_key(ec.SECP224R1()).public_key()
    for key, kind in ((rsa_key, "RSA"), (ed_key, "Ed25519")):
        line = key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
        with pytest.raises(IdentityError, match=f"kind {kind}"):
            read_public(line)
    pem = weak.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode()
    with pytest.raises(IdentityError, match="secp224r1"):
        read_public(pem)


def test_a_private_key_given_by_mistake_is_not_repeated() -> None:
    pem = new_node_key().decode()
    with pytest.raises(IdentityError, match="must never leave its site") as raised:
        read_public(pem)
    assert pem.splitlines()[1] not in str(raised.value)
    with pytest.raises(IdentityError) as raised:
        read_private(b"-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n", "node.key")
    assert "node.key" in str(raised.value)
    assert "c2VjcmV0" not in str(raised.value)


def test_a_secret_is_for_its_owner_only_under_any_mask(tmp_path: Path) -> None:
    path = tmp_path / "secrets" / "runner.secret"
    before = os.umask(0)
    try:
        write_secret(path, b"\x00\nsecret\r\n")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        path.chmod(0o644)
        assert open_to_others(path)
        write_secret(path, b"other")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not open_to_others(path)
    assert read_secret(path) == b"other"
    assert [each.name for each in path.parent.iterdir()] == ["runner.secret"]


def test_a_secret_is_read_byte_for_byte(tmp_path: Path) -> None:
    data = bytes(range(256)) + b"\r\n"
    write_secret(tmp_path / "s", data)
    assert read_secret(tmp_path / "s") == data


def test_a_secret_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        write_secret(tmp_path / "file" / "secret", b"x")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "inside").write_text("")
    with pytest.raises(StorageError):
        write_secret(tmp_path / "taken", b"x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "taken"]


def test_a_missing_or_empty_secret_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="does not exist"):
        read_secret(tmp_path / "none")
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(IdentityError, match="empty"):
        read_secret(tmp_path / "empty")
    with pytest.raises(IdentityError, match="cannot be read"):
        read_secret(tmp_path)


def test_a_certificate_says_who_it_is_and_how_long(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    ours, theirs = (make_coordinator(tmp_path / name, ("a.example.org", "10.0.0.7")) for name in "ab")
    for each in (ours, theirs):
        init(each, days=100, now=now)
    authority, server = read_certificate(ours.authority), read_certificate(ours.certificate)
    assert authority.authority
    assert not server.authority
    assert {"a.example.org", "10.0.0.7", "localhost", "127.0.0.1", "superlink"} == set(server.names)
    assert server.signed_by(authority)
    assert not server.signed_by(read_certificate(theirs.authority))
    assert not authority.signed_by(server)
    assert authority.subject != read_certificate(theirs.authority).subject
    assert server.belongs_to(read_private(read_secret(ours.key)))
    assert not server.belongs_to(read_private(read_secret(theirs.key)))
    assert server.days_left(now) == pytest.approx(100, abs=0.01)
    assert server.days_left(now + timedelta(days=101)) < 0


def test_a_file_that_is_no_certificate_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="does not exist"):
        read_certificate(tmp_path / "none")
    (tmp_path / "garbage").write_bytes(b"\xff\x00")
    with pytest.raises(IdentityError, match="not a certificate"):
        read_certificate(tmp_path / "garbage")
    with pytest.raises(IdentityError, match="cannot be read"):
        read_certificate(tmp_path)
