"""The coordinator's check-up finds what is wrong, says what to do, and is green when all is well."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import shutil
import socket
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from common.doctor import Check
from common.identity import new_node_key, public_line, read_public
from server import pki
from server.control import Control, NodeInfo, RunInfo
from server.coordinator import Coordinator, make_coordinator
from server.doctor import examine, runs, sites
from server.registry import Registered, add, write_registry

_spec = importlib.util.spec_from_file_location(
    "tests_support_coordinator", Path(__file__).parents[1] / "support" / "coordinator.py"
)
assert _spec is not None
assert _spec.loader is not None
support = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(support)
NOW = datetime.now(UTC)


@pytest.fixture
def home(tmp_path: Path) -> Coordinator:
    """Make a coordinator without any process."""
    home = make_coordinator(tmp_path / "home", ("127.0.0.1",), *_addresses())
    pki.init(home)
    return home


def _addresses() -> tuple[int, str]:
    front, link = support.free_ports(2)
    return front, f"127.0.0.1:{link}"


def red(checks: list[Check]) -> dict[str, Check]:
    """Return what is red, without the two processes that these tests do not start."""
    return {
        check.name: check
        for check in checks
        if check.state == "failed" and not check.text.startswith("nothing listens on")
    }


def named(checks: list[Check], name: str) -> Check:
    (found,) = [check for check in checks if check.name == name]
    return found


def test_a_new_coordinator_has_nothing_red_and_says_what_is_not_started(home: Coordinator) -> None:
    checks = examine(home)
    assert red(checks) == {}
    assert "fedkalemia-server superlink" in named(checks, "superlink").advice
    assert "fedkalemia-server front" in named(checks, "front").advice
    assert {named(checks, name).state for name in ("superlink", "front")} == {"failed"}
    assert {named(checks, name).state for name in ("sites",)} == {"not checked"}
    assert all(word in named(checks, "versions").text for word in ("fedkalemia", "flwr", "python", "torch"))


@pytest.mark.parametrize("secret", ["key", "secret", "authority_key"])
def test_a_secret_that_others_may_read_is_red(home: Coordinator, secret: str) -> None:
    path: Path = getattr(home, secret)
    path.chmod(0o644)
    (check,) = red(examine(home)).values()
    assert check.advice == f"run: chmod 600 {path}"


def test_an_authoritys_key_kept_elsewhere_is_fine(home: Coordinator) -> None:
    home.authority_key.unlink()
    checks = examine(home)
    assert red(checks) == {}
    assert "kept elsewhere" in named(checks, "authority key").text


def test_expiry_is_warned_about_30_days_ahead(home: Coordinator) -> None:
    states = {0: "ok", 366: "ok", 368: "warning", 398: "failed"}
    for days, state in states.items():
        check = named(examine(home, NOW + timedelta(days=days)), "certificate")
        assert check.state == state, days
        assert "pki renew" in check.advice or state == "ok"
    assert named(examine(home, NOW + timedelta(days=3654)), "authority").state == "failed"


def test_a_certificate_of_another_authority_key_or_name_is_red(home: Coordinator, tmp_path: Path) -> None:
    other = make_coordinator(tmp_path / "other", ("127.0.0.1",))
    pki.init(other)
    saved = home.certificate.read_bytes()
    shutil.copy(other.certificate, home.certificate)
    texts = [check.text for check in examine(home) if check.state == "failed"]
    assert any("is not the key of" in text for text in texts)
    assert any("did not sign" in text for text in texts)
    assert any("differs from" in text for text in texts)
    home.certificate.write_bytes(saved)
    renamed = make_coordinator(home.folder, ("127.0.0.1", "new.example.org"), home.front_port, home.superlink)
    assert "not valid for new.example.org" in red(examine(renamed))["certificate"].text
    home.certificate.unlink()
    assert "pki renew" in red(examine(home))["certificate"].advice


def test_a_front_end_that_lags_behind_server_toml_is_red(home: Coordinator) -> None:
    moved = make_coordinator(home.folder, home.hosts, support.free_ports(1)[0], home.superlink)
    assert "not what server.toml says" in red(examine(moved))["front files"].text


def test_a_database_that_cannot_be_written_is_red(home: Coordinator) -> None:
    with contextlib.closing(sqlite3.connect(home.database)) as link:
        link.execute("CREATE TABLE node (id)")
    assert named(examine(home), "database").state == "ok"
    home.database.write_bytes(b"this is no database at all" * 100)
    assert "not a database" in red(examine(home))["database"].text


def test_another_program_on_the_ports_is_red(home: Coordinator) -> None:
    with socket.create_server(("127.0.0.1", home.front_port)) as other:
        other.listen(0)
        check = red(examine(home))["front"]
    assert "speaks no TLS" in check.text
    assert str(home.front_port) in check.advice


def node(site: Registered, status: str, online_until: float | None = None) -> NodeInfo:
    return NodeInfo(site.node_id, site.pem, site.name, status, "", online_until)


def test_each_site_is_online_offline_never_seen_or_unknown(home: Coordinator) -> None:
    registry = {
        n: Registered(n, public_line(new_node_key()), i, "") for i, n in enumerate(("a", "b", "c", "d"), 1)
    }
    write_registry(home.registry, registry)
    known = [
        node(registry["a"], "online"),
        node(registry["b"], "offline", NOW.timestamp() - 3600),
        node(registry["c"], "registered"),
        node(registry["d"], "unregistered"),
        NodeInfo(99, b"another key", "stranger", "online", "", None),
    ]
    found = {check.name: check for check in sites(home, known, NOW)}
    assert [found[f"site {name}"].state for name in "abcd"] == ["ok", "warning", "warning", "failed"]
    assert "offline for 60 min" in found["site b"].text
    assert "never seen" in found["site c"].text
    assert f'site add {home.folder} d "{registry["d"].public_key}"' in found["site d"].advice
    assert "stranger" in found["sites"].text


def test_runs_that_wait_for_a_runner_are_said(home: Coordinator) -> None:
    def run(status: str, sub: str = "") -> RunInfo:
        return RunInfo(1, status, sub, "", {}, "")

    fine = runs([run("finished", "completed"), run("finished", "failed"), run("running")], home.folder)
    assert (fine.state, fine.text) == ("ok", "1 running, 0 waiting; 1 completed, 1 failed")
    assert "fedkalemia-server runner" in runs([run("pending")], home.folder).advice


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    """Start a coordinator's SuperLink and front end."""
    folder = tmp_path_factory.mktemp("running")
    home = support.make_home(folder / "home")
    with (
        support.superlink(home, folder / "superlink.log"),
        support.process([support.COMMAND, "front", home.folder], folder / "front.log"),
    ):
        support.wait_for(lambda: support.status(home.front_port, home) == 200, folder / "front.log")
        yield home


