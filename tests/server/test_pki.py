"""The authority signs what its sites can verify, is never overwritten, and renewal touches nothing else."""

from __future__ import annotations

import os
import ssl
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from common.errors import FedkalemiaError, IdentityError, StorageError
from common.identity import new_node_key, read_certificate, read_private, read_secret, write_secret
from server import pki
from server.cli import app
from server.coordinator import Coordinator, load_coordinator, make_coordinator

NOW = datetime.now(UTC)


def new_home(folder: Path, **options: object) -> Coordinator:
    home = make_coordinator(folder, ("coordinator.example.org", "10.1.2.3"), 8443, "superlink:8000")
    assert pki.init(home, now=NOW, **options)  # type: ignore[arg-type]
    return home


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def command(*words: object) -> tuple[int, str, BaseException | None]:
    done = CliRunner().invoke(app, [str(word) for word in words])
    return done.exit_code, done.output, done.exception


def test_a_new_coordinator_has_all_it_needs_and_secrets_are_secret(tmp_path: Path) -> None:
    home = new_home(tmp_path / "new" / "home")
    assert sorted(contents(home.folder)) == [
        *("front/ca.crt", "front/nginx.conf", "front/server.crt", "front/server.key"),
        *("pki/ca.crt", "pki/ca.key", "pki/server.crt", "pki/server.key"),
        *("secrets/runner.secret", "server.toml"),
    ]
    for secret in (home.authority_key, home.key, home.front / "server.key", home.secret):
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert len(read_secret(home.secret)) == 32
    assert load_coordinator(home.folder) == home


def test_openssl_agrees_with_the_chain_and_every_name(tmp_path: Path) -> None:
    home = new_home(tmp_path / "home")
    for check in (
        *(["-verify_hostname", name] for name in ("coordinator.example.org", "localhost", "superlink")),
        *(["-verify_ip", name] for name in ("10.1.2.3", "127.0.0.1")),
    ):
        subprocess.run(
            [
                *("openssl", "verify", "-x509_strict", "-purpose", "sslserver", *check),
                *("-CAfile", str(home.authority), str(home.certificate)),
            ],
            check=True,
            capture_output=True,
        )
    wrong = ["openssl", "verify", "-verify_hostname", "elsewhere.example.org", "-CAfile", str(home.authority)]
    assert subprocess.run([*wrong, str(home.certificate)], check=False, capture_output=True).returncode != 0


def test_how_long_certificates_last(tmp_path: Path) -> None:
    home = new_home(tmp_path / "home")
    assert read_certificate(home.certificate).days_left(NOW) == pytest.approx(397, abs=0.01)
    assert read_certificate(home.authority).days_left(NOW) == pytest.approx(3653, abs=0.01)


def test_the_same_init_again_changes_nothing_and_another_is_refused(tmp_path: Path) -> None:
    home = new_home(tmp_path / "home")
    before = contents(home.folder)
    assert not pki.init(home)
    with pytest.raises(IdentityError, match="other addresses"):
        pki.init(make_coordinator(home.folder, ("another.example.org",)))
    # Also when the authority's key was taken offline.
    home.authority_key.unlink()
    assert not pki.init(home)
    before.pop("pki/ca.key")
    assert contents(home.folder) == before


@pytest.mark.parametrize("left", ["pki/ca.crt", "pki/ca.key", "pki/server.crt", "secrets/runner.secret"])
def test_what_is_left_of_a_coordinator_is_never_overwritten(tmp_path: Path, left: str) -> None:
    home = make_coordinator(tmp_path / "home", ("a",))
    (home.folder / left).parent.mkdir(parents=True)
    (home.folder / left).write_text("precious")
    with pytest.raises(IdentityError, match="never overwritten"):
        pki.init(home)
    assert contents(home.folder) == {left: b"precious"}


def test_a_coordinator_that_lost_a_file_is_not_made_again(tmp_path: Path) -> None:
    home = new_home(tmp_path / "home")
    home.authority.unlink()
    before = contents(home.folder)
    with pytest.raises(IdentityError, match=r"ca\.crt is missing; restore it"):
        pki.init(home)
    assert contents(home.folder) == before


def test_the_authoritys_key_may_live_elsewhere(tmp_path: Path) -> None:
    key = tmp_path / "offline" / "ca.key"
    home = new_home(tmp_path / "home", key_path=key)
    assert not home.authority_key.exists()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    with pytest.raises(IdentityError, match="--ca-key"):
        pki.renew(home)
    pki.renew(home, key_path=key)
    with pytest.raises(IdentityError, match="never overwritten"):
        pki.init(make_coordinator(tmp_path / "second", ("a",)), key_path=key)
    assert not (tmp_path / "second").exists()


