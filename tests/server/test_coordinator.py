"""A coordinator's settings are read back as written, and a wrong one is one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import ConfigurationError
from server.coordinator import load_coordinator, make_coordinator, settings_text


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    home = make_coordinator(
        tmp_path / "h", ("coordinator.example.org", "10.1.2.3", "fd00::1"), 9443, "superlink:8000"
    )
    home.folder.mkdir()
    home.file.write_text(settings_text(home))
    assert load_coordinator(tmp_path / "h") == home
    assert load_coordinator(tmp_path / "h" / ".." / "h").folder == home.folder


def test_a_folder_without_server_toml_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="pki init"):
        load_coordinator(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('[server]\nhosts = ["a"]\nfront_prot = 1\n', "unknown key 'server.front_prot'.*front_port"),
        ('[sever]\nhosts = ["a"]\n', "unknown key 'sever'; did you mean 'server'"),
        ("server = 3\n", "server = 3"),
        ("[server]\n", "server.hosts names no host"),
        ('[server]\nhosts = "a"\n', "server.hosts = 'a'"),
        ('[server]\nhosts = ["https://a"]\n', "neither a host name nor an IP address"),
        ('[server]\nhosts = ["a:8443"]\n', "neither a host name nor an IP address"),
        ('[server]\nhosts = ["1.2.3"]\n', "neither a host name nor an IP address"),
        ('[server]\nhosts = ["a"]\nfront_port = "8443"\n', "front_port = '8443'.*integer"),
        ('[server]\nhosts = ["a"]\nfront_port = 70000\n', "allowed: 1 to 65535"),
        ('[server]\nhosts = ["a"]\nfront_port = true\n', "front_port = True.*integer"),
        ('[server]\nhosts = ["a"]\nsuperlink = "b"\n', "superlink: 'b' is not HOST:PORT"),
        ('[server]\nhosts = ["a"]\nsuperlink = "0.0.0.0:8000"\n', "no address that anybody can connect to"),
        ('[server]\nhosts = ["a; return 200"]\n', "neither a host name"),
        ('[server]\nhosts = ["a"]\nsuperlink = "b\\"; }:1"\n', "is not HOST:PORT"),
        ("[server\n", "not valid TOML"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "server.toml").write_text(text)
    with pytest.raises(ConfigurationError, match=sentence) as raised:
        load_coordinator(tmp_path)
    assert "\n" not in str(raised.value)
    assert str(tmp_path) in str(raised.value)


@pytest.mark.parametrize(
    "name", ["", "..", "../other", "/etc", "a/b", "Main", "-x", "a" * 33, "a.b", "a_b", "1a"]
)
def test_a_run_name_is_never_a_path(tmp_path: Path, name: str) -> None:
    home = make_coordinator(tmp_path, ("a",))
    assert home.run_folder("main") == tmp_path / "runs" / "main"
    with pytest.raises(ConfigurationError, match="no name of a run"):
        home.run_folder(name)
