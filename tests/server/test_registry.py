"""A name belongs to one key and one node, at the SuperLink and in the list, whatever happens in between."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.errors import ConfigurationError, FederationError, IdentityError
from common.identity import fingerprint, new_node_key, public_line, read_public
from server.control import Control
from server.coordinator import Coordinator, load_coordinator
from server.lock import LOCK
from server.registry import Registered, add, bound, nodes, read_registry, remove, write_registry

_spec = importlib.util.spec_from_file_location(
    "tests_support_coordinator", Path(__file__).parents[1] / "support" / "coordinator.py"
)
assert _spec is not None
assert _spec.loader is not None
support = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(support)
NOBODY = 65534


def new_line() -> str:
    return public_line(new_node_key())


@pytest.fixture(scope="module")
def link(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    """Start a coordinator's SuperLink."""
    folder = tmp_path_factory.mktemp("link")
    home = support.make_home(folder / "home")
    with support.superlink(home, folder / "superlink.log"):
        yield home


@pytest.fixture
def home(link: Coordinator) -> Coordinator:
    """Return that coordinator, with no site in its list and none at the SuperLink."""
    link.registry.unlink(missing_ok=True)
    with Control(link) as control:
        for node in control.nodes():
            if node.status != "unregistered":
                control.unregister(node.node_id)
    return link


@pytest.fixture
def control(home: Coordinator) -> Iterator[Control]:
    with Control(home) as control:
        yield control


def active(control: Control) -> dict[int, bytes]:
    return {node.node_id: node.public_key for node in control.nodes() if node.status != "unregistered"}


def test_the_list_is_read_back_as_written(tmp_path: Path) -> None:
    path = tmp_path / "sites.json"
    assert read_registry(path) == {}
    sites = {
        n: Registered(n, new_line(), 2**64 - i - 1, "2026-01-02T03:04:05+00:00") for i, n in enumerate("ab")
    }
    write_registry(path, sites)
    assert read_registry(path) == sites
    assert nodes(sites) == {2**64 - 1: "a", 2**64 - 2: "b"}
    # An id has 64 bits; a reader that takes numbers for floats must not round it.
    assert f'"{2**64 - 1}"' in path.read_text()


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{}", '{"version": 2, "sites": {}}', '{"version": 1, "sites": {"a": {}}}'),
        '{"version": 1, "sites": {"../a": {"public_key": "x", "node_id": "1", "added": ""}}}',
        '{"version": 1, "sites": {"a": {"public_key": "garbage", "node_id": "1", "added": ""}}}',
    ],
)
def test_a_damaged_list_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "sites.json").write_text(text)
    with pytest.raises(IdentityError, match="is not a list of sites") as raised:
        read_registry(tmp_path / "sites.json")
    assert "\n" not in str(raised.value)


def test_a_list_that_may_not_be_read_is_not_called_damaged() -> None:
    with as_nobody() as folder:
        path = folder / "sites.json"
        path.write_text('{"version": 1, "sites": {}}')
        assert read_registry(path) == {}
        path.chmod(0)
        with pytest.raises(IdentityError, match="permission denied; nothing is wrong") as raised:
            read_registry(path)
        assert "delete" not in str(raised.value)
        folder.chmod(0)
        with pytest.raises(IdentityError, match="permission denied"):
            read_registry(path)


def test_settings_that_may_not_be_read_are_one_sentence() -> None:
    with as_nobody() as folder:
        (folder / "server.toml").write_text("[server]\n")
        (folder / "server.toml").chmod(0)
        with pytest.raises(ConfigurationError, match=r"server\.toml cannot be read: Permission denied"):
            load_coordinator(folder)


@contextmanager
def as_nobody() -> Iterator[Path]:
    """Go on as a user whom permissions hold back; yield a folder of that user."""
    user = os.geteuid()
    folder = Path(tempfile.mkdtemp(prefix="fedkalemia-registry-test-"))
    try:
        if user == 0:
            os.chown(folder, NOBODY, NOBODY)
            os.seteuid(NOBODY)
        yield folder
    finally:
        os.seteuid(user)
        folder.chmod(0o700)
        shutil.rmtree(folder)


@pytest.mark.deployment
def test_a_site_is_registered_once_and_the_same_again_changes_nothing(
    home: Coordinator, control: Control
) -> None:
    line = new_line()
    first, outcome = add(control, home.registry, "north", f"{line} root@north")
    assert outcome == "added"
    before = home.registry.read_bytes()
    assert add(control, home.registry, "north", line) == (first, "known")
    assert home.registry.read_bytes() == before
    assert active(control) == {first.node_id: read_public(line)}
    assert bound(control, home.registry) == {first.node_id: "north"}


@pytest.mark.deployment
def test_another_key_needs_replace_and_then_the_old_one_is_gone(home: Coordinator, control: Control) -> None:
    old, new = new_line(), new_line()
    first, _ = add(control, home.registry, "north", old)
    with pytest.raises(IdentityError, match="--replace"):
        add(control, home.registry, "north", new)
    assert set(active(control)) == {first.node_id}
    second, outcome = add(control, home.registry, "north", new, replace=True)
    assert outcome == "replaced"
    assert active(control) == {second.node_id: read_public(new)}
    assert bound(control, home.registry) == {second.node_id: "north"}
    # And the old one stays out: the SuperLink never takes it again.
    with pytest.raises(IdentityError, match="was taken back") as raised:
        add(control, home.registry, "north", old, replace=True)
    assert "key renew" in str(raised.value)
    assert read_registry(home.registry)["north"] == second


