"""Whose code answers: the installed app, or a bundle whose SHA-256 the site approved."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from types import CodeType

import pytest
from flwr.app import Message, Metadata
from flwr.proto.task_pb2 import Task
from flwr.supercore.runtime import RuntimeHttpClient

from client.gate.code import bundle_digest, check_bundle, load, local_app
from client.site import GateSettings, Site, load_site, write_site_file
from common.errors import BundleError, ConfigurationError

pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern")

PINNED = """
import sys
from pathlib import Path
from client.gate import code, door, executor
from client.site import load_site

site = load_site(Path(sys.argv[1]), {})
bundle = Path(sys.argv[2]).read_bytes()
app = code.load(site, bundle)
import client.app, common.errors
own = str(site.gate_folder)
assert client.app.__file__.startswith(own), client.app.__file__
assert sys.modules["common.errors"].__file__.startswith(own)
assert app is client.app.app
# The gate itself is still the installed one.
assert not door.leave.__code__.co_filename.startswith(own)
assert door.enforce.__globals__["check_request"].__code__.co_filename == door.enforce.__code__.co_filename
"""


def site_in(folder: Path, **gate: object) -> Site:
    write_site_file(folder, name="north", source={"folder": "."}, settings={}, gate=gate)
    return load_site(folder, {})


def test_the_engine_looks_up_what_the_executor_replaces(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from client.gate import executor

    # In its own module, and the function itself: a name taken from elsewhere would not be replaced.
    code = executor.engine.run_clientapp.__code__
    inner = [each for each in code.co_consts if isinstance(each, CodeType)]  # what it does at its end
    assert set(executor.REPLACED) <= {name for each in (code, *inner) for name in each.co_names}
    real = {name: getattr(executor.engine, name) for name in executor.REPLACED}
    for name, function in real.items():
        monkeypatch.setattr(executor.engine, name, function)
    made = executor._Answer(site_in(tmp_path), Task())
    made.install()
    assert made.real == real
    assert not [name for name in real if getattr(executor.engine, name) is real[name]]
    assert executor.engine.run_clientapp.__globals__ is vars(executor.engine)


def test_what_is_relied_on_inside_the_engine_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    from client.gate import executor

    executor.check_messages()
    with monkeypatch.context() as changed:
        changed.setattr(Metadata, "message_id", property(lambda _: "fixed"))
        with pytest.raises(ConfigurationError, match=r"Flower 1\.\d+\.\d+ has no Metadata.*_message_id"):
            executor.check_messages()
    with monkeypatch.context() as changed:
        one = Metadata(1, "", 1, 1, "", "", 0.0, 1.0, "query.hello")
        changed.setattr(Message, "metadata", property(lambda _: one))
        with pytest.raises(ConfigurationError, match="_metadata"):
            executor.check_messages()
    with monkeypatch.context() as changed:
        changed.setattr(RuntimeHttpClient, "PullMessages", property(lambda _: None))
        with pytest.raises(ConfigurationError, match="PullMessages"):
            executor.check_messages()


def test_the_digest_is_the_sha256_of_the_bytes() -> None:
    assert bundle_digest(b"bundle") == hashlib.sha256(b"bundle").hexdigest()


def test_a_bundle_that_is_not_approved_is_refused_with_the_line_that_would_approve_it() -> None:
    known, other = "ab" * 32, "cd" * 32
    gate = GateSettings(code="pin", approved_bundles=(known,))
    check_bundle(gate, known)
    with pytest.raises(BundleError) as refused:
        check_bundle(gate, other)
    assert f'approved_bundles = ["{known}", "{other}"]' in str(refused.value)
    check_bundle(GateSettings(), other)


def test_local_code_does_not_look_at_the_bundle(tmp_path: Path) -> None:
    site = site_in(tmp_path)
    from client.app import app

    assert load(site, b"no bundle at all") is local_app() is app
    assert not site.gate_folder.exists()


def test_an_approved_bundle_that_is_none_is_refused(tmp_path: Path) -> None:
    site = site_in(tmp_path, code="pin", approved_bundles=[bundle_digest(b"no bundle")])
    with pytest.raises(BundleError, match="cannot be loaded"):
        load(site, b"no bundle")


def test_an_approved_bundle_s_modules_are_loaded_in_place_of_the_installed_ones(tmp_path: Path) -> None:
    from server.bundle import make_bundle

    bundle = make_bundle()
    (tmp_path / "bundle.fab").write_bytes(bundle)
    site = site_in(tmp_path / "site", code="pin", approved_bundles=[bundle_digest(bundle)])
    done = subprocess.run(
        [sys.executable, "-c", PINNED, str(site.folder), str(tmp_path / "bundle.fab")],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr


def test_site_toml_takes_only_digests(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="approved_bundles"):
        site_in(tmp_path, code="pin", approved_bundles=["latest"])
    with pytest.raises(ConfigurationError, match="code"):
        site_in(tmp_path, code="any")
