"""The runner: what a bundle brings is not run, the folder is the coordinator's, Flower is what it must be."""

from __future__ import annotations

import importlib
import importlib.util
import io
import os
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
from flwr.app import Context, RecordDict
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, ObjectUnavailableError

from common.errors import ConfigurationError, IdentityError, StorageError
from common.identity import write_secret
from common.taskloop import check_engine
from server import patience, pki
from server.coordinator import Coordinator, make_coordinator
from server.run_config import read_run_config
from server.runner import _REPLACED, USES, _replace, _Tee, run_runner
from server.superlink import run_superlink, superlink_command

_spec = importlib.util.spec_from_file_location(
    "tests_support_coordinator", Path(__file__).parents[1] / "support" / "coordinator.py"
)
assert _spec is not None
assert _spec.loader is not None
support = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(support)
ENGINE = "flwr.superlink.runtime.run_serverapp"


@contextmanager
def listening() -> Iterator[str]:
    """Yield an address on which somebody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def home(tmp_path: Path) -> Coordinator:
    with listening() as address:
        free = address
    coordinator = make_coordinator(tmp_path / "home", ("localhost",), superlink=free)
    pki.init(coordinator)
    return coordinator


def test_flower_has_what_the_runner_relies_on() -> None:
    check_engine(USES)
    with pytest.raises(ConfigurationError, match="run_serverapp:gone any more"):
        check_engine({f"{ENGINE}:gone": ()})
    # The function itself must look these names up in its module, or replacing them there would do nothing.
    engine = importlib.import_module(ENGINE)
    assert set(_REPLACED) <= set(engine.run_serverapp.__code__.co_names)


@pytest.fixture
def replaced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Flower's module as it is in the child that does a run, for the folder ``tmp_path``."""
    engine = importlib.import_module(ENGINE)
    for name in _REPLACED:
        monkeypatch.setattr(engine, name, getattr(engine, name))
    _replace(engine, tmp_path)
    return engine


def test_what_is_in_a_bundle_is_neither_unpacked_nor_read(replaced: Any, tmp_path: Path) -> None:
    before = set(tmp_path.rglob("*"))
    assert replaced.install_from_fab(b"not even an archive", skip_prompt=True) is None
    project = replaced.get_project_config(str(replaced.get_project_dir("evil/app", "6.6.6", "00")))
    assert project["tool"]["flwr"]["app"]["components"]["serverapp"] == "server.app:app"
    assert set(tmp_path.rglob("*")) == before


def test_the_folder_is_the_runner_s_whatever_the_run_says(replaced: Any, tmp_path: Path) -> None:
    config = replaced.get_fused_config_from_dir(Path(), {"home": "/etc", "seed": 3})
    assert config == {"home": str(tmp_path), "seed": 3}
    with pytest.raises(ConfigurationError, match="takes no other"):
        read_run_config({**config, "out": "/etc"})
    with pytest.raises(ConfigurationError, match="unknown key 'sede'"):
        read_run_config(replaced.get_fused_config_from_dir(Path(), {"sede": 3}))


def test_the_installed_app_is_run_and_takes_settings_from_its_own_folder_only(
    replaced: Any, home: Coordinator
) -> None:
    config = {"home": str(home.folder), "settings": "../../secrets/runner.secret"}
    context = Context(1, 1, {}, RecordDict(), config)
    with pytest.raises(ConfigurationError, match=r"takes them from settings.json"):
        replaced.run_(grid=None, context=context, server_app_dir="", server_app_attr="evil:app")
    nowhere = Context(1, 1, {}, RecordDict(), {"home": str(home.folder / "elsewhere")})
    with pytest.raises(ConfigurationError, match="is not a coordinator folder"):
        replaced.run_(grid=None, context=nowhere, server_app_dir="", server_app_attr=None)
    assert not (home.folder / "runs").exists()


def test_what_a_run_says_goes_to_the_output_and_to_the_superlink() -> None:
    out, queue = io.StringIO(), Queue[str | None]()
    print("federated round 1", file=_Tee(out, queue), flush=True)  # type: ignore[call-overload]
    assert out.getvalue() == "federated round 1\n"
    assert "".join(str(queue.get()) for _ in range(queue.qsize())) == "federated round 1\n"


def test_a_runner_without_its_secret_says_so(home: Coordinator) -> None:
    home.secret.unlink()
    with pytest.raises(IdentityError, match=r"runner\.secret does not exist"):
        run_runner(home)


def test_a_runner_that_does_not_trust_the_superlink_says_so_and_ends(
    home: Coordinator, tmp_path: Path
) -> None:
    other = make_coordinator(tmp_path / "other", ("localhost",))
    pki.init(other)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(other.certificate, other.key)
    with socket.create_server(("127.0.0.1", int(home.superlink.rpartition(":")[2]))) as taken:

        def greet() -> None:
            while True:
                try:
                    link, _ = taken.accept()
                except OSError:
                    return
                with suppress(OSError), link:
                    link.settimeout(10)
                    context.wrap_socket(link, server_side=True).close()

        thread = threading.Thread(target=greet, daemon=True)
        thread.start()
        sentence = support.refused("runner", home.folder)
        taken.shutdown(socket.SHUT_RDWR)
        thread.join(20)
    assert f"{home.superlink} shows a certificate that {home.authority} " in sentence


