"""What the coordinator asks of its SuperLink, and what it is told when that does not work."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.errors import FederationError, IdentityError
from common.identity import new_node_key, public_line, read_public
from common.taskloop import check_engine
from server.bundle import make_bundle
from server.control import USES, Control, RunInfo, all_pages
from server.coordinator import Coordinator, make_coordinator

_spec = importlib.util.spec_from_file_location(
    "tests_support_coordinator", Path(__file__).parents[1] / "support" / "coordinator.py"
)
assert _spec is not None
assert _spec.loader is not None
support = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(support)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    """Start a coordinator's SuperLink."""
    folder = tmp_path_factory.mktemp("link")
    home = support.make_home(folder / "home")
    with support.superlink(home, folder / "superlink.log"):
        yield home


@pytest.mark.deployment
def test_a_node_is_registered_listed_and_taken_back(home: Coordinator) -> None:
    key = read_public(public_line(new_node_key()))
    with Control(home) as control:
        node_id = control.register(key, "north")
        (node,) = [each for each in control.nodes() if each.node_id == node_id]
        assert (node.public_key, node.name, node.status, node.online_until) == (
            key,
            "north",
            "registered",
            None,
        )
        with pytest.raises(FederationError, match="refused to register south: Public key already in use"):
            control.register(key, "south")
        control.unregister(node_id)
        assert [each.status for each in control.nodes() if each.node_id == node_id] == ["unregistered"]
        with pytest.raises(FederationError, match="refused to unregister"):
            control.unregister(node_id)


@pytest.mark.deployment
def test_what_the_superlink_refuses_is_a_sentence(home: Coordinator) -> None:
    with Control(home) as control:
        assert control.runs() == []
        for refused in (
            lambda: control.register(b"garbage", "north"),
            lambda: control.start_run(b"not a bundle", {}),
            lambda: control.stop_run(4711),
            lambda: list(control.logs(4711)),
        ):
            with pytest.raises(FederationError, match=home.superlink) as raised:
                refused()
            assert "\n" not in str(raised.value)


@pytest.mark.deployment
def test_all_runs_are_named_not_only_the_newest_twenty(home: Coordinator) -> None:
    bundle = make_bundle()
    with Control(home) as control:
        began = [control.start_run(bundle, {"name": f"run-{number}"}) for number in range(23)]
        try:
            found = control.runs()
            assert [run.run_id for run in found] == began
            assert [run.name for run in found] == [f"run-{number}" for number in range(23)]
            assert [run.run_id for run in control.runs(began[0])] == began[:1]
            pages = all_pages(lambda limit, skip: control.runs()[::-1][skip : skip + limit], size=10)
            assert {run.run_id for run in pages} == set(began)
        finally:
            for run_id in began:
                control.stop_run(run_id)


def test_pages_are_asked_for_until_one_is_not_full() -> None:
    runs = [RunInfo(number, "finished", "completed", "", {}, "") for number in range(23)]
    asked: list[tuple[int, int]] = []

    def page(limit: int, skip: int) -> list[RunInfo]:
        asked.append((limit, skip))
        # A run that was submitted meanwhile moves all others one place on.
        late = [RunInfo(99, "pending", "", "", {}, "")] * (len(asked) > 1)
        return [*late, *runs][skip : skip + limit]

    assert {run.run_id for run in all_pages(page, size=10)} == set(range(23))
    assert asked == [(10, 0), (10, 10), (10, 20)]
    assert all_pages(lambda limit, skip: runs[:20][skip : skip + limit], size=10) == runs[:20]
    assert all_pages(lambda limit, skip: [], size=10) == []


def test_the_installed_engine_has_what_is_used_of_it() -> None:
    check_engine(USES)


@pytest.mark.deployment
def test_a_superlink_of_another_federation_is_not_trusted(home: Coordinator, tmp_path: Path) -> None:
    other = support.make_home(tmp_path / "other")
    shutil.copy(other.authority, tmp_path / "ca.crt")
    stranger = make_coordinator(other.folder, other.hosts, other.front_port, home.superlink)
    with (
        Control(stranger) as control,
        pytest.raises(FederationError, match="certificate that this federation"),
    ):
        control.nodes()


def test_nobody_there_says_where_and_what_to_do(tmp_path: Path) -> None:
    home = support.make_home(tmp_path / "home")
    with Control(home) as control, pytest.raises(FederationError) as raised:
        control.nodes()
    assert f"the SuperLink at {home.superlink} cannot be reached" in str(raised.value)
    assert f"fedkalemia-server superlink {home.folder}" in str(raised.value)
    assert "(connection refused)" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_somebody_else_there_is_not_taken_for_the_superlink(tmp_path: Path) -> None:
    home = support.make_home(tmp_path / "home")
    with socket.create_server(("127.0.0.1", 0)) as other:
        at = f"127.0.0.1:{other.getsockname()[1]}"

        def answer() -> None:
            with contextlib.suppress(OSError):
                link, _ = other.accept()
                with link:
                    link.sendall(b"SSH-2.0-OpenSSH_9\r\n")
                    link.recv(1000)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        stranger = make_coordinator(home.folder, home.hosts, home.front_port, at)
        with Control(stranger) as control, pytest.raises(FederationError, match=at):
            control.nodes()
        thread.join(10)


def test_a_missing_or_damaged_authority_is_named(tmp_path: Path) -> None:
    home = support.make_home(tmp_path / "home")
    home.authority.write_text("garbage")
    with pytest.raises(IdentityError, match="is not a certificate"), Control(home):
        pass
    home.authority.unlink()
    with pytest.raises(IdentityError, match="does not exist"), Control(home):
        pass
