"""What a site can reach of the coordinator: the fleet routes with a registered key, health, nothing else.

A real SuperLink (TLS, node keys required) and a real nginx with the configuration that ``pki init`` wrote run
on loopback. Every route of the SuperLink's own list is called from the site's side, by its plain path and by
paths that try to slip past the front end.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import importlib.util
import json
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Array, ArrayRecord, RecordDict
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest, RegisterNodeFleetRequest
from flwr.proto.message_pb2 import PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from common.addresses import split_address
from common.identity import new_node_key, public_line, read_private, read_public
from server.control import Control
from server.coordinator import Coordinator, load_coordinator
from server.front import MAX_BODY_MB, MAX_REQUESTS, command
from server.registry import add, bound, read_registry, remove

pytestmark = pytest.mark.deployment

_spec = importlib.util.spec_from_file_location(
    "tests_support_coordinator", Path(__file__).parents[1] / "support" / "coordinator.py"
)
assert _spec is not None
assert _spec.loader is not None
support = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(support)
COMMAND, make_home, superlink, refused = (
    support.COMMAND,
    support.make_home,
    support.superlink,
    support.refused,
)
process, status, wait_for, free_ports = support.process, support.status, support.wait_for, support.free_ports
NOTHING = (404, 401)
#: nginx refuses malformed requests itself.
MALFORMED = (400, 404, 405)
NOBODY = 65534
#: To a key it does not know, activation says that the node is not registered.
UNKNOWN_KEY = (401, 412)
PROTOBUF = "application/protobuf"


@dataclass(frozen=True)
class Running:
    """A coordinator with its SuperLink and front end."""

    home: Coordinator
    link_log: Path
    front_log: Path
    restart_link: Callable[[], None]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("coordinator")
    home = make_home(folder / "home")
    logs = folder / "superlink.log", folder / "front.log"
    links = contextlib.ExitStack()
    with contextlib.ExitStack() as stack:
        stack.callback(links.close)

        def start_link() -> None:
            links.close()
            links.enter_context(superlink(home, logs[0]))

        # The front end first: it starts without a SuperLink, and says so.
        stack.enter_context(process([COMMAND, "front", home.folder], logs[1]))
        wait_for(lambda: status(home.front_port, home) == 502, logs[1])
        start_link()
        wait_for(lambda: status(home.front_port, home) == 200, *logs)
        yield Running(home, *logs, start_link)


def test_every_route_of_the_superlink_is_hidden_or_asks_for_a_key(running: Running) -> None:
    routes = all_routes(running)
    assert len(routes) > 40
    assert {"/v1/control/start-run", "/v1/runtime/acquire-task", "/v1/fleet/pull-messages"} <= {
        path for _, path in routes
    }
    for method, path in routes:
        answer = ask(running.home.front_port, running.home, method, path)
        expected = (200,) if path == "/health" and method in ("GET", "HEAD") else NOTHING
        assert answer in expected, f"{method} {path} answered {answer} to a site"


def test_the_same_calls_straight_at_the_superlink_do_answer(running: Running) -> None:
    # Otherwise the test above could not fail.
    port = split_address(running.home.superlink, "superlink")[1]
    answers = {path: ask(port, running.home, method, path) for method, path in all_routes(running)}
    assert answers["/v1/control/list-nodes"] == answers["/v1/control/list-runs"] == 200
    assert ask(port, running.home, "GET", "/docs") == ask(port, running.home, "GET", "/openapi.json") == 200


def test_no_other_method_of_a_shown_route_gets_through(running: Running) -> None:
    for path in ("/v1/fleet/pull-messages", "/health"):
        for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "BREW"):
            answer = ask(running.home.front_port, running.home, method, path)
            assert answer in MALFORMED, f"{method} {path} answered {answer}"
    assert ask(running.home.front_port, running.home, "GET", "/v1/fleet/pull-messages") == 404
    assert ask(running.home.front_port, running.home, "POST", "/health") == 404


TRICKS = (
    "/",
    "/docs",
    "/redoc",
    "/openapi.json",
    "/v1",
    "/v1/fleet",
    "/v1/fleet/",
    "/v1/control/list-runs",
    "//v1/control/list-runs",
    "/./v1/control/list-runs",
    "/v1/fleet/../control/list-runs",
    "/v1/fleet/x/../../control/list-runs",
    "/v1/fleet/..%2fcontrol/list-runs",
    "/v1/fleet/%2e%2e/control/list-runs",
    "/v1/fleet/%2E%2E%2Fcontrol%2Flist-runs",
    "/v1/fleet/%252e%252e/control/list-runs",
    "/v1/fleet/..;/control/list-runs",
    "/v1/fleet/..\\control\\list-runs",
    "/v1/fleet/%5c..%5ccontrol/list-runs",
    "/v1/control/../fleet/pull-messages",
    "/v1/control/%2e%2e/fleet/pull-messages",
    "/v1//fleet/pull-messages",
    "/V1/Fleet/pull-messages",
    "/v1/Control/list-runs",
    "/v1/%63ontrol/list-runs",
    "/v1/fleet%2fpull-messages",
    "/v1/fleet/pull-messages/",
    "/v1/fleet/pull-messages/../../control/list-runs",
    "/v1/fleet/pull-messages?x=/v1/control/list-runs",
    "/v1/fleet/pull-messages#/../../control/list-runs",
    "/v1/fleet/pull-messages%00",
    "/v1/fleet/pull-messages%0d%0aX: y",
    "/v1/fleet/pull-messages%20HTTP/1.1",
    "/health/",
    "/health/../v1/control/list-runs",
    "/healthz",
    "/health?x=1",
    "/health%2f..%2fdocs",
    "http://superlink/v1/control/list-runs",
    "https://127.0.0.1/docs",
    "http://superlink/v1/fleet/../control/list-runs",
    "*",
)


@pytest.mark.parametrize("path", TRICKS)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_no_path_slips_past_the_front_end(running: Running, method: str, path: str) -> None:
    assert ask(running.home.front_port, running.home, method, path) in MALFORMED


@pytest.mark.parametrize(
    "header",
    [
        "X-Original-URL: /v1/control/list-runs",
        "X-Rewrite-URL: /v1/control/list-runs",
        "X-Forwarded-Prefix: /v1/control",
        "X-HTTP-Method-Override: GET",
        "X-Forwarded-For: 127.0.0.1",
        "Host: 127.0.0.1:8000",
        "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
        "Transfer-Encoding: chunked\r\nContent-Length: 4",
    ],
)
def test_no_header_slips_past_the_front_end(running: Running, header: str) -> None:
    for path in ("/v1/control/list-runs", "/v1/fleet/pull-messages", "/docs"):
        answer = ask(running.home.front_port, running.home, "POST", path, header=header)
        assert answer in (*MALFORMED, 401), f"POST {path} with {header!r} answered {answer}"


def test_a_request_hidden_in_the_body_of_another_is_not_answered(running: Running) -> None:
    inner = b"POST /v1/control/list-runs HTTP/1.1\r\nHost: superlink\r\nContent-Length: 0\r\n\r\n"
    outer = (
        b"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: x\r\nContent-Type: application/protobuf\r\n"
        b"Content-Length: %d\r\n\r\n" % len(inner)
    ) + inner
    answer = exchange(running.home.front_port, running.home, outer)
    assert answer.count(b"HTTP/1.1 ") == 1
    # The SuperLink reads it as a broken message, whoever sent it.
    assert int(answer.split(b" ", 2)[1]) in (400, 401)


def test_only_a_registered_key_is_let_in_and_a_removed_one_no_longer(running: Running) -> None:
    home = running.home
    key, other = new_node_key(), new_node_key()
    with Control(home) as control:
        site, outcome = add(control, home.registry, "north", public_line(key))
        assert outcome == "added"
        assert add(control, home.registry, "north", public_line(key))[1] == "known"
        assert bound(control, home.registry) == {site.node_id: "north"}
    assert activate(home, key) == 200
    assert activate(home, other) in UNKNOWN_KEY
    # Signed by somebody else, and signed long ago.
    assert activate(home, other, claim=key) == 401
    assert activate(home, key, when=datetime(2020, 1, 1, tzinfo=UTC)) == 401
    assert pull(home, key, site.node_id) == 200
    assert pull(home, other, site.node_id) == 401
    with Control(home) as control:
        remove(control, home.registry, "north")
    assert activate(home, key) in UNKNOWN_KEY
    assert pull(home, key, site.node_id) == 401
    assert read_registry(home.registry) == {}


def test_a_body_of_weights_streams_through_and_a_larger_one_is_refused(running: Running) -> None:
    head = "POST /v1/fleet/push-object HTTP/1.1\r\nHost: x\r\nContent-Type: application/protobuf\r\n"
    small = exchange(
        running.home.front_port, running.home, f"{head}Content-Length: 8\r\n\r\n".encode() + b"8" * 8
    )
    assert b" 401 " in small.split(b"\r\n")[0]
    for size in (MAX_BODY_MB * 2**20 + 1, 2**30):
        large = exchange(
            running.home.front_port, running.home, f"{head}Content-Length: {size}\r\n\r\n".encode()
        )
        assert b" 413 " in large.split(b"\r\n")[0]
    chunk = b"1000\r\n" + b"8" * 0x1000 + b"\r\n"
    many = f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + chunk * 256 + b"0\r\n\r\n"
    assert b" 401 " in exchange(running.home.front_port, running.home, many).split(b"\r\n")[0]


def test_a_model_of_64_mb_passes_in_the_pieces_that_the_engine_makes(running: Running) -> None:
    key = new_node_key()
    with Control(running.home) as control:
        site, _ = add(control, running.home.registry, "large", public_line(key))
    assert activate(running.home, key) == 200
    weights = np.random.default_rng(0).normal(size=2**24).astype(np.float32)
    objects = get_all_nested_objects(RecordDict({"arrays": ArrayRecord({"trainable": Array(weights)})}))
    pieces = {name: found.deflate() for name, found in objects.items()}
    largest = max(len(piece) for piece in pieces.values())
    assert sum(len(piece) for piece in pieces.values()) > 64 * 2**20
    assert 2 * largest < MAX_BODY_MB * 2**20
    public = read_public(public_line(key))
    answers = set()
    for name, piece in {"small": b"8", **pieces}.items():
        request = PushObjectRequest(
            node=Node(node_id=site.node_id), run_id=1, object_id=name, object_content=piece
        )
        body = request.SerializeToString()
        answers.add(fleet(running.home, key, public, "push-object", body, datetime.now(UTC)))
    # The SuperLink itself says what it says to a small one of no run that it knows.
    assert len(answers) == 1
    assert not answers & {401, 404, 413, 502, 503}
    with Control(running.home) as control:
        remove(control, running.home.registry, "large")


def test_one_address_cannot_hold_any_number_of_requests(running: Running) -> None:
    port, home = running.home.front_port, running.home
    head = "POST /v1/fleet/push-object HTTP/1.1\r\nHost: x\r\nContent-Type: application/protobuf\r\n"
    with contextlib.ExitStack() as held:
        for _ in range(MAX_REQUESTS):
            plain = held.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
            link = held.enter_context(trusting(home).wrap_socket(plain, server_hostname="127.0.0.1"))
            link.sendall(f"{head}Content-Length: 8\r\n\r\n".encode())  # and the body never comes
        wait_for(lambda: ask(port, home, "POST", "/v1/fleet/pull-messages") == 503, running.front_log)
        assert status(port, home) == 200  # whether it lives can still be asked
    wait_for(lambda: ask(port, home, "POST", "/v1/fleet/pull-messages") == 401, running.front_log)


def test_the_front_end_speaks_only_current_tls(running: Running) -> None:
    port = running.home.front_port
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = trusting(running.home)
        context.minimum_version = context.maximum_version = version
        with (
            socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1"),
        ):
            pass
    old = subprocess.run(
        ["openssl", "s_client", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0", "-connect", f"127.0.0.1:{port}"],
        input=b"",
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert old.returncode != 0
    # Plain HTTP is answered with an error of nginx, never forwarded.
    with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
        plain.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b" 400 " in read_all(plain).split(b"\r\n")[0]


def test_the_front_end_gives_no_version_away(running: Running) -> None:
    answer = exchange(running.home.front_port, running.home, b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"Server: nginx\r\n" in answer
    assert b"nginx/" not in answer


def test_what_the_front_end_logs_is_lean(running: Running) -> None:
    secret = "?patient=somebody"
    ask(running.home.front_port, running.home, "GET", f"/nothing{secret}", header="Cookie: somebody=1")
    wait_for(lambda: "/nothing 404" in running.front_log.read_text(), running.front_log)
    assert "somebody" not in running.front_log.read_text()


def test_the_front_end_does_not_trust_another_superlink(running: Running, tmp_path: Path) -> None:
    # The front end of another federation in front of this SuperLink: their authority did not sign it.
    port = free_ports(1)[0]
    words = ("--host", "127.0.0.1", "--superlink", running.home.superlink, "--front-port", port)
    assert support.server("pki", "init", tmp_path / "other", *words).returncode == 0
    other = load_coordinator(tmp_path / "other")
    with process([COMMAND, "front", other.folder], tmp_path / "front.log"):
        wait_for(lambda: status(port, other) == 502, tmp_path / "front.log")
    assert "certificate verify error" in (tmp_path / "front.log").read_text()


def test_the_front_end_runs_from_its_folder_alone_and_without_privileges(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As in a container: only 'front' is there, not writable, and the user is nobody special.
    port = free_ports(1)[0]
    with contextlib.ExitStack() as stack:
        alone = Path(stack.enter_context(open_folder()))
        for path in running.home.front.iterdir():
            text = path.read_bytes().replace(str(running.home.front_port).encode(), str(port).encode())
            (alone / path.name).write_bytes(text if path.name == "nginx.conf" else path.read_bytes())
        log = alone.with_suffix(".log")
        log.touch()
        stack.callback(log.unlink)
        monkeypatch.setattr(tempfile, "tempdir", str(stack.enter_context(open_folder())))
        words = command(alone)
        place = Path(words[words.index("-p") + 1])
        if os.geteuid() == 0:
            for path in (log, *alone.iterdir(), place, place / "nginx.conf"):
                os.chown(path, NOBODY, NOBODY)
        alone.chmod(0o555)
        # The program itself: a test environment's Python may be in a folder that nobody else can enter.
        stack.enter_context(process(words, log, user=NOBODY if os.geteuid() == 0 else None))
        wait_for(lambda: status(port, running.home) == 200, log)
        assert sorted(path.name for path in alone.iterdir()) == [
            "ca.crt",
            "nginx.conf",
            "server.crt",
            "server.key",
        ]


def test_the_front_end_finds_a_superlink_that_was_started_again(running: Running) -> None:
    running.restart_link()
    wait_for(lambda: status(running.home.front_port, running.home) == 200, running.link_log)


def test_a_port_in_use_is_one_sentence(running: Running) -> None:
    sentence = refused("front", running.home.folder)
    assert f"cannot listen on 0.0.0.0:{running.home.front_port}: address already in use" in sentence


def test_no_key_registers_itself(running: Running) -> None:
    key = new_node_key()
    public = read_public(public_line(key))
    request = RegisterNodeFleetRequest(public_key=public).SerializeToString()
    assert fleet(running.home, key, public, "register-node", request, datetime.now(UTC)) >= 400
    with Control(running.home) as control:
        assert public not in [node.public_key for node in control.nodes()]


# --- talking to it


def all_routes(running: Running) -> list[tuple[str, str]]:
    """Return method and path of every route in the SuperLink's own list, and of its documentation."""
    port = split_address(running.home.superlink, "superlink")[1]
    answer = exchange(
        port, running.home, b"GET /openapi.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    listed = json.loads(answer.partition(b"\r\n\r\n")[2])
    routes = [(method.upper(), path) for path, methods in listed["paths"].items() for method in methods]
    return [*sorted(routes), *(("GET", path) for path in ("/docs", "/redoc", "/openapi.json"))]


def trusting(home: Coordinator) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(home.authority)
    return context


def exchange(port: int, home: Coordinator, request: bytes) -> bytes:
    """Send exactly these bytes over TLS; return what comes back within a few seconds."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as plain,
        trusting(home).wrap_socket(plain, server_hostname="127.0.0.1") as secure,
    ):
        secure.sendall(request)
        if b"Connection: close" not in request:
            secure.settimeout(3)
        return read_all(secure)


def read_all(link: socket.socket) -> bytes:
    received = b""
    with contextlib.suppress(TimeoutError, ConnectionResetError, ssl.SSLError):
        while piece := link.recv(65536):
            received += piece
    return received


def ask(port: int, home: Coordinator, method: str, path: str, *, header: str = "", body: bytes = b"") -> int:
    """Return the HTTP status of a call whose path goes out exactly as given."""
    own = "" if header.startswith("Host:") else "Host: coordinator\r\n"
    length = "" if "Content-Length" in header else f"Content-Length: {len(body)}\r\n"
    lines = f"{own}{header}\r\n" if header else own
    head = f"{method} {path} HTTP/1.1\r\n{lines}Content-Type: {PROTOBUF}\r\n{length}Connection: close\r\n\r\n"
    answer = exchange(port, home, head.encode() + body)
    assert answer.startswith(b"HTTP/1."), f"{method} {path}: no HTTP answer: {answer[:80]!r}"
    return int(answer.split(b" ", 2)[1])


def activate(
    home: Coordinator, key: bytes, *, claim: bytes | None = None, when: datetime | None = None
) -> int:
    """Introduce a node through the front end as the engine does; return the HTTP status."""
    public = read_public(public_line(claim or key))
    request = ActivateNodeRequest(public_key=public, heartbeat_interval=30.0)
    return fleet(home, key, public, "activate-node", request.SerializeToString(), when or datetime.now(UTC))


def pull(home: Coordinator, key: bytes, node_id: int) -> int:
    """Ask for the messages of a node; return the HTTP status."""
    request = PullMessagesRequest(node=Node(node_id=node_id))
    public = read_public(public_line(key))
    return fleet(home, key, public, "pull-messages", request.SerializeToString(), datetime.now(UTC))


def fleet(home: Coordinator, key: bytes, public: bytes, route: str, body: bytes, when: datetime) -> int:
    """Call a fleet route, signed with ``key`` in the name of ``public``; return the HTTP status."""
    stamp = when.isoformat()
    signature = read_private(key).sign(stamp.encode("ascii"), ec.ECDSA(hashes.SHA256()))
    headers = {
        "flwr-public-key": base64.b64encode(public).decode(),
        "flwr-signature": base64.b64encode(signature).decode(),
        "flwr-timestamp": stamp,
        "Content-Type": PROTOBUF,
        "Accept": PROTOBUF,
    }
    link = http.client.HTTPSConnection("127.0.0.1", home.front_port, context=trusting(home), timeout=20)
    with contextlib.closing(link):
        link.request("POST", f"/v1/fleet/{route}", body=body, headers=headers)
        return link.getresponse().status


@contextlib.contextmanager
def open_folder() -> Iterator[str]:
    """Make a folder whose parents other users may enter, which pytest's own are not."""
    folder = Path(tempfile.mkdtemp(prefix="fedkalemia-front-test-"))
    folder.chmod(0o755)
    try:
        yield str(folder)
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)