# --- the SuperLink ----------------------------------------------------------------------------------------


def test_the_superlink_is_started_with_everything_it_needs(home: Coordinator) -> None:
    command = superlink_command(home)
    values = dict(pairwise(command))
    assert Path(command[0]).name == "flower-superlink"
    assert f"{values['--host']}:{values['--port']}" == home.superlink
    assert values["--isolation"] == "process"
    assert values["--superexec-auth-secret-file"] == str(home.secret)
    assert values["--database"] == str(home.database)
    assert values["--ssl-certfile"] == str(home.certificate)
    assert values["--ssl-keyfile"] == str(home.key)
    assert values["--ssl-ca-certfile"] == str(home.authority)
    assert {"--enable-supernode-auth", "--disable-runtime-dependency-installation"} <= set(command)
    assert not {"--insecure", "--health-server-address"} & set(command)
    with listening() as address:
        free = address
    values = dict(pairwise(superlink_command(home, free, free)))
    assert values["--health-server-address"] == free


@pytest.mark.parametrize("option", ["--listen", "--health"])
def test_an_address_in_use_or_none_is_named(home: Coordinator, option: str) -> None:
    key = option.removeprefix("--")
    with listening() as address, pytest.raises(ConfigurationError, match=f"listen on {address}: .*{option}"):
        superlink_command(home, **{key: address})
    with pytest.raises(ConfigurationError, match="nowhere"):
        superlink_command(home, **{key: "nowhere"})


@pytest.mark.parametrize("part", ["authority", "certificate", "key", "secret"])
def test_a_missing_or_empty_file_is_named_and_nothing_is_written(home: Coordinator, part: str) -> None:
    path: Path = getattr(home, part)
    before = sorted(home.folder.rglob("*"))
    content = path.read_bytes()
    path.unlink()
    with pytest.raises(IdentityError, match=f"{path.name} does not exist"):
        run_superlink(home)
    write_secret(path, b"")
    with pytest.raises(IdentityError, match=path.name):
        run_superlink(home)
    write_secret(path, content)
    assert sorted(home.folder.rglob("*")) == before
    assert "FLWR_HOME" not in os.environ


def test_a_certificate_key_and_authority_that_do_not_belong_together_are_named(
    home: Coordinator, tmp_path: Path
) -> None:
    other = make_coordinator(tmp_path / "other", ("localhost",))
    pki.init(other)
    for path, foreign, sentence in (
        (home.authority, other.authority, r"server\.crt was not signed by .*ca\.crt"),
        (home.authority, home.certificate, r"server\.crt was not signed by .*ca\.crt"),
        (home.key, other.key, r"server\.key is not the key of .*server\.crt"),
        (home.certificate, other.certificate, r"server\.key is not the key of .*server\.crt"),
    ):
        before = path.read_bytes()
        shutil.copy(foreign, path)
        with pytest.raises(IdentityError, match=sentence):
            superlink_command(home)
        path.write_bytes(before)
    shutil.copy(other.key, home.key)
    shutil.copy(other.certificate, home.certificate)
    with pytest.raises(IdentityError, match="was not signed by"):
        superlink_command(home)


def test_a_key_or_database_that_is_none_ends_the_superlink_with_one_sentence(home: Coordinator) -> None:
    before = home.key.read_bytes()
    write_secret(home.key, b"not a key")
    assert f"{home.key} is not an elliptic-curve private key" in support.refused("superlink", home.folder)
    write_secret(home.key, before)
    home.database.write_bytes(b"this is no database at all" * 100)
    sentence = support.refused("superlink", home.folder)
    assert f"{home.database}: file is not a database" in sentence
    assert "move it away" in sentence
    assert home.database.read_bytes().startswith(b"this is no database")
    home.database.unlink()
    home.database.mkdir()
    with pytest.raises(StorageError, match="unable to open database file"):
        superlink_command(home)


# --- the parts of a reply -----------------------------------------------------------------------------------


def test_the_engine_waits_for_the_rest_of_a_reply_only_as_long_as_for_the_reply() -> None:
    check_engine(patience.USES)
    engine: Any = importlib.import_module(patience.PULLING)
    pull, began = patience.bounded(engine.pull_objects), time.monotonic()

    def never(name: str) -> bytes:
        raise ObjectUnavailableError(name)

    with patience.until(began + 1.0), pytest.raises(ObjectPullError):
        pull(object_ids=["a" * 64], pull_object_fn=never)
    assert time.monotonic() - began < 30
    with patience.until(began):  # what is there is fetched when no time is left
        assert pull(object_ids=["b"], pull_object_fn=lambda _: b"there") == {"b": b"there"}
    assert patience.left_s() == patience.OTHERWISE_S
