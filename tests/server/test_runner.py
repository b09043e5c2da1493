"""The runner: what a bundle brings is not run, the folder is the coordinator's, Flower is what it must be."""

from __future__ import annotations

import importlib
import io
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
from flwr.app import Context, RecordDict

from common.errors import ConfigurationError, IdentityError
from common.identity import write_secret
from common.taskloop import check_engine
from server import pki
from server.coordinator import Coordinator, make_coordinator
from server.run_config import read_run_config
from server.runner import _REPLACED, USES, _replace, _Tee, run_runner
from server.superlink import run_superlink, superlink_command

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