@pytest.mark.deployment
def test_a_running_coordinator_is_green_and_a_lost_site_red(running: Coordinator) -> None:
    with Control(running) as control:
        site, _ = add(control, running.registry, "north", public_line(new_node_key()))
        done = support.server("doctor", running.folder, "--json")
        found = {check["name"]: check for check in json.loads(done.stdout)}
        assert done.returncode == 0, done.stdout
        assert {found[name]["state"] for name in ("superlink", "front", "clock", "database", "runs")} == {
            "ok"
        }
        assert "never seen" in found["site north"]["text"]
        control.unregister(site.node_id)
    done = support.server("doctor", running.folder)
    assert done.returncode == 2
    assert "site add" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.deployment
def test_a_superlink_shown_to_sites_directly_is_red(running: Coordinator) -> None:
    # The worst mistake: the SuperLink itself where the front end should be.
    port = int(running.superlink.rpartition(":")[2])
    exposed = make_coordinator(running.folder, running.hosts, port, running.superlink)
    check = red(examine(exposed))["front"]
    assert "/v1/control/list-runs" in check.text or "/openapi.json" in check.text
    assert "close the port" in check.advice


@pytest.mark.deployment
def test_a_node_that_nobody_registered_is_said(running: Coordinator) -> None:
    with Control(running) as control:
        control.register(read_public(public_line(new_node_key())), "stranger")
    assert any("stranger" in check.text for check in examine(running) if check.state == "warning")