@pytest.mark.deployment
def test_sites_that_are_added_at_the_same_time_are_all_kept(home: Coordinator) -> None:
    names = ("north", "south", "east", "west")
    start = threading.Barrier(len(names))

    def register(name: str) -> None:
        with Control(home) as control:
            start.wait(30)
            add(control, home.registry, name, new_line())

    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(register, names, timeout=120))
    assert set(read_registry(home.registry)) == set(names)
    with Control(home) as control:
        assert set(bound(control, home.registry).values()) == set(names)


@pytest.mark.deployment
def test_one_key_is_one_site(home: Coordinator, control: Control) -> None:
    line = new_line()
    add(control, home.registry, "north", line)
    before = home.registry.read_bytes(), active(control)
    for replace in (False, True):
        with pytest.raises(IdentityError, match="already registered for north"):
            add(control, home.registry, "south", line, replace=replace)
    assert (home.registry.read_bytes(), active(control)) == before


@pytest.mark.deployment
def test_a_crash_between_superlink_and_list_is_mended_by_the_same_command(
    home: Coordinator, control: Control
) -> None:
    old, new = new_line(), new_line()
    # Registered at the SuperLink, but the list was never written.
    node_id = control.register(read_public(old), "north")
    assert add(control, home.registry, "north", old)[0].node_id == node_id
    # A replacement that stopped after the list was written: the old node is still there.
    site, _ = add(control, home.registry, "south", new)
    left = control.register(read_public(new_line()), "south")
    assert left in active(control)
    assert add(control, home.registry, "south", new) == (site, "known")
    assert left not in active(control)


@pytest.mark.deployment
def test_a_superlink_that_forgot_a_site_is_noticed_and_told_again(
    home: Coordinator, control: Control
) -> None:
    line = new_line()
    # As if its state were lost: the list says a node that the SuperLink does not have.
    write_registry(home.registry, {"north": Registered("north", line, 4711, "2026-01-02T03:04:05+00:00")})
    with pytest.raises(IdentityError, match="does not know north") as raised:
        bound(control, home.registry)
    assert f'site add {home.folder} north "{line}"' in str(raised.value)
    site, outcome = add(control, home.registry, "north", line)
    assert outcome == "registered again"
    assert site.node_id != 4711
    assert bound(control, home.registry) == {site.node_id: "north"}


@pytest.mark.deployment
def test_a_list_whose_key_and_node_do_not_belong_together_stops_a_run(
    home: Coordinator, control: Control
) -> None:
    north, _ = add(control, home.registry, "north", new_line())
    south, _ = add(control, home.registry, "south", new_line())
    swapped = {
        "north": Registered("north", north.public_key, south.node_id, north.added),
        "south": Registered("south", south.public_key, north.node_id, south.added),
    }
    write_registry(home.registry, swapped)
    with pytest.raises(IdentityError, match="north and south"):
        bound(control, home.registry)
    home.registry.unlink()
    with pytest.raises(IdentityError, match="no site is registered"):
        bound(control, home.registry)


@pytest.mark.deployment
def refused(*words: object) -> str:
    return support.refused("site", *words, run=support.here)


def test_the_commands_add_list_and_remove(home: Coordinator, control: Control, tmp_path: Path) -> None:
    line = new_line()
    (tmp_path / "node.pub").write_text(f"{line} root@north\n")
    assert "no site is registered" in support.here("site", "list", home.folder).stdout
    done = support.here("site", "add", home.folder, "north", tmp_path / "node.pub")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("north: added, node ")
    assert support.here("site", "add", home.folder, "north", line).stdout.startswith("north: known")
    listed = support.here("site", "list", home.folder).stdout
    assert fingerprint(line) in listed
    assert listed.startswith("north  node ")
    assert "no site is called 'south'; registered are north" in refused("remove", home.folder, "south")
    assert support.here("site", "remove", home.folder, "north").returncode == 0
    assert active(control) == {}
    assert read_registry(home.registry) == {}
    assert "was taken back" in refused("add", home.folder, "north", line)


def test_bad_input_is_one_sentence_and_writes_nothing(tmp_path: Path) -> None:
    home = support.make_home(tmp_path / "home")
    before = sorted(path for path in home.folder.rglob("*"))
    line = new_line()
    (tmp_path / "large").write_bytes(b"x" * 20_000)
    (tmp_path / "node.key").write_bytes(new_node_key())
    for name, key, sentence in (
        ("north", "ecdsa-sha2-nistp384 AAAAgarbage", "no public key"),
        ("north", "/no/such/file", "neither a public key nor a file that can be read"),
        ("north", tmp_path, "neither a public key nor a file that can be read"),
        ("north", tmp_path / "large", "too large"),
        ("north", tmp_path / "node.key", "must never leave its site"),
        ("North Hospital", line, "is no site name"),
        ("../north", line, "is no site name"),
        ("north", line, "cannot be reached"),
    ):
        assert sentence in refused("add", home.folder, name, key)
    assert "not a coordinator folder" in refused("list", tmp_path)
    after = sorted(path for path in home.folder.rglob("*") if path.name != LOCK)
    assert after == before


def test_without_a_superlink_nothing_changes(tmp_path: Path) -> None:
    home = support.make_home(tmp_path / "home")
    with Control(home) as control:
        with pytest.raises(FederationError, match="cannot be reached"):
            add(control, home.registry, "north", new_line())
        assert not home.registry.exists()
        sites = {"north": Registered("north", new_line(), 1, "2026-01-02T03:04:05+00:00")}
        write_registry(home.registry, sites)
        with pytest.raises(FederationError, match="cannot be reached"):
            remove(control, home.registry, "north")
        assert read_registry(home.registry) == sites
