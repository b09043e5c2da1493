"""The same two apps in two places: over TLS between processes, and in one process. Same weights, bit for bit.

A certificate authority made for the occasion signs the server's certificate; a SuperLink and two SuperNodes
run as they would on three machines, on loopback; ``flwr run`` submits the app.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from client.app import app as client_app
from common.checkpoint import load_checkpoint
from common.files import write_json
from common.generic import load_generic
from server.app import app as server_app
from simulation.grid import run_in_process

pytestmark = pytest.mark.deployment

ROOT = Path(__file__).parents[2]
BINARIES = Path(sys.executable).parent
READY_S = 60.0
RUN_S = 180.0
STOP_S = 10.0


def test_weights_over_tls_are_those_of_one_process(
    tmp_path: Path, tiny_site_factory: Callable[..., Any]
) -> None:
    settings = {"federation": {"rounds": 2, "fraction": 1.0}}
    make = {"generic": 5, "personal": 1, "settings": settings}
    ours = [tiny_site_factory(tmp_path / "one" / name, name, **make) for name in ("north", "south")]
    theirs = [tiny_site_factory(tmp_path / "tls" / name, name, **make) for name in ("north", "south")]
    settings_path = tmp_path / "settings.json"
    write_json(settings_path, ours[0].settings.model_dump(mode="json"))

    one = {"out": str(tmp_path / "one" / "out"), "settings": str(settings_path)}
    run_in_process(server_app, client_app, [{"site-folder": str(site.folder)} for site in ours], one)

    tls = {"out": str(tmp_path / "tls" / "out"), "settings": str(settings_path)}
    with deployment(tmp_path, [site.folder for site in theirs]) as submit:
        story = submit(tls)

    assert story["status"] == "finished", story["failure"]
    assert [entry["answered"] for entry in story["rounds"]] == [["north", "south"]] * 2
    for kind in ("best", "last"):
        in_one, _ = load_checkpoint(Path(one["out"]) / f"{kind}.safetensors")
        over_tls, _ = load_checkpoint(Path(tls["out"]) / f"{kind}.safetensors")
        assert in_one.keys() == over_tls.keys()
        assert all(in_one[key].tobytes() == over_tls[key].tobytes() for key in in_one)
    digests = [load_generic(Path(run["out"]) / "best.safetensors").weights.digest() for run in (one, tls)]
    assert digests[0] == digests[1]
    in_one_story = json.loads((Path(one["out"]) / "server.json").read_text())
    assert story["evaluations"] == in_one_story["evaluations"]
    assert untimed(story["personalize"]) == untimed(in_one_story["personalize"])
    assert set(story["personalize"]) == {"north", "south"}


def untimed(personalize: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return each site's sums without how long it took."""
    return {name: {k: v for k, v in sums.items() if k != "seconds"} for name, sums in personalize.items()}


@contextlib.contextmanager
def deployment(tmp_path: Path, folders: list[Path]) -> Iterator[Callable[[dict[str, str]], dict[str, Any]]]:
    """Run a SuperLink and a SuperNode per site folder; yield a function that submits a run and waits."""
    ports = free_ports(1 + len(folders))
    address = f"127.0.0.1:{ports[0]}"
    authority = make_certificates(tmp_path / "certificates")
    home = tmp_path / "flwr"
    home.mkdir()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "{address}"\n'
        f'root-certificates = "{authority}"\n'
    )
    with contextlib.ExitStack() as stack:
        link = [
            *("flower-superlink", "--host", "127.0.0.1", "--port", str(ports[0])),
            *("--ssl-ca-certfile", str(authority)),
            *("--ssl-certfile", str(authority.with_name("server.crt"))),
            *("--ssl-keyfile", str(authority.with_name("server.key"))),
            "--disable-runtime-dependency-installation",
        ]
        stack.enter_context(running(link, home, tmp_path / "superlink.log"))
        wait_until_ready(address, authority, tmp_path / "superlink.log")
        for index, folder in enumerate(folders):
            node = [
                *("flower-supernode", "--superlink", address, "--root-certificates", str(authority)),
                *("--port", str(ports[1 + index]), "--node-config", f'site-folder="{folder}"'),
            ]
            stack.enter_context(running(node, home, tmp_path / f"supernode-{index}.log"))

        def submit(run_config: dict[str, str]) -> dict[str, Any]:
            values = " ".join(f'{key}="{value}"' for key, value in run_config.items())
            done = subprocess.run(
                [BINARIES / "flwr", "run", str(ROOT), "here", "--run-config", values],
                env=environment(home),
                check=False,
                capture_output=True,
                text=True,
                timeout=READY_S,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            return wait_until_told(Path(run_config["out"]) / "server.json", tmp_path)

        yield submit


def wait_until_told(path: Path, logs: Path) -> dict[str, Any]:
    """Wait until the federation says how it ended; the command line would not (it exits 0 either way)."""
    deadline = time.monotonic() + RUN_S
    while time.monotonic() < deadline:
        if path.exists():
            story: dict[str, Any] = json.loads(path.read_text())
            if story["status"] != "running":
                return story
        time.sleep(0.2)
    ends = [f"{log.name}: {log.read_text()[-2000:]}" for log in sorted(logs.glob("*.log"))]
    raise AssertionError("the run did not end in time\n" + "\n".join(ends))


@contextlib.contextmanager
def running(command: list[str], home: Path, log: Path) -> Iterator[None]:
    """Run a program of the environment in a process group of its own, and end the whole group."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(BINARIES / command[0]), *command[1:]],
            env=environment(home),
            cwd=home,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield
    finally:
        for how in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, how)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)


def environment(home: Path) -> dict[str, str]:
    """Return this process's environment with what keeps Flower to itself."""
    return {
        **os.environ,
        "FLWR_HOME": str(home),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "OMP_NUM_THREADS": "1",
        "PATH": f"{BINARIES}{os.pathsep}{os.environ.get('PATH', '')}",
    }


def wait_until_ready(address: str, authority: Path, log: Path) -> None:
    """Wait for the SuperLink's health route, over TLS and with the authority's certificate."""
    context = ssl.create_default_context(cafile=str(authority))
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        with (
            contextlib.suppress(urllib.error.URLError, ConnectionError),
            urllib.request.urlopen(f"https://{address}/health", context=context, timeout=5),
        ):
            return
        time.sleep(0.2)
    raise AssertionError(f"the SuperLink did not start\n{log.read_text()[-4000:]}")


def free_ports(count: int) -> list[int]:
    """Return ports nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def make_certificates(folder: Path) -> Path:
    """Write an authority and a server certificate signed by it; return the authority's."""
    folder.mkdir()
    authority_key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
    identifier = x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key())
    authority = (
        dated(x509.CertificateBuilder().subject_name(authority_name).issuer_name(authority_name))
        .public_key(authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage(sign=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(IPv4Address("127.0.0.1"))])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    server = (
        dated(x509.CertificateBuilder().subject_name(subject).issuer_name(authority_name))
        .public_key(server_key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage(sign=False), critical=True)
        .add_extension(names, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False
        )
        .sign(authority_key, hashes.SHA256())
    )
    (folder / "ca.crt").write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    (folder / "server.crt").write_bytes(server.public_bytes(serialization.Encoding.PEM))
    (folder / "server.key").write_bytes(
        server_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return folder / "ca.crt"


def dated(builder: x509.CertificateBuilder) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    numbered = builder.serial_number(x509.random_serial_number())
    return numbered.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=2))


def usage(*, sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=not sign,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign,
        crl_sign=sign,
        encipher_only=False,
        decipher_only=False,
    )