def test_renewal_replaces_key_and_certificate_and_nothing_else(tmp_path: Path) -> None:
    home = new_home(tmp_path / "home", days=20)
    home.registry.write_text("{}")
    home.database.write_bytes(b"state")
    before = contents(home.folder)
    renewed = pki.renew(home, now=NOW)
    after = contents(home.folder)
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert changed == {"front/server.crt", "front/server.key", "pki/server.crt", "pki/server.key"}
    assert after["front/server.crt"] == after["pki/server.crt"]
    assert after["front/server.key"] == after["pki/server.key"]
    assert renewed.days_left(NOW) == pytest.approx(397, abs=0.01)
    assert renewed.signed_by(read_certificate(home.authority))
    assert renewed.belongs_to(read_private(read_secret(home.key)))
    # What TLS servers do first.
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(home.certificate, home.key)


def test_renewal_takes_the_names_of_server_toml(tmp_path: Path) -> None:
    home = new_home(tmp_path / "home")
    text = home.file.read_text().replace("coordinator.example.org", "new.example.org").replace("8443", "9443")
    home.file.write_text(text)
    renewed = pki.renew(load_coordinator(home.folder))
    assert "new.example.org" in renewed.names
    assert "coordinator.example.org" not in renewed.names
    assert "listen 9443 ssl;" in (home.front / "nginx.conf").read_text()


def test_a_key_of_another_authority_does_not_renew(tmp_path: Path) -> None:
    ours, theirs = new_home(tmp_path / "ours"), new_home(tmp_path / "theirs")
    before = contents(ours.folder)
    with pytest.raises(IdentityError, match="is not the private key of"):
        pki.renew(ours, key_path=theirs.authority_key)
    write_secret(tmp_path / "garbage", b"garbage")
    with pytest.raises(IdentityError, match="not an elliptic-curve private key"):
        pki.renew(ours, key_path=tmp_path / "garbage")
    write_secret(tmp_path / "node.key", new_node_key())
    with pytest.raises(IdentityError, match="is not the private key of"):
        pki.renew(ours, key_path=tmp_path / "node.key")
    assert contents(ours.folder) == before


def test_an_authority_near_its_end_is_said_and_one_past_it_signs_no_more(tmp_path: Path) -> None:
    home = new_home(tmp_path / "home")
    assert pki.ends_first(home) == ""
    late = NOW + timedelta(days=3653 - 100)
    assert pki.renew(home, now=late).not_after == read_certificate(home.authority).not_after
    assert "the authority itself ends on" in pki.ends_first(home)
    with pytest.raises(IdentityError, match="the authority itself expired"):
        pki.renew(home, now=NOW + timedelta(days=3654))


def test_a_failure_in_the_middle_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = make_coordinator(tmp_path / "deep" / "home", ("a",))
    real, calls = Path.replace, []

    def full(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == 7:
            raise OSError(28, "No space left on device")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(StorageError, match="disk full"):
        pki.init(home, key_path=tmp_path / "ca.key")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert pki.init(home, key_path=tmp_path / "ca.key")


def test_a_full_disk_leaves_the_old_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = new_home(tmp_path / "home")
    before = contents(home.folder)
    calls: list[int] = []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="disk full"):
        pki.renew(home)
    assert contents(home.folder) == before


def test_a_folder_that_is_a_file_or_forbidden_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "home", Path("/proc/home")):
        with pytest.raises(FedkalemiaError) as raised:
            pki.init(make_coordinator(place, ("a",)))
        assert "\n" not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("days", [0, -1, 100_000])
def test_a_certificate_lasts_a_sensible_time(tmp_path: Path, days: int) -> None:
    with pytest.raises(IdentityError, match="--days"):
        pki.init(make_coordinator(tmp_path / "home", ("a",)), days=days)
    assert list(tmp_path.iterdir()) == []


def test_the_commands_say_what_they_made(tmp_path: Path) -> None:
    words = ("--host", "coordinator.example.org", "--host", "10.1.2.3", "--superlink", "superlink:8000")
    assert command("pki", "init", tmp_path / "h", *words, "--ca-key", tmp_path / "ca.key")[0] == 0
    assert load_coordinator(tmp_path / "h").superlink == "superlink:8000"
    assert command("pki", "renew", tmp_path / "h", "--ca-key", tmp_path / "ca.key", "--days", "10")[0] == 0
    assert read_certificate(tmp_path / "h" / "pki" / "server.crt").days_left(NOW) < 11
    _, _, error = command("pki", "init", tmp_path / "h", "--host", "a")
    assert isinstance(error, IdentityError)
    _, _, error = command("pki", "renew", tmp_path / "nothing")
    assert isinstance(error, FedkalemiaError)
